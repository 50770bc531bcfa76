#!/bin/bash
# archive.sh ROOT TARBALL NAME:TAG [ENTRYPOINT...]: packs a folder as an image of one layer, without any container tool.
# The archive is an OCI layout and carries the docker manifest beside it: `ctr images import` and `docker load` take it.
# Equal folders give equal bytes. IMAGE_USER (uid:gid) is whom the image runs as; IMAGE_LABELS is a JSON object.
set -euo pipefail
root=$1 tarball=$2 image=$3
shift 3
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/blobs/sha256" "$(dirname "$tarball")"
case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) arch=$(uname -m) ;; esac

pack() { # pack FOLDER FILE MEMBER...: order, times and owners say nothing of this machine
    tar --format=gnu --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$1" -cf "$2" "${@:3}"
}
blob() { # blob TYPE FILE: moves the file among the blobs and prints its descriptor
    local sum; sum=$(sha256sum "$2" | cut -d' ' -f1)
    jq -nc --arg type "$1" --arg sum "sha256:$sum" --argjson size "$(stat -c %s "$2")" \
        '{mediaType: $type, digest: $sum, size: $size}'
    mv "$2" "$work/blobs/sha256/$sum"
}
blob_path() { jq -r '"blobs/" + (.digest | sub(":"; "/"))' <<< "$1"; }

oci=application/vnd.oci.image
pack "$root" "$work/layer" .
layer=$(blob $oci.layer.v1.tar "$work/layer")
jq -nc --arg arch "$arch" --arg user "${IMAGE_USER:-}" --argjson labels "${IMAGE_LABELS:-null}" --argjson layer "$layer" \
    '{architecture: $arch, os: "linux", created: "1970-01-01T00:00:00Z",
      config: ({Env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin:/"], WorkingDir: "/", Entrypoint: $ARGS.positional}
        + if $user == "" then {} else {User: $user} end + if $labels == null then {} else {Labels: $labels} end),
      rootfs: {type: "layers", diff_ids: [$layer.digest]}}' --args -- "$@" > "$work/config"
config=$(blob $oci.config.v1+json "$work/config")
jq -nc --argjson layer "$layer" --argjson config "$config" --arg type $oci.manifest.v1+json \
    '{schemaVersion: 2, mediaType: $type, config: $config, layers: [$layer]}' > "$work/manifest"
manifest=$(blob $oci.manifest.v1+json "$work/manifest")
jq -nc --argjson manifest "$manifest" --arg type $oci.index.v1+json --arg image "$image" \
    '{schemaVersion: 2, mediaType: $type, manifests: [$manifest
      + {annotations: {"io.containerd.image.name": $image, "org.opencontainers.image.ref.name": ($image | sub(".*:"; ""))}}]}' \
    > "$work/index.json"
jq -nc --arg image "$image" --arg config "$(blob_path "$config")" --arg layer "$(blob_path "$layer")" \
    '[{Config: $config, RepoTags: [$image], Layers: [$layer]}]' > "$work/manifest.json"
printf '{"imageLayoutVersion":"1.0.0"}' > "$work/oci-layout"
pack "$work" "$tarball.part" oci-layout index.json manifest.json blobs
mv "$tarball.part" "$tarball"
