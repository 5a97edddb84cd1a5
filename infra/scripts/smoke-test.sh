#!/bin/sh
# Checks what only a live system can show. It costs a few jobs and, from zero, the start of a GPU node.
#   LOOSELY_API_KEY=… smoke-test.sh
# Each check prints its result. The checks of Service Bus create queues and delete them. They need the role
# Azure Service Bus Data Owner on the namespace, and are left out without it. MODEL, PICTURE, JOBS, GROUP and
# GROUP_SECONDS change the jobs, their number and the time limit of a group. RESTART_COMMAND is another command
# to restart the gateway; RESTART_COMMAND=none leaves that check out. LETTER_SECONDS and COUNT_SECONDS are how
# long to wait for a dead letter and for a count of messages. PYTHON is the interpreter that has the worker's
# packages, by default the one of ./dev environment. The results are also written to the Markdown file
# REPORT, infra/build/smoke-test.md by default, without names, addresses and keys of this deployment: send
# it in, because only such reports show whether what docs/explanation/fidelity.md has read is true.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need az curl python3
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$python" ] || stop "$python is missing: run ./dev environment first"
export PYTHONPATH="$root"
: "${LOOSELY_API_KEY:?set it to the key that keys.sh printed}"
api=$(value API_URL)
namespace=$(value SERVICE_BUS_NAMESPACE)
bus=$(value SERVICE_BUS_HOST)
group=$(value AZURE_RESOURCE_GROUP)
host=$(value WORKER_HOST)
host_url=$(value GATEWAY_BASE_URL)
gateway_name=$(optional_value GATEWAY_NAME) || gateway_name=$host_url
model=${MODEL:-classifier}
picture=${PICTURE:-$root/examples/chelsea.jpg}
jobs=${JOBS:-40}
group_size=${GROUP:-50}
export KUBECONFIG="$build/kubeconfig"
report_file=${REPORT:-$build/smoke-test.md}
failures=0
claim=

# Credentials are in files that only this user can read, because every user can see arguments.
umask 077
private=$(mktemp -d)
finish() { # write the report, also if the script ends early
    if [ -s "$private/report" ]; then write_report; fi
    rm -rf "$private"
}
trap finish EXIT
printf 'Authorization: Bearer %s\n' "$LOOSELY_API_KEY" >"$private/gateway"

record() { # RESULT TEXT: add a line about the current claim to the report, without names of this deployment
    text=$(printf '%s' "$2" | tr '\n|' '; ' |
        sed -E "s#$api#GATEWAY#g; s#$host_url#GATEWAY#g; s#$bus#NAMESPACE#g; s#$namespace#NAMESPACE#g
            s#/subscriptions/[^ ,;\"')]*#SUBSCRIPTION#g; s#$group#GROUP#g; s#$gateway_name#GATEWAY#g
            s#[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}#ID#g
            s#[[:alnum:]._%+-]+@[[:alnum:].-]+#USER#g; s#$root#ROOT#g; s#$HOME#HOME#g")
    printf '| %s | %s | %s |\n' "$claim" "$1" "$text" >>"$private/report"
}
passed() {
    say "passed: $*"
    record held "$*"
}
failed() {
    say "FAILED: $*"
    failures=$((failures + 1))
    record failed "$*"
}
left_out() {
    say "left out: $*"
    record 'not applicable' "$*"
}
take_findings() { # record the lines RESULT<tab>CLAIM<tab>TEXT on stdin
    while IFS="$(printf '\t')" read -r result claim text; do
        case $result in
            held) passed "$text" ;;
            failed) failed "$text" ;;
            'not applicable') left_out "$claim: $text" ;;
            *)
                say "$claim: $result: $text"
                record "$result" "$text"
                ;;
        esac
    done
}
write_report() {
    mkdir -p "$(dirname "$report_file")"
    {
        printf '# Smoke test of a deployment\n\n'
        printf 'Workers: %s. Date: %s. Failed: %s.\n\n' "$host" "$(date -u +%Y-%m-%d)" "$failures"
        printf '| claim | result | observed |\n|---|---|---|\n'
        cat "$private/report"
    } >"$report_file"
    say "the report is in $report_file"
}

call() { # CURL-ARGUMENT…: send a request to the gateway
    curl --silent --show-error --max-time 240 --header "@$private/gateway" "$@"
}

field() { # NAME: print this member of the JSON object on stdin, or an empty line
    python3 -c '
import json, sys
try:
    print(json.load(sys.stdin).get(sys.argv[1]) or "")
except (ValueError, AttributeError):
    pass' "$1"
}

submit() { # PREFERENCE [QUERY]: submit the picture and print the job
    call --header "prefer: $1" --header "content-type: image/jpeg" --data-binary "@$picture" \
        "$api/v1/models/$model/jobs${2:-}"
}

await() { # JOB-ID SECONDS: print the job's final status; print nothing if JOB-ID is empty
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

app=$(python3 -c '
import json, sys
with open(sys.argv[1], encoding="utf-8") as file:
    models = json.load(file)["models"]
print(next((each["appName"] for each in models if each["name"] == sys.argv[2]), "worker-" + sys.argv[2]))
' "$root/infra/catalogue.json" "$model")
count_workers() {
    if [ "$host" = aca ]; then
        az containerapp replica list --name "$app" --resource-group "$group" --query 'length(@)' --output tsv
    else
        kubectl --namespace loosely get pods --no-headers --selector "app.kubernetes.io/instance=$model" \
            2>/dev/null | wc -l
    fi
}

check_gateway() { # NAME SECONDS [OPTION…]: check one claim about the gateway and record the result
    name=$1 seconds=$2
    shift 2
    "$python" -m infra.smoke.gateway "$name" --url "$api" --host-url "$host_url" --model "$model" \
        --file "$picture" --seconds "$seconds" "$@" >"$private/findings" || printf 'failed\t%s\t%s\n' \
        "$name" 'the check itself failed' >"$private/findings"
    take_findings <"$private/findings"
}

claim='the gateway reaches its services'
# 1. The gateway reaches its queue, its blobs and its store of histories.
if retry is_ready; then passed "the gateway is ready"; else failed "/v1/health/ready"; fi

claim='pages may use links to blobs'
# 2. Browsers let the gateway's own pages send uploads to the storage and read results from it.
asked=$(curl --silent --output /dev/null --write-out '%{http_code}' --max-time 60 --request OPTIONS \
    --header "origin: $api" --header 'access-control-request-method: PUT' \
    --header 'access-control-request-headers: content-type,x-ms-blob-type' \
    "$(value PAYLOAD_ENDPOINT)payloads/none") || true
if [ "$asked" = 200 ]; then
    passed "pages of $api may use links to blobs"
else
    failed "pages of $api may not use links to blobs: the preflight request got $asked"
fi

claim='workers start from zero'
# 3. A picture is classified, starting from zero workers.
before=$(count_workers) || before=1
started=$(date +%s)
first=$(submit respond-async '?deadline_seconds=1800' | field id)
status=$(await "$first" 1800)
if [ "$status" = succeeded ] && [ "$before" -gt 0 ]; then
    left_out "the start from zero: $before workers ran; a picture was classified after $(($(date +%s) - started)) s"
elif [ "$status" = succeeded ]; then
    passed "without a worker at first, a picture was classified after $(($(date +%s) - started)) s"
else
    failed "the first job ended as ${status:-not accepted}"
fi

claim='one request gets the result'
# 4. The same in one request, now that a worker is warm.
result=$(submit wait=60 | field result)
if [ -n "$result" ]; then passed "one request returned the result: $result"; else failed "one request returned no result"; fi

claim='jobs survive the death of a worker'
# 5. A pod is killed with jobs in flight, and all jobs succeed.
if [ "$host" = aks ]; then
    ids=$(for _ in $(seq "$jobs"); do submit respond-async '?deadline_seconds=600' | field id; done)
    kubectl --namespace loosely delete pod --grace-period=0 --force \
        --selector "app.kubernetes.io/instance=$model" >/dev/null 2>&1 || failed "no pod could be killed"
    answered=0
    for id in $ids; do [ "$(await "$id" 600)" != succeeded ] || answered=$((answered + 1)); done
    if [ "$answered" = "$jobs" ]; then
        passed "$jobs of $jobs jobs succeeded although the pod was killed"
    else
        failed "only $answered of $jobs jobs succeeded after the pod was killed"
    fi
else
    left_out "the death of a worker, because Container Apps has no command that kills one"
fi

run_group() { # NAME SECONDS [OPTION…]: run a group of jobs and print its report; fail if a job ended wrong
    name=$1 seconds=$2
    shift 2
    "$python" -m infra.smoke.jobs "$name" --url "$api" --model "$model" --file "$picture" \
        --count "$group_size" --seconds "${GROUP_SECONDS:-$seconds}" "$@"
}

claim='a cancelled job stays cancelled'
# 6. Jobs are cancelled right after their 202, and do not return to the queue.
if report=$(run_group cancelled 300); then passed "$report"; else failed "$report"; fi

claim='jobs survive a restart of the gateway'
# 7. The gateway is restarted, and all jobs that it has accepted succeed. Flex Consumption cannot restart
# a single instance, so this restarts all of them.
restart=${RESTART_COMMAND:-}
if [ -z "$restart" ] && gateway=$(optional_value GATEWAY_NAME); then
    restart="az functionapp restart --name $gateway --resource-group $group --output none"
fi
if [ -z "$restart" ] || [ "$restart" = none ]; then
    left_out "jobs during a restart of the gateway, because RESTART_COMMAND is none"
else
    if report=$(run_group restarted 600 --restart "$restart"); then passed "$report"; else failed "$report"; fi
    retry is_ready || failed "the gateway is not ready after its restart"
fi

claim='no busy worker is refused when it completes messages together'
# 8. The groups kept workers busy. A worker logs it if Service Bus refuses to complete messages together.
if [ "$host" = aks ]; then
    logs=$(kubectl --namespace loosely logs --selector "app.kubernetes.io/instance=$model" --tail=-1 2>/dev/null) ||
        logs=
    if [ -z "$logs" ]; then
        left_out "what the workers logged, because they have no log"
    elif printf '%s\n' "$logs" | grep -q 'completes them one by one'; then
        say "Service Bus refused to complete messages together: the workers complete them one by one"
        record 'does not hold' "the workers complete messages one by one"
    else
        passed "no worker was refused when it completed several messages together"
    fi
else
    left_out "what the workers logged, because their logs are in a workspace"
fi

claim='pods cannot reach the metadata service'
# 9. The network policy holds: a program in a worker gets no token of the node's identity.
if [ "$host" = aks ] && [ "$(count_workers)" -gt 0 ]; then
    probe='import socket; socket.create_connection(("169.254.169.254", 80), 5)'
    if kubectl --namespace loosely exec "deployment/worker-$model" -- python3 -c 'import socket' >/dev/null 2>&1; then
        if kubectl --namespace loosely exec "deployment/worker-$model" -- python3 -c "$probe" >/dev/null 2>&1; then
            failed "a worker can reach the metadata service of its node"
        else
            passed "a worker cannot reach the metadata service of its node"
        fi
    else
        left_out "the metadata service, because no command can be run in a worker"
    fi
else
    left_out "the metadata service, because no worker runs on AKS"
fi

claim='KEDA reads the length of the queue'
# 10. KEDA's own condition says whether it could sign in and read the queue.
if [ "$host" = aks ]; then
    ready=$(kubectl --namespace loosely get scaledobject "worker-$model" \
        --output 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null) || ready=
    if [ "$ready" = True ]; then passed "KEDA is ready"; else failed "KEDA is not ready: ${ready:-no answer}"; fi
else
    left_out "KEDA, because Container Apps does not show its state"
fi

claim='a worker for the GPU uses the GPU'
# 11. The worker's heartbeat names its devices.
if [ "$host" = aks ]; then
    gpus=$(kubectl --namespace loosely get deployment "worker-$model" --output \
        'jsonpath={.spec.template.spec.containers[0].resources.limits.nvidia\.com/gpu}' 2>/dev/null) || gpus=
else
    profile=$(az containerapp show --name "$app" --resource-group "$group" \
        --query properties.workloadProfileName --output tsv 2>/dev/null) || profile=Consumption
    gpus=${profile#Consumption}
fi
if [ -n "$gpus" ]; then check_gateway device 30; else left_out "the device, because the worker asks for no GPU"; fi

# 12. and 13. Uploads, and the host's own routes.
check_gateway upload 300
check_gateway management 30

claim='an unreadable message becomes a dead letter'
# 14. Needs the right to send to the model's queue.
stray="smoke-test-$(date +%s)"
sent=0
"$python" -m infra.smoke.servicebus send --host "$bus" --queue "$model" --id "$stray" 2>"$private/refusal" || sent=$?
case $sent in
    0) check_gateway letter "${LETTER_SECONDS:-300}" --id "$stray" ;;
    3) left_out "the dead letter: $(cat "$private/refusal")" ;;
    *)
        cat "$private/refusal" >&2
        failed "the program that sends a message ended with the exit code $sent"
        ;;
esac

# 15. What worker and gateway expect of Service Bus, on queues of its own.
"$python" -m infra.smoke.servicebus check --host "$bus" --namespace "$namespace" --group "$group" \
    --count-seconds "${COUNT_SECONDS:-60}" >"$private/findings" || failures=$((failures + 1))
take_findings <"$private/findings"

# 16. and 17. Some minutes later, the workspace has telemetry of the first job and of the timer.
workspace=$(az monitor log-analytics workspace list --resource-group "$group" --query '[0].customerId' \
    --output tsv 2>/dev/null) || workspace=
has_telemetry() { # QUERY: count the rows that this query finds in the workspace; fail if there is none
    found=$(az rest --method post --url "https://api.loganalytics.io/v1/workspaces/$workspace/query" \
        --resource https://api.loganalytics.io --headers Content-Type=application/json \
        --body "{\"query\": \"$1 | count\"}" --query 'tables[0].rows[0][0]' --output tsv 2>/dev/null)
    [ "${found:-0}" -gt 0 ]
}
check_telemetry() { # WHAT QUERY
    if [ -z "$workspace" ] || [ -z "$2" ]; then
        left_out "telemetry of $1, because there is no workspace or no such job"
    elif retry has_telemetry "$2"; then
        passed "the workspace has $found rows about $1"
    else
        failed "the workspace has no rows about $1"
    fi
}
claim='telemetry arrives in Application Insights'
by_job=
[ -z "$first" ] || by_job="search '$first'"
check_telemetry 'the first job' "$by_job"
claim='the timer runs'
check_telemetry 'the timer' "AppRequests | where TimeGenerated > ago(15m) and (Name == 'watch' or OperationName == 'watch')"

[ "$failures" = 0 ] || stop "$failures checks failed"
say "all checks passed"
