#!/bin/sh
# Writes the secrets in the vault. Without arguments it writes those that are missing and keeps the
# others. It prints the first API key once, on this terminal only.
#   keys.sh --rotate reply-token-keys | webhook-secrets
# puts a new key first and keeps the previous one, so that existing signatures stay valid. Rotate
# twice, a day apart, to remove a key.
#   keys.sh --apply
# makes the gateway read secrets that were written to the vault in another way.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need az openssl
vault=$(value KEY_VAULT_NAME)
changed=no

list_secrets() { az keyvault secret list --vault-name "$vault" --query '[].name' --output tsv; }

read_secret() { az keyvault secret show --vault-name "$vault" --name "$1" --query value --output tsv; }

# Uses a file that only this user can read, because every user of the machine can see arguments.
write_secret() { # NAME VALUE
    (
        umask 077
        file=$(mktemp)
        trap 'rm -f "$file"' EXIT
        printf '%s' "$2" >"$file"
        retry az keyvault secret set --vault-name "$vault" --name "$1" --file "$file" \
            --encoding utf-8 --output none
    ) || stop "could not write $1: check that you may write secrets of $vault"
    changed=yes
    say "wrote $1"
}

new_key() { # NAME
    case $1 in
        reply-token-keys) openssl rand -base64 32 | tr -d '\n' ;;
        webhook-secrets) printf 'whsec_%s' "$(openssl rand -base64 32 | tr -d '\n')" ;;
        *) stop "$1 cannot be rotated by this script; docs/how-to/deploy.md explains how to change API keys" ;;
    esac
}

write_first_api_key() {
    need python3
    # A pipeline's log would keep the key for every reader of the log.
    [ "${CI:-}" != true ] || stop "a pipeline cannot make the first API key: run keys.sh on your machine"
    made=$(PYTHONPATH="$root/functions" python3 -m gateway.keys operator --tenant operators \
        --scopes jobs:read jobs:write admin)
    write_secret api-keys "[$(printf '%s\n' "$made" | sed -n 2p)]"
    say "the first API key, printed only this once:"
    printf '%s\n' "$made" | sed -n 1p
}

# List the secrets instead of reading each: a read that fails for a moment must not replace a secret.
present=$(retry list_secrets) || stop "could not list the secrets of $vault: check that you may read them"
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
    is_there api-keys || write_first_api_key
fi

# The platform caches for a day what it has read from the vault, even that a secret was missing. A
# restart alone does not refresh this cache.
gateway=$(value GATEWAY_NAME)
group=$(value AZURE_RESOURCE_GROUP)
if [ "$changed" = yes ]; then
    id=$(az functionapp show --name "$gateway" --resource-group "$group" --query id --output tsv)
    az rest --method post --output none \
        --url "$id/config/configreferences/appsettings/refresh?api-version=2022-03-01"
    az functionapp restart --name "$gateway" --resource-group "$group" --output none
    say "restarted $gateway with the vault's current secrets"
else
    say "nothing to do: the vault has all secrets"
fi
