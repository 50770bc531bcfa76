#!/bin/bash
# build.sh [PROGRAM...]: builds the programs of a cluster (all, when none is named), unmodified, from the Go modules
# pinned in modules/, and pause from the C source inside the Kubernetes module. What is there is not built again.
# Progress goes to stderr; stdout is the folder that holds them.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false" GOWORK=off

all=(etcd kube-apiserver kube-controller-manager kubectl helm kubelet kube-proxy kube-scheduler agnhost
    containerd containerd-shim-runc-v2 ctr coredns pause)
[ $# -gt 0 ] || set -- "${all[@]}"

missing() { for program in "$@"; do [ -x "$BIN/$program" ] || echo "$program"; done; }
if [ -z "$(missing "$@")" ]; then echo "$BIN"; exit 0; fi

version() { (cd "$kube/modules/$1" && go list -m -f '{{.Version}}' "$2"); }
go_build() { # go_build PROGRAM MODULE PACKAGE [LDFLAGS]
    (cd "$kube/modules/$2" && go build -ldflags "-s -w ${4:-}" -o "$BIN/$1.part" "$3") >&2
}
kubernetes() { # kubernetes PROGRAM PACKAGE
    local v minor; v=$(version kube k8s.io/kubernetes); minor=${v#v1.}
    local x=k8s.io/component-base/version
    go_build "$1" kube "$2" "-X $x.gitVersion=$v -X $x.gitMajor=1 -X $x.gitMinor=${minor%%.*}"
}
build() {
    case $1 in
        etcd) go_build "$1" etcd go.etcd.io/etcd/server/v3 ;;
        coredns) go_build "$1" coredns github.com/coredns/coredns ;;
        helm) go_build "$1" helm helm.sh/helm/v4/cmd/helm ;;
        agnhost) kubernetes "$1" k8s.io/kubernetes/test/images/agnhost ;;
        kube*) kubernetes "$1" "k8s.io/kubernetes/cmd/$1" ;;
        containerd* | ctr)
            local c=github.com/containerd/containerd/v2
            go_build "$1" containerd "$c/cmd/$1" "-X $c/version.Version=$(version containerd $c)" ;;
        pause)
            local source; source=$(cd "$kube/modules/kube" && go list -m -f '{{.Dir}}' k8s.io/kubernetes)/build/pause/linux
            gcc -Os -Wall -static -DVERSION=3.10 -o "$BIN/pause.part" "$source/pause.c" >&2 ;;
        *) echo "build.sh: no program '$1'; there are: ${all[*]}" >&2; exit 64 ;;
    esac
    mv "$BIN/$1.part" "$BIN/$1"
}

mkdir -p "$BIN"
exec 9> "$cache/$key/lock"
flock 9 # a second test run waits here for the first
for program in $(missing "$@"); do
    start=$SECONDS
    build "$program"
    echo "built $program in $((SECONDS - start)) s" >&2
done
[ -n "$(missing "${all[@]}")" ] || touch "$cache/$key/complete"
echo "$BIN"
