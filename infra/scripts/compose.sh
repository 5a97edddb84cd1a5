#!/bin/sh
# Writes Config.json for Microsoft's Service Bus emulator from the model catalogue, then starts
# infra/compose.yaml. Passes its arguments to `docker compose up`.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need docker python3
mkdir -p "$build"
PYTHONPATH="$root/functions" python3 -m contract queues >"$build/Config.json"
exec docker compose --file "$root/infra/compose.yaml" up "$@"
