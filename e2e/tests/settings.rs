//! The fleet's settings, through the hub, to every member.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use meshfed_e2e::fleet::{Cluster, ClusterSpec, Fleet, Range};
use meshfed_e2e::http;
use meshfed_e2e::wait::until;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

/// What holds for captured workloads of a member, and which object says so.
fn holds(fleet: &Fleet, cluster: &str, wanted: &Value) {
    until(&format!("{cluster} holds by {wanted}"), SOON, || {
        let admin = fleet.admin(cluster).ok_or("no admin port yet")?;
        let page = http::get(admin, "/debug/source")?;
        let found: Value = serde_json::from_str(&page.body).map_err(|e| e.to_string())?;
        let found = &found["settings"]["outboundTrafficPolicy"];
        if found == wanted { Ok(()) } else { Err(found.to_string()) }
    });
}

fn mesh(name: &str, policy: &str) -> String {
    format!(
        "apiVersion: federation.meshfed.io/v1alpha1\nkind: Mesh\nmetadata: {{name: {name}}}\nspec: {{outboundTrafficPolicy: {policy}}}\n"
    )
}

/// `Mesh/default` of the fleet's source holds in every member, a member's own `Mesh/local` before it, and what was said last
/// holds while the hub is away, also over a restart of the agent.
///
/// Mutations seen to fail: `settings` left out of `Policies`; the own settings after the fleet's in `outbound_said`.
#[test]
fn the_fleets_settings_hold_where_a_member_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("fleet");
    std::fs::create_dir_all(&source).unwrap();
    let mut fleet = Fleet::start_at(None, "127.0.0.1", &["--source", &format!("dir:{}", source.display())]);
    let ranges = [Range::take(), Range::take()];
    let networks = ["net-east", "net-west"].into_iter().zip(&ranges);
    let networks: Vec<[String; 1]> = networks.map(|(name, range)| [format!("{name}={}", range.cidr())]).collect();
    let member = |fleet: &Fleet, n: usize, name: &str| {
        let (networks, bind) = (&networks[n][..], ranges[n].host(1));
        Cluster::start(fleet, None, None, &ClusterSpec { name, region: "eu", networks, bind, objects: String::new() })
    };
    let (east, west) = (member(&fleet, 0, "east"), member(&fleet, 1, "west"));
    let says = |value: &str, by: Value| json!({"value": value, "saidBy": by});
    holds(&fleet, "east", &says("ALLOW_ANY", Value::Null));
    west.write("mesh.yaml", &mesh("local", "ALLOW_ANY"));
    std::fs::write(source.join("mesh.yaml"), mesh("default", "REGISTRY_ONLY")).unwrap();
    holds(&fleet, "east", &says("REGISTRY_ONLY", "Mesh/default".into()));
    holds(&fleet, "west", &says("ALLOW_ANY", "Mesh/local".into()));
    // Without the hub, and after a restart, what it said last holds.
    fleet.federator().kill();
    drop(east);
    let _east = Cluster::restart(&fleet, None, "east", ranges[0].host(1));
    holds(&fleet, "east", &says("REGISTRY_ONLY", "Mesh/default".into()));
    west.write("mesh.yaml", "");
    holds(&fleet, "west", &says("REGISTRY_ONLY", "Mesh/default".into()));
}
