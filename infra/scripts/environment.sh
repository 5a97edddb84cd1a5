# Sourced by the other scripts: the folders, and functions for azd's values, messages and retries.
# shellcheck shell=sh
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck disable=SC2034  # used by the other scripts
build="$root/infra/build"

say() { echo "${0##*/}: $*" >&2; }

stop() {
    say "$*"
    exit 1
}

need() { # PROGRAM…
    for program in "$@"; do
        command -v "$program" >/dev/null 2>&1 || stop "$program is not installed"
    done
}

optional_value() { # NAME: print one value of the azd environment; fail if it is not set
    azd env get-value "$1" --cwd "$root" 2>/dev/null
}

value() { # NAME: print one value of the azd environment; stop if it is not set
    found=$(optional_value "$1") || stop "the azd environment has no $1: run azd provision first"
    printf '%s\n' "$found"
}

confirm() { # QUESTION ANSWER: stop unless the user types exactly this answer
    printf '%s\n> ' "$1" >&2
    read -r answer
    [ "$answer" = "$2" ] || stop "the answer was not $2: nothing was done"
}

stored_digest() { # ACCOUNT NAME: print the digest of a blob with weights; nothing if there is none
    # A blob that was uploaded in another way has no digest.
    az storage blob show --account-name "$1" --container-name weights --name "$2" --auth-mode login \
        --query "metadata.sha256 || 'unknown'" --output tsv 2>/dev/null || true
}

upload_weights() { # ACCOUNT NAME FILE DIGEST: upload weights; never overwrite a blob
    retry az storage blob upload --account-name "$1" --container-name weights --name "$2" \
        --file "$3" --metadata "sha256=$4" --auth-mode login --overwrite false --output none
    say "uploaded $2"
}

retry() { # COMMAND…: repeat it for some minutes until it succeeds, because new roles take effect late
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ "$tries" -lt "${RETRY_COUNT:-20}" ] || return 1
        sleep "${RETRY_SECONDS:-15}"
    done
}
