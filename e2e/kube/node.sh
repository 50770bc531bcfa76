#!/bin/bash
# node.sh CLUSTER: process 1 of a node, in the namespaces that up.sh made. Mounts what a node needs, starts every
# component with its default paths, then reaps orphans until it is killed.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_cluster
hostname "$name"

# All of these mounts go with this mount namespace. /sys must be unmounted, not hidden: runc and the kubelet read the
# first match in mountinfo.
mount --make-rprivate /
mount -t proc proc /proc
umount --recursive --lazy /sys
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /sys/fs/cgroup
while read -r controllers _; do
    mkdir "/sys/fs/cgroup/$controllers"
    mount -t cgroup -o "$controllers" cgroup "/sys/fs/cgroup/$controllers"
done < "$dir/cgroups"
mount --bind "$dir/lib" /var/lib
mount --bind "$dir/log" /var/log
mount -t tmpfs tmpfs /run
mkdir -p /run/node/cni /run/node/sysctl /run/node/hold /run/lock

# The kubelet sets these, and they belong to the whole machine: it writes to copies.
for sysctl in kernel/panic kernel/panic_on_oops vm/overcommit_memory; do
    copy=/run/node/sysctl/${sysctl//\//.}
    cat /proc/sys/$sysctl > "$copy"
    mount --bind "$copy" /proc/sys/$sysctl
done
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables

cat > /run/node/cni/10-pods.conflist << JSON
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$pod_cidr"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
# restrict_oom_score_adj: root of a container, as in CI, often lacks CAP_SYS_RESOURCE, and no sandbox would start.
cat > /run/node/containerd.toml << TOML
version = 3
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'localhost/pause:3.10'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['/usr/lib/cni']
  conf_dir = '/run/node/cni'
TOML
# The disk is not the cluster's own, so its filling is not judged; resolvConf: the machine's name server is out of reach;
# syncFrequency: 1m by default, which would hide what of ours waits for a look at pods of which nothing has changed.
cat > /run/node/kubelet.yaml << YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {x509: {clientCAFile: $dir/pki/ca.crt}}
tlsCertFile: $dir/pki/kubelet.crt
tlsPrivateKeyFile: $dir/pki/kubelet.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: false
clusterDNS: [$dns_service_ip]
clusterDomain: cluster.local
resolvConf: ""
volumePluginDir: /var/lib/kubelet/volume-plugins
syncFrequency: 10m
imageGCHighThresholdPercent: 100
evictionHard: {nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%, imagefs.inodesFree: 0%}
YAML

# A component that ends is started again, unless a test holds it down: /run/node/hold/NAME.
start() {
    (
        set +e
        while :; do
            "${@:2}"
            echo "$(date +%T) $1 ended with $?" >> /var/log/node-ends.log
            while [ -e "/run/node/hold/$1" ]; do sleep 0.1; done
            sleep 0.5
        done
    ) >> "/var/log/$1.log" 2>&1 &
}
component() { start "$1" "$BIN/$1" "${@:2}"; }
pki=$dir/pki
PATH=$BIN:$PATH component containerd --config /run/node/containerd.toml # it runs its shim by name
component etcd --data-dir /var/lib/etcd --unsafe-no-fsync
start kube-apiserver "$kube/apiserver.sh" "$BIN" "$pki" http://127.0.0.1:2379 0.0.0.0 6443 \
    --advertise-address="$node_ip" --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --kubelet-preferred-address-types=InternalIP --kubelet-certificate-authority="$pki/ca.crt" \
    --kubelet-client-certificate="$pki/apiserver-kubelet.crt" --kubelet-client-key="$pki/apiserver-kubelet.key"
# Without an API server the others exit.
until curl -fsk https://127.0.0.1:6443/readyz > /dev/null; do sleep 0.1; done
clients() { local f; for f in kubeconfig authentication-kubeconfig authorization-kubeconfig; do echo "--$f=$dir/$1.conf"; done; }
# At the default of 20 requests a second the controller manager's own accounts take five seconds. Tests take the API server
# away for a minute; by default a node whose lease was not renewed for 50 s is unready, and with it all its pods, from the
# moment on that the API server is back until the kubelet has renewed it.
component kube-controller-manager $(clients kube-controller-manager) \
    --bind-address=127.0.0.1 --leader-elect=false --use-service-account-credentials \
    --kube-api-qps=500 --kube-api-burst=500 --node-monitor-grace-period=5m \
    --root-ca-file="$pki/ca.crt" --service-account-private-key-file="$pki/sa.key" \
    --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" \
    --flex-volume-plugin-dir=/var/lib/kubelet/volume-plugins
component kube-scheduler $(clients kube-scheduler) --bind-address=127.0.0.1 --leader-elect=false
component kubelet --config=/run/node/kubelet.yaml --kubeconfig="$dir/kubelet.conf" \
    --hostname-override="$name" --node-ip="$node_ip"
# The limits of connection tracking are the machine's, not the namespace's.
component kube-proxy --kubeconfig="$dir/kube-proxy.conf" --hostname-override="$name" \
    --proxy-mode=nftables --cluster-cidr=$pod_cidr \
    --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0

while :; do wait -n; done
