#!/bin/sh
# Uploads a weights file for the catalogue, and prints the lines that name it there.
#   upload-weights.sh FILE [NAME]
# A name that is taken by other bytes is refused: workers trust a digest, so give a new name.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need az sha256sum
file=${1:?name the file}
[ -f "$file" ] || stop "$file is no file"
name=${2:-$(basename "$file")}
account=$(value PAYLOAD_ACCOUNT)
digest=$(sha256sum "$file" | cut -d' ' -f1)

# A blob that came here by other ways has no digest, and is left alone, too.
stored=$(az storage blob show --account-name "$account" --container-name weights --name "$name" \
    --auth-mode login --query "metadata.sha256 || 'unknown'" --output tsv 2>/dev/null || true)
if [ "$stored" = "$digest" ]; then
    say "$name is there already"
elif [ -n "$stored" ]; then
    stop "weights/$name holds other bytes ($stored): choose another name"
else
    patiently az storage blob upload --account-name "$account" --container-name weights --name "$name" \
        --file "$file" --metadata "sha256=$digest" --auth-mode login --overwrite false --output none
    say "uploaded $name"
fi
printf 'weights = "blob:weights/%s"\nweights_sha256 = "%s"\n' "$name" "$digest"
