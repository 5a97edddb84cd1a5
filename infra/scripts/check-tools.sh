#!/bin/sh
# Before anything is made: are the tools there, and does the environment say all it has to?
# Changes nothing but the azd environment, where it writes the budget's first month once.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need az azd git openssl python3
host=$(kept WORKER_HOST) || host=aks
[ "$host" = aca ] || need kubectl kubelogin
az account show --output none || stop "not signed in: run az login"
if ! kept BUDGET_START >/dev/null; then
    azd env set BUDGET_START "$(date -u +%Y-%m-01)" --cwd "$root"
fi
say "tools and sign-in are in order"
