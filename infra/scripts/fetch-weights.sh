#!/bin/sh
# Copies the weights that the catalogue names on the Hugging Face Hub to blob storage, because workers in
# Azure do not use the internet. Each file is checked against the digest in the catalogue, which is also
# the blob's name: weights/sha256/DIGEST. Files that are there already are not downloaded.
#   fetch-weights.sh [LIST]     LIST is infra/weights.txt, or the weights.txt of `loosely package`
# HF_TOKEN in the environment permits private repositories. It is sent only to HF_ENDPOINT, by default
# https://huggingface.co. TMPDIR chooses a disk with room for the largest file.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

list=${1:-$root/infra/weights.txt}
[ -f "$list" ] || stop "$list is not a file"
grep -q '^[^#]' "$list" || exit 0
need az curl sha256sum
account=$(value PAYLOAD_ACCOUNT)
endpoint=${HF_ENDPOINT:-https://huggingface.co}
case ${HF_TOKEN:-} in *[!A-Za-z0-9_.-]*) stop "HF_TOKEN has characters that no token has" ;; esac
case $endpoint in
    https://*) protocols='=https' ;;
    http://127.0.0.1:* | http://localhost:*) protocols='=http,https' ;;
    *) stop "HF_ENDPOINT is $endpoint; expected https://…" ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM

print_options() { # print the options of curl that no list of processes may show
    [ -z "${HF_TOKEN:-}" ] || printf 'header = "Authorization: Bearer %s"\n' "$HF_TOKEN"
}

download() { # PATH FILE: curl sends the token to the first host only
    print_options | curl --config - --fail --silent --show-error --location --max-redirs 5 \
        --proto "$protocols" --proto-redir "$protocols" --connect-timeout 10 --speed-limit 16384 \
        --speed-time 60 --retry 3 --output "$2" --url "$endpoint/$1"
}

# Not from standard input, which curl and az may read.
while read -r digest path <&3; do
    case $digest in '' | '#'*) continue ;; esac
    name=sha256/$digest
    [ "$(stored_digest "$account" "$name")" != "$digest" ] || continue
    say "downloading $path"
    download "$path" "$folder/weights" ||
        stop "$endpoint/$path cannot be downloaded: check the entry's weights, and HF_TOKEN if the repository is private"
    found=$(sha256sum "$folder/weights" | cut -d' ' -f1)
    [ "$found" = "$digest" ] || stop "$path has the digest $found, not $digest as in the catalogue: nothing was uploaded"
    upload_weights "$account" "$name" "$folder/weights" "$digest"
    rm "$folder/weights"
done 3<"$list"
