#!/bin/bash
# kubectl.sh CLUSTER ARGUMENT...: kubectl on a cluster.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_cluster
kubectl "${@:2}"
