#!/bin/bash
# down.sh CLUSTER: removes processes, mounts, namespaces, control groups and files of a cluster, also of one whose up.sh
# was interrupted, and of one that another checkout left, whose files may be gone.
set -uo pipefail
. "$(dirname "$0")/lib.sh"
need_cluster
group=k8s-$name$pair
groups() { find /sys/fs/cgroup -type d -name "$group"; }
at=$(cat "$cache/$name$pair.at" 2> /dev/null)
[ -d "$dir" ] || [ -e "/run/netns/$net" ] || [ -n "$at" ] || [ -n "$(groups)" ] || { echo "cluster $name is not up" >&2; exit 0; }

# With its process 1 the kernel ends every process of the node; with the last of them its mounts go. What is in the
# node's network is that process and its children, and whoever still starts it.
if [ -e "/run/netns/$net" ]; then
    for _ in {1..400}; do
        pids=$(ip netns pids "$net")
        [ -n "$pids" ] || break
        kill -KILL $pids 2> /dev/null
        sleep 0.05
    done
fi
for _ in {1..400}; do
    left=$(groups)
    [ -n "$left" ] || break
    # In another network are the pods, which end with process 1.
    find $left -depth -type d -exec rmdir {} + 2> /dev/null || sleep 0.05
done
[ ! -e "/run/netns/$net" ] || ip netns delete "$net"
at=${at#STATE=} # where up.sh was called, which may be another checkout
at=${at%% *}
rm -rf "$dir" ${at:+"$at/$name"} "$cache/$name$pair.at"

# The last one removes the bridge.
(
    flock 9
    if [ -e /run/netns/$wan ]; then
        for other in "${!node_ips[@]}"; do [ ! -e "/run/netns/k8s-$other$pair" ] || exit 0; done
        ip netns delete $wan
    fi
) 9> "$cache/wan$pair.lock"
