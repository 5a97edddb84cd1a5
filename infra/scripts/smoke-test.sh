#!/bin/sh
# What only a live system can show. Costs a few jobs and, from zero, the start of a GPU node.
#   LOOSELY_API_KEY=… smoke-test.sh
# Each check says what it saw. Those of the queue itself need the role Azure Service Bus Data Owner
# on the namespace for who runs this, and are left out without it. MODEL, PICTURE, JOBS and GROUP choose
# other jobs and numbers of them. RESTART_COMMAND restarts the gateway in another way than by az;
# RESTART_COMMAND=none leaves that check out.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need az curl python3
: "${LOOSELY_API_KEY:?set it to the key that keys.sh has shown}"
api=$(value API_URL)
namespace=$(value SERVICE_BUS_NAMESPACE)
bus=$(value SERVICE_BUS_HOST)
group=$(value AZURE_RESOURCE_GROUP)
host=$(value WORKER_HOST)
model=${MODEL:-classifier}
picture=${PICTURE:-$root/examples/chelsea.jpg}
jobs=${JOBS:-40}
group_size=${GROUP:-50}
export KUBECONFIG="$build/kubeconfig"
failures=0

# What signs us in lies in files that only we can read: arguments are seen by everybody.
umask 077
private=$(mktemp -d)
trap 'rm -rf "$private"' EXIT
printf 'Authorization: Bearer %s\n' "$LOOSELY_API_KEY" >"$private/gateway"

passed() { say "passed: $*"; }
failed() {
    say "FAILED: $*"
    failures=$((failures + 1))
}

call() { # CURL-ARGUMENT…
    curl --silent --show-error --max-time 240 --header "@$private/gateway" "$@"
}

field() { # NAME: of the JSON object on standard input; nothing where there is none
    python3 -c '
import json, sys
try:
    print(json.load(sys.stdin).get(sys.argv[1]) or "")
except ValueError:
    pass' "$1"
}

submit() { # PREFERENCE [QUERY]: the job
    call --header "prefer: $1" --header "content-type: image/jpeg" --data-binary "@$picture" \
        "$api/v1/models/$model/jobs${2:-}"
}

await() { # JOB-ID SECONDS: its final status; nothing for a job that was not accepted
    [ -n "$1" ] || return 0
    ends=$(($(date +%s) + $2))
    status=unknown
    while [ "$(date +%s)" -lt "$ends" ]; do
        status=$(call --header "prefer: wait=60" "$api/v1/jobs/$1" | field status)
        case $status in succeeded | failed | cancelled | expired) break ;; esac
    done
    echo "$status"
}

is_ready() { [ "$(call --output /dev/null --write-out '%{http_code}' "$api/v1/health/ready")" = 200 ]; }

workers() {
    if [ "$host" = aca ]; then
        az containerapp replica list --name "worker-$model" --resource-group "$group" --query 'length(@)' --output tsv
    else
        kubectl --namespace loosely get pods --no-headers --selector "app.kubernetes.io/instance=$model" \
            2>/dev/null | wc -l
    fi
}

active_messages() {
    az servicebus queue show --namespace-name "$namespace" --resource-group "$group" --name "$model" \
        --query countDetails.activeMessageCount --output tsv
}

# 1. The gateway reaches its queue, its blobs and its store of histories.
if patiently is_ready; then passed "the gateway is ready"; else failed "/v1/health/ready"; fi

# 2. From zero workers to an answer.
before=$(workers)
started=$(date +%s)
id=$(submit respond-async '?deadline_seconds=1800' | field id)
status=$(await "$id" 1800)
if [ "$status" = succeeded ]; then
    passed "with $before workers at first, a picture was answered after $(($(date +%s) - started)) s"
else
    failed "the first job ended as ${status:-nothing}"
fi

# 3. The same in one request, now that a worker is warm.
result=$(submit wait=60 | field result)
if [ -n "$result" ]; then passed "one request, one answer: $result"; else failed "no answer in one request"; fi

# 4. A pod is killed with jobs in hand, and all are answered.
if [ "$host" = aks ]; then
    ids=$(for _ in $(seq "$jobs"); do submit respond-async '?deadline_seconds=600' | field id; done)
    kubectl --namespace loosely delete pod --grace-period=0 --force \
        --selector "app.kubernetes.io/instance=$model" >/dev/null 2>&1 || failed "no pod could be killed"
    answered=0
    for id in $ids; do [ "$(await "$id" 600)" != succeeded ] || answered=$((answered + 1)); done
    if [ "$answered" = "$jobs" ]; then
        passed "$jobs of $jobs answered though the pod was killed"
    else
        failed "$answered of $jobs answered"
    fi
fi

in_a_group() { # NAME SECONDS [OPTION…]: what became of a group of jobs; fails if it is not what must be
    name=$1 seconds=$2
    shift 2
    python3 "$root/infra/smoke.py" "$name" --url "$api" --model "$model" --file "$picture" \
        --count "$group_size" --seconds "$seconds" "$@"
}

# 5. Jobs are cancelled right after their 202, and none is in its queue again.
if told=$(in_a_group cancelled 300); then passed "$told"; else failed "$told"; fi

# 6. The gateway is restarted, and all jobs that it has accepted are answered. Flex Consumption has no
# verb for a single instance: this restarts all of them.
restart=${RESTART_COMMAND:-}
if [ -z "$restart" ] && gateway=$(kept GATEWAY_NAME); then
    restart="az functionapp restart --name $gateway --resource-group $group --output none"
fi
if [ -z "$restart" ] || [ "$restart" = none ]; then
    say "left out: jobs during a restart of the gateway, since RESTART_COMMAND names no way to restart it"
else
    if told=$(in_a_group restarted 600 --restart "$restart"); then passed "$told"; else failed "$told"; fi
    patiently is_ready || failed "the gateway is not ready after its restart"
fi

# 7. and 8. On the queue itself: a dead letter, and whether locked messages count as active.
token=$(az account get-access-token --resource https://servicebus.azure.net --query accessToken --output tsv)
printf 'Authorization: Bearer %s\n' "$token" >"$private/bus"
stray="smoke-test-$(date +%s)"
send() { # TEXT: the status, 000 where nobody answers
    curl --silent --max-time 30 --output /dev/null --write-out '%{http_code}' --header "@$private/bus" \
        --header "BrokerProperties: {\"MessageId\": \"$stray\"}" --data "$1" "https://$bus/$model/messages" || true
}
if [ "$(send 'not a job request')" = 201 ]; then
    is_told() { call "$api/v1/admin/dead-letters?model=$model" | grep -q "$stray"; }
    if patiently is_told; then passed "an unreadable message is in the dead letters"; else failed "no dead letter"; fi
    say "active messages of $model now: $(active_messages); KEDA scales by this figure, and workers'"
    say "locked messages should count: compare it while a long job runs"
else
    say "left out: dead letter and counts, since this account may not send to $model"
fi

[ "$failures" = 0 ] || stop "$failures checks failed"
say "all checks passed"
