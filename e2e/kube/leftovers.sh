#!/bin/bash
# leftovers.sh: lists what clusters left on this machine; prints nothing when it is clean.
. "$(dirname "$0")/lib.sh"
ip netns | grep k8s-
grep -E "$STATE|cni-|k8s.io" /proc/mounts
find /sys/fs/cgroup -name 'k8s-*' -o -name kubepods
pgrep -af "^$BIN/(kubelet|containerd|kube-proxy|kube-scheduler)|containerd-shim"
ip -br link | grep -E 'wan0|cni0'
nft list ruleset 2> /dev/null | grep -iE 'kube|cni'
ls -d /run/containerd /var/lib/containerd /var/lib/kubelet /var/lib/cni /var/log/pods /etc/cni /usr/libexec/kubernetes \
    "$STATE"/* 2> /dev/null | grep -v kubectl-cache
true
