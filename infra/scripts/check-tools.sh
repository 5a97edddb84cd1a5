#!/bin/sh
# Checks the tools, the sign-in, the region and what is left of the quota before anything is created, and
# then changes two things:
# - In the azd environment it sets the address for alerts, for which it asks, a new budget's first month,
#   and the names of the existing node pools, because only a new pool gets a number of nodes.
# - It registers the resource providers that the templates need but do not name. Azure registers the
#   others by itself.
# CHECK_REGION=false in the azd environment leaves out the checks of region and quota.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

tab=$(printf '\t')
need az azd openssl python3
# A project that `loosely deploy` has written is no repository of its own.
[ ! -e "$root/.git" ] || need git
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || stop "python3 is older than 3.11"
host=$(optional_value WORKER_HOST) || host=aks
[ "$host" = aca ] || need kubectl kubelogin
here=$(az account show --query id --output tsv) || stop "not signed in: run az login"
there=$(optional_value AZURE_SUBSCRIPTION_ID) || there=$here
[ "$here" = "$there" ] || stop "az is in another subscription than azd: az account set --subscription $there"
# For the cluster's machines and network, and for the Function App's subnet in a private network.
providers=
[ "$host" = aca ] || providers="Microsoft.Compute Microsoft.Network"
[ "$(optional_value PRIVATE_NETWORK || true)" != true ] || providers="$providers Microsoft.App"
for provider in $providers; do
    az provider register --namespace "$provider" --wait --output none
done

# Alerts that reach nobody are worse than none, so an address is needed, or the decision against one.
address=$(optional_value ALERT_EMAIL) || address=
if [ -z "$address" ]; then
    printf 'Mail address for alerts and the budget, or none:\n> ' >&2
    read -r address || address=
    [ -n "$address" ] || stop "ALERT_EMAIL is not set: azd env set ALERT_EMAIL you@example.org, or none"
    azd env set ALERT_EMAIL "$address" --cwd "$root"
fi

for list in GATEWAY_SETTINGS WORKER_SETTINGS; do
    settings=$(optional_value "$list") || settings=
    ! printf '%s\n' "$settings" | tr ';' '\n' | grep -Eqv '^([A-Za-z][A-Za-z0-9_]*=.*)?$' ||
        stop "$list must be NAME=value, separated by semicolons, found: $settings"
    ! printf '%s\n' "$settings" | tr ';' '\n' | grep -q '^RETENTION_HOURS=' ||
        stop "$list: the storage's rules depend on RETENTION_HOURS, so set it by itself: azd env set RETENTION_HOURS …"
done

# Each worker of a model with several GPUs owns them: one machine must have as many, and share none.
gpus=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["mostGpus"])' "$root/infra/catalogue.json")
sharing=$(optional_value GPU_SHARING) || sharing=none
if [ "$gpus" -gt 1 ]; then
    [ "$host" != aca ] ||
        stop "a model needs $gpus GPUs, but a replica on Container Apps has one: azd env set WORKER_HOST aks"
    [ "$sharing" = none ] ||
        stop "a model needs $gpus GPUs, but GPU_SHARING is $sharing: azd env set GPU_SHARING none"
fi

is_in() { # LOCATIONS: whether the region is one of these lines
    printf '%s\n' "$1" | tr -d ' ' | tr '[:upper:]' '[:lower:]' | grep -qx "$region"
}

offers() { # SERVICE LOCATIONS: stop unless the service exists in the region
    is_in "$2" || stop "$region does not offer $1: azd env set AZURE_LOCATION another region"
}

find_machine() { # SIZE: set $family, $node_cores and $node_gpus; stop unless the region offers the size
    # A family may contain blanks: "Standard NCASv3_T4 Family".
    found=$(az vm list-skus --location "$region" --all --size "$1" --resource-type virtualMachines \
        --query "[?name=='$1'].[family, capabilities[?name=='vCPUs'].value | [0], capabilities[?name=='GPUs'].value | [0] || '0', length(restrictions[?type=='Location'])]" \
        --output tsv)
    [ -n "$found" ] || stop "$region does not offer $1"
    IFS=$tab read -r family node_cores node_gpus restrictions <<FOUND
$found
FOUND
    [ "$restrictions" = 0 ] || stop "$region does not offer $1 to this subscription"
}

count_new_nodes() { # POOL NODES: print how many of these nodes do not exist yet
    printf '%s\n' "$pools" | awk -F "$tab" -v pool="$1" -v nodes="$2" \
        '$1 == pool { nodes -= $2 } END { print (nodes > 0 ? nodes : 0) }'
}

check_quota() { # QUOTA CORES REASON: stop if fewer cores of the quota are left
    left=$(printf '%s\n' "$usages" | awk -F "$tab" -v name="$1" \
        'tolower($1) == tolower(name) { left = $2 - $3 } END { print left + 0 }')
    [ "$left" -ge "$2" ] ||
        stop "$left cores of the quota $1 in $region are left, but $3 need $2: request more in the portal, under Quotas"
}

check_region() { # stop if a service or the quota that the choices need is missing
    offers "Flex Consumption" "$(az functionapp list-flexconsumption-locations --query '[].name' --output tsv)"
    backend=$(optional_value DURABLE_BACKEND) || backend=scheduler
    if [ "$backend" = scheduler ]; then
        offers "the Durable Task Scheduler" "$(az provider show --namespace Microsoft.DurableTask \
            --query "resourceTypes[?resourceType=='schedulers'].locations[]" --output tsv)"
    fi
    if [ "$host" = aca ]; then
        profile=$(az containerapp env workload-profile list-supported --location "$region" \
            --query "[?name=='Consumption-GPU-NC8as-T4'].name" --output tsv)
        [ -n "$profile" ] || stop "$region does not offer Container Apps with the GPU Consumption-GPU-NC8as-T4"
        return
    fi
    dashboard=$(optional_value DEPLOY_DASHBOARD) || dashboard=true
    if [ "$dashboard" = true ]; then
        places=$(az provider show --namespace Microsoft.Dashboard \
            --query "resourceTypes[?resourceType=='dashboards'].locations[]" --output tsv)
        is_in "$places" || stop "$region does not offer dashboards with Grafana: azd env set DEPLOY_DASHBOARD false"
    fi
    usages=$(az vm list-usage --location "$region" --query '[].[name.value, limit, currentValue]' --output tsv)
    machine=$(optional_value SYSTEM_NODE_SIZE) || machine=Standard_D4as_v5
    count=$(optional_value SYSTEM_NODE_COUNT) || count=2
    find_machine "$machine"
    # An upgrade starts one node more: maxSurge in infra/modules/cluster.bicep.
    new=$(count_new_nodes system "$count")
    [ "$new" = 0 ] || new=$((new + 1))
    # The pool for models without a GPU needs at least one node.
    count_cpu=$(optional_value CPU_MIN_COUNT) || count_cpu=0
    [ "$count_cpu" != 0 ] || count_cpu=1
    cores=$(((new + $(count_new_nodes cpu "$count_cpu")) * node_cores))
    reason="$count of $machine, one for upgrades, $count_cpu for models without a GPU,"
    check_quota "$family" "$cores" "$reason"
    system_family=$family system_cores=$cores
    # At least one node, also if nodes start only for jobs. Spot nodes use a quota of their own; on-demand
    # nodes replace them. An upgrade of these pools starts no further node.
    machine=$(optional_value GPU_NODE_SIZE) || machine=Standard_NC4as_T4_v3
    count=$(optional_value GPU_MIN_COUNT) || count=0
    [ "$count" != 0 ] || count=1
    spot=$(optional_value USE_SPOT) || spot=true
    find_machine "$machine"
    [ "$gpus" -le 1 ] || [ "$gpus" -le "$node_gpus" ] ||
        stop "a model needs $gpus GPUs, but $machine has $node_gpus: azd env set GPU_NODE_SIZE another machine"
    cores=$(($(count_new_nodes gpu "$count") * node_cores))
    check_quota cores "$((system_cores + cores))" "the cluster's nodes"
    if [ "$family" = "$system_family" ]; then
        check_quota "$family" "$((system_cores + cores))" "$reason and $count of $machine"
    else
        check_quota "$family" "$cores" "$count of $machine"
    fi
    [ "$spot" != true ] ||
        check_quota lowPriorityCores "$(($(count_new_nodes gpuspot "$count") * node_cores))" "$count spot nodes of $machine"
}

group=rg-$(value AZURE_ENV_NAME)
exists=$(az group exists --name "$group")
pools=
if [ "$exists" = true ]; then
    pools=$(az aks list --resource-group "$group" --query '[].agentPoolProfiles[].[name, count]' --output tsv)
fi
checks=$(optional_value CHECK_REGION) || checks=true
if [ "$checks" = true ] && region=$(optional_value AZURE_LOCATION); then
    check_region
elif [ "$checks" = true ]; then
    say "AZURE_LOCATION is not set yet, so the region, its machines and quotas were not checked"
fi
# A budget starts in the month in which it is created. The start cannot change later.
budget=$(optional_value MONTHLY_BUDGET) || budget=0
start=$(optional_value BUDGET_START) || start=
[ "$exists" = true ] || start=
if [ "$budget" != 0 ] && [ -z "$start" ]; then
    azd env set BUDGET_START "$(date -u +%Y-%m-01)" --cwd "$root"
fi
names=$(printf '%s\n' "$pools" | cut -f 1 | paste -sd , -)
azd env set NODE_POOLS "${names:-none}" --cwd "$root"
say "tools and sign-in are in order"
