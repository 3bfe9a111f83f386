# One image for every process of the pipeline; the command says which one it is:
#
#   docker build --tag callback-pipeline:local .
#   docker run --rm --init callback-pipeline:local demo
#   docker run --init --publish 127.0.0.1:8080:8080 --volume pipeline:/data \
#       callback-pipeline:local run
#
# FFmpeg (the extra "media", 140 MB) is left out: nothing needs it but the setting
# download.check_audio and the simulated provider, which sends WAV instead of mp3
# without it. It contains libraries under GPL, see docs/licences.md. To have it:
#
#   docker build --build-arg REQUIREMENTS=runtime-media .

FROM python:3.13-slim AS build
ARG REQUIREMENTS=runtime
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_QUIET=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
# The base image's own pip installs into both environments, so neither holds one.
RUN python -m venv --without-pip /opt/build \
 && python -m venv --without-pip /opt/pipeline
COPY requirements/ requirements/
RUN pip --python /opt/build/bin/python install --no-compile --require-hashes \
        --requirement requirements/build.lock \
 && pip --python /opt/pipeline/bin/python install --no-compile --require-hashes \
        --only-binary :all: --requirement "requirements/${REQUIREMENTS}.lock" \
 && find /opt/pipeline -depth -type d \( -name tests -o -name test \) \
        -exec rm -r {} +
COPY pyproject.toml README.md LICENSE ./
COPY pipeline/ pipeline/
# Compiled here once, because a container with a read-only root cannot keep what it
# compiles: 16 MB, for a start in a third of the time.
RUN /opt/build/bin/python -m hatchling build --target wheel --directory dist \
 && pip --python /opt/pipeline/bin/python install --no-compile --no-deps --no-index \
        dist/*.whl \
 && /opt/pipeline/bin/python -m compileall -q --invalidation-mode unchecked-hash \
        /opt/pipeline/lib \
 && /opt/pipeline/bin/pipeline config check

FROM python:3.13-slim
# Nothing here has to become another user.
RUN groupadd --gid 10001 pipeline \
 && useradd --uid 10001 --gid pipeline --home-dir /data --no-create-home \
        --shell /usr/sbin/nologin pipeline \
 && install --directory --owner pipeline --group pipeline /data \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY --from=build /opt/pipeline /opt/pipeline
# Inside a container "this machine" is the container, so it listens on every
# address; which of them others can reach is decided where the port is published.
# The ingress and the workers answer /healthz on the same port: one health check
# fits them all.
ENV PATH=/opt/pipeline/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIPELINE_BROKER_URL=sqlite:////data/broker.db \
    PIPELINE_LEDGER_URL=sqlite:////data/ledger.db \
    PIPELINE_ASSETS_URL=/data/assets \
    PIPELINE_SPOOL__PATH=/data/spool.db \
    PIPELINE_INGRESS__HOST=0.0.0.0 \
    PIPELINE_INGRESS__PORT=8080 \
    PIPELINE_METRICS__HOST=0.0.0.0 \
    PIPELINE_METRICS__PORT=8080
USER pipeline
WORKDIR /data
VOLUME /data
EXPOSE 8080
# After SIGTERM work in progress has 20 s (the setting "drain") to be finished.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --start-interval=1s \
    CMD ["python", "-ISc", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['PIPELINE_METRICS__PORT'] + '/healthz', timeout=2)"]
ENTRYPOINT ["pipeline"]
CMD ["run"]
