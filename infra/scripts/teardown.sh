#!/bin/sh
# Deletes the whole deployment: queues with their messages, payloads, histories, cluster, logs. Shows
# what there is and asks for the environment's name first. The vault stays recoverable for a week,
# and keeps its name for as long: until then a new deployment wants an environment of another name.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need az azd
environment=$(value AZURE_ENV_NAME)
group=$(kept AZURE_RESOURCE_GROUP) || group=rg-$environment
exists=$(az group exists --name "$group")
if [ "$exists" != true ]; then
    say "nothing to do: $group does not exist"
    exit 0
fi
az resource list --resource-group "$group" --query '[].{type: type, name: name}' --output table >&2
confirm "All of this is deleted for good. Type the environment's name ($environment) to go on:" "$environment"
azd down --force --cwd "$root"
say "deleted $group"
