//! What kstatus and Argo CD make of what our statuses say.

use meshfed_crds::custom::{Conditions, Force, PolicyStatus, Verdict, policy_status};
use meshfed_crds::{Code, ObjectError};
use meshfed_e2e::kube::{Health, health};
use meshfed_e2e::wait::until;
use serde_json::{Value, json};

use super::world::{SOON, World};

fn object(kind: &str, generation: i64, status: Option<Value>) -> Value {
    let mut object = json!({
        "apiVersion": "federation.meshfed.io/v1alpha1", "kind": kind,
        "metadata": {"name": "x", "namespace": "shop", "generation": generation}, "spec": {},
    });
    if let Some(status) = status {
        object["status"] = status;
    }
    object
}

/// Both say the same of an object, and it is this.
fn judged(all: &[(&str, Value, &str)]) {
    let objects: Vec<Value> = all.iter().map(|(_, object, _)| object.clone()).collect();
    for ((what, object, wanted), Health { kstatus, health, message }) in all.iter().zip(health(&objects)) {
        let of_argo = match *wanted {
            "Current" => "Healthy",
            "Failed" => "Degraded",
            _ => "Progressing",
        };
        assert_eq!((kstatus.as_str(), health.as_str()), (*wanted, of_argo), "{what}: {message}: {object}");
        assert!(!message.is_empty(), "{what} says nothing");
    }
}

/// Every state that a policy's verdict gives is what it should be for GitOps tools: current once it is in force, failed where
/// somebody has to act, in progress otherwise; and a status of an earlier generation is no answer.
///
/// Mutations seen to fail: `Stalled` left out of `refused`; `observedGeneration` not asked in health.lua.
#[test]
fn kstatus_and_argo_cd_agree_about_every_verdict() {
    let generation = 2;
    let status = |verdict: &Verdict| {
        let now = jiff::Timestamp::UNIX_EPOCH;
        json!(policy_status(&PolicyStatus::default(), generation, verdict, now))
    };
    let good = Verdict { faults: Vec::new(), force: Force::InForce, dangling: Some(Vec::new()), not_served: None };
    let fault = |code| vec![ObjectError::new(code, "x")];
    let of = |verdict: Verdict| object("ExportPolicy", generation, Some(status(&verdict)));
    let mut all = vec![
        ("in force", of(good.clone()), "Current"),
        ("with a remark", of(Verdict { faults: fault(Code::UnusedField), ..good.clone() }), "Current"),
        ("a name that nobody has", of(Verdict { dangling: Some(fault(Code::UnknownName)), ..good.clone() }), "Current"),
        ("just seen", of(Verdict::unknown()), "InProgress"),
        ("not in force yet", of(Verdict { force: Force::Pending, ..good.clone() }), "InProgress"),
        ("not served", of(Verdict { not_served: Some("later".to_owned()), ..good.clone() }), "Failed"),
        ("an earlier generation", object("ExportPolicy", generation + 1, Some(status(&good))), "InProgress"),
    ];
    for code in [Code::InvalidValue, Code::NamespaceNotAllowed, Code::Conflict] {
        for force in [Force::Earlier, Force::Nothing] {
            all.push(("refused", of(Verdict { faults: fault(code), force, ..good.clone() }), "Failed"));
        }
    }
    // Membership and Cluster say Ready, with one of the two beside it where it is not.
    for kind in ["Membership", "Cluster"] {
        let of = |more: Option<&str>| {
            let mut conditions = Conditions::new(&[], generation, jiff::Timestamp::UNIX_EPOCH);
            match more {
                None => conditions.yes("Ready", "Ready", "it is"),
                Some(more) => conditions.no("Ready", "Why", "it is not").yes(more, "Why", "it is not"),
            };
            object(kind, generation, Some(json!({"observedGeneration": generation, "conditions": conditions.finish()})))
        };
        all.push(("ready", of(None), "Current"));
        all.push(("on its way", of(Some("Reconciling")), "InProgress"));
        all.push(("stuck", of(Some("Stalled")), "Failed"));
    }
    judged(&all);
}

/// The same of objects as hub and agent leave them on an API server.
///
/// Mutation seen to fail: `leave_out` left out of a Cluster's refusal.
#[test]
fn kstatus_and_argo_cd_agree_about_live_objects() {
    let mut world = World::start();
    let cluster = |name: &str, cidr: &str| {
        format!(
            "---\n{{apiVersion: federation.meshfed.io/v1alpha1, kind: Cluster, metadata: {{name: {name}}}, \
             spec: {{networks: [{{name: net-{name}, cidrs: [{cidr}]}}], regions: [eu]}}}}\n"
        )
    };
    world.api.apply(&[cluster("soon", "10.8.0.0/16"), cluster("wrong", "10.9.8.7/8")].concat());
    world.join("east");
    let get = |name: &str| world.get(&["clusters.federation.meshfed.io", name]);
    let settled = |name: &str, reason: &str| {
        until(&format!("Cluster {name} says {reason}"), SOON, || {
            let output = world.api.kubectl(&["get", "clusters.federation.meshfed.io", name, "-o", "json"]);
            if output.stdout.contains(&format!("\"reason\": \"{reason}\"")) {
                Ok(get(name))
            } else {
                Err(output.stdout)
            }
        })
    };
    let (soon, wrong) = (settled("soon", "NotJoined"), settled("wrong", "Invalid"));
    let east = until("east is ready", SOON, || {
        let output = world.api.kubectl(&["get", "clusters.federation.meshfed.io", "east", "-o", "json"]);
        let found: Value = serde_json::from_str(&output.stdout).map_err(|e| e.to_string())?;
        let ready = super::world::conditions(&found).contains(&"Ready=True/Ready".to_owned());
        if ready { Ok(found) } else { Err(output.stdout) }
    });
    judged(&[
        ("not joined yet", soon, "InProgress"),
        ("no token can be made of it", wrong, "Failed"),
        ("a member", east, "Current"),
    ]);
}
