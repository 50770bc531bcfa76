#!/bin/bash
# down.sh CLUSTER: removes processes, mounts, namespaces, control groups and files of a cluster, also of one whose up.sh
# was interrupted.
set -uo pipefail
. "$(dirname "$0")/lib.sh"
need_cluster
[ -d "$dir" ] || { echo "cluster $name is not up" >&2; exit 0; }

# With its process 1 the kernel ends every process of the node; with the last of them its mounts go.
if pid=$(cat "$dir/pid" 2> /dev/null); then
    init=$(pgrep -P "$pid")
    kill -KILL $init "$pid" 2> /dev/null
    for p in $init $pid; do
        while kill -0 "$p" 2> /dev/null && ! grep -q '^State:.Z' "/proc/$p/status" 2> /dev/null; do sleep 0.05; done
    done
fi
if [ -e "$dir/cgroups" ]; then
    while read -r _ group; do
        for _ in {1..200}; do
            find "$group" -depth -type d -exec rmdir {} + 2> /dev/null
            [ ! -e "$group" ] && break
            sleep 0.05
        done
    done < "$dir/cgroups"
fi
[ ! -e "/run/netns/$net" ] || ip netns delete "$net"
rm -rf "$dir" "$cache/$name$pair.at"

# The last one removes the bridge.
(
    flock 9
    if [ -e /run/netns/$wan ]; then
        for other in "${!node_ips[@]}"; do [ ! -e "/run/netns/k8s-$other$pair" ] || exit 0; done
        ip netns delete $wan
    fi
) 9> "$cache/wan$pair.lock"
