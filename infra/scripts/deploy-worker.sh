#!/bin/sh
# Builds the workers' image in the registry and rolls it out, on AKS or on Container Apps. Works
# again and again: an image that is there is not built twice. Running jobs end first: a worker that
# has to leave finishes what it runs and hands back the rest.
#   deploy-worker.sh [TAG]     TAG of an earlier image rolls back to it
# OVERLAY=… takes another of infra/k8s/overlays than the environment's choices name; with
# POD_WEBHOOK_SECRETS=true in the environment, pods on AKS get the webhooks' secret from the vault.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need az git
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
    az acr build --registry "$name" --image "worker:$tag" --file "$root/worker/Dockerfile" "$root" >&2
    found=$(digest) || stop "the registry does not know the worker:$tag that it has built"
fi
image="$registry/worker@$found"

lines() { # NAME…: a line NAME=value each, and the end where there is none
    for each in "$@"; do
        text=$(value "$each")
        printf '%s=%s\n' "$each" "$text"
    done
}

write_values() { # what kustomize puts into the manifests
    gateway=$(value GATEWAY_BASE_URL)
    {
        printf 'IMAGE=%s\nREPLY_HOST=%s:443\n' "$image" "${gateway#https://}"
        lines WORKER_CLIENT_ID KEDA_CLIENT_ID SERVICE_BUS_NAMESPACE SERVICE_BUS_HOST PAYLOAD_ENDPOINT
    } >"$build/k8s/base/workers/deployment.env"
}

with_webhook_secrets() { # OVERLAY: makes the overlay `deployed` of it
    lines KEY_VAULT_NAME AZURE_TENANT_ID WORKER_CLIENT_ID >"$build/k8s/components/webhook-secrets/vault.env"
    mkdir "$build/k8s/overlays/deployed"
    cat >"$build/k8s/overlays/deployed/kustomization.yaml" <<OVERLAY
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../$1]
components: [../../components/webhook-secrets]
OVERLAY
}

to_cluster() { # OVERLAY
    need kubectl kubelogin
    export KUBECONFIG="$build/kubeconfig"
    mkdir -p "$build"
    rm -rf "$build/k8s"
    cp -r "$root/infra/k8s" "$build/k8s"
    az aks get-credentials --name "$(value AZURE_AKS_CLUSTER_NAME)" --resource-group "$group" \
        --file "$KUBECONFIG" --overwrite-existing --output none
    kubelogin convert-kubeconfig --login azurecli --kubeconfig "$KUBECONFIG"
    write_values
    overlay=$1
    if [ "$(kept POD_WEBHOOK_SECRETS || true)" = true ]; then
        with_webhook_secrets "$overlay"
        overlay=deployed
    fi
    say "rolling $image out by overlay $1"
    kubectl kustomize "$build/k8s/overlays/$overlay" >"$build/manifests.yaml"
    patiently kubectl apply --server-side --force-conflicts --filename "$build/manifests.yaml" >&2
    # Without jobs there are no workers, and nothing to wait for.
    kubectl --namespace loosely rollout status deployment --selector app.kubernetes.io/name=worker \
        --timeout 20m >&2
}

to_container_apps() { # by the templates, which say all else that the apps are
    azd env set WORKER_IMAGE "$image" --cwd "$root"
    say "rolling $image out"
    azd provision --no-prompt --cwd "$root" >&2
}

group=$(value AZURE_RESOURCE_GROUP)
host=$(value WORKER_HOST)
if [ "$host" = aca ]; then
    to_container_apps
else
    sharing=$(value GPU_SHARING)
    spot=$(value USE_SPOT)
    chosen=$sharing
    if [ "$sharing" = none ]; then
        chosen=ondemand
        [ "$spot" != true ] || chosen=spot
    fi
    to_cluster "${OVERLAY:-$chosen}"
fi
say "done: workers run $image"
