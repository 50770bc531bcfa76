#!/bin/bash
# load.sh CLUSTER ARCHIVE...: imports image archives into a node.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_cluster
for archive in "${@:2}"; do
    out=$(in_node "$BIN/ctr" --namespace k8s.io images import - < "$archive" 2>&1) || { echo "$out" >&2; exit 1; }
done
