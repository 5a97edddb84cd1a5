#!/bin/sh
# Before anything is made: are the tools there, and does the environment say all it has to?
# Changes nothing but the azd environment, where it writes the budget's first month once.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need az azd
if [ "$(azd env get-value WORKER_HOST --cwd "$root" 2>/dev/null || echo aks)" = aks ]; then
    need kubectl kubelogin
fi
az account show --output none || stop "not signed in: run az login"
if ! azd env get-value BUDGET_START --cwd "$root" >/dev/null 2>&1; then
    azd env set BUDGET_START "$(date -u +%Y-%m-01)" --cwd "$root"
fi
say "tools and sign-in are in order"
