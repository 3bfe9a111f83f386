"""Who takes callbacks in the benchmark of the ingress."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.measure import Server, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import ExitStack

HERE: Final = Path(__file__).parent
TOKEN: Final = "0123456789abcdef0123456789abcdef"
#: The queue of the peers, and the names of ours.
QUEUE: Final = "bench.ingress"
PREFIX: Final = "bench-ingress"
PATH: Final = "/callbacks/upload-extend"
NPM_SECONDS: Final = 120


class LeftOut(Exception):
    """A case cannot run here; the reason is the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to take callbacks."""

    name: str
    about: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    #: The variable that takes the port; without one it is the last argument.
    port_variable: str = ""
    path: str = PATH
    #: Answers other than 503 once it can do its work.
    ready_path: str = "/"
    #: Where its messages end up on RabbitMQ, to be purged after each round.
    queue: str = ""
    #: Makes the folder it runs in.
    prepare: Callable[[ExitStack], Path] | None = None

    def start(self, stack: ExitStack) -> Server:
        """Start it; it ends with ``stack``.

        Raises:
            LeftOut: something that it needs is not installed.
            RuntimeError: it did not start.
        """
        folder = self.prepare(stack) if self.prepare else None
        port = free_port()
        environment = dict(self.environment)
        command = list(self.command)
        if self.port_variable:
            environment[self.port_variable] = str(port)
        else:
            command.append(str(port))
        server = Server(
            command,
            port=port,
            environment=environment,
            cwd=folder,
            ready_path=self.ready_path,
        )
        stack.callback(server.close)
        return server


def cases(url: str, folder: Path) -> tuple[Case, ...]:
    """List all: ours, peers, and what bounds them."""
    return (*_ours(url, folder), *_peers(url))


def _ours(url: str, folder: Path) -> tuple[Case, ...]:
    command = (sys.executable, "-m", "pipeline", "ingress")
    settings = {"PIPELINE_INGRESS__TOKENS": TOKEN}
    return (
        Case(
            name="ours",
            about="pipeline ingress on RabbitMQ; token, parsing, metrics",
            command=command,
            environment=settings
            | {
                "PIPELINE_BROKER_URL": url,
                "PIPELINE_BROKER__PREFIX": PREFIX,
                "PIPELINE_SPOOL__PATH": f"{folder}/spool.db",
            },
            port_variable="PIPELINE_INGRESS__PORT",
            path=f"{PATH}/{TOKEN}",
            ready_path="/readyz",
            queue=f"{PREFIX}.v1.dedupe",
        ),
        Case(
            name="ours-embedded",
            about="the same on the embedded broker (SQLite, fsync)",
            command=command,
            environment=settings | {"PIPELINE_BROKER_URL": f"sqlite:///{folder}/b"},
            port_variable="PIPELINE_INGRESS__PORT",
            path=f"{PATH}/{TOKEN}",
            ready_path="/readyz",
        ),
    )


def _peers(url: str) -> tuple[Case, ...]:
    python = (sys.executable, "-m")
    variables = {"BENCH_BROKER_URL": url, "BENCH_QUEUE": QUEUE}
    return (
        Case(
            name="naive",
            about="aiohttp and aio-pika, as their tutorials show",
            command=(*python, "benchmarks.peers.naive"),
            environment=variables,
            queue=QUEUE,
        ),
        Case(
            name="tuned",
            about="the same with uvloop, orjson and a plain connection",
            command=(*python, "benchmarks.peers.tuned"),
            environment=variables,
            queue=QUEUE,
        ),
        Case(
            name="fastapi",
            about="FastAPI, uvicorn and FastStream",
            command=(*python, "benchmarks.peers.fastapi_faststream"),
            environment=variables,
            queue=QUEUE,
        ),
        Case(
            name="fastify",
            about="node: fastify and rabbitmq-client",
            command=("node", "server.js"),
            environment=variables,
            queue=QUEUE,
            prepare=_install_fastify,
        ),
        Case(
            name="no-op",
            about="aiohttp on uvloop, stores nothing: the ceiling",
            command=(*python, "benchmarks.peers.noop"),
        ),
    )


def _install_fastify(stack: ExitStack) -> Path:
    """Install the node peer into a temporary folder."""
    missing = [name for name in ("node", "npm") if not shutil.which(name)]
    if missing:
        raise LeftOut(f"no {' and no '.join(missing)}")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
    for name in ("package.json", "server.js"):
        shutil.copy(HERE / "peers" / "fastify" / name, folder)
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund"]
    done = subprocess.run(
        command, cwd=folder, check=False, timeout=NPM_SECONDS, stdout=sys.stderr
    )
    if done.returncode:
        raise RuntimeError(f"npm install ended with {done.returncode}, see above")
    return folder
