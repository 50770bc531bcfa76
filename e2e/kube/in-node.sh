#!/bin/bash
# in-node.sh CLUSTER COMMAND...: runs a command in the namespaces of a node.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_cluster
in_node "${@:2}"
