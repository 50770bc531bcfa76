#!/bin/bash
# foreign-crds.sh [FOLDER]: writes the CRDs of others that meshfed reads, byte for byte as their modules have them, into
# FOLDER (helm/meshfed-crds/files when none is named). Go checks the modules against its checksum database.
set -euo pipefail
folder=$(realpath "${1:-$(dirname "$0")/meshfed-crds/files}")
mcs=sigs.k8s.io/mcs-api@v0.5.2
istio=istio.io/api@v1.32.0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" # a module of its own, that is, of nobody
module() { go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",\?$/\1/p'; }
document() { # document FILE NAME: the one of several YAML documents whose object has that name
    awk -v name="  name: $2" 'BEGIN { RS = "---\n"; ORS = "" } index("\n" $0, "\n" name "\n") { print; found = 1 } END { exit !found }' "$1"
}
mcs_dir=$(module "$mcs")
istio_dir=$(module "$istio")
mkdir -p "$folder"
for kind in serviceexports serviceimports; do
    cat "$mcs_dir/config/crd/multicluster.x-k8s.io_$kind.yaml" > "$folder/multicluster.x-k8s.io_$kind.yaml"
done
crds=$istio_dir/kubernetes/customresourcedefinitions.gen.yaml
document "$crds" peerauthentications.security.istio.io > "$folder/security.istio.io_peerauthentications.yaml"
document "$crds" workloadentries.networking.istio.io > "$folder/networking.istio.io_workloadentries.yaml"
cat "$mcs_dir/LICENSE" > "$folder/LICENSE.mcs-api"
cat "$istio_dir/LICENSE" > "$folder/LICENSE.istio-api"
printf '%s\n' "multicluster.x-k8s.io_*: $mcs, Copyright The Kubernetes Authors, Apache-2.0" \
    "security.istio.io_*, networking.istio.io_*: $istio, Copyright Istio Authors, Apache-2.0" \
    "Taken unchanged by helm/foreign-crds.sh." > "$folder/NOTICE"
