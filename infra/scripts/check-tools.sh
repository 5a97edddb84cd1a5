#!/bin/sh
# Checks the tools, the sign-in, the region and the quota before anything is created, and then changes two
# things:
# - In the azd environment it sets the address for alerts, for which it asks, a new budget's first month,
#   and the names of the existing node pools, because only a new pool gets a number of nodes.
# - It registers the resource providers that the templates need but do not name. Azure registers the
#   others by itself.
# CHECK_REGION=false in the azd environment leaves out the checks of region and quota.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

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

offers() { # SERVICE LOCATION…: stop unless the service exists in the region
    service=$1
    shift
    printf '%s\n' "$@" | tr -d ' ' | tr '[:upper:]' '[:lower:]' | grep -qx "$region" ||
        stop "$region does not offer $service: azd env set AZURE_LOCATION another region"
}

check_machine() { # SIZE NODES: stop unless the region has the size, and quota for so many nodes; set $cores
    found=$(az vm list-skus --location "$region" --size "$1" --resource-type virtualMachines \
        --query "[?name=='$1'].[family, capabilities[?name=='vCPUs'].value | [0], length(restrictions[?type=='Location'])] | []" \
        --output tsv | paste -sd ' ' -)
    [ -n "$found" ] || stop "$region does not offer $1"
    size=$1 nodes=$2
    # shellcheck disable=SC2086  # three words: the family, the cores of a node, the number of restrictions
    set -- $found
    [ "$3" = 0 ] || stop "$region does not offer $size to this subscription"
    cores=$((nodes * $2))
    check_quota "$1" "$cores" "$nodes of $size"
}

check_quota() { # FAMILY CORES SIZE: stop if the quota of the family has fewer cores
    limit=$(az vm list-usage --location "$region" --query "[?name.value=='$1'].limit | [0]" --output tsv)
    [ "${limit:-0}" -ge "$2" ] ||
        stop "the quota $1 in $region is ${limit:-0} cores, but $3 need $2: request more in the portal, under Quotas"
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
    machine=$(optional_value SYSTEM_NODE_SIZE) || machine=Standard_D4as_v5
    count=$(optional_value SYSTEM_NODE_COUNT) || count=2
    check_machine "$machine" "$count"
    # At least one node, also if nodes start only for jobs. Spot nodes use a quota of their own; on-demand
    # nodes replace them.
    machine=$(optional_value GPU_NODE_SIZE) || machine=Standard_NC4as_T4_v3
    count=$(optional_value GPU_MIN_COUNT) || count=0
    [ "$count" != 0 ] || count=1
    check_machine "$machine" "$count"
    spot=$(optional_value USE_SPOT) || spot=true
    [ "$spot" != true ] || check_quota lowPriorityCores "$cores" "$nodes spot nodes of $size"
}

checks=$(optional_value CHECK_REGION) || checks=true
if [ "$checks" = true ] && region=$(optional_value AZURE_LOCATION); then
    check_region
elif [ "$checks" = true ]; then
    say "AZURE_LOCATION is not set yet, so the region, its machines and quotas were not checked"
fi
group=rg-$(value AZURE_ENV_NAME)
# A budget starts in the month in which it is created. The start cannot change later.
budget=$(optional_value MONTHLY_BUDGET) || budget=0
start=$(optional_value BUDGET_START) || start=
exists=$(az group exists --name "$group")
[ "$exists" = true ] || start=
if [ "$budget" != 0 ] && [ -z "$start" ]; then
    azd env set BUDGET_START "$(date -u +%Y-%m-01)" --cwd "$root"
fi
pools=
if [ "$exists" = true ]; then
    pools=$(az aks list --resource-group "$group" --query '[].agentPoolProfiles[].name' --output tsv)
fi
azd env set NODE_POOLS "$(printf '%s\n' "${pools:-none}" | paste -sd, -)" --cwd "$root"
say "tools and sign-in are in order"
