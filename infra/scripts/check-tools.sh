#!/bin/sh
# Before anything is made: are the tools there, and does the environment say all it has to?
# Changes nothing but the azd environment, where it writes a new budget's first month, and each time
# which node pools there are, since only new ones are told how many nodes they have; for a private
# network it registers the provider of the Function App's subnet, which no template names.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need az azd git openssl python3
host=$(kept WORKER_HOST) || host=aks
[ "$host" = aca ] || need kubectl kubelogin
here=$(az account show --query id --output tsv) || stop "not signed in: run az login"
there=$(kept AZURE_SUBSCRIPTION_ID) || there=$here
[ "$here" = "$there" ] || stop "az is in another subscription than azd: az account set --subscription $there"
if [ "$(kept PRIVATE_NETWORK || true)" = true ]; then
    az provider register --namespace Microsoft.App --wait --output none
fi
group=rg-$(value AZURE_ENV_NAME)
# A budget begins in the month in which it is made, and keeps that.
budget=$(kept MONTHLY_BUDGET) || budget=0
start=$(kept BUDGET_START) || start=
[ "$(az group exists --name "$group")" = true ] || start=
if [ "$budget" != 0 ] && [ -z "$start" ]; then
    azd env set BUDGET_START "$(date -u +%Y-%m-01)" --cwd "$root"
fi
pools=$(az aks list --resource-group "$group" --query '[].agentPoolProfiles[].name' --output tsv 2>/dev/null | paste -sd, -)
azd env set NODE_POOLS "${pools:-none}" --cwd "$root"
say "tools and sign-in are in order"
