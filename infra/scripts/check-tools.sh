#!/bin/sh
# Checks the tools and the sign-in before anything is created, and then changes two things:
# - In the azd environment it sets a new budget's first month and the names of the existing node pools,
#   because only a new pool gets a number of nodes.
# - It registers the resource providers that the templates need but do not name. Azure registers the
#   others by itself.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need az azd git openssl python3
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
