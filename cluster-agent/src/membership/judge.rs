//! Pure. What a Membership's status says, and which of several Memberships counts.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use meshfed_crds::custom::{Condition, Conditions, Membership, MembershipStatus, say_the_same};
use meshfed_model::identity::TrustDomain;
use meshfed_runtime::telemetry::words;

/// Of ServiceExport and ServiceImport.
const MCS_GROUP: &str = "multicluster.x-k8s.io";

use super::TOKEN_ID;

/// Where this cluster is on its way into the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is decided yet.
    Starting,
    /// Something is missing or away: it is tried again by itself.
    Waiting {
        /// One word.
        reason: &'static str,
        /// What is missing, and what to do.
        message: String,
    },
    /// Somebody has to act.
    Refused {
        /// One word.
        reason: &'static str,
        /// What was refused, and what to do.
        message: String,
    },
    /// A member.
    Joined {
        /// The name by which the fleet knows the cluster.
        cluster: String,
        /// Its trust domain.
        trust_domain: String,
        /// The id of the token that it joined with.
        token_id: String,
    },
}

/// What the running agent knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// A session to a federator is open.
    pub connected: bool,
    /// Why none is, as far as it is known: each federator with what kept it from being reached.
    pub away: String,
    /// Why what answers at the hub's address is not the hub that this cluster joined.
    pub untrusted: Option<String>,
    /// What the agent still waits for; empty: it is ready.
    pub pending: Vec<String>,
    /// Kinds that the agent needs and the API server does not serve, each as `Kind (group/version)`.
    pub unserved: BTreeSet<String>,
    /// Why no gateway of this cluster is offered although one is declared, and what to do; none: nothing is in the way.
    pub unreachable: Option<String>,
    /// Trust domains whose changed anchor waits for an approval, each with the command line that gives it.
    pub awaiting: BTreeMap<TrustDomain, String>,
    /// What is not imported because other clusters export more than the limit, and what to do; none: all is imported.
    pub over_limit: Option<String>,
    /// Why the member's files are not kept for the next pod: a word, and what to do.
    pub identity: Option<(&'static str, String)>,
    /// Why its last good view is not kept in the Secrets: a word, and what to do.
    pub unkept: Option<(&'static str, String)>,
}

/// The Membership that counts: the oldest, then the first by name. The others are told so.
#[must_use]
pub(super) fn chosen<'a>(all: impl IntoIterator<Item = &'a Membership>) -> Option<&'a Membership> {
    all.into_iter()
        .filter(|m| m.metadata.deletion_timestamp.is_none())
        .min_by_key(|m| (m.metadata.creation_timestamp.as_ref().map(|t| t.0), m.name_any()))
}

/// The status of the Membership that counts.
#[must_use]
pub(super) fn status(membership: &Membership, phase: &Phase, facts: &Facts, now: Timestamp) -> MembershipStatus {
    let before = membership.status.as_ref().map_or(&[][..], |s| &s.conditions);
    let generation = membership.metadata.generation.unwrap_or_default();
    let mut conditions = Conditions::new(before, generation, now);
    match phase {
        Phase::Starting => starting(&mut conditions),
        Phase::Waiting { reason, message } => {
            conditions.no("Joined", reason, message).no("Connected", reason, message).no("Ready", reason, message).yes(
                "Reconciling",
                reason,
                message,
            );
        }
        Phase::Refused { reason, message } => {
            conditions
                .no("Joined", reason, message)
                .no("Connected", reason, message)
                .no("Ready", reason, message)
                .yes("Stalled", reason, message);
        }
        Phase::Joined { cluster, .. } => joined(&mut conditions, cluster, facts),
    }
    let (cluster, trust_domain, token_id) = match phase {
        Phase::Joined { cluster, trust_domain, token_id } => {
            (Some(cluster.clone()), Some(trust_domain.clone()), Some(token_id.clone()))
        }
        Phase::Starting | Phase::Waiting { .. } | Phase::Refused { .. } => (None, None, None),
    };
    let conditions = conditions.finish();
    MembershipStatus { cluster, trust_domain, token_id, observed_generation: generation, conditions }
}

fn starting(conditions: &mut Conditions) {
    let message = "the agent has seen it and begins";
    conditions
        .unknown("Joined", "Pending", message)
        .unknown("Connected", "Pending", message)
        .unknown("Ready", "Pending", message)
        .yes("Reconciling", "Pending", message);
}

fn joined(conditions: &mut Conditions, cluster: &str, facts: &Facts) {
    conditions.yes("Joined", "Joined", format!("the fleet knows this cluster as {cluster}"));
    let away = away(facts);
    match &away {
        None => conditions.yes("Connected", "Connected", "a session to a federator is open"),
        Some((reason, message)) => conditions.no("Connected", reason, message),
    };
    if let Some((reason, message)) = &facts.unkept {
        conditions.no("ViewKept", reason, message);
    }
    if let Some(message) = &facts.over_limit {
        // Not in Ready: another cluster that exports too much is not to make this one look broken.
        conditions.no("ImportsWithinLimits", "LimitReached", message);
    }
    let faults: Vec<Fault> = faults(facts, away).collect();
    let Some(first) = faults.first() else {
        conditions.yes("Ready", "Ready", "joined, connected, and what the hub sent is in force");
        return;
    };
    // All of them at once: whoever mends one after the other waits for each.
    let others = faults.iter().skip(1).map(|fault| format!("; {}: {}", fault.reason, fault.message));
    let message = others.fold(first.message.clone(), |all, other| all + &other);
    let waits = if first.stalls { "Stalled" } else { "Reconciling" };
    conditions.no("Ready", first.reason, message.clone()).yes(waits, first.reason, message);
}

/// Why a member is not ready.
struct Fault {
    reason: &'static str,
    message: String,
    /// Somebody has to act; else it is tried again by itself.
    stalls: bool,
}

/// What holds of a member that is not ready, the first of it first: what ends by itself hides nothing that does not.
fn faults(facts: &Facts, away: Option<(&'static str, String)>) -> impl Iterator<Item = Fault> {
    const SOMEBODY: bool = true;
    const BY_ITSELF: bool = false;
    let starts = facts.pending.first().map(|first| ("AgentNotReady", format!("the agent waits: {first}")));
    let unreachable = facts.unreachable.clone().filter(|_| facts.connected).map(|why| ("GatewayNotAllowed", why));
    let table = [
        (starts, BY_ITSELF),
        (facts.identity.clone(), SOMEBODY),
        (unserved(&facts.unserved).map(|why| ("KindsMissing", why)), SOMEBODY),
        (unreachable, SOMEBODY),
        (awaiting(&facts.awaiting).map(|why| ("AnchorChanged", why)), SOMEBODY),
        (away, BY_ITSELF),
    ];
    table.into_iter().filter_map(|(holds, stalls)| holds.map(|(reason, message)| Fault { reason, message, stalls }))
}

/// Why there is no session; none: there is one.
fn away(facts: &Facts) -> Option<(&'static str, String)> {
    match (&facts.untrusted, facts.connected) {
        (_, true) => None,
        (Some(why), false) => Some((
            "HubNotTrusted",
            format!(
                "what answers is not the hub that this cluster joined ({why}); existing traffic goes on. Where the hub was \
                 made anew: meshfed leave --kube, then join again with a token of it"
            ),
        )),
        (None, false) => {
            let why = if facts.away.is_empty() { String::new() } else { format!(" ({})", words(&facts.away)) };
            Some((
                "HubUnreachable",
                format!(
                    "no federator is reached{why}: what other clusters changed since is not known; existing traffic goes \
                     on, and it is tried again"
                ),
            ))
        }
    }
}

fn unserved(kinds: &BTreeSet<String>) -> Option<String> {
    let mcs = if kinds.iter().any(|kind| kind.contains(MCS_GROUP)) { " --set mcs=true" } else { "" };
    let named = kinds.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    (!kinds.is_empty()).then(|| {
        format!(
            "the API server does not serve {named}: what was read of it stands, nothing new is exported or imported by it, \
             and everything else goes on. Bring it: helm upgrade --install meshfed-crds helm/meshfed-crds{mcs}; where \
             another release has brought an older version of it, upgrade that one"
        )
    })
}

fn awaiting(anchors: &BTreeMap<TrustDomain, String>) -> Option<String> {
    let one = |(trust_domain, command): (&TrustDomain, &String)| {
        format!(
            "{trust_domain} has a changed anchor, which is not trusted here: its workloads and those of this cluster do not \
             reach each other. Compare the hash with its owner's, then: {command}"
        )
    };
    (!anchors.is_empty()).then(|| anchors.iter().map(one).collect::<Vec<_>>().join("; "))
}

/// The word and the sentence for which somebody has to act, where it is another word than before: who only looks at events
/// hears of it, too. The sentence alone may change with every try.
#[must_use]
pub(super) fn newly_stalled<'a>(before: &[Condition], now: &'a [Condition]) -> Option<(&'a str, &'a str)> {
    let now = now.iter().find(|c| c.type_ == "Stalled")?;
    let told = before.iter().any(|c| c.type_ == "Stalled" && c.reason == now.reason);
    (!told).then_some((&*now.reason, &*now.message))
}

/// The status of a Membership that does not count.
#[must_use]
pub(super) fn second(membership: &Membership, first: &str, now: Timestamp) -> MembershipStatus {
    // Not "one of the two": to delete the one that counts is to leave.
    let name = membership.name_any();
    let message = format!("Membership {first} of this namespace is older and counts; delete {name}");
    let phase = Phase::Refused { reason: "SecondMembership", message };
    status(membership, &phase, &Facts::default(), now)
}

/// Which Membership, of which generation, with which token, and whether it is to go.
type Wish = (Option<String>, Option<i64>, Option<String>, bool);

/// What somebody wishes by the Memberships that are there. What the agent itself writes into their statuses changes nothing
/// of it.
#[must_use]
pub(super) fn wishes<'a>(all: impl IntoIterator<Item = &'a Membership>) -> Vec<Wish> {
    let token = |m: &Membership| m.annotations().get(TOKEN_ID).cloned();
    let wish = |m: &Membership| (m.uid(), m.metadata.generation, token(m), m.metadata.deletion_timestamp.is_some());
    all.into_iter().map(wish).collect()
}

/// Whether a status is another one than the object has: times alone are no change.
#[must_use]
pub(super) fn differs(membership: &Membership, status: &MembershipStatus) -> bool {
    membership.status.as_ref().is_none_or(|found| {
        found.cluster != status.cluster
            || found.trust_domain != status.trust_domain
            || found.token_id != status.token_id
            || found.observed_generation != status.observed_generation
            || !say_the_same(&found.conditions, &status.conditions)
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use meshfed_crds::custom::{ConditionStatus, MembershipSpec};

    use super::*;

    fn membership(name: &str, created: i64) -> Membership {
        let spec = MembershipSpec { hub: "https://hub:15600".to_owned(), token_secret_ref: None };
        let mut membership = Membership::new(name, spec);
        membership.metadata.generation = Some(3);
        membership.metadata.creation_timestamp = Some(Time(Timestamp::from_second(created).unwrap()));
        membership
    }

    fn as_east() -> Phase {
        let trust_domain = "east.mesh.example".to_owned();
        Phase::Joined { cluster: "east".to_owned(), trust_domain, token_id: "abcdefghij".to_owned() }
    }

    fn says(status: &MembershipStatus, type_: &str) -> Option<(ConditionStatus, String)> {
        status.conditions.iter().find(|c| c.type_ == type_).map(|c| (c.status, c.reason.clone()))
    }

    /// kstatus reads `Ready` that was never set as fine: it is there from the first write on, with the generation; and
    /// `Reconciling` and `Stalled` stand only while they are true.
    ///
    /// Mutations seen to fail: `starting` without Ready; `Stalled` set to false for a member; `unreachable` passed over.
    #[test]
    fn conditions_are_what_kstatus_reads() {
        let (one, now) = (membership("meshfed", 1), Timestamp::from_second(100).unwrap());
        let of = |phase: &Phase, facts: &Facts| status(&one, phase, facts, now);
        let first = of(&Phase::Starting, &Facts::default());
        assert_eq!(says(&first, "Ready"), Some((ConditionStatus::Unknown, "Pending".to_owned())));
        assert_eq!(first.observed_generation, 3);
        let refused = Phase::Refused { reason: "TokenRefused", message: "ask for a new one".to_owned() };
        let refused = of(&refused, &Facts::default());
        assert_eq!(says(&refused, "Stalled"), Some((ConditionStatus::True, "TokenRefused".to_owned())));
        assert_eq!(says(&refused, "Reconciling"), None);
        let joined = as_east();
        let ready = of(&joined, &Facts { connected: true, ..Facts::default() });
        assert_eq!(says(&ready, "Ready").map(|(s, _)| s), Some(ConditionStatus::True));
        assert_eq!((says(&ready, "Stalled"), says(&ready, "Reconciling")), (None, None));
        assert_eq!(ready.cluster.as_deref(), Some("east"));
        assert_eq!(says(&ready, "ViewKept"), None);
        let unkept = Some(("ViewTooLarge", "it has 9 bytes".to_owned()));
        let unreachable = Some("gateway x/y is not offered".to_owned());
        let cut_off = of(&joined, &Facts { connected: true, unreachable, ..Facts::default() });
        for (type_, status) in [("Ready", ConditionStatus::False), ("Stalled", ConditionStatus::True)] {
            assert_eq!(says(&cut_off, type_), Some((status, "GatewayNotAllowed".to_owned())));
        }
        let over_limit = Some("9 services of cluster 'west' are not imported".to_owned());
        let flooded = of(&joined, &Facts { connected: true, over_limit, ..Facts::default() });
        let limited = Some((ConditionStatus::False, "LimitReached".to_owned()));
        assert_eq!(says(&flooded, "ImportsWithinLimits"), limited);
        assert_eq!(says(&flooded, "Ready").map(|(s, _)| s), Some(ConditionStatus::True), "all else goes on");
        assert_eq!((says(&flooded, "Stalled"), says(&ready, "ImportsWithinLimits")), (None, None));
        let large = of(&joined, &Facts { connected: true, unkept, ..Facts::default() });
        assert_eq!(says(&large, "ViewKept"), Some((ConditionStatus::False, "ViewTooLarge".to_owned())));
        assert_eq!(says(&large, "Ready").map(|(s, _)| s), Some(ConditionStatus::True), "what is served is whole");
        let refused = "10.0.0.1:15600: connection refused".to_owned();
        let refused = of(&joined, &Facts { away: refused, ..Facts::default() });
        let told = refused.conditions.iter().find(|c| c.type_ == "Connected").map(|c| c.message.as_str()).unwrap();
        assert!(told.contains("reached (10.0.0.1:15600: connection refused):"), "{told}");
        let away = of(&joined, &Facts::default());
        assert_eq!(says(&away, "Joined").map(|(s, _)| s), Some(ConditionStatus::True));
        assert_eq!(says(&away, "Ready"), Some((ConditionStatus::False, "HubUnreachable".to_owned())));
        let other = of(&joined, &Facts { untrusted: Some("bad chain".to_owned()), ..Facts::default() });
        for of in ["Connected", "Ready"] {
            assert_eq!(says(&other, of), Some((ConditionStatus::False, "HubNotTrusted".to_owned())));
        }
    }

    /// What ends by itself hides nothing that somebody has to mend, all of it is told at once, and a word that was told before
    /// is no news.
    ///
    /// Mutations seen to fail: `away` first in the table; `others` left out; `told` not asked.
    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let (one, now) = (membership("meshfed", 1), Timestamp::from_second(100).unwrap());
        let (cluster, trust_domain) = ("east".to_owned(), "east.mesh.example".to_owned());
        let phase = Phase::Joined { cluster, trust_domain, token_id: "t".to_owned() };
        let kind = "ServiceImport (multicluster.x-k8s.io/v1beta1)".to_owned();
        let anchor = ("west.mesh.example".parse().unwrap(), "meshfed trust approve x".to_owned());
        let facts = Facts {
            unserved: [kind.clone()].into(),
            awaiting: [anchor].into(),
            identity: Some(("IdentityDamaged", "no key".to_owned())),
            ..Facts::default()
        };
        let all = status(&one, &phase, &facts, now);
        let ready = all.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!((ready.status, &*ready.reason), (ConditionStatus::False, "IdentityDamaged"));
        for word in [&kind, "AnchorChanged: ", "then: meshfed trust approve x", "HubUnreachable: ", "--set mcs=true"] {
            assert!(ready.message.contains(word), "{word}: {}", ready.message);
        }
        assert_eq!(newly_stalled(&[], &all.conditions).map(|(reason, _)| reason), Some("IdentityDamaged"));
        assert_eq!(newly_stalled(&all.conditions, &all.conditions), None);
        let own = Facts { unserved: ["Mesh (federation.meshfed.io/v1alpha1)".to_owned()].into(), ..Facts::default() };
        let own = status(&one, &phase, &own, now);
        let ready = own.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
        assert!(ready.reason == "KindsMissing" && !ready.message.contains("--set"), "{}", ready.message);
    }

    /// The time of a transition moves with the status only, and moves nothing by itself.
    ///
    /// Mutations seen to fail: `differs` that compares times; `since` that does not compare the status.
    #[test]
    fn times_make_no_writes() {
        let mut one = membership("meshfed", 1);
        let at = |second| Timestamp::from_second(second).unwrap();
        let joined = as_east();
        let facts = Facts { connected: true, ..Facts::default() };
        one.status = Some(status(&one, &joined, &facts, at(100)));
        let later = status(&one, &joined, &facts, at(200));
        assert_eq!(Some(&later), one.status.as_ref());
        let away = status(&one, &joined, &Facts::default(), at(300));
        let ready = away.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!(ready.last_transition_time, "1970-01-01T00:05:00Z");
        assert!(differs(&one, &away));
        let mut other = one.status.clone().unwrap();
        other.conditions[0].last_transition_time = "1970-01-01T01:00:00Z".to_owned();
        assert!(!differs(&one, &other));
    }

    /// The agent hears of its own writes: they are no reason to ask the hub again at once.
    ///
    /// Mutations seen to fail: the resource version added to a wish; the token's id left out of it.
    #[test]
    fn a_status_that_was_written_is_no_new_wish() {
        let mut one = membership("meshfed", 1);
        one.metadata.uid = Some("u".to_owned());
        let before = wishes([&one]);
        one.metadata.resource_version = Some("2".to_owned());
        one.status = Some(status(&one, &Phase::Starting, &Facts::default(), Timestamp::from_second(1).unwrap()));
        assert_eq!(wishes([&one]), before);
        one.metadata.generation = Some(4);
        let changed = wishes([&one]);
        one.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(9).unwrap()));
        assert!(changed != before && wishes([&one]) != changed && wishes([]) != before);
        let before = wishes([&one]);
        one.metadata.annotations = Some([(TOKEN_ID.to_owned(), "abcdefghij".to_owned())].into());
        assert_ne!(wishes([&one]), before, "another token is to be tried at once");
    }

    /// The oldest counts, whatever it is called; one that is being deleted does not.
    ///
    /// Mutations seen to fail: `min_by_key` by the name alone; the filter left out.
    #[test]
    fn the_oldest_membership_counts() {
        let (mut old, new) = (membership("z", 1), membership("a", 2));
        assert_eq!(chosen([&new, &old]).map(|m| m.name_any()), Some("z".to_owned()));
        let told = second(&new, "z", Timestamp::from_second(1).unwrap());
        assert_eq!(says(&told, "Ready"), Some((ConditionStatus::False, "SecondMembership".to_owned())));
        let message = &told.conditions.iter().find(|c| c.type_ == "Ready").unwrap().message;
        assert!(message.ends_with("delete a"), "{message}: to delete the other one is to leave");
        old.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(9).unwrap()));
        assert_eq!(chosen([&new, &old]).map(|m| m.name_any()), Some("a".to_owned()));
    }
}
