#!/bin/bash
# pki.sh DIR NAME SERVER SAN...: makes DIR/pki and kubeconfigs DIR/USER.conf for the API server at SERVER, which is
# certified for the SANs (DNS:x, IP:y). Contexts and users carry NAME, so that kubeconfigs of several can be merged.
set -euo pipefail
dir=$1 name=$2 server=$3
shift 3
mkdir -p "$dir/pki"
cd "$dir/pki"

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }
certificate() { # certificate FILE SUBJECT [SANS]
    key "$1"
    printf '%s\n' basicConstraints=CA:FALSE keyUsage=digitalSignature extendedKeyUsage=clientAuth,serverAuth \
        ${3:+subjectAltName=$3} > "$1.ext"
    openssl req -new -key "$1.key" -subj "$2" |
        openssl x509 -req -days 30 -CA ca.crt -CAkey ca.key -CAcreateserial -extfile "$1.ext" -out "$1.crt" 2> /dev/null
}
kubeconfig() { # kubeconfig USER: with the certificate of that name
    cat > "$dir/$1.conf" << YAML
apiVersion: v1
kind: Config
current-context: $name
contexts: [{name: $name, context: {cluster: $name, user: $name-$1}}]
clusters: [{name: $name, cluster: {server: "$server", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $name-$1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
YAML
}

key ca
openssl req -x509 -new -key ca.key -days 30 -subj "/CN=$name-ca" -out ca.crt
key sa
openssl ec -in sa.key -pubout -out sa.pub 2> /dev/null

sans=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost,IP:127.0.0.1
for san in "$@"; do sans+=,$san; done
certificate apiserver /CN=kube-apiserver "$sans"
certificate apiserver-kubelet /O=system:masters/CN=apiserver-kubelet
certificate front-proxy /CN=front-proxy
certificate admin /O=system:masters/CN=admin
certificate kubelet "/O=system:nodes/CN=system:node:$name" "$(printf 'DNS:%s' "$name"; for san in "$@"; do printf ',%s' "$san"; done)"
for component in kube-controller-manager kube-scheduler kube-proxy; do certificate $component "/CN=system:$component"; done
for user in admin kubelet kube-controller-manager kube-scheduler kube-proxy; do kubeconfig $user; done
