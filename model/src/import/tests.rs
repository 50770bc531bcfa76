use super::*;
use crate::service::{InternalTrafficPolicy, IpFamily, SessionAffinity};

fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

/// `NAME:NUMBER/PROTOCOL`.
fn port(text: &str) -> ServicePort {
    let (name, rest) = text.split_once(':').unwrap();
    let (number, protocol) = rest.split_once('/').unwrap();
    ServicePort {
        name: name.to_owned(),
        port: number.parse().unwrap(),
        protocol: protocol.to_owned(),
        app_protocol: None,
    }
}

fn offer(ports: &[&str]) -> ServiceOffer {
    ServiceOffer { ports: ports.iter().map(|p| port(p)).collect(), ..ServiceOffer::default() }
}

fn merge(exports: &[(&str, ServiceOffer)]) -> Import {
    let names: Vec<ClusterName> = exports.iter().map(|(name, _)| cluster(name)).collect();
    let exports: Vec<(&ClusterName, &ServiceOffer)> = names.iter().zip(exports.iter().map(|(_, o)| o)).collect();
    Import::merge(&exports).unwrap()
}

fn shown(import: &Import) -> Vec<String> {
    let clusters = |p: &ImportPort| p.clusters.iter().map(ToString::to_string).collect::<Vec<_>>().join("+");
    let port = |p: &ImportPort| format!("{}:{}/{} {}", p.port.name, p.port.port, p.port.protocol, clusters(p));
    import.ports.iter().map(port).collect()
}

fn fields(import: &Import) -> Vec<(&'static str, usize)> {
    let fields = import.conflict.iter().flat_map(|c| &c.fields);
    fields.map(|(field, count)| (field.as_str(), *count)).collect()
}

/// Conformance 9: "A ClusterIP service exported on two clusters should expose the union of the constituent service
/// ports and raise a conflict".
///
/// Mutation seen to fail: `united.push` of `union` left out where there is an older export.
#[test]
fn a_service_exported_on_two_clusters_exposes_the_union_of_ports_and_raises_a_conflict() {
    let import = merge(&[("west", offer(&["a:42/TCP", "b:42/UDP"])), ("east", offer(&["a:42/TCP", "c:43/SCTP"]))]);
    assert_eq!(shown(&import), ["a:42/TCP east+west", "b:42/UDP west", "c:43/SCTP east"]);
    assert_eq!(fields(&import), [("ports", 1)]);
    let conflict = import.conflict.unwrap();
    assert_eq!(conflict.reasons(), "PortConflict");
    let message = "1 of 2 exporters says otherwise about ports; cluster 'west' exported it first and wins";
    assert_eq!(conflict.message(), message);
    assert_eq!(merge(&[("west", offer(&["a:42/TCP"])), ("east", offer(&["a:42/TCP"]))]).conflict, None);
}

/// Conformance 10, 24 and 25: a clashing port is the oldest's, and a port's traffic goes only to clusters that expose it.
///
/// Mutations seen to fail: `exposes` answering `true`; `named` of `union` left out; `!said.contains` answered `true`.
#[test]
fn clashing_ports_are_the_oldests_and_go_only_to_who_exposes_them() {
    for (oldest, other, want) in [
        // One name, two numbers: strict.
        (&["http:80/TCP"][..], &["http:81/TCP"][..], &["http:80/TCP a"][..]),
        // Two names, two numbers.
        (&["http:80/TCP"], &["web:81/TCP"], &["http:80/TCP a", "web:81/TCP b"]),
        // One number, two names: traffic goes by number.
        (&["http:80/TCP"], &["web:80/TCP"], &["http:80/TCP a+b"]),
        (&[":80/TCP"], &["web:80/TCP"], &[":80/TCP a+b"]),
        (&["web:80/TCP"], &[":80/TCP"], &["web:80/TCP a+b"]),
        // One number, two protocols: two ports.
        (&["dns:53/UDP"], &["dns-tcp:53/TCP"], &["dns-tcp:53/TCP b", "dns:53/UDP a"]),
        // The other one says what it means by the name.
        (&["admin:80/TCP"], &["http:80/TCP", "admin:90/TCP"], &["admin:80/TCP a"]),
    ] {
        let import = merge(&[("a", offer(oldest)), ("b", offer(other))]);
        assert_eq!(shown(&import), want, "{oldest:?} {other:?}");
        assert_eq!(fields(&import), [("ports", 1)], "{oldest:?} {other:?}");
    }
}

/// Conformance 4, 5, 6, 14, 26 and 27: what can be said once is the oldest's, and every contradiction is named.
///
/// Mutations seen to fail: `oldest.traits` replaced by those of the last; any arm of `differs` answering `false`;
/// `a.ip_families.iter().any` replaced by `a.ip_families != b.ip_families` compared.
#[test]
fn the_oldest_export_decides_and_each_contradiction_is_named() {
    let base = offer(&["a:42/TCP"]);
    let with = |change: &dyn Fn(&mut ServiceOffer)| {
        let mut changed = base.clone();
        change(&mut changed);
        changed
    };
    let client = |timeout_seconds| SessionAffinity::ClientIP { timeout_seconds };
    let label = |value: &str| BTreeMap::from([("tier".to_owned(), value.to_owned())]);
    let sticky = with(&|o| o.traits.session_affinity = client(10));
    let families = |all: &[IpFamily]| with(&|o| o.traits.ip_families = all.to_vec());
    let (v4, v6) = (IpFamily::IPv4, IpFamily::IPv6);
    for (oldest, other, want) in [
        (base.clone(), with(&|o| o.service_type = ServiceType::Headless), Some("TypeConflict")),
        (sticky.clone(), base.clone(), Some("SessionAffinityConflict")),
        (sticky, with(&|o| o.traits.session_affinity = client(11)), Some("SessionAffinityConfigConflict")),
        (
            base.clone(),
            with(&|o| o.traits.internal_traffic_policy = InternalTrafficPolicy::Local),
            Some("InternalTrafficPolicyConflict"),
        ),
        (
            base.clone(),
            with(&|o| o.traits.traffic_distribution = Some("PreferClose".to_owned())),
            Some("TrafficDistributionConflict"),
        ),
        (with(&|o| o.exported.labels = label("x")), with(&|o| o.exported.labels = label("y")), Some("LabelsConflict")),
        (with(&|o| o.exported.annotations = label("x")), base.clone(), Some("AnnotationsConflict")),
        (families(&[v4, v6]), families(&[v4]), Some("IPFamilyConflict")),
        (families(&[v4]), families(&[v6]), Some("IPFamilyConflict")),
        (families(&[v4]), families(&[v4, v6]), None),
        (families(&[v4, v6]), families(&[v6, v4]), None),
        (families(&[v4]), families(&[]), None),
    ] {
        let import = merge(&[("b", oldest.clone()), ("a", other)]);
        assert_eq!(import.conflict.as_ref().map(Conflict::reasons).as_deref(), want, "{oldest:?}");
        assert_eq!(import.conflict.map(|c| (c.winner, c.exports)), want.map(|_| (cluster("b"), 2)));
        assert_eq!((import.service_type, import.traits), (oldest.service_type, oldest.traits));
        assert_eq!((import.exported, import.clusters), (oldest.exported, vec![cluster("b"), cluster("a")]));
    }
    let all = with(&|o| {
        (o.service_type, o.exported.labels) = (ServiceType::Headless, label("x"));
    });
    let import = merge(&[("a", base.clone()), ("b", all.clone()), ("c", all)]);
    assert_eq!(fields(&import), [("type", 2), ("labels", 2)]);
    assert_eq!(import.conflict.unwrap().reasons(), "TypeConflict,LabelsConflict");
}

/// Mutation seen to fail: `unwrap_or(usize::MAX)` replaced by `unwrap_or(0)`.
#[test]
fn who_was_seen_first_comes_first_and_who_was_not_seen_yet_last() {
    let (a, b, c, d) = (cluster("a"), cluster("b"), cluster("c"), cluster("d"));
    let one = offer(&["x:1/TCP"]);
    let mut exports = [(&a, &one), (&b, &one), (&c, &one), (&d, &one)];
    sort_by_seniority(&mut exports, &[c.clone(), cluster("gone"), b.clone()]);
    assert_eq!(exports.map(|(cluster, _)| cluster), [&c, &b, &a, &d]);
}
