//! 1.14: tables, and what this version does not have.

use meshfed_e2e::wait::until;

use super::world::World;
use super::{SOON, bare};

/// What the contracts name and this version lacks says so, with exit 64 and nothing on stdout, whatever follows it.
///
/// Mutation seen to fail: `Failure::later` is a `FAILED`.
#[test]
fn what_is_missing_says_so() {
    for line in [
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
        "trust rotate t",
        "explain a b",
        "events",
        "proxy-config clusters --admin 127.0.0.1:1",
        "bootstrap grpc --agent unix:x --workload a/b --out d",
        "bootstrap envoy --agent unix:x --workload a/b --inbound 8080=127.0.0.1:80",
        "token create --workload shop/a",
        "demo --mode netns",
        "explain --help",
        "agent --data-dir e --source httpsd:http://x",
        "federator --data-dir d --fleet m.e --store etcd:http://x",
        "proxy --agent unix:x --workload a/b --capture tproxy",
    ] {
        let output = bare(&line.split(' ').collect::<Vec<_>>());
        assert_eq!((output.code, output.stdout.as_str()), (64, ""), "{line}: {output:?}");
        assert!(output.stderr.contains("in this version"), "{line}: {output:?}");
    }
    for (line, named) in
        [("cluster drain east", "'meshfed cluster drain'"), ("trust rotate t", "'meshfed trust rotate'")]
    {
        assert!(bare(&line.split(' ').collect::<Vec<_>>()).stderr.contains(named), "{line}");
    }
}

/// 1.14: headers of the tables, `-o json` on one line, and what `endpoints` says of a client.
///
/// Mutations seen to fail: the column `TOTAL` of `services` renamed; a newline after the body of `-o json`.
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
    let north = ["--network", "net-north=10.9.0.0/16", "--region", "eu"];
    let token = world.fleet.token(None, "north", &north);
    let (grpc, token) = (world.fleet.grpc(), token.display().to_string());
    let plan = world.fleet.cli(None, &["join", &grpc, "--token-file", &token, "--data-dir", "north", "--plan"]);
    let plan = plan.ok("plan");
    assert!(plan.lines().any(|l| l.split_whitespace().eq(["RESULT", "CHECK", "MESSAGE"])), "{plan}");
    until("the same bytes as the API's", SOON, || {
        let (ours, api) = (world.fleet.cli(None, &["services", "-o", "json"]), world.fleet.curl_api("services"));
        if ours.ok("services") == api.stdout { Ok(()) } else { Err(api.stdout) }
    });
    assert!(world.fleet.cli(None, &["services"]).ok("services").contains("<none>"));
    let yaml = world.fleet.cli(None, &["services", "-o", "yaml"]).ok("yaml");
    assert!(yaml.contains("conflict: null\n") && yaml.contains("continue: null\n"), "{yaml}");
    let unknown = world.fleet.cli(None, &["clusters", "esat"]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (1, ""));
    assert!(unknown.stderr.contains("esat") && unknown.stderr.contains("east, west"), "{unknown:?}");
}
