#!/bin/sh
# Before anything is made: are the tools there, and does the environment say all it has to?
# Changes nothing but the azd environment, where it writes a new budget's first month, and each time
# which node pools there are, since only new ones are told how many nodes they have; and registers the
# resource providers that no template names, which Azure does by itself for those in the templates.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need az azd git openssl python3
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || stop "python3 is older than 3.11"
host=$(kept WORKER_HOST) || host=aks
[ "$host" = aca ] || need kubectl kubelogin
here=$(az account show --query id --output tsv) || stop "not signed in: run az login"
there=$(kept AZURE_SUBSCRIPTION_ID) || there=$here
[ "$here" = "$there" ] || stop "az is in another subscription than azd: az account set --subscription $there"
# The cluster's machines and network, and the Function App's subnet in a private one.
providers=
[ "$host" = aca ] || providers="Microsoft.Compute Microsoft.Network"
[ "$(kept PRIVATE_NETWORK || true)" != true ] || providers="$providers Microsoft.App"
for provider in $providers; do
    az provider register --namespace "$provider" --wait --output none
done
group=rg-$(value AZURE_ENV_NAME)
# A budget begins in the month in which it is made, and keeps that.
budget=$(kept MONTHLY_BUDGET) || budget=0
start=$(kept BUDGET_START) || start=
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
