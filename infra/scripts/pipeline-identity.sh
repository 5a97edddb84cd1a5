#!/bin/sh
# Creates the identity with which GitHub's workflow deploys, without a secret and without the role Owner.
#   pipeline-identity.sh OWNER/REPOSITORY ENVIRONMENT…
# It may create everything (Contributor), and assign the roles in infra/roles.json, but no other role. Run it
# as an Owner of the subscription. Every step can be repeated.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need az python3
repository=${1:?name the repository: OWNER/REPOSITORY}
shift
[ $# -gt 0 ] || stop "name the environments of the repository that may deploy, and what-if"
subscription=$(az account show --query id --output tsv) || stop "not signed in: run az login"

# Azure compares the role of each assignment that the identity writes or deletes with these ids.
condition=$(python3 - "$root/infra/roles.json" <<'PYTHON'
import json, sys

with open(sys.argv[1], encoding="utf-8") as file:
    roles = ", ".join(sorted(json.load(file).values()))
assignments = "Microsoft.Authorization/roleAssignments"
print(" AND ".join(
    f"((!(ActionMatches{{'{assignments}/{action}'}})) OR (@{source}[{assignments}:RoleDefinitionId]"
    f" ForAnyOfAnyValues:GuidEquals {{{roles}}}))"
    for action, source in (("write", "Request"), ("delete", "Resource"))
))
PYTHON
)

app=$(az ad app list --display-name loosely-github --query '[0].appId' --output tsv)
[ -n "$app" ] || app=$(az ad app create --display-name loosely-github --query appId --output tsv)
az ad sp show --id "$app" --output none 2>/dev/null || az ad sp create --id "$app" --output none

known=$(az ad app federated-credential list --id "$app" --query '[].name' --output tsv)
for environment in "$@"; do
    if ! printf '%s\n' "$known" | grep -qx "$environment"; then
        az ad app federated-credential create --id "$app" --output none --parameters "{\"name\": \"$environment\",
            \"issuer\": \"https://token.actions.githubusercontent.com\",
            \"subject\": \"repo:$repository:environment:$environment\",
            \"audiences\": [\"api://AzureADTokenExchange\"]}"
    fi
done

retry az role assignment create --assignee "$app" --role Contributor \
    --scope "/subscriptions/$subscription" --output none
retry az role assignment create --assignee "$app" --role 'Role Based Access Control Administrator' \
    --scope "/subscriptions/$subscription" --condition "$condition" --condition-version 2.0 --output none
say "set these variables in $repository:"
printf 'AZURE_CLIENT_ID=%s\nAZURE_SUBSCRIPTION_ID=%s\n' "$app" "$subscription"
