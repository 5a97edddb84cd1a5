#!/bin/sh
# Uploads a weights file, and prints its lines for the catalogue.
#   upload-weights.sh FILE [NAME]
# Refuses a name that already holds other bytes, because workers check the digest: use a new name.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need az sha256sum
file=${1:?name the file}
[ -f "$file" ] || stop "$file is not a file"
name=${2:-$(basename "$file")}
account=$(value PAYLOAD_ACCOUNT)
digest=$(sha256sum "$file" | cut -d' ' -f1)

# A blob that was uploaded in another way has no digest. It is not overwritten either.
stored=$(az storage blob show --account-name "$account" --container-name weights --name "$name" \
    --auth-mode login --query "metadata.sha256 || 'unknown'" --output tsv 2>/dev/null || true)
if [ "$stored" = "$digest" ]; then
    say "$name exists already"
elif [ -n "$stored" ]; then
    stop "weights/$name holds other bytes ($stored): choose another name"
else
    retry az storage blob upload --account-name "$account" --container-name weights --name "$name" \
        --file "$file" --metadata "sha256=$digest" --auth-mode login --overwrite false --output none
    say "uploaded $name"
fi
printf 'weights = "blob:weights/%s"\nweights_sha256 = "%s"\n' "$name" "$digest"
