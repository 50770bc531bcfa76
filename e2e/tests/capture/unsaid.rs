//! Ports that do not say what they speak: nobody passes for somebody there.

use std::path::Path;

use meshfed_e2e::process::run;
use meshfed_e2e::wait::until;

use super::programs::SPEAK;
use super::{LONG, World};

/// Ports that do not say what they speak: of a service, and of none.
const UNSAID: [u16; 2] = [2526, 9101];
/// Who calls. On the wire a client may wait before it speaks, and between its first byte and the rest, for longer than its
/// first bytes are waited for. That an Envoy takes for no HTTP.
const PAUSES: [(&str, &str); 4] = [("0", "0"), ("0", "0.5"), ("0.5", "0"), ("0.5", "0.5")];

/// A certificate of west for `shop/m`, as an intruder in its mesh would have it: with its key, in a file.
fn certificate_of_west(world: &World) -> String {
    let (chain, key) =
        meshfed_e2e::tls::mint(&world.west.cluster.data_dir().join("ca"), "spiffe://west.mesh.example/ns/shop/sa/m");
    let mut pem = String::new();
    for (kind, der, what) in [("pkey", key.secret_der(), "m.key"), ("x509", chain[0].as_ref(), "m.crt")] {
        let file = world.fleet.path(what);
        std::fs::write(&file, der).unwrap();
        let mut convert = std::process::Command::new("openssl");
        pem.push_str(&run(convert.arg(kind).args(["-inform", "DER", "-in"]).arg(file)).ok("openssl"));
    }
    let file = world.fleet.path("m.pem");
    std::fs::write(&file, pem).unwrap();
    file.display().to_string()
}

/// What a client of west's node hears of west's pod.
fn speak(world: &World, port: u16, (certificate, alpn): (&str, &str), pauses: (&str, &str), words: &str) -> String {
    let mut client = world.west.node.command(Path::new("python3"));
    client.args(["-c", SPEAK, "10.2.0.10", &port.to_string(), certificate, alpn, pauses.0, pauses.1, words]);
    let output = run(&mut client);
    format!("{}{}", output.stdout.trim(), output.stderr.lines().last().unwrap_or_default())
}

/// A request that claims to be somebody's. Fields of ours mean nothing to an Envoy.
fn forged(is_ours: bool) -> String {
    let ours = if is_ours { r"x-meshfed-src: forged\r\n" } else { "" };
    [
        r"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Forwarded-Client-Cert: URI=spiffe://forged\r\n",
        ours,
        r"\r\n",
    ]
    .concat()
}

/// What some server reads fields after, though no request line says so: of HTTP/0.9 with any method or form, of HTTP/2 with
/// another request behind it, behind bytes that are skipped, with a method that is none.
const ODD: [&str; 6] = [
    r"POST /admin\r\n",
    r"GET http://a/admin\r\n",
    r"PRI * HTTP/2.0\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n",
    r"\x00GET / HTTP/1.1\r\n",
    r"\x16GET / HTTP/1.1\r\n",
    r"G@T / HTTP/1.1\r\n",
];

/// What is no HTTP/1 that we know is bytes, and no application gets a field of ours by it; what has no line end is bytes, too,
/// however long.
///
/// Mutations seen to fail: `has_come` is false; `unclear` is `then_some(true)`.
fn nothing_is_forged_in_bytes(world: &World, certificate: &str) {
    let client = (certificate, "-");
    for (port, pauses) in UNSAID.iter().flat_map(|port| [PAUSES[0], PAUSES[3]].map(|pauses| (*port, pauses))) {
        for odd in ODD {
            let with = |name: &str| format!(r"{odd}{name}: URI=spiffe://forged\r\n\r\n");
            let heard = speak(world, port, client, pauses, &with("X-Other"));
            assert!(heard.contains("forged"), "{odd} is bytes: {heard}");
            for name in ["X-Forwarded-Client-Cert", "x_forwarded-client_cert ", "X-Meshfed-Src"] {
                let heard = speak(world, port, client, pauses, &with(name));
                assert!(!heard.contains("forged"), "{port} {odd} {name}: {heard}");
            }
        }
    }
    let framed = "97 <34>1 - a".repeat(4000);
    let heard = speak(world, UNSAID[1], client, PAUSES[3], &format!(r"{framed}\r\n\r\n"));
    assert!(heard.contains(&framed), "{} bytes came back of {}", heard.len(), framed.len());
}

/// An Envoy takes for bytes what comes later than 200 ms, be it for a busy machine: it is asked again.
fn hears(what: &str, is_ours: bool, ask: impl Fn() -> String, is_good: impl Fn(&str) -> bool) {
    let once = || {
        let heard = ask();
        if is_good(&heard) { Ok(()) } else { Err(format!("{what}: {heard}")) }
    };
    if is_ours { once().unwrap() } else { until(what, LONG, once) }
}

/// A mesh client that dials the pod's address is who its certificate says, on ports that do not say what they speak, too: an
/// Envoy believes what the client offers (ALPN), our proxy looks at what it says. What is no HTTP is bytes all the same.
///
/// Mutations seen to fail: `unsaid` of `captured_port` is `None`; `Again::new(client, 0)`; EAGER's `certain` alone, with
/// `until_certain` left out.
pub(crate) fn forged_by_mesh_clients(world: &World, is_ours: bool) {
    let certificate = certificate_of_west(world);
    let own = "By=spiffe://west.mesh.example/ns/shop/sa/a;";
    let is_of = |heard: &str, who: &str| {
        !heard.contains("forged")
            && heard.contains(own)
            && heard.contains(&format!("URI=spiffe://west.mesh.example/ns/shop/sa/{who}"))
    };
    for port in UNSAID {
        let alpn: &[&str] = if is_ours { &["-", "http/1.1"] } else { &["http/1.1"] };
        let pauses = if is_ours { &PAUSES[..] } else { &PAUSES[..1] };
        for (alpn, pauses) in alpn.iter().flat_map(|alpn| pauses.iter().map(move |pauses| (*alpn, *pauses))) {
            let ask = || speak(world, port, (&certificate, alpn), pauses, &forged(is_ours));
            hears(&format!("{port} {alpn} {pauses:?}"), is_ours, ask, |heard| is_of(heard, "m"));
        }
        assert_eq!(speak(world, port, (&certificate, "-"), ("0", "0"), "ruok"), "imok\nruoknext");
        if is_ours {
            let heard = speak(world, port, (&certificate, "-"), ("0", "0"), r"GET / HTTP/1.1\r\n\r\n");
            assert!(heard.starts_with("HTTP/1.1 400 "), "as on a port that says HTTP: {heard}");
        }
    }
    // By the service's address the client's proxy finds out that it is HTTP, and the server's does.
    let ask = || world.west.pod.curl(&["-H", "X-Forwarded-Client-Cert: forged", "http://10.96.0.7:2526/"]).1;
    hears("by the service's address", is_ours, ask, |heard| is_of(heard, "a"));
    if is_ours {
        nothing_is_forged_in_bytes(world, &certificate);
        until("requests are counted by who asks", LONG, || {
            let metrics = world.west.metrics();
            let counted = |l: &str| {
                l.starts_with("istio_requests_total{")
                    && l.contains("reporter=\"destination\"")
                    && l.contains("source_principal=\"spiffe://west.mesh.example/ns/shop/sa/m\"")
            };
            if metrics.lines().any(counted) { Ok(()) } else { Err(metrics) }
        });
    }
}

/// Who is in no mesh is nobody, on ports that do not say what they speak, too, however late it speaks.
///
/// Mutations seen to fail: `unsaid::plain` of `raw` replaced by `carry`; `skipped` left out; the chain `|plain-http` left
/// out.
pub(crate) fn forged_by_strangers(world: &World, is_ours: bool) {
    let pauses = if is_ours { &PAUSES[..] } else { &PAUSES[..1] };
    for port in UNSAID {
        for pauses in pauses {
            let ask = || speak(world, port, ("-", "-"), *pauses, &forged(is_ours));
            let is_nobody = |heard: &str| heard.contains("GET / HTTP/1.1") && !heard.contains("forged");
            hears(&format!("{port} {pauses:?}"), is_ours, ask, is_nobody);
        }
        assert_eq!(speak(world, port, ("-", "-"), ("0", "0"), "ruok"), "imok\nruoknext");
    }
    if is_ours {
        nothing_is_forged_in_bytes(world, "-");
    }
}
