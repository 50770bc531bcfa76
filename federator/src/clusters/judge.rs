//! Pure. What a Cluster's status says, and what the hub makes of a member that has none.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use meshfed_api::http::{Network, TokenRequest};
use meshfed_crds::custom::{
    Cluster, ClusterNetwork, ClusterSpec, ClusterStatus, Condition, ConditionStatus, Conditions, say_the_same,
};
use meshfed_model::network::Cidr;

use super::owner::is_ours;
use crate::fleet::{Declaration, DeclaredBy, Member, MemberState};
use crate::members::token::check;

/// The reason of a Cluster by which no cluster can join.
const CONFLICT: &str = "NetworkConflict";

/// What is known of a name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    /// The member; none: nobody of that name has joined.
    pub member: Option<&'a Member>,
    /// Whether its agent has a session.
    pub connected: bool,
    /// What it waits for, in words; none: nothing.
    pub waits: Option<&'a str>,
    /// Which other cluster gives a network of it other ranges, in words; none: nobody does.
    pub clash: Option<&'a str>,
}

/// Why no cluster could join by a spec beside the others: one of its networks has the name, and not the ranges, of a network
/// of another member or Cluster. Networks of one name are dialled into directly; what differs in name may overlap.
pub(super) fn clash<'a>(
    name: &str,
    spec: &ClusterSpec,
    others: impl IntoIterator<Item = (&'a str, Vec<ClusterNetwork>)>,
) -> Option<String> {
    let mine: BTreeMap<&str, BTreeSet<String>> =
        spec.networks.iter().map(|network| (network.name.as_str(), ranges(&network.cidrs))).collect();
    let others = others.into_iter().filter(|(other, _)| *other != name);
    let mut found = others.flat_map(|(other, networks)| networks.into_iter().map(move |network| (other, network)));
    let (other, network) = found
        .find(|(_, network)| mine.get(network.name.as_str()).is_some_and(|here| *here != ranges(&network.cidrs)))?;
    let here = spec.networks.iter().find(|one| one.name == network.name)?;
    Some(format!(
        "network {} is {} here and {} in cluster {other}: give it another name, or the same ranges",
        network.name,
        shown(&here.cidrs),
        shown(&network.cidrs)
    ))
}

/// Ranges that a message names.
const SHOWN_MAX: usize = 8;

fn shown(cidrs: &[String]) -> String {
    if cidrs.is_empty() {
        return "without ranges".to_owned();
    }
    let more = cidrs.len().saturating_sub(SHOWN_MAX);
    let named = cidrs.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(",");
    if more > 0 { format!("{named} and {more} more") } else { named }
}

/// The spec of a Cluster that is made from a member's token.
pub(super) fn spec_of(member: &Member) -> ClusterSpec {
    let gateways: Vec<String> = member.member.gateway_cidrs.iter().map(ToString::to_string).collect();
    let networks = member.member.networks.iter().enumerate().map(|(i, network)| ClusterNetwork {
        name: network.name.to_string(),
        cidrs: network.cidrs.iter().map(ToString::to_string).collect(),
        // A token names them for all networks together; the first is the one that they open.
        gateway_cidrs: if i == 0 { gateways.clone() } else { Vec::new() },
    });
    ClusterSpec {
        networks: networks.collect(),
        regions: member.member.regions.iter().cloned().collect(),
        zones: member.zones.iter().cloned().collect(),
        labels: member.member.labels.clone(),
    }
}

/// What tokens take from an object, and what is known against it.
pub(super) fn declared_by(cluster: &Cluster) -> Declaration {
    let origin = if is_ours(cluster) { DeclaredBy::Hub } else { DeclaredBy::User };
    Declaration { origin, conflict: conflict_of(cluster), ..declaration_of(&cluster.spec) }
}

/// Why no cluster can join by it, where its status says so of this very spec.
fn conflict_of(cluster: &Cluster) -> Option<String> {
    let status = cluster.status.as_ref()?;
    let judged = Some(status.observed_generation) == cluster.metadata.generation;
    let against = |c: &&Condition| c.type_ == "Accepted" && c.status == ConditionStatus::False && c.reason == CONFLICT;
    status.conditions.iter().find(against).filter(|_| judged).map(|condition| condition.message.clone())
}

/// What tokens take from a spec.
fn declaration_of(spec: &ClusterSpec) -> Declaration {
    let networks = spec.networks.iter().map(|n| Network { name: n.name.clone(), cidrs: n.cidrs.clone() });
    Declaration {
        networks: networks.collect(),
        gateway_cidrs: spec.networks.iter().flat_map(|n| n.gateway_cidrs.iter().cloned()).collect(),
        regions: spec.regions.clone(),
        zones: spec.zones.clone(),
        labels: spec.labels.clone(),
        ..Declaration::default()
    }
}

/// Why no token can be made of a spec that the schema lets through, in words; none: one can. What it leaves out comes
/// with the token.
fn nonsense(name: &str, spec: &ClusterSpec) -> Option<String> {
    let declared = declaration_of(spec);
    let request = TokenRequest {
        cluster: name.to_owned(),
        networks: declared.networks,
        regions: declared.regions,
        zones: declared.zones,
        gateway_cidrs: declared.gateway_cidrs,
        ttl: None,
        replace: false,
        labels: declared.labels,
    };
    let errors = check(&request).err()?;
    let all = errors.iter().filter(|e| e.reason != "Required").map(|e| {
        let remedy = e.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        format!("spec.{}: {}{remedy}", e.field, e.message)
    });
    let all: Vec<String> = all.collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// By what they mean: one range may be written in several ways.
fn ranges(all: &[String]) -> BTreeSet<String> {
    all.iter().map(|text| text.parse::<Cidr>().map_or_else(|_| text.clone(), |range| range.to_string())).collect()
}

/// What a declaration has differently from what the member is bound to, in words; none: nothing. Networks and regions that
/// it does not name are left to the token.
fn difference(declared: &ClusterSpec, member: &Member) -> Option<String> {
    let bound = spec_of(member);
    let set = |all: &[String]| all.iter().cloned().collect::<BTreeSet<_>>();
    let networks = |spec: &ClusterSpec| {
        let all = spec.networks.iter().map(|n| (n.name.clone(), ranges(&n.cidrs)));
        all.collect::<BTreeSet<_>>()
    };
    let gateways = |spec: &ClusterSpec| {
        let all = spec.networks.iter().flat_map(|n| ranges(&n.gateway_cidrs));
        all.collect::<BTreeSet<_>>()
    };
    let named = |all: &[ClusterNetwork]| {
        all.iter().map(|n| format!("{} ({})", n.name, shown(&n.cidrs))).collect::<Vec<_>>().join(", ")
    };
    if !declared.networks.is_empty() && networks(declared) != networks(&bound) {
        return Some(format!(
            "networks are {} here, and {} in the token that it joined with",
            named(&declared.networks),
            named(&bound.networks)
        ));
    }
    let others = [
        ("gatewayCIDRs", declared.networks.is_empty() || gateways(declared) == gateways(&bound)),
        ("regions", declared.regions.is_empty() || set(&declared.regions) == set(&bound.regions)),
        ("zones", set(&declared.zones) == set(&bound.zones)),
    ];
    let (field, _) = others.into_iter().find(|(_, same)| !same)?;
    Some(format!("{field} are others here than in the token that it joined with"))
}

/// The status of a Cluster.
pub(super) fn status(cluster: &Cluster, name: &str, known: Known<'_>, now: Timestamp) -> ClusterStatus {
    let before = cluster.status.as_ref().map_or(&[][..], |s| &s.conditions);
    let generation = cluster.metadata.generation.unwrap_or_default();
    let mut conditions = Conditions::new(before, generation, now);
    conditions.yes("ResolvedRefs", "ResolvedRefs", "it refers to nothing else");
    let live = known.member.filter(|m| m.is_live());
    presence(&mut conditions, name, known);
    match refusal(cluster, name, live, known.clash) {
        Some((reason, message)) => {
            // Nothing mends it but a change: it is not on its way, whatever the member does.
            conditions.no("Accepted", reason, message.clone()).no("Ready", reason, message.clone());
            conditions.yes("Stalled", reason, message).leave_out("Reconciling");
        }
        None if live.is_none() => {
            let message = "tokens for the cluster take from it what they are not told";
            conditions.yes("Accepted", "Accepted", message);
        }
        None => {
            conditions.yes("Accepted", "Accepted", "it says what the member is bound to");
        }
    }
    ClusterStatus {
        trust_domain: live.map(|m| m.member.trust_domain.to_string()),
        observed_generation: generation,
        conditions: conditions.finish(),
    }
}

/// The labels that a member is to have by the Cluster that a user has applied; none: it has them, or the Cluster says what
/// cannot be.
pub(super) fn labels_to_give<'a>(
    cluster: &'a Cluster,
    name: &str,
    member: &Member,
) -> Option<&'a BTreeMap<String, String>> {
    let labels = Some(&cluster.spec.labels).filter(|labels| **labels != member.member.labels)?;
    (!is_ours(cluster) && refusal(cluster, name, Some(member), None).is_none()).then_some(labels)
}

/// Why what it says is not in force, and what to do: reason and message.
fn refusal(
    cluster: &Cluster,
    name: &str,
    live: Option<&Member>,
    clash: Option<&str>,
) -> Option<(&'static str, String)> {
    if let Some(faults) = nonsense(name, &cluster.spec) {
        return Some(("Invalid", format!("no token can be made of it: {faults}")));
    }
    // A member has joined: who differs from it is told so, not the member.
    if let Some(clash) = clash.filter(|_| live.is_none()) {
        return Some((CONFLICT, format!("no cluster can join by it: {clash}")));
    }
    let difference = difference(&cluster.spec, live?)?;
    let message = format!(
        "{difference}; a member keeps what its token gave it: make the two equal, or have the cluster join again with \
         meshfed token create --cluster {name} --replace (on Kubernetes: let it leave, meshfed leave --kube, and join again \
         with a new token)"
    );
    Some(("DiffersFromToken", message))
}

/// Whether it is a member, and there.
fn presence(conditions: &mut Conditions, name: &str, known: Known<'_>) {
    let absent = |reason: &str, message: String, conditions: &mut Conditions| {
        conditions.no("Programmed", reason, message.clone()).no("Ready", reason, message.clone()).yes(
            "Reconciling",
            reason,
            message,
        );
    };
    match known.member.map(|m| m.state) {
        None => {
            let message =
                format!("no cluster of this name has joined; a token for it: meshfed token create --cluster {name}");
            absent("NotJoined", message, conditions);
        }
        Some(MemberState::Left) => {
            let message = "the cluster has left by its own wish; it may join again with a new token".to_owned();
            absent("Left", message, conditions);
        }
        Some(MemberState::Evicted) => {
            let message = "the cluster was evicted; it may join again with a new token".to_owned();
            absent("Evicted", message, conditions);
        }
        Some(MemberState::Active) => {
            conditions.yes("Programmed", "Programmed", "the other members know it");
            if !known.connected {
                let message = "its agent has no session; what it showed last stays in force";
                conditions.no("Ready", "Disconnected", message).yes("Reconciling", "Disconnected", message);
            } else if let Some(waits) = known.waits {
                conditions.no("Ready", "NotReady", waits).yes("Reconciling", "NotReady", waits);
            } else {
                conditions.yes("Ready", "Ready", "its agent is connected, and what it shows is taken");
            }
        }
    }
}

/// Whether a status is another one than the object has: times alone are no change.
pub(super) fn differs(cluster: &Cluster, status: &ClusterStatus) -> bool {
    cluster.status.as_ref().is_none_or(|found| {
        found.trust_domain != status.trust_domain
            || found.observed_generation != status.observed_generation
            || !say_the_same(&found.conditions, &status.conditions)
    })
}

#[cfg(test)]
mod tests {
    use meshfed_model::member as model;
    use meshfed_model::network::Network;

    use super::*;

    fn member(state: MemberState) -> Member {
        Member {
            member: model::Member {
                cluster: "east".parse().unwrap(),
                trust_domain: "east.mesh.example".parse().unwrap(),
                labels: [("tier".to_owned(), "one".to_owned())].into(),
                drained: false,
                leaving: false,
                networks: vec![Network {
                    name: "net-east".parse().unwrap(),
                    cidrs: ["10.244.0.0/16".parse().unwrap()].into(),
                }],
                gateway_cidrs: ["172.30.0.11/32".parse().unwrap()].into(),
                regions: ["eu".to_owned()].into_iter().collect(),
            },
            zones: BTreeSet::new(),
            state,
            joined_at: Timestamp::UNIX_EPOCH,
            binding: 1,
        }
    }

    fn says(cluster: &Cluster, known: Known<'_>) -> Vec<(String, ConditionStatus, String)> {
        let status = status(cluster, "east", known, Timestamp::UNIX_EPOCH);
        status.conditions.into_iter().map(|c| (c.type_, c.status, c.reason)).collect()
    }

    fn has(all: &[(String, ConditionStatus, String)], type_: &str, status: ConditionStatus, reason: &str) -> bool {
        all.iter().any(|(t, s, r)| t == type_ && *s == status && r == reason)
    }

    /// A token for a cluster that could not join by it is not made, in the words of the condition; what was said of an earlier
    /// spec is no word of this one.
    ///
    /// Mutation seen to fail: `judged` answered `true`.
    #[test]
    fn a_clash_that_the_status_tells_is_told_to_tokens() {
        let east = member(MemberState::Active);
        let mut cluster = Cluster::new("south", spec_of(&east));
        cluster.metadata.generation = Some(2);
        let clash = Some("network net-east is elsewhere");
        let none = Known { member: None, connected: false, waits: None, clash: None };
        let mut told = |clash, generation| {
            cluster.status = Some(status(&cluster, "south", Known { clash, ..none }, Timestamp::UNIX_EPOCH));
            cluster.metadata.generation = Some(generation);
            let declared = declared_by(&cluster);
            cluster.metadata.generation = Some(2);
            declared.conflict
        };
        assert!(told(clash, 2).is_some_and(|why| why.contains("net-east is elsewhere")));
        assert_eq!((told(clash, 3), told(None, 2)), (None, None));
    }

    /// A Cluster that was made from a token says what the member is bound to, and what it is by that is told.
    ///
    /// Mutations seen to fail: `spec_of` without gateway ranges; `difference` that compares networks by name alone;
    /// `presence` that takes a member which has left for one that is there.
    #[test]
    fn a_cluster_tells_what_its_member_is() {
        let east = member(MemberState::Active);
        let mut cluster = Cluster::new("east", spec_of(&east));
        let here = Known { member: Some(&east), connected: true, waits: None, clash: None };
        let ready = says(&cluster, here);
        assert!(has(&ready, "Ready", ConditionStatus::True, "Ready"), "{ready:?}");
        assert!(has(&ready, "Accepted", ConditionStatus::True, "Accepted"));
        assert!(ready.iter().all(|(t, ..)| t != "Reconciling" && t != "Stalled"));
        let away = says(&cluster, Known { connected: false, ..here });
        assert!(has(&away, "Ready", ConditionStatus::False, "Disconnected"), "{away:?}");
        assert!(has(&away, "Reconciling", ConditionStatus::True, "Disconnected"));
        assert!(has(&says(&cluster, Known { member: None, ..here }), "Ready", ConditionStatus::False, "NotJoined"));
        let left = member(MemberState::Left);
        let gone = says(&cluster, Known { member: Some(&left), ..here });
        assert!(has(&gone, "Programmed", ConditionStatus::False, "Left"), "{gone:?}");
        cluster.spec.networks[0].cidrs = vec!["10.0.0.0/8".to_owned()];
        let other = says(&cluster, here);
        assert!(has(&other, "Accepted", ConditionStatus::False, "DiffersFromToken"), "{other:?}");
        assert!(has(&other, "Ready", ConditionStatus::False, "DiffersFromToken"));
        assert!(has(&other, "Stalled", ConditionStatus::True, "DiffersFromToken"));
        cluster.spec = spec_of(&east);
        cluster.spec.networks[0].gateway_cidrs.clear();
        assert!(has(&says(&cluster, here), "Accepted", ConditionStatus::False, "DiffersFromToken"));
        // What it does not name is the token's.
        cluster.spec.networks.clear();
        cluster.spec.regions.clear();
        assert!(has(&says(&cluster, here), "Accepted", ConditionStatus::True, "Accepted"));
    }

    /// A spec that the schema lets through and of which no token can be made is told as such, with what to write.
    ///
    /// Mutations seen to fail: `nonsense` that finds nothing; `leave_out` left out.
    #[test]
    fn a_spec_that_gives_no_token_is_told() {
        let spec = ClusterSpec {
            networks: vec![ClusterNetwork {
                name: "net-east".to_owned(),
                cidrs: vec!["10.9.8.7/8".to_owned()],
                gateway_cidrs: Vec::new(),
            }],
            ..ClusterSpec::default()
        };
        let cluster = Cluster::new("east", spec);
        let status = status(
            &cluster,
            "east",
            Known { member: None, connected: false, waits: None, clash: None },
            Timestamp::UNIX_EPOCH,
        );
        let accepted = status.conditions.iter().find(|c| c.type_ == "Accepted").unwrap();
        assert_eq!((accepted.status, accepted.reason.as_str()), (ConditionStatus::False, "Invalid"));
        let told = &accepted.message;
        assert!(told.contains("spec.networks[0].cidrs[0]") && told.contains("10.0.0.0/8"), "{told}");
        assert!(status.conditions.iter().all(|c| c.type_ != "Reconciling"), "{status:?}");
    }

    /// Labels bind nobody: a user changes them while the cluster is a member, and what cannot be changed so is refused first.
    ///
    /// Mutations seen to fail: `refusal` not asked in `labels_to_give`; labels compared in `difference`.
    #[test]
    fn labels_of_a_member_are_those_of_its_cluster() {
        let east = member(MemberState::Active);
        let mut cluster = Cluster::new("east", spec_of(&east));
        assert_eq!(labels_to_give(&cluster, "east", &east), None);
        cluster.spec.labels = [("tier".to_owned(), "two".to_owned())].into();
        assert_eq!(labels_to_give(&cluster, "east", &east), Some(&cluster.spec.labels));
        let here = Known { member: Some(&east), connected: true, waits: None, clash: None };
        assert!(has(&says(&cluster, here), "Ready", ConditionStatus::True, "Ready"));
        cluster.spec.regions = vec!["us".to_owned()];
        assert_eq!(labels_to_give(&cluster, "east", &east), None);
    }

    /// A Cluster that no cluster could join by, beside those that are there, is not accepted: the clash is told before
    /// somebody joins.
    ///
    /// Mutations seen to fail: `clash` passed over in `refusal`; ranges compared as they are written; the cluster's own
    /// networks compared with themselves.
    #[test]
    fn networks_of_one_name_with_other_ranges_are_told() {
        let network = |name: &str, cidrs: &[&str]| ClusterNetwork {
            name: name.to_owned(),
            cidrs: cidrs.iter().map(|c| (*c).to_owned()).collect(),
            gateway_cidrs: Vec::new(),
        };
        let spec =
            ClusterSpec { networks: vec![network("net-east", &["10.0.0.0/8", "FD00::/8"])], ..ClusterSpec::default() };
        let of = |others: Vec<(&'static str, Vec<ClusterNetwork>)>| clash("venus", &spec, others);
        assert_eq!(of(vec![("east", vec![network("net-east", &["fd00::/8", "10.0.0.0/8"])])]), None);
        assert_eq!(of(vec![("venus", vec![network("net-east", &["10.1.0.0/16"])])]), None);
        assert_eq!(of(vec![("east", vec![network("net-other", &["10.0.0.0/9"])])]), None);
        let told = of(vec![("east", vec![network("net-east", &["10.244.0.0/16"])])]).unwrap();
        assert!(told.contains("10.244.0.0/16 in cluster east"), "{told}");
        let cluster = Cluster::new("venus", spec.clone());
        let known = Known { member: None, connected: false, waits: None, clash: Some(&told) };
        let refused = says(&cluster, known);
        assert!(has(&refused, "Accepted", ConditionStatus::False, "NetworkConflict"), "{refused:?}");
        assert!(has(&refused, "Stalled", ConditionStatus::True, "NetworkConflict"), "{refused:?}");
    }
}
