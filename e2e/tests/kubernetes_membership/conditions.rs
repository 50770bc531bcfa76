//! What a Membership says of a member that is not well: a word, what to do, and that it is well again once it is done.

use std::net::SocketAddr;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshfed_e2e::binary::meshfed;
use meshfed_e2e::fleet::{Cluster, ClusterSpec, Range};
use meshfed_e2e::http;
use meshfed_e2e::objects;
use meshfed_e2e::process::run;
use meshfed_e2e::wait::until;

use crate::world::{MCS, RELEASE, SOON, World, mcs};

/// What the log says from there on.
fn tried_often_and_told_once(world: &World, from: usize) {
    let admin = SocketAddr::from((world.range.host(1), 15014));
    until("it is tried again and again", SOON, || {
        match http::metric(admin, "meshfed_mirror_watch_errors_total", &[]) {
            Ok(errors) if errors >= 12.0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let log = world.agent.as_ref().unwrap().log();
    let log = log.get(from..).unwrap_or_default();
    let told: Vec<&str> =
        log.lines().filter_map(|line| line.split("a watch of the API server failed").nth(1)).collect();
    let distinct: std::collections::BTreeSet<&&str> = told.iter().collect();
    assert!(!told.is_empty() && told.len() == distinct.len(), "{told:#?}");
}

/// A kind that the API server does not serve, as where another product has brought an older version of it, is named by the
/// Membership with what to do, and by a warning event; the log says it once and not with every try.
///
/// Mutations seen to fail: `lacks` of the mirror that says nothing; `unseen` emptied by every beginning of a list;
/// `unserved` not set by the source; `newly_stalled` always none.
#[test]
fn kinds_that_are_not_served_are_named() {
    let mut world = World::start(&[]);
    world.start_member();
    let exports = "crd/serviceexports.multicluster.x-k8s.io";
    let versions = world.api.ok(&["get", exports, "-o", "jsonpath={.spec.versions[*].name}"]);
    let at = versions.split(' ').position(|version| version == "v1beta1").unwrap();
    let patch = format!("[{{\"op\": \"replace\", \"path\": \"/spec/versions/{at}/served\", \"value\": false}}]");
    let _unserved = world.api.ok(&["patch", exports, "--type=json", "-p", &patch]);
    let _deleted = world.api.ok(&["delete", "crd", "serviceimports.multicluster.x-k8s.io"]);
    world.until_condition("Ready", "False KindsMissing");
    let both = "ServiceExport (multicluster.x-k8s.io/v1beta1), ServiceImport (multicluster.x-k8s.io/v1beta1)";
    let message = until("both are named", SOON, || match world.message("Ready") {
        message if message.contains(both) => Ok(message),
        other => Err(other),
    });
    assert!(message.contains("helm upgrade --install meshfed-crds helm/meshfed-crds --set mcs=true"), "{message}");
    world.until_condition("Stalled", "True KindsMissing");
    let warned = world.until_warned("KindsMissing");
    assert!(warned.contains("does not serve"), "{warned}");

    tried_often_and_told_once(&world, 0);
    // So it is by an agent that starts without them: each of its tries begins a list.
    world.lose_pod();
    let so_far = std::fs::read_to_string(world.fleet.path("logs").join("agent.log")).unwrap().len();
    world.start_pod();
    tried_often_and_told_once(&world, so_far);

    // What was patched here is nobody's to apply.
    let _deleted = world.api.ok(&["delete", exports]);
    for kind in MCS {
        world.api.apply(&mcs(kind));
    }
    world.until_condition("Ready", "True Ready");
    assert_eq!(world.condition("Stalled"), "");
}

/// Another cluster comes back with another CA: the Membership of each that imports from it says so, with a command line
/// that works where its agent runs in a pod, and is ready again once people have approved.
///
/// Mutations seen to fail: `tell_awaiting` that says nothing; `cli_of` that gives `meshfed`.
#[test]
fn a_changed_anchor_of_another_cluster_is_told_with_its_approval() {
    let mut world = World::start(&[]);
    let _made = world.api.ok(&["create", "namespace", "shop"]);
    let range = Range::take();
    let network = format!("net-west={}", range.cidr());
    let spec = ClusterSpec {
        name: "west",
        networks: std::slice::from_ref(&network),
        region: "us",
        bind: range.host(1),
        objects: objects::exported("shop", "b"),
    };
    let mut west = Cluster::start(&world.fleet, None, None, &spec);
    world.start_member();
    until("the import is there", SOON, || {
        match world.api.kubectl(&["-n", "shop", "get", "serviceimport", "b", "-o", "name"]) {
            found if found.code == 0 => Ok(()),
            none => Err(none.stderr),
        }
    });
    let _ended = west.agent.stop();
    std::fs::rename(world.fleet.path("west"), world.fleet.path("west.first")).unwrap();
    let token = world.fleet.token(None, "west", &["--network", &network, "--region", "us", "--replace"]);
    let mut join = Command::new(meshfed());
    join.args(["join", &world.fleet.grpc(), "--replace", "--token-file"]).arg(&token);
    let _joined = run(join.arg("--data-dir").arg(world.fleet.path("west"))).ok("join --replace");
    world.until_condition("Ready", "False AnchorChanged");
    world.until_condition("Stalled", "True AnchorChanged");
    let message = world.message("Ready");
    let runs = format!("kubectl -n {RELEASE} exec deploy/meshfed-agent -- /meshfed ");
    let (why, line) = message.split_once(&runs).unwrap_or_else(|| panic!("{message}"));
    assert!(why.contains("west.mesh.example has a changed anchor"), "{message}");
    assert!(world.until_warned("AnchorChanged").contains(line));
    let words: Vec<&str> = line.split_whitespace().collect();
    let approved = run(Command::new(meshfed()).args(&words)).ok(line);
    assert!(approved.starts_with("approved west.mesh.example"), "{approved}");
    world.until_condition("Ready", "True Ready");
}

/// Without `meshfed-identity` a member is another cluster once its pod is lost: the running agent says so, and fills the one
/// that is made again. A CA key in it that is none is told by who runs and by who starts, and the right one is taken as
/// soon as it is there.
///
/// Mutations seen to fail: `version` always the same; `damage` not asked in `keep`; not asked in `restore`.
#[test]
fn an_identity_that_is_lost_or_damaged_is_told_at_once() {
    let mut world = World::start(&[]);
    world.start_member();
    let key = world.identity()["data"]["ca.key.pem"].clone();
    let secret = ["-n", RELEASE, "delete", "secret", "meshfed-identity"];
    let _deleted = world.api.ok(&secret);
    world.until_condition("Ready", "False IdentityUnavailable");
    let remedy = format!("kubectl -n {RELEASE} create secret generic meshfed-identity");
    let message = world.message("Ready");
    assert!(message.contains(&remedy), "{message}");
    let warned = world.until_warned("IdentityUnavailable");
    assert!(warned.contains("is not there"), "{warned}");
    let _made = world.api.ok(&["-n", RELEASE, "create", "secret", "generic", "meshfed-identity"]);
    world.until_condition("Ready", "True Ready");
    assert_eq!(world.identity()["data"]["ca.key.pem"], key, "the agent had it all the time");
    until("the Membership is remembered in the Secret that was made again", SOON, || {
        let secret = world.identity();
        let kept = STANDARD.decode(secret["data"]["membership"].as_str().unwrap_or_default()).unwrap();
        let (kept, uid) = (String::from_utf8(kept).unwrap(), secret["metadata"]["uid"].as_str().unwrap());
        if kept.ends_with(uid) { Ok(()) } else { Err(format!("{kept}, of {uid}")) }
    });

    let patch =
        |world: &World, patch: &str| world.api.ok(&["-n", RELEASE, "patch", "secret", "meshfed-identity", "-p", patch]);
    let garbage = r#"{"stringData": {"ca.key.pem": "garbage"}}"#;
    let _damaged = patch(&world, garbage);
    world.until_condition("Ready", "False IdentityDamaged");
    let message = world.message("Ready");
    let take_out = r#"[{"op":"remove","path":"/data/ca.key.pem"}]"#;
    assert!(message.contains("key ca.key.pem: it holds no private key") && message.contains(take_out), "{message}");
    let json = ["-n", RELEASE, "patch", "secret", "meshfed-identity", "--type=json", "-p", take_out];
    let _taken_out = world.api.ok(&json);
    world.until_condition("Ready", "True Ready");
    assert_eq!(world.identity()["data"]["ca.key.pem"], key);

    world.lose_pod();
    let _damaged = patch(&world, garbage);
    world.start_pod();
    world.until_condition("Joined", "False IdentityDamaged");
    world.until_condition("Stalled", "True IdentityDamaged");
    let _put_back = patch(&world, &format!(r#"{{"data": {{"ca.key.pem": {key}}}}}"#));
    world.until_condition("Ready", "True Ready");
    assert_eq!(world.member_state(), "active");
}
