#!/bin/bash
# build.sh BINARY TARBALL: packs a `meshfed` binary as the image localhost/meshfed:VERSION.
set -euo pipefail
binary=$1 tarball=$2
here=$(cd "$(dirname "$0")" && pwd)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' "$here/../Cargo.toml")

"$here/root.sh" "$binary" "$root"
# Any other uid works as well; without a number here the kubelet could not tell that it is not root.
export IMAGE_USER=65532:65532
IMAGE_LABELS=$(jq -nc --arg v "$version" '{"org.opencontainers.image.title": "meshfed",
    "org.opencontainers.image.version": $v, "org.opencontainers.image.licenses": "Apache-2.0"}')
export IMAGE_LABELS
"$here/archive.sh" "$root" "$tarball" "localhost/meshfed:$version" /meshfed
echo "image: localhost/meshfed:$version in $tarball ($(($(stat -c %s "$tarball") >> 20)) MiB)" >&2
