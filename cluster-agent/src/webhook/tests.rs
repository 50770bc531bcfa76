use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::certificate::{make, merged};
use super::review::{Answer, Question};

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

/// Several agents share a `caBundle`: each finds its own CA in it, whatever the order, expired ones and strangers go, and
/// it does not grow with rotations.
///
/// Mutation seen to fail: `merged` keeps what has expired. Not tried yet: it keeps all; it begins with nothing.
#[test]
fn a_bundle_holds_the_cas_of_all_agents_and_does_not_grow() {
    let ttl = Duration::from_secs(100);
    let ca = |now| make(&["a.b.svc".to_owned()], &[], now, ttl).unwrap().ca;
    let (one, two) = (ca(at(0)), ca(at(10)));
    let both = merged(&merged("", &one, at(0)), &two, at(10));
    assert_eq!(both, merged(&merged("junk", &two, at(10)), &one, at(10)));
    assert_eq!(merged(&both, &one, at(10)), both, "nothing to patch");
    let held = |bundle: &str| meshfed_ca::pem::certificates(bundle).unwrap_or_default();
    assert_eq!(held(&both).len(), 2);
    let later = ca(at(105));
    let after = merged(&both, &later, at(105));
    assert_eq!(held(&after).len(), 2, "the first has expired");
    let mut bundle = String::new();
    for n in 0..20 {
        bundle = merged(&bundle, &ca(at(n)), at(n));
    }
    assert_eq!(held(&bundle).len(), 8);
}

/// Mutation seen to fail: `sub_resource` not looked at.
#[test]
fn only_new_pods_are_asked_about() {
    let question = |kind: &str, operation: &str, sub: &str| {
        let body = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u", "kind": { "group": "", "version": "v1", "kind": kind }, "operation": operation,
                "subResource": sub, "namespace": "shop", "object": {},
            },
        });
        Question::read(&serde_json::to_vec(&body).unwrap()).unwrap().is_new_pod()
    };
    assert!(question("Pod", "CREATE", ""));
    assert!(!question("Pod", "CREATE", "ephemeralcontainers"));
    assert!(!question("Pod", "UPDATE", ""));
    assert!(!question("Service", "CREATE", ""));
    assert!(Question::read(br#"{"apiVersion":"admission.k8s.io/v1beta1","request":{"uid":"u","kind":{"group":"","kind":"Pod"},"operation":"CREATE"}}"#).is_err());
    assert!(Question::read(b"{").is_err());
    let answer = Answer::Deny(422, "why".to_owned()).write("u");
    assert_eq!(answer["response"]["allowed"], json!(false));
    assert_eq!(answer["response"]["status"]["message"], json!("meshfed: why"));
    assert_eq!(Answer::Patch("[]".to_owned()).write("u")["response"]["patch"], json!("W10="));
}
