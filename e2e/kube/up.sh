#!/bin/bash
# up.sh CLUSTER: starts a one-node cluster from nothing and waits until its DNS answers. Needs root.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_cluster
[ -d /sys/fs/cgroup/memory ] || {
    echo "cluster $name: no control groups v1 at /sys/fs/cgroup. A machine with v2 alone is not supported yet," \
        "and 'ip netns exec' hides them: use 'nsenter --net=/run/netns/NAME' instead" >&2
    exit 1
}
"$kube/images.sh" > /dev/null
[ ! -e /run/netns/$net ] || { echo "cluster $name is up already; this takes it down: $kube/down.sh $name" >&2; exit 1; }
mkdir "$dir" || { echo "cluster $name was not taken down: $kube/down.sh $name" >&2; exit 1; }
mkdir "$dir"/{lib,log}
echo "STATE=$STATE $kube/down.sh $name" > "$cache/$name$pair.at"

# Network: the node's namespace, with one link to the bridge that joins the nodes.
(
    flock 9
    if [ ! -e /run/netns/$wan ]; then
        ip netns add $wan
        ip -n $wan link set lo up
        ip -n $wan link add name wan0 type bridge
        ip -n $wan address add $wan_gateway/24 dev wan0
        ip -n $wan link set wan0 up
    fi
) 9> "$cache/wan$pair.lock"
ip netns add "$net"
ip -n "$net" link add name eth0 type veth peer name "$name" netns $wan
ip -n $wan link set "$name" master wan0 up
ip -n "$net" address add "$node_ip/24" dev eth0
ip -n "$net" link set lo up
ip -n "$net" link set eth0 up
ip -n "$net" route add default via $wan_gateway

# Control groups: a child of this shell's group in each hierarchy.
while IFS=: read -r _ controllers path; do
    [[ $controllers && $controllers != name=* ]] || continue
    parent=/sys/fs/cgroup/$controllers${path%/}
    mkdir "$parent/k8s-$name$pair"
    echo "$controllers $parent/k8s-$name$pair" >> "$dir/cgroups"
    if [[ $controllers == *cpuset* ]]; then
        cat "$parent/cpuset.cpus" > "$parent/k8s-$name$pair/cpuset.cpus"
        cat "$parent/cpuset.mems" > "$parent/k8s-$name$pair/cpuset.mems"
    fi
done < /proc/self/cgroup

"$kube/pki.sh" "$dir" "$name" "https://$node_ip:6443" "IP:$node_ip" "IP:$api_service_ip"

# The node: its own mount, process, cgroup, UTS and IPC namespaces; node.sh is its process 1.
(
    while read -r _ group; do echo $BASHPID > "$group/cgroup.procs"; done < "$dir/cgroups"
    exec setsid nsenter --net=/run/netns/"$net" \
        unshare --mount --pid --cgroup --uts --ipc --fork --kill-child "$kube/node.sh" "$name"
) > "$dir/log/node.log" 2>&1 < /dev/null &
echo $! > "$dir/pid"

wait_for() { # wait_for SECONDS LABEL COMMAND...
    local end=$((SECONDS + $1)) label=$2
    shift 2
    until "$@" > /dev/null 2>&1; do
        ((SECONDS < end)) || { echo "cluster $name: no $label, see $dir/log" >&2; exit 1; }
        sleep 0.1
    done
}
wait_for 60 containerd in_node "$BIN/ctr" version
"$kube/load.sh" "$name" "$IMAGES"/*.tar
wait_for 120 'API server' kubectl get --raw /readyz
kubectl apply -f "$kube/manifests/coredns.yaml" > /dev/null
wait_for 60 node kubectl get node "$name"
kubectl wait --for=condition=Ready --timeout=60s node/"$name" > /dev/null
kubectl -n kube-system rollout status deployment/coredns --timeout=120s > /dev/null
echo "cluster $name is ready after $SECONDS s" >&2
