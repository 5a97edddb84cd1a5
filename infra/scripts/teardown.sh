#!/bin/sh
# Deletes the whole deployment: queues with their messages, payloads, histories, cluster, logs. Shows
# what there is and asks for the environment's name first. The vault stays recoverable for a week.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need az azd
group=$(value AZURE_RESOURCE_GROUP)
environment=$(value AZURE_ENV_NAME)
if [ "$(az group exists --name "$group")" != true ]; then
    say "nothing to do: $group does not exist"
    exit 0
fi
az resource list --resource-group "$group" --query '[].{type: type, name: name}' --output table >&2
confirm "All of this is deleted for good. Type the environment's name ($environment) to go on:" "$environment"
azd down --force --cwd "$root"
say "deleted $group"
