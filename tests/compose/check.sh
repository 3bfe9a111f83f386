#!/usr/bin/env bash
# Starts compose.yaml for real and holds it to what it promises: it becomes healthy,
# nobody has more rights than needed, the demo loses nothing, also while any one of
# the containers is killed, workers scale, the ledger may be a file, and everything
# stops on SIGTERM.
#
# Containers are killed in two ways. `docker kill` is taken by the engine for a wish:
# no restart policy brings such a container back, so it is started again after some
# seconds, as an orchestrator would. A SIGKILL to its main process from outside the
# engine is a crash: it has to come back by itself.
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
export DEMO_TASKS=24
export BUILDKIT_PROGRESS=plain
export SUBSCRIBER_PASSWORD=of-the-subscriber
WAIT_SECONDS=180
OURS="ingress dedupe download notify"
ALL="rabbitmq postgres $OURS"
#: Callbacks that were taken before something is killed.
BEFORE_KILL=10
AWAY_SECONDS=3
figures=$(mktemp)
secrets=$(mktemp --directory)

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
        compose --profile demo --profile operator --profile poller --profile admin down --volumes --remove-orphans --timeout 5 || true
        docker image rm --force "$IMAGE" >/dev/null 2>&1 || true
        say "removed"
    fi
    rm -rf "$figures" "$secrets"
    return "$status"
}
trap tidy_up EXIT

start() { compose up --detach --wait --wait-timeout "$WAIT_SECONDS" "$@"; }

run_demo() { compose run --rm --use-aliases -T demo >"$figures"; }
# The figures are Python as they are: a dictionary of numbers and lists.
judge() {
    cat "$figures"
    { printf 'figures = ' && cat "$figures" - ; } |
        python_in dedupe || fail "the demo's figures are wrong"
}
play() {
    run_demo || fail "the demo ended with $?: $(cat "$figures")"
    judge <<'CODE'
assert figures["lost"] == 0, figures["losses"]
assert figures["callbacks_accepted"] == figures["callbacks_sent"] > 0
assert figures["dead_lettered"] > 0, "nothing was dead-lettered"
assert figures["replayed"] == figures["dead_lettered"]
assert figures["dead_letters_left"] == 0
CODE
}

taken() { python_in ingress <tests/compose/taken.py; }
first_of() { compose ps --all --quiet "$1" | head -n 1; }
state_of() { docker inspect --format "{{.State.$2}}" "$1"; }
is_healthy() { [ "$(docker inspect --format '{{.State.Health.Status}}' "$1")" = healthy ]; }
# Plays the demo and has $1 done to a container of service $2 in the middle of it.
play_while() {
    local deed=$1 service=$2 container wanted demo
    container=$(first_of "$service")
    wanted=$(($(taken) + BEFORE_KILL))
    run_demo &
    demo=$!
    until [ "$(taken)" -ge "$wanted" ]; do
        kill -0 "$demo" 2>/dev/null || fail "the demo ended before something was killed"
    done
    "$deed" "$service" "$container"
    wait "$demo" || fail "$service: the demo ended with $?: $(cat "$figures")"
    until is_healthy "$container"; do
        [ "$SECONDS" -lt "$give_up_at" ] || fail "$service did not become healthy again"
        sleep 0.5
    done
    judge <<'CODE'
assert figures["lost"] == 0, figures["losses"]
assert figures["callbacks_accepted"] > 0
assert figures["dead_letters_left"] == 0
CODE
}
kill_and_start() {
    docker kill "$2" >/dev/null
    sleep "$AWAY_SECONDS"
    [ "$(state_of "$2" Running)" = false ] ||
        fail "the engine has restarted $1 after docker kill: say so in the documents"
    docker start "$2" >/dev/null
    give_up_at=$((SECONDS + WAIT_SECONDS))
}
crash() {
    local pid
    pid=$(state_of "$2" Pid)
    docker run --rm --pid host --user 0 --cap-drop ALL --cap-add KILL --entrypoint python \
        "$IMAGE" -c "import os; os.kill($pid, 9)"
    give_up_at=$((SECONDS + WAIT_SECONDS))
    until [ "$(state_of "$2" Running)" = true ] && [ "$(state_of "$2" Pid)" -ne "$pid" ]; do
        [ "$SECONDS" -lt "$give_up_at" ] || fail "$1 was not restarted after a crash"
        sleep 0.2
    done
}

compose build
docker image inspect --format '{{.Size}}' "$IMAGE" |
    { read -r bytes && say "built: $((bytes / 1000000)) MB with its base image"; }

started=$SECONDS
start
say "healthy after $((SECONDS - started)) s"

for service in $ALL; do
    [ "$(compose exec -T "$service" id -u)" -ne 0 ] || fail "$service runs as root"
    if compose exec -T "$service" touch /opt/file /etc/file 2>/dev/null; then
        fail "$service can write outside its data"
    fi
    compose exec -T "$service" grep --quiet '^CapEff:[[:space:]]*0*$' /proc/1/status ||
        fail "$service has capabilities"
    compose exec -T "$service" grep --quiet '^NoNewPrivs:[[:space:]]*1$' /proc/1/status ||
        fail "$service can gain privileges"
    [ "$(docker inspect --format '{{.HostConfig.Memory}}' "$(first_of "$service")")" -gt 0 ] ||
        fail "$service has no limit for its memory"
done
special=$(docker run --rm --user 0 --entrypoint find "$IMAGE" / -xdev -type f -perm /6000)
[ -z "$special" ] || fail "programs in the image that change the user: $special"
say "no root, no capabilities, no writable root"

compose run --rm -T operator topology check
for command in "topology apply" "topology delete --yes"; do
    if compose exec -T ingress pipeline $command >/dev/null 2>&1; then
        fail "the ingress may: $command"
    fi
done
[ "$(compose exec -T ingress env | grep -c only-for-local-use)" -eq 1 ] ||
    fail "the ingress is told more passwords than its own"
compose exec -T rabbitmq rabbitmqctl --quiet authenticate_user subscriber "$SUBSCRIBER_PASSWORD" >/dev/null ||
    fail "the example of a subscriber is not there"
[ "$(compose exec -T rabbitmq rabbitmqctl --quiet list_users | grep -c administrator)" -eq 0 ] ||
    fail "RabbitMQ has an administrator"
say "no more rights than needed"

play
say "demo played"
[ "$(compose run --rm -T operator dead-letters list --json | tr -d '[:space:]')" = "[]" ] ||
    fail "dead letters are left"

for service in $ALL; do
    play_while kill_and_start "$service"
    say "demo played while $service was killed and started again"
    play_while crash "$service"
    say "demo played while $service crashed and came back by itself"
done

start --no-recreate --scale download=4 --scale dedupe=2 --scale notify=2
[ "$(compose ps --quiet $OURS | wc -l)" -eq 9 ] || fail "expected 9 containers of ours"
play
say "demo played by more workers"

# A provider that loses every callback, an admin service, a poller.
cat >"$secrets/settings" configs/compose/demo.env - <<'SETTINGS'

PIPELINE_PROVIDER__DOOR=sunoapi-org
PIPELINE_PROVIDER__BASE_URL=http://127.0.0.1:8300
PIPELINE_PROVIDER__CALLBACK_URL=https://callbacks.invalid
PIPELINE_SUBMIT__CHECK_SOURCE=false
PIPELINE_POLLER__QUIET=1s
PIPELINE_POLLER__INTERVAL=1s
SETTINGS
echo simulated-key >"$secrets/key"
echo an-admin-token-of-some-length >"$secrets/tokens"
chmod -R a+rX "$secrets"
export SETTINGS_FILE=$secrets/settings
export PROVIDER_KEY_FILE=$secrets/key ADMIN_TOKENS_FILE=$secrets/tokens ADMIN_PORT=0
compose --profile poller --profile admin up --detach --wait --wait-timeout "$WAIT_SECONDS"
python_in admin <tests/compose/dry_run.py || fail "the admin service does not answer"
# Keys go without TLS to this machine alone, so the provider is in the same container.
compose exec -T --detach poller python -c "$(cat tests/compose/provider.py)"
compose exec -T poller pipeline submit --operation generate --prompt "a quiet song" \
    --instrumental --model V5 --field customMode=false --wait --timeout 120s --json ||
    fail "the poller did not find the task whose callbacks were lost"
compose exec -T download pipeline doctor --only losses | grep --quiet 'the poller still finds' ||
    fail "the download worker has no key"
compose --profile poller --profile admin stop poller admin
unset SETTINGS_FILE PROVIDER_KEY_FILE ADMIN_TOKENS_FILE
say "a task whose callbacks were lost was found by the poller, with all its files"

compose restart rabbitmq
give_up_at=$((SECONDS + WAIT_SECONDS))
python_in ingress after-restart <tests/compose/post.py || fail "no callback was taken"
say "callback taken after a restart of the broker"
until compose run --rm -T operator tasks show after-restart --json >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$give_up_at" ] || fail "the callback was not processed"
    sleep 1
done
say "and processed"

compose stop postgres
export PIPELINE_LEDGER_URL=sqlite:////data/demo/ledger.db POSTGRES_REPLICAS=0
start
[ -z "$(compose ps --quiet postgres)" ] || fail "PostgreSQL runs, and nobody needs it"
play
say "demo played with the ledger in a file"

traces=$(compose logs --no-color $OURS | grep -c -e Traceback -e '"level":"critical"' || true)
[ "$traces" -eq 0 ] || fail "$traces tracebacks in the logs"

compose stop
for container in $(compose ps --all --quiet $OURS); do
    code=$(docker inspect --format '{{.State.ExitCode}}' "$container")
    [ "$code" -eq 0 ] || fail "$container ended with $code on SIGTERM"
done
say "stopped in order"
