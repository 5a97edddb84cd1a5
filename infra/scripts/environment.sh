# Read by the other scripts: where they are, and the values that azd keeps of the deployment.
# shellcheck shell=sh
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck disable=SC2034  # the other scripts use it
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

kept() { # NAME: one value of the azd environment; fails where there is none
    azd env get-value "$1" --cwd "$root" 2>/dev/null
}

value() { # NAME: the same; ends where there is none
    found=$(kept "$1") || stop "the azd environment has no $1: run azd provision first"
    printf '%s\n' "$found"
}

confirm() { # QUESTION ANSWER: goes on only where exactly this answer is given
    printf '%s\n> ' "$1" >&2
    read -r answer
    [ "$answer" = "$2" ] || stop "nothing was done"
}

patiently() { # COMMAND…: again for some minutes, since new roles take a while to be known
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ "$tries" -lt "${PATIENCE_TRIES:-20}" ] || return 1
        sleep "${PATIENCE_SECONDS:-15}"
    done
}
