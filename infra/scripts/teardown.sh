#!/bin/sh
# Deletes the whole deployment: queues with their messages, payloads, histories, cluster, logs. First
# it lists the resources and asks for the environment's name. The vault can be recovered for a week and
# keeps its name that long: within that week use another environment name for a new deployment.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need az azd
environment=$(value AZURE_ENV_NAME)
group=$(optional_value AZURE_RESOURCE_GROUP) || group=rg-$environment
exists=$(az group exists --name "$group")
if [ "$exists" != true ]; then
    say "nothing to do: $group does not exist"
    exit 0
fi
az resource list --resource-group "$group" --query '[].{type: type, name: name}' --output table >&2
confirm "All of this will be deleted permanently. Type the environment's name ($environment) to continue:" "$environment"
azd down --force --cwd "$root"
say "deleted $group"
