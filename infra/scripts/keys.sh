#!/bin/sh
# The secrets in the vault. Without arguments: writes those that are missing and leaves the others.
#   keys.sh --rotate reply-token-keys | webhook-secrets
# puts a new key first and keeps the last one, so that what was signed before still holds. Rotate
# twice, a day apart, to be rid of a key. The first API key is shown once, on this terminal alone.
#   keys.sh --apply
# has the gateway read what was written to the vault by other ways.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need az openssl
vault=$(value KEY_VAULT_NAME)
changed=no

list_secrets() { az keyvault secret list --vault-name "$vault" --query '[].name' --output tsv; }

read_secret() { az keyvault secret show --vault-name "$vault" --name "$1" --query value --output tsv; }

# By a file that only we can read, since arguments are seen by everybody on the machine.
write_secret() { # NAME VALUE
    (
        umask 077
        file=$(mktemp)
        trap 'rm -f "$file"' EXIT
        printf '%s' "$2" >"$file"
        patiently az keyvault secret set --vault-name "$vault" --name "$1" --file "$file" \
            --encoding utf-8 --output none
    ) || stop "could not write $1: may you write secrets of $vault?"
    changed=yes
    say "wrote $1"
}

new_key() { # NAME
    case $1 in
        reply-token-keys) openssl rand -base64 32 | tr -d '\n' ;;
        webhook-secrets) printf 'whsec_%s' "$(openssl rand -base64 32 | tr -d '\n')" ;;
        *) stop "$1 cannot be rotated by this script; docs/deploy.md tells how API keys change" ;;
    esac
}

first_api_key() {
    need python3
    # What a pipeline prints is kept for everybody who can read its log.
    [ "${CI:-}" != true ] || stop "the first API key is made by a person: run keys.sh on your machine"
    made=$(PYTHONPATH="$root/functions" python3 -m gateway.http.keys operator --tenant operators \
        --scopes jobs:read jobs:write admin)
    write_secret api-keys "[$(printf '%s\n' "$made" | sed -n 2p)]"
    say "the first API key, shown this once:"
    printf '%s\n' "$made" | sed -n 1p
}

# Never by a read that fails: what could not be read for a moment would be written anew, and lost.
present=$(patiently list_secrets) || stop "could not list the secrets of $vault: may you read them?"
is_there() { printf '%s\n' "$present" | grep -qx "$1"; }

if [ "${1:-}" = --apply ]; then
    changed=yes
elif [ "${1:-}" = --rotate ]; then
    name=${2:?name the secret: reply-token-keys or webhook-secrets}
    new=$(new_key "$name")
    if is_there "$name"; then
        old=$(read_secret "$name") || stop "could not read $name: nothing was changed"
        new=$new,${old%%,*}
    fi
    write_secret "$name" "$new"
else
    for name in reply-token-keys webhook-secrets; do
        is_there "$name" || write_secret "$name" "$(new_key "$name")"
    done
    is_there api-keys || first_api_key
fi

# The platform keeps for a day what it has read of the vault, and that there was nothing, too. A restart
# alone does not make it look again.
gateway=$(value GATEWAY_NAME)
group=$(value AZURE_RESOURCE_GROUP)
if [ "$changed" = yes ]; then
    id=$(az functionapp show --name "$gateway" --resource-group "$group" --query id --output tsv)
    az rest --method post --output none \
        --url "$id/config/configreferences/appsettings/refresh?api-version=2022-03-01"
    az functionapp restart --name "$gateway" --resource-group "$group" --output none
    say "restarted $gateway with what the vault has now"
else
    say "nothing to do: the vault has them all"
fi
