use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    proxy: ProxyArgs,
}

#[expect(clippy::unwrap_in_result, reason = "flags that clap refuses fail the test")]
fn config(flags: &[&str]) -> Result<Config, Problems> {
    let base = ["proxy", "--agent", "unix:east/run/xds.sock", "--workload", "shop/b"];
    Config::new(&Cli::try_parse_from(base.iter().chain(flags)).unwrap().proxy, 2)
}

/// Mutation seen to fail: the default of `--app-probe` replaced by `off`.
#[test]
fn the_example_of_the_contract_is_understood() {
    let c = config(&["--inbound", "8080=127.1.0.11:18080"]).unwrap();
    assert_eq!(c.agent, AgentAddress::Unix("east/run/xds.sock".into()));
    assert_eq!((c.workload.to_string().as_str(), c.mode, c.workers), ("shop/b", Mode::Sidecar, 2));
    assert_eq!(c.inbound, BTreeMap::from([(8080, "127.1.0.11:18080".parse().unwrap())]));
    assert_eq!((c.app_probe, c.drain_timeout), (AppProbe::Tcp, Duration::from_secs(10)));
    assert!(c.bind.is_empty() && c.listen.is_empty() && c.own == OwnListeners::default());
}

/// Mutation seen to fail: `problems.finish` of `Config::new` called before `listen_flags`.
#[test]
fn all_wrong_flags_are_reported_at_once() {
    let problems = config(&[
        "--capture",
        "tproxy",
        "--bind",
        "no such host",
        "--inbound",
        "x=1",
        "--inbound",
        "0=127.0.0.1:1",
        "--outbound",
        "127.0.0.1:9000=b",
        "--app-probe",
        "https://x/",
        "--inbound-listen",
        "off",
        "--drain-timeout",
        "10",
        "--workers",
        "0",
    ])
    .unwrap_err();
    assert_eq!(problems.exit_code(), 64);
    let text = problems.to_string();
    let flags: Vec<&str> = text.lines().map(|l| l.split(':').next().unwrap()).collect();
    let expected = [
        "--capture",
        "--bind",
        "--inbound",
        "--inbound",
        "--outbound",
        "--app-probe",
        "--workers",
        "--drain-timeout",
        "--inbound-listen",
    ];
    assert_eq!(flags, expected, "{text}");
    assert!(text.contains("not in this version"));
    let long = format!("unix:{}", "x".repeat(108));
    let args = ["proxy", "--agent", &long, "--workload", "shop"];
    let text = Config::new(&Cli::try_parse_from(args).unwrap().proxy, 2).unwrap_err().to_string();
    assert!(text.contains("--run-dir") && text.contains("--workload:0:0: error[MF0101]"), "{text}");
    let tcp = ["proxy", "--agent", "127.0.0.1:15012", "--workload", "shop/b"];
    assert!(Config::new(&Cli::try_parse_from(tcp).unwrap().proxy, 2).unwrap_err().to_string().contains("--token-file"));
}

/// Mutation seen to fail: `"mode"` left out of the metadata.
#[test]
fn the_node_tells_what_the_proxy_was_started_with() {
    let c = config(&[
        "--bind",
        "127.2.0.10",
        "--inbound",
        "8080=127.2.0.10:18080",
        "--outbound",
        "127.0.0.1:9000=B.shop.svc.clusterset.local:8080",
        "--outbound-listen",
        "127.2.0.10:15001",
        "--mode",
        "sidecar",
    ])
    .unwrap();
    let node = node(&c, &[]);
    assert_eq!(node.id, "sidecar~127.2.0.10~b.shop~shop.svc.cluster.local");
    let text = format!("{:?}", node.metadata.unwrap().fields["meshfed"]);
    for part in [
        "shop/b",
        "\"sidecar\"",
        "127.2.0.10:18080",
        "\"8080\"",
        "127.0.0.1:9000",
        "b.shop.svc.clusterset.local:8080",
        "127.2.0.10:15001",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let off = config(&["--outbound-listen", "off", "--app-probe", "http://localhost:8080/healthz?x=1"]).unwrap();
    assert_eq!(off.listen, BTreeMap::from([("outbound", vec![])]));
    let AppProbe::Http { authority, path, .. } = off.app_probe else { panic!() };
    assert_eq!((authority.as_str(), path.as_str()), ("localhost:8080", "/healthz?x=1"));
}

/// Mutations seen to fail: the namespace of the host is not read; a Unix socket takes `--token-file`.
#[test]
fn an_agent_over_tcp_needs_token_and_trust() {
    let tcp = |agent: &str, flags: &[&str]| {
        let base = ["proxy", "--agent", agent, "--workload", "shop/b"];
        let args = Cli::try_parse_from(base.iter().chain(flags)).unwrap().proxy;
        Config::new(&args, 2).map(|c| c.agent).map_err(|p| p.to_string())
    };
    let files = ["--token-file", "t", "--trust-file", "a"];
    let namespace = |agent: &str, flags: &[&str]| match tcp(agent, &[&files, flags].concat()) {
        Ok(AgentAddress::Tcp(tcp)) => tcp.namespace.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(namespace("meshfed-agent.mesh.svc:15012", &[]), "mesh");
    assert_eq!(namespace("meshfed-agent.mesh.svc.cluster.local:15012", &[]), "mesh");
    assert_eq!(namespace("10.0.0.1:15012", &[]), "meshfed-system");
    assert_eq!(namespace("meshfed-agent.mesh.svc:15012", &["--agent-namespace", "other"]), "other");
    let missing = tcp("a.b.svc:15012", &[]).unwrap_err();
    assert!(missing.contains("--token-file:") && missing.contains("--trust-file:"), "{missing}");
    assert!(tcp("unix:x/xds.sock", &files).unwrap_err().contains("the kernel says who we are"));
    for wrong in ["nowhere", "a b:1", ":1", "a:0"] {
        assert!(tcp(wrong, &files).unwrap_err().contains("neither unix:PATH nor HOST:PORT"), "{wrong}");
    }
}
