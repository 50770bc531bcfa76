//! Shapes of contracts part 3.

use super::*;

/// Absent is null, never missing. Mutation seen to fail: `skip_serializing_if` on `Page::next`.
#[test]
fn absent_is_null() {
    let page: Page<u8> = Page { revision: "812".into(), items: vec![], next: None };
    assert_eq!(serde_json::to_string(&page).unwrap(), r#"{"revision":"812","items":[],"continue":null}"#);
    let ack = BundleAck { cluster: "west".into(), serial: 4, proxies: ProxyAcks { acked: 2, total: 2 } };
    assert_eq!(
        serde_json::to_string(&ack).unwrap(),
        r#"{"cluster":"west","serial":4,"proxies":{"acked":2,"total":2}}"#
    );
}

/// Mutation seen to fail: two kinds with one code.
#[test]
fn codes_and_slugs_are_unique() {
    let codes: std::collections::BTreeSet<_> = ProblemKind::ALL.iter().map(|k| k.code()).collect();
    assert_eq!(codes.len(), ProblemKind::ALL.len());
    let p = ProblemKind::UnknownCluster.problem("no cluster 'esat'", "/api/v1/clusters/esat");
    assert_eq!(
        (p.kind.as_str(), p.title.as_str(), p.status, p.code.as_str()),
        ("https://meshfed.io/problems/unknown-cluster", "Unknown cluster", 404, "MF1404")
    );
}

/// Mutation seen to fail: `deny_unknown_fields` left out.
#[test]
fn requests_refuse_unknown_fields() {
    let ok = r#"{"cluster":"east","networks":[{"name":"net-east","cidrs":["127.1.0.0/16"]}],"regions":["eu"],"zones":["eu-1"],"gatewayCidrs":[],"ttl":"15m"}"#;
    assert!(serde_json::from_str::<TokenRequest>(ok).is_ok());
    assert!(serde_json::from_str::<TokenRequest>(&ok.replace("\"ttl\"", "\"tll\"")).is_err());
}
