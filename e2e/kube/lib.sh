# Names that the scripts share. Source it; with a cluster's name as first argument it knows that cluster, too.
kube=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Builds lie outside the work tree and are found again by what they were made from.
key=$(cd "$kube" && cat build.sh modules/*/go.mod modules/*/go.sum | sha256sum | cut -d' ' -f1)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/meshfed/kube
BIN=$cache/$key/bin
IMAGES=$cache/$key/images-$(cd "$kube" && cat images.sh ../../image/archive.sh | sha256sum | cut -c1-12)
STATE=${STATE:-$kube/../../target/kube} # a folder per running cluster
mkdir -p "$STATE" "$cache/$key"
STATE=$(cd "$STATE" && pwd)

pair=${MESHFED_KUBE_PAIR:-} # a suffix: several pairs of clusters may be up at the same time
wan=k8s-wan$pair # network namespace of the bridge between the nodes
wan_gateway=172.30.0.254
declare -A node_ips=([east]=172.30.0.11 [west]=172.30.0.12)
# The same in every cluster: the address spaces overlap on purpose.
pod_cidr=10.244.0.0/24
service_cidr=10.96.0.0/16
api_service_ip=10.96.0.1
dns_service_ip=10.96.0.10

if [ -n "${1:-}" ] && [ -n "${node_ips[$1]:-}" ]; then
    name=$1
    dir=$STATE/$name
    net=k8s-$name$pair # network namespace of this cluster's node
    node_ip=${node_ips[$name]}
fi
need_cluster() { [ -n "${name:-}" ] || { echo "usage: ${0##*/} CLUSTER ..., CLUSTER one of: ${!node_ips[*]}" >&2; exit 64; }; }
export KUBECACHEDIR=$STATE/kubectl-cache # not in somebody's home
kubectl() { nsenter --net=/run/netns/"$net" "$BIN/kubectl" --kubeconfig "$dir/admin.conf" "$@"; }
init_pid() { pgrep -P "$(cat "$dir/pid")"; }
in_node() { nsenter --target "$(init_pid)" --mount --net --pid --uts --ipc --cgroup "$@"; }
