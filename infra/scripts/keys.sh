#!/bin/sh
# The secrets in the vault. Without arguments: writes those that are missing and leaves the others.
#   keys.sh --rotate reply-token-keys | webhook-secrets
# puts a new key first and keeps the last one, so that what was signed before still holds. Rotate
# twice, a day apart, to be rid of a key. The first API key is shown once, on this terminal alone.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need az openssl
vault=$(value KEY_VAULT_NAME)
changed=no

read_secret() { az keyvault secret show --vault-name "$vault" --name "$1" --query value --output tsv 2>/dev/null; }

# By a file that only we can read, since arguments are seen by everybody on the machine.
write_secret() { # NAME, the value on standard input
    (
        umask 077
        file=$(mktemp)
        trap 'rm -f "$file"' EXIT
        cat >"$file"
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
        *) stop "$1 cannot be rotated by this script; see docs/settings.md for API keys" ;;
    esac
}

first_api_key() {
    need python3
    made=$(PYTHONPATH="$root/functions" python3 -m gateway.access.keys operator --tenant operators \
        --scopes jobs:read jobs:write admin)
    printf '%s\n' "$made" | sed -n 2p | sed 's/^/[/; s/$/]/' | tr -d '\n' | write_secret api-keys
    say "the first API key, shown this once:"
    printf '%s\n' "$made" | sed -n 1p
}

if [ "${1:-}" = --rotate ]; then
    name=${2:?name the secret: reply-token-keys or webhook-secrets}
    new=$(new_key "$name")
    old=$(read_secret "$name" | cut -d, -f1)
    printf '%s%s' "$new" "${old:+,$old}" | write_secret "$name"
else
    for name in reply-token-keys webhook-secrets; do
        read_secret "$name" >/dev/null || new_key "$name" | write_secret "$name"
    done
    read_secret api-keys >/dev/null || first_api_key
fi

# A running gateway looks at the vault again when it restarts, else within a day.
gateway=$(value GATEWAY_NAME)
if [ "$changed" = yes ]; then
    az functionapp restart --name "$gateway" --resource-group "$(value AZURE_RESOURCE_GROUP)" --output none
    say "restarted $gateway, which reads them anew"
else
    say "nothing to do: the vault has them all"
fi
