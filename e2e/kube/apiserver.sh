#!/bin/bash
# apiserver.sh BIN PKI ETCD ADDRESS PORT [FLAG...]: becomes a kube-apiserver; the flags that every test server has.
set -euo pipefail
bin=$1 pki=$2 etcd=$3 address=$4 port=$5
shift 5
exec "$bin/kube-apiserver" --etcd-servers="$etcd" --bind-address="$address" --secure-port="$port" \
    --service-cluster-ip-range=10.96.0.0/16 --allow-privileged \
    --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" --client-ca-file="$pki/ca.crt" \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-key-file="$pki/sa.pub" --service-account-signing-key-file="$pki/sa.key" \
    --requestheader-client-ca-file="$pki/ca.crt" --requestheader-allowed-names=front-proxy \
    --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
    --requestheader-extra-headers-prefix=X-Remote-Extra- \
    --proxy-client-cert-file="$pki/front-proxy.crt" --proxy-client-key-file="$pki/front-proxy.key" "$@"
