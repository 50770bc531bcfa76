//! How a cluster leaves by its Membership: whatever ends in the middle, and with nothing left of the fleet that it was in.

use std::process::Command;

use base64::Engine as _;
use meshfed_e2e::binary::meshfed;
use meshfed_e2e::fleet::{Cluster, ClusterSpec, Range};
use meshfed_e2e::http;
use meshfed_e2e::objects;
use meshfed_e2e::process::{Process, run};
use meshfed_e2e::wait::until;
use serde_json::Value;

use crate::pods::{bound_token, pod};
use crate::world::{NETWORK, RELEASE, SOON, World};

/// A cluster whose Membership was deleted leaves, also where the hub is away and its agent is lost with its volume before the
/// hub has answered: the next agent goes on with it.
///
/// Mutation seen to fail: `LEAVING` left out of `path_of`.
#[test]
fn an_agent_that_is_lost_while_it_leaves_goes_on_leaving() {
    let mut world = World::start(&[]);
    world.start_member();
    world.fleet.federator().kill();
    let mut leave = Command::new(meshfed());
    leave.args(["leave", "--kube", "--timeout", "1s", "--kubeconfig"]).arg(world.api.kubeconfig());
    let not_yet = run(&mut leave);
    assert_eq!(not_yet.code, 1, "the hub does not answer: {not_yet:?}");
    assert!(not_yet.stderr.contains("goes on by itself") && not_yet.stderr.contains("logs"), "{not_yet:?}");
    until("it is kept that the cluster leaves", SOON, || match world.identity()["data"].get("leaving") {
        Some(_) => Ok(()),
        None => Err("not yet"),
    });
    world.lose_pod();
    world.start_pod();
    world.fleet.start_federator(None, &[]);
    world.until_left();
}

/// A Membership that is deleted while no agent runs is a leave all the same, once one does. That none can be listed is none:
/// not while the kind is missing, and not in another cluster, or one that was made anew, whose Secret was brought back from
/// a backup before its Membership was.
///
/// Mutations seen to fail: `kind_was_missing` never set; `remember` that does nothing.
#[test]
fn a_membership_that_goes_while_no_agent_runs_is_a_leave() {
    let mut world = World::start(&[]);
    world.start_member();
    let remembered = |world: &World| world.identity()["data"]["membership"].as_str().map(str::to_owned);
    until("the Membership is remembered", SOON, || remembered(&world).ok_or("not yet"));
    let stays = |world: &World| {
        let said = "this cluster stays a member";
        until(said, SOON, || match world.agent.as_ref().unwrap().log() {
            log if log.contains(said) => Ok(()),
            log => Err(log),
        });
    };
    let crds = || run(Command::new(meshfed()).arg("crds")).ok("meshfed crds");

    // From a backup: first the Secret, which is another one now, then the agent, then the Membership.
    world.lose_pod();
    let membership = world.api.ok(&["-n", RELEASE, "get", "membership", "meshfed", "-o", "json"]);
    let strip = |text: &str| {
        let mut object: Value = serde_json::from_str(text).unwrap();
        for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"] {
            object["metadata"].as_object_mut().unwrap().remove(field);
        }
        object.to_string()
    };
    let secret = world.identity().to_string();
    let _deleted = world.api.ok(&["-n", RELEASE, "delete", "secret/meshfed-identity", "membership/meshfed"]);
    world.api.apply(&strip(&secret));
    world.start_pod();
    stays(&world);
    let comes = |world: &World| {
        world.api.apply(&strip(&membership));
        world.until_condition("Ready", "True Ready");
        let path = "jsonpath={.metadata.uid}";
        let uid = world.api.ok(&["-n", RELEASE, "get", "membership", "meshfed", "-o", path]);
        until("the Membership that came is remembered", SOON, || {
            let found = remembered(world).map(|text| base64::engine::general_purpose::STANDARD.decode(text).unwrap());
            if found.is_some_and(|found| found.starts_with(uid.as_bytes())) { Ok(()) } else { Err(uid.clone()) }
        });
        assert_eq!(world.member_state(), "active");
    };
    comes(&world);

    world.lose_pod();
    let _gone = world.api.ok(&["delete", "crd", "memberships.federation.meshfed.io"]);
    world.start_pod();
    let watched = "Memberships cannot be watched";
    until(watched, SOON, || match world.agent.as_ref().unwrap().log() {
        log if log.contains(watched) => Ok(()),
        log => Err(log),
    });
    world.api.apply(&crds());
    stays(&world);
    comes(&world);

    world.lose_pod();
    let _deleted = world.api.ok(&["-n", RELEASE, "delete", "membership", "meshfed"]);
    world.start_pod();
    world.until_left();
}

/// What a cluster showed of its fleet goes when it leaves, and its exports say that nobody has them, also where its agent is
/// told to end in the middle, as `helm uninstall` does.
///
/// Mutations seen to fail: `withdraw` left out of `phases`; `within` that ends with `stop`.
#[test]
fn a_cluster_that_left_shows_nothing_of_its_fleet() {
    let mut world = World::start(&[]);
    let _made = world.api.ok(&["create", "namespace", "shop"]);
    world.api.apply(&objects::exported("shop", "c"));
    let west = Range::take();
    let _west = Cluster::start(
        &world.fleet,
        None,
        None,
        &ClusterSpec {
            name: "west",
            networks: &[format!("net-west={}", west.cidr())],
            region: "us",
            bind: west.host(1),
            objects: objects::exported("shop", "b"),
        },
    );
    world.start_member();
    let ready = "jsonpath={.status.conditions[?(@.type=='Ready')]['status','reason']}";
    let of = |kind: &str, name: &str| world.api.kubectl(&["-n", "shop", "get", kind, name, "-o", ready]).stdout;
    for (kind, name) in [("serviceimport", "b"), ("serviceexport", "c")] {
        until("the fleet is shown", SOON, || match of(kind, name) {
            found if found.starts_with("True") => Ok(()),
            found => Err(format!("{kind} {name}: {found:?}")),
        });
    }
    let ours = "-l=app.kubernetes.io/managed-by=meshfed";
    let shown = |world: &World| {
        world.api.ok(&["-n", "shop", "get", "serviceimports,services,endpointslices", ours, "-o", "name"])
    };
    assert!(shown(&world).contains("service/meshfed-"), "{}", shown(&world));

    let _deleted = world.api.ok(&["-n", RELEASE, "delete", "membership", "meshfed"]);
    until("it is kept that the cluster leaves", SOON, || match world.identity()["data"].get("leaving") {
        Some(_) => Ok(()),
        None => Err("not yet"),
    });
    assert_eq!(world.agent.take().unwrap().stop(), 0);
    assert_eq!(world.member_state(), "left");
    assert_eq!(shown(&world), "");
    assert_eq!(of("serviceexport", "c"), "False Failed");
    let data = world.kept();
    assert!(data.iter().all(|key| key.starts_with("ca.")), "{data:?}");
}

/// A hub that was made anew is not the one that the cluster joined: its Membership says so. To leave such a fleet needs nobody's
/// answer once another Membership asks to join.
///
/// Mutations seen to fail: `untrusted` never set in `dial`; `overtaken` that never comes back.
#[test]
fn another_membership_does_not_wait_for_a_hub_that_is_gone() {
    let mut world = World::start(&[]);
    world.start_member();
    world.fleet.federator().kill();
    world.until_condition("Connected", "False HubUnreachable");
    let message = ["get", "membership", "meshfed", "-n", RELEASE, "-o"];
    let message = [&message[..], &["jsonpath={.status.conditions[?(@.type==\"Connected\")].message}"]].concat();
    // The session that broke says why first; who is dialled after that is named.
    until("the message says who does not answer", SOON, || match world.api.ok(&message) {
        why if why.contains(world.fleet.grpc().trim_start_matches("https://")) => Ok(()),
        why => Err(why),
    });
    std::fs::remove_dir_all(world.fleet.path("federator")).unwrap();
    world.fleet.start_federator(None, &[]);
    world.until_condition("Connected", "False HubNotTrusted");
    world.until_condition("Ready", "False HubNotTrusted");

    let _deleted = world.api.ok(&["-n", RELEASE, "delete", "membership", "meshfed"]);
    let token = world.fleet.token(None, "east", &NETWORK);
    let joined = world.join(&token, "60s");
    assert_eq!(joined.code, 0, "{joined:?}");
    world.until_condition("Ready", "True Ready");
    assert_eq!(world.member_state(), "active");
}

/// Pods of a cluster that has left go on inside it: its agent keeps the CA, and their proxies renew their certificates by it.
///
/// Mutations seen to fail: `left::serve` not spawned; `says_left` is false.
#[test]
fn pods_of_a_cluster_that_left_renew_their_certificates() {
    let mut world = World::start(&[]);
    world.flags = &["--svid-ttl", "10s"];
    world.api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}");
    world.api.apply(&pod("a-1", "a"));
    world.start_member();
    // What the kubelet has brought into the pod.
    let (anchors, token) = (world.fleet.path("anchors.pem"), world.fleet.path("a.token"));
    std::fs::copy(world.data_dir().join("member/ca/anchor.pem"), &anchors).unwrap();
    std::fs::write(&token, bound_token(&world.api, "a", "a-1", "meshfed")).unwrap();
    let start = |name: &'static str, host: u8, more: &[&str]| {
        let mut start = Command::new(meshfed());
        start.args(["proxy", "--agent", &format!("{}:15012", world.range.host(1)), "--workload", "shop/a/a-1"]);
        start.args(["--bind", &world.range.host(host).to_string(), "--agent-namespace", RELEASE]).args(more);
        start.arg("--token-file").arg(&token).arg("--trust-file").arg(&anchors);
        start.arg("--run-dir").arg(world.fleet.path(name));
        Process::start(name, &world.fleet.path("logs"), &mut start)
    };
    let mut proxy = start("a", 10, &["--app-probe", "off"]);
    let had = |proxy: &Process| proxy.log().matches("this pod has its identity").count();
    let has = |proxy: &Process, at_least: usize| {
        until("it has its certificate", SOON, || match had(proxy) {
            times if times >= at_least => Ok(()),
            times => Err(format!("{times} times: {}", proxy.tail())),
        });
    };
    has(&proxy, 1);
    let _deleted = world.api.ok(&["-n", RELEASE, "delete", "membership", "meshfed"]);
    world.until_left();
    let before = had(&proxy);
    has(&proxy, before + 3);
    proxy.assert_alive();
    // A gateway that comes now has the anchors of before and nothing to serve: an installation does not wait for it.
    let gateway = start("gateway", 11, &["--mode", "gateway"]);
    let port = std::net::SocketAddr::from((world.range.host(11), 15021));
    until("the gateway is ready", SOON, || match http::get(port, "/healthz/ready") {
        Ok(answer) if answer.status == 200 && answer.body.contains("has left its fleet") => Ok(()),
        other => Err(format!("{other:?} {}", gateway.tail())),
    });
    drop(gateway);
    // And it is a member again, whose pods know its CA.
    world.start_again();
    let before = had(&proxy);
    has(&proxy, before + 2);
}
