#!/bin/sh
# Builds the workers' image in the registry and rolls it out, on AKS or on Container Apps. Works
# again and again: an image that is there is not built twice. Running jobs end first: a worker that
# has to leave finishes what it runs and hands back the rest.
#   deploy-worker.sh [TAG]     TAG of an earlier image rolls back to it
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need az
registry=$(value AZURE_CONTAINER_REGISTRY_ENDPOINT)
name=${registry%%.*}
tag=${1:-$(git -C "$root" rev-parse --short=12 HEAD)}
if [ $# -eq 0 ] && [ -n "$(git -C "$root" status --porcelain -- worker functions/contract)" ]; then
    tag="$tag-$(date -u +%Y%m%d%H%M%S)"
fi

digest() { az acr repository show --name "$name" --image "worker:$tag" --query digest --output tsv 2>/dev/null; }

if ! found=$(digest); then
    [ $# -eq 0 ] || stop "the registry has no worker:$tag"
    say "building worker:$tag in $name"
    patiently az acr build --registry "$name" --image "worker:$tag" --file "$root/worker/Dockerfile" "$root" >&2
    found=$(digest)
fi
image="$registry/worker@$found"

to_cluster() {
    need kubectl kubelogin
    export KUBECONFIG="$build/kubeconfig"
    mkdir -p "$build"
    rm -rf "$build/k8s"
    cp -r "$root/infra/k8s" "$build/k8s"
    az aks get-credentials --name "$(value AZURE_AKS_CLUSTER_NAME)" --resource-group "$group" \
        --file "$KUBECONFIG" --overwrite-existing --output none
    kubelogin convert-kubeconfig --login azurecli --kubeconfig "$KUBECONFIG"
    gateway=$(value GATEWAY_BASE_URL)
    cat >"$build/k8s/base/workers/deployment.env" <<VALUES
IMAGE=$image
WORKER_CLIENT_ID=$(value WORKER_CLIENT_ID)
KEDA_CLIENT_ID=$(value KEDA_CLIENT_ID)
SERVICE_BUS_NAMESPACE=$(value SERVICE_BUS_NAMESPACE)
SERVICE_BUS_HOST=$(value SERVICE_BUS_HOST)
PAYLOAD_ENDPOINT=$(value PAYLOAD_ENDPOINT)
REPLY_HOST=${gateway#https://}:443
VALUES
    say "rolling $image out by overlay $1"
    kubectl kustomize "$build/k8s/overlays/$1" >"$build/manifests.yaml"
    patiently kubectl apply --server-side --force-conflicts --filename "$build/manifests.yaml" >&2
    # Without jobs there are no workers, and nothing to wait for.
    kubectl --namespace loosely rollout status deployment --selector app.kubernetes.io/name=worker \
        --timeout 20m >&2
}

to_container_apps() {
    azd env set WORKER_IMAGE "$image" --cwd "$root"
    for app in $(az containerapp list --resource-group "$group" --query "[?starts_with(name, 'worker-')].name" --output tsv); do
        say "rolling $image out to $app"
        az containerapp update --name "$app" --resource-group "$group" --image "$image" --output none
    done
}

group=$(value AZURE_RESOURCE_GROUP)
if [ "$(value WORKER_HOST)" = aca ]; then
    to_container_apps
else
    sharing=$(value GPU_SHARING)
    overlay=$sharing
    if [ "$sharing" = none ]; then
        overlay=ondemand
        [ "$(value USE_SPOT)" = true ] && overlay=spot
    fi
    to_cluster "${OVERLAY:-$overlay}"
fi
say "done: workers run $image"
