#!/bin/sh
# Prints RabbitMQ's users, and what each of them may do, as definitions:
#
#   RABBITMQ_PASSWORD=... sh configs/rabbitmq/definitions.sh > definitions.json
#   rabbitmqctl import_definitions definitions.json
#
# (Not through a pipe: that of RabbitMQ 4.0 was seen to wait for ever.)
#
# compose.yaml has the server do this at every start. A user whose variable is unset
# or empty is left out; nobody is ever removed. docs/operations.md has the same as a
# table, with reasons.
#
#   RABBITMQ_PASSWORD    pipeline     people, and whatever applies the topology
#   INGRESS_PASSWORD     ingress      publishes callbacks
#   DEDUPE_PASSWORD      dedupe       the workers: each reads its own queues
#   DOWNLOAD_PASSWORD    download
#   NOTIFY_PASSWORD      notify
#   POLLER_PASSWORD      poller       publishes what the provider answers
#   SUBSCRIBER_PASSWORD  subscriber   an example: another service, which listens
#   PREFIX               the setting broker.prefix; "pipeline" if unset
set -eu

prefix=$(printf '%s' "${PREFIX:-pipeline}" | sed 's/\./\\\\./g')  # a dot, in a regex, in JSON
ours="^$prefix\\\\."
work="v[0-9]+\\\\."

separator=''
# $1 is a user, $2 the password, $3 tags. What stands in a URL and in JSON as it is.
user() {
    case $2 in
    '') return ;;
    *[!A-Za-z0-9._~-]*)
        echo "the password of $1: expected letters, digits and . _ ~ -" >&2
        exit 1
        ;;
    esac
    printf '%s\n    {"name": "%s", "password": "%s", "tags": "%s"}' "$separator" "$1" "$2" "$3"
    separator=,
}
# $1 is a user, $2 the password; $3, $4, $5: what it may configure, write, read.
permission() {
    [ -n "$2" ] || return 0
    printf '%s\n    {"user": "%s", "vhost": "/", "configure": "%s", "write": "%s", "read": "%s"}' \
        "$separator" "$1" "$3" "$4" "$5"
    separator=,
}
# Where every worker publishes: what it retries, and what it gives up.
set_aside="delay\\\\.[0-9]+(ms|s|m|h)|dead"

printf '{\n  "vhosts": [{"name": "/"}],\n  "users": ['
# May look at everything in the console, and set policies; makes no users.
user pipeline "${RABBITMQ_PASSWORD:-}" monitoring,policymaker
user ingress "${INGRESS_PASSWORD:-}" ''
user dedupe "${DEDUPE_PASSWORD:-}" ''
user download "${DOWNLOAD_PASSWORD:-}" ''
user notify "${NOTIFY_PASSWORD:-}" ''
user poller "${POLLER_PASSWORD:-}" ''
user subscriber "${SUBSCRIBER_PASSWORD:-}" ''

separator=''
printf '\n  ],\n  "permissions": ['
permission pipeline "${RABBITMQ_PASSWORD:-}" "$ours" "$ours" "$ours"
permission ingress "${INGRESS_PASSWORD:-}" '^$' "${ours}callbacks\$" '^$'
permission dedupe "${DEDUPE_PASSWORD:-}" \
    '^$' "$ours(events|$work(work|$set_aside))\$" "$ours${work}dedupe\$"
permission download "${DOWNLOAD_PASSWORD:-}" \
    '^$' "$ours(events|$work($set_aside))\$" "$ours${work}download\$"
permission notify "${NOTIFY_PASSWORD:-}" \
    '^$' "$ours$work($set_aside)\$" "$ours${work}notify\\\\.[^.]+\$"
permission poller "${POLLER_PASSWORD:-}" \
    '^$' "$ours(callbacks|events)\$" '^$'
# Makes queues of its own, whose names start with its own, and binds them.
permission subscriber "${SUBSCRIBER_PASSWORD:-}" \
    '^subscriber\\.' '^subscriber\\.' "^subscriber\\\\.|${ours}events\$"

# Which events it may ask for: the patterns of its bindings are held against this.
printf '\n  ],\n  "topic_permissions": ['
if [ -n "${SUBSCRIBER_PASSWORD:-}" ]; then
    printf '\n    {"user": "subscriber", "vhost": "/", "exchange": "%s.events", "write": "^$", "read": "%s"}' \
        "${PREFIX:-pipeline}" '^(task|asset)\\.'
fi
# A subscriber that stays away must not fill the broker: its oldest events go.
printf '\n  ],\n  "policies": ['
if [ -n "${SUBSCRIBER_PASSWORD:-}" ]; then
    printf '\n    {"name": "subscriber", "vhost": "/", "pattern": "%s", "apply-to": "queues", "priority": 0, "definition": {"max-length": 100000, "overflow": "drop-head"}}' \
        '^subscriber\\.'
fi
printf '\n  ]\n}\n'
