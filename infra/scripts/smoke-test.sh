#!/bin/sh
# What only a live system can show. Costs a few jobs and, from zero, the start of a GPU node.
#   LOOSELY_API_KEY=… smoke-test.sh
# Each check says what it saw. Those of the queue itself need the role Azure Service Bus Data Owner
# on the namespace for who runs this, and are left out without it.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need az curl python3
: "${LOOSELY_API_KEY:?set it to the key that keys.sh has shown}"
api=$(value API_URL)
namespace=$(value SERVICE_BUS_NAMESPACE)
group=$(value AZURE_RESOURCE_GROUP)
model=${MODEL:-classifier}
picture=${PICTURE:-$root/examples/chelsea.jpg}
failures=0

passed() { say "passed: $*"; }
failed() {
    say "FAILED: $*"
    failures=$((failures + 1))
}

call() { # CURL-ARGUMENT…
    curl --silent --show-error --max-time 240 --header "Authorization: Bearer $LOOSELY_API_KEY" "$@"
}

field() { # NAME: of the JSON object on standard input
    python3 -c 'import json, sys; print(json.load(sys.stdin).get(sys.argv[1]) or "")' "$1"
}

submit() { # PREFERENCE: the job
    call --header "prefer: $1" --header "content-type: image/jpeg" --data-binary "@$picture" \
        "$api/v1/models/$model/jobs"
}

await() { # JOB-ID SECONDS: its final status
    ends=$(($(date +%s) + $2))
    while [ "$(date +%s)" -lt "$ends" ]; do
        status=$(call --header "prefer: wait=60" "$api/v1/jobs/$1" | field status)
        case $status in succeeded | failed | cancelled | expired) break ;; esac
    done
    echo "$status"
}

is_ready() { [ "$(call --output /dev/null --write-out '%{http_code}' "$api/v1/health/ready")" = 200 ]; }

workers() {
    if [ "$(value WORKER_HOST)" = aca ]; then
        az containerapp replica list --name "worker-$model" --resource-group "$group" --query 'length(@)' --output tsv
    else
        KUBECONFIG="$build/kubeconfig" kubectl --namespace loosely get pods --no-headers \
            --selector "app.kubernetes.io/instance=$model" 2>/dev/null | wc -l
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
id=$(call --header "prefer: respond-async" --header "content-type: image/jpeg" --data-binary "@$picture" \
    "$api/v1/models/$model/jobs?deadline_seconds=1800" | field id)
status=$(await "$id" 1800)
if [ "$status" = succeeded ]; then
    passed "with $before workers at first, a picture was classified after $(($(date +%s) - started)) s"
else
    failed "the first job ended as ${status:-nothing}"
fi

# 3. The same in one request, now that a worker is warm.
labels=$(submit wait=60 | field result)
case $labels in *label*) passed "one request, one answer: $labels" ;; *) failed "no answer in one request" ;; esac

# 4. A pod is killed with jobs in hand, and all are answered.
if [ "$(value WORKER_HOST)" = aks ]; then
    ids=$(for _ in $(seq 40); do submit respond-async | field id; done)
    KUBECONFIG="$build/kubeconfig" kubectl --namespace loosely delete pod --grace-period=0 --force \
        --selector "app.kubernetes.io/instance=$model" >/dev/null 2>&1
    lost=0
    for id in $ids; do [ "$(await "$id" 600)" = succeeded ] || lost=$((lost + 1)); done
    if [ "$lost" = 0 ]; then passed "40 of 40 answered though the pod was killed"; else failed "$lost of 40 lost"; fi
fi

# 5. and 6. On the queue itself: a dead letter, and whether locked messages count as active.
token=$(az account get-access-token --resource https://servicebus.azure.net --query accessToken --output tsv)
queue="https://$(value SERVICE_BUS_HOST)/$model"
send() {
    curl --silent --output /dev/null --write-out '%{http_code}' --header "Authorization: Bearer $token" \
        --header 'BrokerProperties: {"MessageId": "smoke-test-'"$(date +%s)"'"}' --data "$1" "$queue/messages"
}
if [ "$(send 'not a job request')" = 201 ]; then
    sleep 30
    found=$(call "$api/v1/admin/dead-letters?model=$model" | grep -c smoke-test || true)
    if [ "$found" -gt 0 ]; then passed "an unreadable message is in the dead letters"; else failed "no dead letter"; fi
    say "active messages of $model now: $(active_messages); KEDA scales by this figure, and workers'"
    say "locked messages should count: compare it while a long job runs"
else
    say "left out: dead letter and counts, since this account may not send to $model"
fi

[ "$failures" = 0 ] || stop "$failures checks failed"
say "all checks passed"
