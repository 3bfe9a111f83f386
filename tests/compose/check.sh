#!/usr/bin/env bash
# Starts compose.yaml for real and holds it to what it promises: it becomes healthy,
# the demo loses nothing, workers scale, a restarted broker is found again, and
# everything stops on SIGTERM.
#
#   tests/compose/check.sh           needs docker with compose, and nothing else
#   KEEP=1 tests/compose/check.sh    leave it running, to look around
#
# Project, ports and image are of its own: a stack that runs beside it is not touched.
set -euo pipefail
cd "$(dirname "$0")/../.."

export COMPOSE_PROJECT_NAME=callback-pipeline-check
export IMAGE=callback-pipeline:check
export INGRESS_PORT=0 MANAGEMENT_PORT=0  # free ones
export DEMO_TASKS=12
export BUILDKIT_PROGRESS=plain
WAIT_SECONDS=180
OURS="ingress dedupe download notify"

compose() { docker compose --progress quiet --env-file configs/compose/demo.env "$@"; }
say() { printf '%4ss  %s\n' "$SECONDS" "$*"; }
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}
# Runs Python in a container that is there, so that the host need not have it.
python_in() {
    local service=$1
    shift
    compose exec -T "$service" python - "$@"
}
tidy_up() {
    local status=$?
    if [ "$status" -ne 0 ]; then
        compose ps --all || true
        compose logs --no-color --tail 40 || true
    fi
    if [ -z "${KEEP:-}" ]; then
        compose --profile demo down --volumes --remove-orphans --timeout 5 || true
        docker image rm --force "$IMAGE" >/dev/null 2>&1 || true
        say "removed"
    fi
    return "$status"
}
trap tidy_up EXIT

start() { compose up --detach --wait --wait-timeout "$WAIT_SECONDS" "$@"; }

play() {
    local figures
    figures=$(compose run --rm --use-aliases -T demo) || fail "the demo ended with $?"
    printf '%s\n' "$figures"
    # The figures are Python as they are: a dictionary of numbers and lists.
    python_in ingress <<CODE || fail "the demo's figures are wrong"
figures = $figures
assert figures["lost"] == 0, figures["losses"]
assert figures["callbacks_accepted"] == figures["callbacks_sent"] > 0
assert figures["dead_lettered"] > 0, "nothing was dead-lettered"
assert figures["replayed"] == figures["dead_lettered"]
assert figures["dead_letters_left"] == 0
CODE
}

compose build
docker image inspect --format '{{.Size}}' "$IMAGE" |
    { read -r bytes && say "built: $((bytes / 1000000)) MB with its base image"; }

started=$SECONDS
start
say "healthy after $((SECONDS - started)) s"

for service in $OURS; do
    [ "$(compose exec -T "$service" id -u)" -ne 0 ] || fail "$service runs as root"
    if compose exec -T "$service" touch /opt/pipeline/file 2>/dev/null; then
        fail "$service can write outside its data"
    fi
done
compose exec -T dedupe pipeline topology check

play
say "demo played"

[ "$(compose exec -T dedupe pipeline dead-letters list --json | tr -d '[:space:]')" = "[]" ] ||
    fail "dead letters are left"

start --no-recreate --scale dedupe=2 --scale download=3 --scale notify=2
[ "$(compose ps --quiet $OURS | wc -l)" -eq 8 ] || fail "expected 8 containers of ours"
play
say "demo played by more workers"

compose restart rabbitmq
python_in ingress after-restart <tests/compose/post.py || fail "no callback was taken"
say "callback taken after a restart of the broker"
until compose exec -T dedupe pipeline tasks show after-restart --json >/dev/null 2>&1; do
    [ $((SECONDS - started)) -lt 600 ] || fail "the callback was not processed"
    sleep 1
done
say "and processed"

traces=$(compose logs --no-color $OURS | grep -c -e Traceback -e '"level":"critical"' || true)
[ "$traces" -eq 0 ] || fail "$traces tracebacks in the logs"

compose stop
for container in $(compose ps --all --quiet $OURS); do
    code=$(docker inspect --format '{{.State.ExitCode}}' "$container")
    [ "$code" -eq 0 ] || fail "$container ended with $code on SIGTERM"
done
say "stopped in order"
