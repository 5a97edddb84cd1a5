#!/bin/sh
# Builds the workers' image in the registry and rolls it out, on AKS or on Container Apps. It may run
# several times: an existing image is not built again. A worker that is stopped first finishes what it
# runs and returns its other jobs to the queue.
#   deploy-worker.sh [TAG]     TAG of an earlier image rolls back to that image
# If CPU_TORCH_INDEX is set in the environment, models that need no GPU get an image of their own, without CUDA.
# OVERLAY=… chooses one of infra/k8s/overlays instead of the environment's choices. If NODE_CACHE is true in the
# environment, weights stay on the nodes. WORKER_SETTINGS in the environment adds settings or replaces them:
# NAME=value, separated by semicolons. Weights of the Hugging Face Hub are first copied to blob storage.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need az
registry=$(value AZURE_CONTAINER_REGISTRY_ENDPOINT)
name=${registry%%.*}

choose_tag() { # print a tag for the image of the current files
    # A project that `loosely deploy` has written is no repository of its own: the tag is a digest of its files.
    if [ ! -e "$root/.git" ]; then
        (cd "$root" && find functions/contract models requirements*.txt weights worker -type f 2>/dev/null |
            LC_ALL=C sort | tr '\n' '\0' | xargs -0 sha256sum | sha256sum | cut -c1-12)
        return
    fi
    need git
    # The last commit that changed what the image contains: other commits need no new image.
    set -- worker functions/contract .dockerignore
    commit=$(git -C "$root" log -1 --abbrev=12 --format=%h -- "$@")
    changed=$(git -C "$root" status --porcelain -- "$@")
    echo "$commit${changed:+-$(date -u +%Y%m%d%H%M%S)}"
}

tag=${1:-$(choose_tag)}

find_digest() { # TAG
    az acr repository show --name "$name" --image "worker:$1" --query digest --output tsv 2>/dev/null
}

build_image() { # TAG [AZ-OPTION…]: build the image and print its digest
    built=$1
    shift
    say "building worker:$built in $name"
    az acr build --registry "$name" --image "worker:$built" --file "$root/worker/Dockerfile" "$@" "$root" >&2
    find_digest "$built" || stop "the build ended, but the registry has no worker:$built"
}

if ! found=$(find_digest "$tag"); then
    [ $# -eq 0 ] || stop "the registry has no worker:$tag"
    found=$(build_image "$tag")
fi
image="$registry/worker@$found"
cpu_image=$image
index=$(optional_value CPU_TORCH_INDEX) || index=
if [ -n "$index" ]; then
    # An earlier tag may be from a time without this image.
    if found=$(find_digest "$tag-cpu") ||
        { [ $# -eq 0 ] && found=$(build_image "$tag-cpu" --build-arg "TORCH_INDEX=$index"); }; then
        cpu_image="$registry/worker@$found"
    fi
fi

print_values() { # NAME…: print a line NAME=value for each; stop if a value is missing
    for each in "$@"; do
        text=$(value "$each")
        printf '%s=%s\n' "$each" "$text"
    done
}

set_worker_settings() { # write the settings that the environment adds or replaces into worker.env
    file="$build/k8s/base/workers/worker.env"
    settings=$(optional_value WORKER_SETTINGS) || settings=
    printf '%s\n' "$settings" | tr ';' '\n' | while IFS='=' read -r setting text; do
        [ -n "$setting" ] || continue
        { grep -v "^$setting=" "$file" || true; printf '%s=%s\n' "$setting" "$text"; } >"$file.new"
        mv "$file.new" "$file"
    done
}

write_values() { # write the values that kustomize inserts into the manifests
    gateway=$(value GATEWAY_BASE_URL)
    {
        printf 'IMAGE=%s\nCPU_IMAGE=%s\n' "$image" "$cpu_image"
        printf 'REPLY_HOST=%s:443\n' "${gateway#https://}"
        printf 'INSIGHTS_CONNECTION_STRING=%s\n' "$(value APPLICATIONINSIGHTS_CONNECTION_STRING)"
        print_values WORKER_CLIENT_ID KEDA_CLIENT_ID SERVICE_BUS_NAMESPACE SERVICE_BUS_HOST PAYLOAD_ENDPOINT
    } >"$build/k8s/base/workers/deployment.env"
}

add_components() { # OVERLAY: print the overlay with the component that the environment chooses
    if [ "$(optional_value NODE_CACHE || true)" != true ]; then
        printf '%s\n' "$1"
        return
    fi
    mkdir "$build/k8s/overlays/deployed"
    cat >"$build/k8s/overlays/deployed/kustomization.yaml" <<OVERLAY
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../$1]
components: [../../components/node-cache]
OVERLAY
    echo deployed
}

deploy_to_cluster() { # OVERLAY
    need kubectl kubelogin
    export KUBECONFIG="$build/kubeconfig"
    mkdir -p "$build"
    rm -rf "$build/k8s"
    cp -r "$root/infra/k8s" "$build/k8s"
    az aks get-credentials --name "$(value AZURE_AKS_CLUSTER_NAME)" --resource-group "$group" \
        --file "$KUBECONFIG" --overwrite-existing --output none
    kubelogin convert-kubeconfig --login azurecli --kubeconfig "$KUBECONFIG"
    write_values
    set_worker_settings
    overlay=$(add_components "$1")
    say "rolling out $image with overlay $1"
    kubectl kustomize "$build/k8s/overlays/$overlay" >"$build/manifests.yaml"
    retry kubectl apply --server-side --force-conflicts --filename "$build/manifests.yaml" >&2
    # Returns at once if there are no jobs and so no workers.
    kubectl --namespace loosely rollout status deployment --selector app.kubernetes.io/name=worker \
        --timeout 20m >&2
}

deploy_to_container_apps() { # by the templates, which define the apps
    azd env set WORKER_IMAGE "$image" --cwd "$root"
    azd env set WORKER_CPU_IMAGE "$cpu_image" --cwd "$root"
    say "rolling out $image"
    azd provision --no-prompt --cwd "$root" >&2
}

"$(dirname "$0")/fetch-weights.sh"
group=$(value AZURE_RESOURCE_GROUP)
host=$(value WORKER_HOST)
if [ "$host" = aca ]; then
    deploy_to_container_apps
else
    sharing=$(value GPU_SHARING)
    spot=$(value USE_SPOT)
    chosen=$sharing
    if [ "$sharing" = none ]; then
        chosen=ondemand
        [ "$spot" != true ] || chosen=spot
    fi
    deploy_to_cluster "${OVERLAY:-$chosen}"
fi
# Old images cost storage. The newest 20 tags and those of the last 30 days stay, to roll back to.
[ $# -gt 0 ] || az acr run --registry "$name" --output none \
    --cmd "acr purge --filter 'worker:.*' --ago 30d --keep 20 --untagged" /dev/null >&2 ||
    say "old images could not be deleted from $name"
say "done: the workers run $image"
