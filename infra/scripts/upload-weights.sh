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

stored=$(stored_digest "$account" "$name")
if [ "$stored" = "$digest" ]; then
    say "$name exists already"
elif [ -n "$stored" ]; then
    stop "weights/$name holds other bytes ($stored): choose another name"
else
    upload_weights "$account" "$name" "$file" "$digest"
fi
printf 'weights = "blob:weights/%s"\nweights_sha256 = "%s"\n' "$name" "$digest"
