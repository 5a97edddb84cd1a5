#!/bin/sh
# Moves the workers' base image to the newest patch release of its Python, with the current updates of the
# system, and prints its name. Changes worker/Dockerfile and the manifest of the weights' folder.
# .github/workflows/base-image.yml runs this each week: an image that is named by its digest gets no updates.
set -eu
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need docker
files="$root/worker/Dockerfile $root/infra/k8s/components/node-cache/folder.yaml"
old=$(sed -n 's/^FROM \([^ ]*python:[^ ]*@sha256:[0-9a-f]*\).*/\1/p' "$root/worker/Dockerfile" | sort -u)
repository=${old%%:*}
tag=${old#*:}
tag=${tag%@*}
variant=${tag#*-}
minor=${tag%-"$variant"}
minor=${minor%.*}

version=$(docker run --rm "$repository:$minor-$variant" printenv PYTHON_VERSION)
case $version in "$minor".*) ;; *) stop "$repository:$minor-$variant has the Python $version" ;; esac
digest=$(docker buildx imagetools inspect "$repository:$version-$variant" --format '{{.Manifest.Digest}}')
case $digest in sha256:????????????????????????????????????????????????????????????????) ;; *) stop "no digest: $digest" ;; esac

new="$repository:$version-$variant@$digest"
for file in $files; do
    sed "s#$old#$new#" "$file" >"$file.new"
    cat "$file.new" >"$file"
    rm "$file.new"
done
echo "$new"
