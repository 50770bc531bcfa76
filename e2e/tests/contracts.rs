//! What scripts rely on, line by line: names, modes, exit codes, stdout and stderr, headers, JSON shapes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod world;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use meshfed_e2e::binary::meshfed;
use meshfed_e2e::fleet::Fleet;
use meshfed_e2e::http;
use meshfed_e2e::process::{Output, Process, run};
use meshfed_e2e::wait::until;
use serde_json::Value;
use world::{B_URL, World};

/// How long a daemon may take to begin or to end.
const SOON: Duration = Duration::from_secs(15);

fn bare(args: &[&str]) -> Output {
    run(Command::new(meshfed()).args(args).env_remove("MESHFED_CONFIG"))
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Whether a line is `PLACE:LINE:COLUMN: error[CODE]: text`.
fn is_problem_line(line: &str) -> bool {
    let Some((place, text)) = line.split_once(": error[") else { return false };
    let mut parts = place.rsplitn(3, ':');
    let numbers = [parts.next(), parts.next()].iter().all(|p| p.is_some_and(|p| p.parse::<u32>().is_ok()));
    let code = text.split_once("]: ").filter(|(code, text)| code.starts_with("MF") && !text.trim().is_empty());
    numbers && parts.next().is_some_and(|p| !p.is_empty()) && code.is_some()
}

fn is_token(text: &str) -> bool {
    let part = |s: &str, len: usize, upper: bool| {
        let allowed = |b: u8| match b {
            b'a'..=b'z' | b'0'..=b'9' => true,
            b'A'..=b'Z' | b'_' | b'-' => upper,
            _ => false,
        };
        s.len() == len && s.bytes().all(allowed)
    };
    let parts: Vec<&str> = text.split('.').collect();
    let [version, id, secret, pin] = parts.as_slice() else { return false };
    *version == "mf1" && part(id, 10, false) && part(secret, 43, true) && part(pin, 43, true)
}

/// 1.3: stdout is the token and a newline; with `-o json` the API's answer; a revoked token is told as such.
///
/// Mutation seen to fail: `token create` prints `token: ` before the token.
#[test]
fn a_token_is_printed_alone() {
    let fleet = Fleet::start();
    let create = ["token", "create", "--cluster", "east", "--network", "net-east=127.84.0.0/16", "--region", "eu"];
    let plain = fleet.cli(None, &create);
    assert_eq!((plain.code, plain.stderr.as_str()), (0, ""), "{plain:?}");
    assert!(plain.stdout.ends_with('\n') && is_token(plain.stdout.trim_end_matches('\n')), "{plain:?}");
    let json: Value =
        serde_json::from_str(&fleet.cli(None, &[&create[..], &["-o", "json"]].concat()).ok("token")).unwrap();
    assert_eq!(keys(&json), ["cluster", "command", "expiresAt", "id", "token"]);
    let (token, id) = (json["token"].as_str().unwrap(), json["id"].as_str().unwrap());
    assert!(is_token(token) && token.split('.').nth(1) == Some(id), "{json}");
    assert_eq!((&json["command"][0], &json["command"][1]), (&"meshfed".into(), &"join".into()), "{json}");
    let _revoked = fleet.cli(None, &["token", "revoke", id]).ok("revoke");
    let listed: Value = serde_json::from_str(&fleet.cli(None, &["token", "list", "-o", "json"]).ok("list")).unwrap();
    let of = |wanted: &str| listed["items"].as_array().unwrap().iter().find(|t| t["id"] == wanted).cloned().unwrap();
    assert_eq!(of(id)["state"], "revoked");
    assert_eq!(keys(&of(id)), ["cluster", "expiresAt", "id", "state"], "a list shows no secret");
    assert_eq!(of(plain.stdout.split('.').nth(1).unwrap())["state"], "unused");
}

fn modes(dir: &Path, found: &mut Vec<(String, u32, bool)>, base: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = std::fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(base).unwrap().display().to_string();
        found.push((name, kind.permissions().mode() & 0o7777, kind.is_dir()));
        if kind.is_dir() {
            modes(&path, found, base);
        }
    }
}

/// 1.2: data directories 0711, `run/` 0755, sockets 0666, every other directory 0700; what is in those 0600.
/// 1.4: join's line, its files, and that a second join changes none of them.
///
/// Mutations seen to fail: `create_private_dir` with 0755; a second join writes `agent.yaml` again.
#[test]
fn directories_have_their_modes_and_join_its_line() {
    let world = World::start();
    for data_dir in ["federator", "east", "west"] {
        let base = world.fleet.path(data_dir);
        assert_eq!(std::fs::metadata(&base).unwrap().permissions().mode() & 0o7777, 0o711, "{data_dir}");
        let mut found = Vec::new();
        modes(&base, &mut found, &base);
        for (name, mode, is_dir) in found {
            let public = ["run/addresses.json", "api-ca.pem"].contains(&name.as_str());
            let want = match name.as_str() {
                "run" => 0o755,
                "run/xds.sock" | "run/workload.sock" => 0o666,
                _ if is_dir => 0o700,
                _ if public => 0o644,
                _ => 0o600,
            };
            assert_eq!(format!("{mode:o}"), format!("{want:o}"), "{data_dir}/{name}");
        }
    }
    let files = [
        "agent.yaml",
        "identity/cert.pem",
        "identity/key.pem",
        "ca/key.pem",
        "ca/anchor.pem",
        "ca/lineage.pem",
        "bundles/east.mesh.example.pem",
        "bundles/mesh.example.pem",
    ]
    .map(|name| world.fleet.path("east").join(name));
    let state =
        || files.clone().map(|f| (std::fs::read(&f).unwrap(), std::fs::metadata(&f).unwrap().modified().unwrap()));
    let before = state();
    assert!(before[3].0.starts_with(b"-----BEGIN PRIVATE KEY-----"), "the key is not PKCS#8");
    let again = world.fleet.join(None, &world.fleet.path("east.token"), "east");
    assert_eq!(again.code, 0, "{again:?}");
    assert_eq!(again.stdout, "joined cluster=east trustDomain=east.mesh.example networks=net-east\n");
    assert!(state() == before, "a second join changed a file");
}

fn federator(dir: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(meshfed());
    command.args(["federator", "--data-dir"]).arg(dir).args(["--fleet", "mesh.example"]).args(flags);
    command
}

fn addresses(dir: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(dir.join("run/addresses.json")).ok()?).ok()
}

/// 1.2: several listeners, IPv6, port 0 and `off`; the admin port off loopback shows three pages; logs are JSON on
/// stderr, stdout is empty; SIGTERM ends with 0, and `addresses.json` goes with the process.
///
/// Mutations seen to fail: the router of a listener off loopback has `/debug/config`, too; `Published` leaves its file.
#[test]
fn listeners_are_as_they_were_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("fed");
    let flags = [
        "--grpc-listen",
        "127.0.0.1:0",
        "--grpc-listen",
        "[::1]:0",
        "--http-listen",
        "127.0.0.1:0",
        "--http-listen",
        "[::1]:0",
        "--http-san",
        "hub.example",
        "--admin-listen",
        "0.0.0.0:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--log-format",
        "json",
    ];
    let stdout = dir.path().join("stdout");
    let stderr = dir.path().join("stderr");
    let mut start = federator(&data, &flags);
    start.stdout(std::fs::File::create(&stdout).unwrap()).stderr(std::fs::File::create(&stderr).unwrap());
    let mut child = start.spawn().unwrap();
    let listed = until("the federator listens", SOON, || addresses(&data).ok_or("no addresses.json yet"));
    assert_eq!(keys(&listed), ["admin", "grpc", "http"]);
    let at = |key: &str, i: usize| listed[key][i].as_str().unwrap().parse::<SocketAddr>().unwrap();
    assert!(at("grpc", 1).is_ipv6() && at("http", 1).is_ipv6(), "{listed}");
    let open: SocketAddr = ([127, 0, 0, 1], at("admin", 0).port()).into();
    until("it is ready", SOON, || {
        http::get(open, "/readyz").and_then(|a| if a.status == 200 { Ok(()) } else { Err(a.body) })
    });
    for (address, pages) in [(open, [200, 200, 200, 404]), (at("admin", 1), [200; 4])] {
        let got = ["/livez", "/readyz", "/metrics", "/debug/config"].map(|p| http::get(address, p).unwrap().status);
        assert_eq!(got, pages, "{address}");
    }
    let token = std::fs::read_to_string(data.join("admin.token")).unwrap();
    for (host, address) in [("hub.example", at("http", 0)), ("localhost", at("http", 0)), ("[::1]", at("http", 1))] {
        let port = address.port();
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "10", "--cacert"]).arg(data.join("api-ca.pem"));
        curl.args([
            "--resolve",
            &format!("hub.example:{port}:127.0.0.1"),
            "-H",
            &format!("Authorization: Bearer {token}"),
        ]);
        let body = run(curl.arg(format!("https://{host}:{port}/api/v1/clusters"))).ok(host);
        assert_eq!(body.trim().split(',').next_back(), Some("\"continue\":null}"), "{body}");
    }
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let code = until("it drains", SOON, || child.try_wait().unwrap().ok_or("still running")).code();
    assert_eq!(code, Some(0));
    assert!(addresses(&data).is_none(), "addresses.json outlives the process");
    assert_eq!(std::fs::read_to_string(&stdout).unwrap(), "", "logs belong to stderr");
    for line in std::fs::read_to_string(&stderr).unwrap().lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok_and(|v| v["level"].is_string()), "{line}");
    }
    let mut again = Process::start(
        "off",
        dir.path(),
        federator(&data, &["--grpc-listen", "127.0.0.1:0"]).args(["--http-listen", "off", "--admin-listen", "off"]),
    );
    let listed = until("it listens again", SOON, || addresses(&data).ok_or_else(|| again.tail()));
    assert_eq!(keys(&listed), ["grpc"], "what is off is not there");
    assert_eq!(again.stop(), 0);
}

/// The exit code of a command that is to end soon, and what it said.
fn ends(name: &str, world: &World, command: &mut Command) -> (i32, String) {
    let mut process = Process::start(name, &world.fleet.path("second"), command);
    let code = until(&format!("{name} ends"), SOON, || process.ended().ok_or("still running"));
    (code, process.log())
}

/// A second daemon on a data directory in use ends with 65 and names it; files and traffic of the first stay.
///
/// Mutations seen to fail: the agent's `lock` gives the lock also when another process holds it; the federator writes
/// credentials before it holds its directory.
#[test]
fn a_second_daemon_leaves_the_first_alone() {
    let mut world = World::start();
    let data = world.fleet.path("federator");
    let read = || ["admin.yaml", "admin.token", "run/addresses.json"].map(|f| std::fs::read(data.join(f)).unwrap());
    let before = read();
    let free = ["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let (code, said) = ends("second-federator", &world, &mut federator(&data, &free));
    assert_eq!(code, 65, "{said}");
    assert!(said.lines().all(is_problem_line) && said.contains("another federator"), "{said}");
    assert!(read() == before, "the second federator changed files of the first");
    let east = world.fleet.path("east");
    let mut agent = Command::new(meshfed());
    agent
        .args(["agent", "--data-dir"])
        .arg(&east)
        .arg("--source")
        .arg(format!("dir:{}", world.east.source().display()))
        .args(["--xds-listen", "off", "--admin-listen", "127.0.0.1:0", "--run-dir"])
        .arg(world.fleet.path("elsewhere"));
    let (code, said) = ends("second-agent", &world, &mut agent);
    assert_eq!(code, 65, "{said}");
    assert!(said.contains("another agent runs with this data directory"), "{said}");
    world.east.agent.assert_alive();
    assert!(world.fleet.cli(None, &["status"]).ok("status").ends_with("\nready\n"));
    assert_eq!(http::via(world.outbound(), B_URL).unwrap().status, 200);
    assert_eq!(world.east.agent.stop(), 0);
    assert!(
        !["run/xds.sock", "run/workload.sock"].iter().any(|s| east.join(s).exists()) && addresses(&east).is_none(),
        "the agent left something in run/"
    );
}

/// 1.2: all wrong flags at once, those that cannot be parsed and those that make no sense, a line each; nothing else on
/// stderr, nothing on stdout, exit 64; wrong files alone are 65.
///
/// Mutation seen to fail: `all_errors` does not ask `rest`.
#[test]
fn configuration_errors_come_all_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("x").display().to_string();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let cases: [(&[&str], u8, &[&str]); 6] = [
        (
            &[
                "federator",
                "--data-dir",
                &data,
                "--fleet",
                "no domain",
                "--http-listen",
                "nowhere",
                "--store",
                "etcd:x",
                "--advertise",
                "x",
                "--http-san",
                "a b",
                "--prt",
                "1",
            ],
            64,
            &["--fleet", "--http-listen", "--store", "--advertise", "--http-san", "--prt"],
        ),
        (
            &["agent", "--data-dir", &data, "--source", "consul:x", "--dns-listen", "127.0.0.1:1", "--xds-listen", "y"],
            64,
            &["--source", "--dns-listen", "--xds-listen", &data],
        ),
        (
            &[
                "proxy",
                "--agent",
                "foo",
                "--workload",
                "one",
                "--inbound",
                "x",
                "--outbound",
                "y",
                "--app-probe",
                "z",
                "--workers",
                "0",
                "--mode",
                "what",
                "--capture",
                "tproxy",
            ],
            64,
            &["--agent", "--workload", "--inbound", "--outbound", "--app-probe", "--workers", "--mode", "--capture"],
        ),
        (
            &[
                "federator",
                "--data-dir",
                &data,
                "--fleet",
                "mesh.example",
                "--root-key",
                "/nonexistent/key",
                "--source",
                "dir:/nonexistent",
            ],
            65,
            &["/nonexistent/key", "/nonexistent"],
        ),
        (&["agent", "--data-dir", &data, "--source", "dir:/nonexistent"], 65, &[&data, "/nonexistent"]),
        (
            &[
                "federator",
                "--data-dir",
                file.to_str().unwrap(),
                "--fleet",
                "mesh.example",
                "--grpc-listen",
                "127.0.0.1:0",
            ],
            65,
            &[file.to_str().unwrap()],
        ),
    ];
    for (args, code, places) in cases {
        let output = bare(args);
        assert_eq!((output.code, output.stdout.as_str()), (i32::from(code), ""), "{args:?}: {output:?}");
        assert!(output.stderr.lines().all(is_problem_line), "{args:?}: {}", output.stderr);
        let told: BTreeSet<&str> = output.stderr.lines().map(|l| l.split(":0:0: ").next().unwrap()).collect();
        assert_eq!(told, places.iter().copied().collect(), "{args:?}: {}", output.stderr);
    }
    assert!(!Path::new(&data).exists(), "a refused start made its data directory");
}

/// What the contracts name and this version lacks says so, with exit 64 and nothing on stdout, whatever follows it.
///
/// Mutation seen to fail: `Failure::later` is a `FAILED`.
#[test]
fn what_is_missing_says_so() {
    for line in [
        "leave --data-dir e",
        "cluster drain east --wait",
        "cluster undrain east",
        "cluster pin east",
        "cluster evict east --yes",
        "region drain eu",
        "region undrain eu",
        "failover get shop/b",
        "failover clear default",
        "failover set shop/b -f x",
        "failover simulate --down cluster=east",
        "trust approve t --sha256 x",
        "trust rotate t",
        "explain a b",
        "events",
        "check --pre",
        "proxy-config clusters --admin 127.0.0.1:1",
        "bootstrap grpc --agent unix:x --workload a/b --out d",
        "bootstrap envoy --agent unix:x --workload a/b --inbound 8080=127.0.0.1:80",
        "token create --workload shop/a",
        "demo --mode netns",
        "leave --help",
        "agent --data-dir e --source kubernetes",
        "agent --data-dir e --source httpsd:http://x",
        "federator --data-dir d --fleet m.e --source kubernetes",
        "federator --data-dir d --fleet m.e --store etcd:http://x",
        "proxy --agent unix:x --workload a/b --capture redirect",
        "proxy --agent 127.0.0.1:15012 --workload a/b",
    ] {
        let output = bare(&line.split(' ').collect::<Vec<_>>());
        assert_eq!((output.code, output.stdout.as_str()), (64, ""), "{line}: {output:?}");
        assert!(output.stderr.contains("in this version"), "{line}: {output:?}");
    }
    for (line, named) in
        [("cluster drain east", "'meshfed cluster drain'"), ("trust approve t", "'meshfed trust approve'")]
    {
        assert!(bare(&line.split(' ').collect::<Vec<_>>()).stderr.contains(named), "{line}");
    }
}

/// 1.3: `--config`, else MESHFED_CONFIG, else XDG; an empty variable is none; `--server` overrides; every failure says
/// which file or server, and what to do.
///
/// Mutation seen to fail: `given` keeps an empty path; the remedy of a foreign certificate left out.
#[test]
fn credentials_are_found_in_their_order() {
    let mut fleet = Fleet::start();
    let good = fleet.path("federator/admin.yaml");
    let xdg = fleet.path("xdg");
    std::fs::create_dir_all(xdg.join("meshfed")).unwrap();
    std::fs::copy(&good, xdg.join("meshfed/config.yaml")).unwrap();
    let config = good.display().to_string();
    let text = std::fs::read_to_string(&good).unwrap();
    let variant = |name: &str, from: &str, to: &str| {
        let path = fleet.path(name);
        let changed: String =
            text.lines().map(|l| if l.starts_with(from) { format!("{to}\n") } else { format!("{l}\n") }).collect();
        std::fs::write(&path, changed).unwrap();
        path.display().to_string()
    };
    let foreign = variant("foreign.yaml", "token:", "token: \"wrong\"");
    let empty_ca = variant("ca.yaml", "certificateAuthorityData:", "certificateAuthorityData: \"\"");
    let none = fleet.path("nowhere").display().to_string();
    let grpc = fleet.grpc();
    let xdg = xdg.display().to_string();
    let ask = |flags: &[&str], env: Option<&str>, xdg: &str| {
        let mut ask = Command::new(meshfed());
        ask.arg("clusters").args(flags).env("XDG_CONFIG_HOME", xdg).env("HOME", &none);
        match env {
            None => ask.env_remove("MESHFED_CONFIG"),
            Some(value) => ask.env("MESHFED_CONFIG", value),
        };
        run(&mut ask)
    };
    for (flags, env, base) in [
        (&["--config", config.as_str()][..], Some(none.as_str()), none.as_str()),
        (&[], Some(config.as_str()), none.as_str()),
        (&[], None, xdg.as_str()),
        (&[], Some(""), xdg.as_str()),
        (
            &[
                "--server",
                &format!("https://localhost:{}", fleet.address("federator", "http").rsplit(':').next().unwrap()),
            ],
            None,
            &xdg,
        ),
    ] {
        let output = ask(flags, env, base);
        assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{flags:?} {env:?}: {output:?}");
    }
    for (flags, env, base, code, words) in [
        (&[][..], None, none.as_str(), 64, &["no credentials", "--config", "MESHFED_CONFIG", "admin.yaml"][..]),
        (&[], Some(none.as_str()), xdg.as_str(), 65, &[&none, "admin.yaml"]),
        (&["--config", &foreign], None, "", 1, &[&foreign, "does not know the token", "admin.yaml"]),
        (&["--config", &empty_ca], None, "", 65, &[&empty_ca, "certificateAuthorityData"]),
        (&["--server", &grpc], None, &xdg, 1, &["cannot be asked", "--http-listen"]),
        (&["--server", "https://127.0.0.1:1"], None, &xdg, 1, &["127.0.0.1:1", "refused", "runs"]),
        (&["--server", "http://127.0.0.1:1"], None, &xdg, 64, &["https://"]),
    ] {
        let output = ask(flags, env, base);
        assert_eq!((output.code, output.stdout.as_str()), (code, ""), "{flags:?}: {output:?}");
        assert!(words.iter().all(|w| output.stderr.contains(w)), "{words:?} not all in {output:?}");
    }
    fleet.federator().assert_alive();
}

/// Part 3: status, headers and fields of answers and problems, as another client than ours sees them.
///
/// Mutations seen to fail: an unknown query parameter is passed over; `ETag` left out of `shown`.
#[test]
fn the_api_keeps_its_shapes() {
    let world = World::start();
    let token = std::fs::read_to_string(world.fleet.path("federator/admin.token")).unwrap();
    let call = |method: &str, path: &str, headers: &[&str], body: Option<&str>| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--http1.1", "-i", "--max-time", "10", "-X", method, "--cacert"]);
        curl.arg(world.fleet.path("federator/api-ca.pem")).args(["-H", &format!("Authorization: Bearer {token}")]);
        for header in headers {
            curl.args(["-H", header]);
        }
        if let Some(body) = body {
            curl.args(["-H", "Expect:", "-H", "Content-Type: application/json", "--data-binary", body]);
        }
        let url = format!("https://{}/api/v1/{path}", world.fleet.address("federator", "http"));
        let text = run(curl.arg(url)).ok(path);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), serde_json::from_str::<Value>(body).unwrap_or_default())
    };
    let get = |path: &str| call("GET", path, &[], None);
    for path in ["status", "clusters", "clusters/east", "services", "services/shop/b", "trust", "tokens"] {
        let (status, head, body) = get(path);
        let revision = body["revision"].as_str().unwrap_or_else(|| panic!("{path}: a revision is text: {body}"));
        assert_eq!(status, 200, "{path}");
        assert!(head.contains(&format!("etag: \"{revision}\"")), "{path}: {head}");
        let (status, head, body) = get(&format!("{path}?x=1"));
        assert_eq!(status, 400, "{path}");
        assert!(head.contains("content-type: application/problem+json"), "{path}: {head}");
        assert_eq!(keys(&body), ["code", "detail", "errors", "instance", "status", "title", "type"], "{path}");
        assert_eq!(keys(&body["errors"][0]), ["field", "message", "reason", "remedy"], "{path}");
    }
    let (_, _, east) = get("clusters/east");
    let fields = [
        "agents",
        "bundle",
        "connection",
        "endpoints",
        "freshness",
        "gateways",
        "joinedAt",
        "lastSeenAt",
        "name",
        "networks",
        "overrides",
        "regions",
        "revision",
        "services",
        "source",
        "state",
        "trustDomain",
        "zones",
    ];
    assert_eq!(keys(&east), fields);
    assert_eq!(keys(&east["source"]), ["epoch", "errors", "objects", "revision"]);
    assert!(east["agents"][0]["clockSkew"].as_str().is_some_and(|s| s.ends_with("ms") || s.ends_with('s')), "{east}");
    let (_, _, services) = get("services");
    assert_eq!(keys(&services), ["continue", "items", "revision"]);
    assert!(services["continue"].is_null() && services["items"][0]["conflict"].is_null(), "{services}");
    assert!(services["items"][0].get("exports").is_none(), "list items have no exports: {services}");
    let (_, _, b) = get("services/shop/b");
    assert_eq!(keys(&b["exports"][0]), ["cluster", "exportTo", "firstSeenRevision", "groups", "identities"]);
    let (_, _, first) = get("clusters?limit=1");
    let next = first["continue"].as_str().expect("a second page");
    let (_, _, second) = get(&format!("clusters?limit=1&continue={next}"));
    assert_eq!((&first["items"][0]["name"], &second["items"][0]["name"]), (&"east".into(), &"west".into()));
    assert!(second["continue"].is_null());
    for (path, status, code) in [
        ("clusters?limit=501", 400, "MF1420"),
        ("clusters/esat", 404, "MF1404"),
        ("services/shop/nope", 404, "MF1444"),
        ("services/shop/b/endpoints?from=esat&port=8080", 404, "MF1404"),
        ("services/shop/b/endpoints?from=west&port=8080&client=shop/zz", 400, "MF1420"),
        ("explain", 501, "MF1501"),
    ] {
        let (got, _, body) = get(path);
        assert_eq!(
            (u64::from(got), body["status"].as_u64(), body["code"].as_str()),
            (status, Some(status), Some(code)),
            "{body}"
        );
    }
    assert!(get("clusters/esat").2["errors"][0]["remedy"].as_str().unwrap().contains("east, west"));
    let id = get("tokens").2["items"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("tokens/{id}");
    assert_eq!(call("DELETE", &path, &[], None).0, 428);
    assert_eq!(call("DELETE", &path, &["If-Match: \"1\""], None).0, 412);
    assert_eq!(call("DELETE", "tokens/aaaaaaaaaa", &["If-Match: *"], None).0, 404);
    let wanted = r#"{"cluster":"n","networks":[{"name":"net-n","cidrs":[]}],"regions":["r"],"zones":[],"gatewayCidrs":[],"ttl":"15m"}"#;
    let (status, head, body) = call("POST", "tokens?dryRun=true", &[], Some(wanted));
    assert!(status == 200 && head.contains("x-meshfed-dry-run: true") && body["token"].is_null(), "{head} {body}");
    assert_eq!(call("POST", "tokens", &[], Some(wanted)).0, 201);
    let large = world.fleet.path("large");
    std::fs::write(&large, vec![b' '; 3 << 20]).unwrap();
    let (status, _, body) = call("POST", "tokens", &[], Some(&format!("@{}", large.display())));
    assert_eq!((status, body["code"].as_str()), (413, Some("MF1413")));
}

/// 1.14: headers of the tables, `-o json` on one line, and what `endpoints` says of a client.
///
/// Mutation seen to fail: the column `TOTAL` of `services` renamed.
#[test]
fn tables_have_their_headers() {
    let world = World::start();
    for (args, header) in [
        (&["clusters"][..], "NAME STATE FRESHNESS REGION NETWORKS GATEWAYS SERVICES ENDPOINTS AGE"),
        (&["services"], "NAMESPACE NAME PORTS CLUSTERS READY TOTAL CONFLICT"),
        (&["endpoints", "shop/b:8080", "--from", "west"], "ADDRESS PORT CLUSTER NETWORK LOCALITY TIER SHARE STATE VIA"),
        (
            &["endpoints", "b.shop.svc.clusterset.local:8080", "--from", "west/shop/a"],
            "ADDRESS PORT CLUSTER NETWORK LOCALITY TIER SHARE STATE VIA",
        ),
    ] {
        let table = world.fleet.cli(None, args).ok("table");
        let mut lines = table.lines();
        let first = lines.next().unwrap();
        assert_eq!(first.split_whitespace().collect::<Vec<_>>().join(" "), header, "{args:?}");
        // Two blanks at least between columns, so that a script can cut there.
        let columns = |line: &str| line.split("  ").filter(|c| !c.trim().is_empty()).count();
        for line in lines {
            assert_eq!(columns(line), columns(first), "{args:?}: {line}");
        }
    }
    assert!(world.fleet.cli(None, &["services"]).ok("services").contains("<none>"));
    let yaml = world.fleet.cli(None, &["services", "-o", "yaml"]).ok("yaml");
    assert!(yaml.contains("conflict: null\n") && yaml.contains("continue: null\n"), "{yaml}");
    let unknown = world.fleet.cli(None, &["clusters", "esat"]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (1, ""));
    assert!(unknown.stderr.contains("esat") && unknown.stderr.contains("east, west"), "{unknown:?}");
}

/// 1.2 and 1.8: a proxy's own ports, and the words of its answers and metrics.
///
/// Mutation seen to fail: the reason of an unknown name is `no_endpoints`.
#[test]
fn a_proxy_answers_with_its_words() {
    let world = World::start();
    let host = world.west_range.host(10);
    assert_eq!(http::get((host, 15021).into(), "/healthz/ready").unwrap().status, 200);
    for page in ["/livez", "/readyz", "/metrics", "/debug/config"] {
        assert_eq!(http::get((host, 15000).into(), page).unwrap().status, 200, "{page}");
    }
    for (url, status, reason) in [
        ("http://nope.shop.svc.clusterset.local:8080/", 404, "no_route"),
        ("http://b.shop.svc.cluster.local:8080/", 404, "no_route"),
        ("http://b.shop.svc.clusterset.local/", 404, "no_route"),
        ("http://a.shop.svc.cluster.local:8080/", 503, "upstream_connect"),
    ] {
        let answer = http::via(world.outbound(), url).unwrap();
        assert_eq!((answer.status, answer.header("x-meshfed-reason")), (status, Some(reason)), "{url}: {answer:?}");
    }
    assert_eq!(http::via(world.outbound(), B_URL).unwrap().status, 200);
    let labels = [
        "reporter=\"source\"",
        "source_cluster=\"west\"",
        "destination_cluster=\"east\"",
        "response_code=\"200\"",
        "source_principal=\"spiffe://west.mesh.example/ns/shop/sa/a\"",
        "destination_principal=\"spiffe://east.mesh.example/ns/shop/sa/b\"",
    ];
    assert!(http::metric((host, 15020).into(), "istio_requests_total", &labels).unwrap() >= 1.0);
    let gateway = (world.east_range.host(1), 15020).into();
    let forwarded = ["result=\"forwarded\"", "reason=\"\""];
    assert!(http::metric(gateway, "meshfed_gateway_connections_total", &forwarded).unwrap() >= 1.0);
    for (daemon, key) in [("federator", "http"), ("east", "admin")] {
        let at: SocketAddr = world.fleet.address(daemon, key).parse().unwrap();
        let (ready, metrics) = (SocketAddr::new(at.ip(), 15021), SocketAddr::new(at.ip(), 15020));
        if daemon == "federator" {
            assert!(
                http::get(ready, "/").is_err() && http::get(metrics, "/").is_err(),
                "{daemon} opens a proxy's port"
            );
        }
    }
    // A name that no object has yet: the proxy says what it waits for, and binds nothing.
    let waiting = world.west.proxy(None, "shop/nobody", &[]);
    until("the proxy says what it waits for", SOON, || {
        let log = waiting.log();
        if log.contains("nobody") && log.contains("no WorkloadEntry names it") { Ok(()) } else { Err(log) }
    });
}
