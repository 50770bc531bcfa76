//! Pure. The plan of a join: what would happen, as a list of checks (`contracts.md` part 3, `POST joins/plan`).

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use meshfed_api::http::{CheckResult, Network, Plan, PlanCheck};
use meshfed_model::identity::TrustDomain;

use super::record::{Grant, TokenRecord};
use crate::fleet::{Members, MergePreview};

/// The protocol of this version.
pub const PROTOCOL: u32 = 1;
/// Clocks this far apart are worth a look.
const SKEW_WARN: SignedDuration = SignedDuration::from_secs(30);
/// Certificates are valid from two minutes before now: a joiner further behind could not use its own.
const SKEW_FAIL: SignedDuration = SignedDuration::from_secs(110);
/// A token with less time than this left may expire on the way.
const TOKEN_SOON: SignedDuration = SignedDuration::from_secs(60);

/// What a joiner says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joiner {
    /// Its protocol version.
    pub protocol: u32,
    /// Its software version.
    pub version: String,
    /// Its clock; None when it is no time.
    pub clock: Option<Timestamp>,
}

/// What the hub knows.
pub struct Known<'a> {
    /// F.
    pub fleet: &'a TrustDomain,
    /// All members.
    pub members: &'a Members,
    /// Whether the root can certify a cluster now.
    pub root_online: bool,
    /// Addresses told to agents.
    pub federators: &'a [String],
    /// This version.
    pub version: &'a str,
    /// Now.
    pub now: Timestamp,
    /// What the offers would merge with.
    pub preview: MergePreview,
}

fn check(id: &str, result: CheckResult, message: impl Into<String>, remedy: Option<&str>) -> PlanCheck {
    let remedy = if result == CheckResult::Pass { None } else { remedy.map(str::to_owned) };
    PlanCheck { id: id.to_owned(), result, message: message.into(), remedy }
}

/// The plan for the holder of that (valid) token.
#[must_use]
pub fn plan(token: &TokenRecord, joiner: &Joiner, known: Known<'_>) -> Plan {
    let grant = &token.grant;
    let trust_domain = known.fleet.of_cluster(&grant.cluster).map_or_else(|_long| String::new(), |t| t.to_string());
    let checks = vec![
        token_valid(token, known.now),
        name_free(token, known.members),
        trust_domain_free(token, &known, &trust_domain),
        network_clash(token, known.members),
        reachable(known.federators),
        clock_skew(joiner.clock, known.now),
        version_skew(joiner, known.version),
        conflicts(&known.preview),
    ];
    Plan {
        cluster: grant.cluster.to_string(),
        trust_domain,
        networks: grant
            .networks
            .iter()
            .map(|n| Network { name: n.name.to_string(), cidrs: n.cidrs.iter().map(ToString::to_string).collect() })
            .collect(),
        gateway_cidrs: grant.gateway_cidrs.iter().map(ToString::to_string).collect(),
        regions: grant.regions.iter().cloned().collect(),
        zones: grant.zones.iter().cloned().collect(),
        allowed: checks.iter().all(|c| c.result != CheckResult::Fail),
        checks,
        merges: known.preview.merges,
        new_services: known.preview.new_services,
    }
}

/// A time as people read it: to the second.
fn shown(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

fn token_valid(token: &TokenRecord, now: Timestamp) -> PlanCheck {
    let message = format!("token {} may be used until {}", token.id, shown(token.expires_at));
    let soon = token.expires_at.duration_since(now) < TOKEN_SOON;
    let result = if soon { CheckResult::Warn } else { CheckResult::Pass };
    check("TokenValid", result, message, Some("join at once, or make a new token with a longer --ttl"))
}

fn name_free(token: &TokenRecord, members: &Members) -> PlanCheck {
    let name = &token.grant.cluster;
    match members.members.get(name) {
        Some(m) if m.is_live() && token.grant.replace => {
            let message =
                format!("cluster '{name}' is a member since {}; this join may take its place", shown(m.joined_at));
            check("NameFree", CheckResult::Warn, message, Some("its agent and its workloads lose their identities"))
        }
        Some(m) if m.is_live() => {
            let message = format!("cluster '{name}' is a member since {}", shown(m.joined_at));
            let remedy = "choose another name, or make a token that may replace it and join with --replace";
            check("NameFree", CheckResult::Fail, message, Some(remedy))
        }
        Some(_) => check("NameFree", CheckResult::Pass, format!("cluster '{name}' was a member and has left"), None),
        None => check("NameFree", CheckResult::Pass, format!("no cluster is called '{name}'"), None),
    }
}

fn trust_domain_free(token: &TokenRecord, known: &Known<'_>, trust_domain: &str) -> PlanCheck {
    if trust_domain.is_empty() {
        let message = format!("'{}.{}' is too long for a trust domain", token.grant.cluster, known.fleet);
        return check("TrustDomainFree", CheckResult::Fail, message, Some("choose a shorter cluster name"));
    }
    let owner = known
        .members
        .members
        .values()
        .find(|m| m.is_live() && m.member.trust_domain.as_str() == trust_domain && !token.grant.replace);
    match owner {
        Some(m) => {
            let message = format!("trust domain '{trust_domain}' is that of cluster '{}'", m.member.cluster);
            check("TrustDomainFree", CheckResult::Fail, message, Some("choose another cluster name"))
        }
        None if !known.root_online => {
            let message =
                format!("the root key, which certifies '{trust_domain}', is offline: no cluster can join now");
            let remedy = "start the federator with --root-key FILE for as long as clusters join";
            check("TrustDomainFree", CheckResult::Fail, message, Some(remedy))
        }
        None => check("TrustDomainFree", CheckResult::Pass, format!("trust domain '{trust_domain}' is free"), None),
    }
}

/// Networks of one name are dialled into directly: with other ranges they are hardly the same network.
/// Overlapping ranges of different networks are fine.
/// Networks of a grant that a live member has with other ranges, in words. Endpoints of one network are dialled
/// directly, so its name must mean the same ranges everywhere.
#[must_use]
pub fn clash(grant: &Grant, members: &Members) -> Option<String> {
    let mut clashes = BTreeSet::new();
    for network in &grant.networks {
        for m in members.members.values().filter(|m| m.is_live() && m.member.cluster != grant.cluster) {
            if let Some(other) = m.member.network(&network.name).filter(|n| n.cidrs != network.cidrs) {
                let ranges: Vec<String> = other.cidrs.iter().map(ToString::to_string).collect();
                let ranges = if ranges.is_empty() { "no ranges".to_owned() } else { ranges.join(", ") };
                clashes.insert(format!("'{}' has {ranges} in cluster '{}'", network.name, m.member.cluster));
            }
        }
    }
    let named = clashes.into_iter().collect::<Vec<_>>().join("; ");
    (!named.is_empty()).then(|| format!("network {named}"))
}

/// What puts a clash right.
pub const CLASH_REMEDY: &str =
    "endpoints of one network are dialled directly: use another network name, or the same ranges in both";

fn network_clash(token: &TokenRecord, members: &Members) -> PlanCheck {
    let Some(message) = clash(&token.grant, members) else {
        return check("NetworkClash", CheckResult::Pass, "no network of that name has other ranges", None);
    };
    let remedy = CLASH_REMEDY;
    check("NetworkClash", CheckResult::Fail, message, Some(remedy))
}

fn reachable(federators: &[String]) -> PlanCheck {
    if federators.is_empty() {
        let message = "this federator was reached; it advertises no address, so the agent keeps to the one of its join";
        return check("Reachable", CheckResult::Pass, message, None);
    }
    check(
        "Reachable",
        CheckResult::Pass,
        format!("this federator was reached; agents dial {}", federators.join(", ")),
        None,
    )
}

fn clock_skew(clock: Option<Timestamp>, now: Timestamp) -> PlanCheck {
    let Some(clock) = clock else {
        return check(
            "ClockSkew",
            CheckResult::Fail,
            "the joiner's clock is no RFC 3339 time",
            Some("update the joiner"),
        );
    };
    let skew = clock.duration_since(now).abs();
    let result = if skew > SKEW_FAIL {
        CheckResult::Fail
    } else if skew > SKEW_WARN {
        CheckResult::Warn
    } else {
        CheckResult::Pass
    };
    let message = format!("the clocks are {} ms apart", skew.as_millis());
    check(
        "ClockSkew",
        result,
        message,
        Some("synchronise the clocks (NTP): certificates are valid from two minutes ago"),
    )
}

fn version_skew(joiner: &Joiner, version: &str) -> PlanCheck {
    if joiner.protocol != PROTOCOL {
        let message = format!("the joiner speaks protocol {}, this federator {PROTOCOL}", joiner.protocol);
        return check("VersionSkew", CheckResult::Fail, message, Some("use the same version of meshfed on both sides"));
    }
    let minor = |v: &str| v.split('.').take(2).map(str::to_owned).collect::<Vec<_>>();
    let shown: String = joiner.version.chars().filter(|c| !c.is_control()).take(40).collect();
    let message = format!("the joiner is version {shown}, this federator {version}");
    let same = minor(&joiner.version) == minor(version);
    let result = if same { CheckResult::Pass } else { CheckResult::Warn };
    check("VersionSkew", result, message, Some("update the older side; one minor version apart is supported"))
}

fn conflicts(preview: &MergePreview) -> PlanCheck {
    let found: Vec<&str> = preview.merges.iter().filter(|m| m.conflict.is_some()).map(|m| m.service.as_str()).collect();
    if found.is_empty() {
        return check("Conflicts", CheckResult::Pass, "no service contradicts what others export", None);
    }
    let message = format!("other clusters export {} differently; theirs was first and wins", found.join(", "));
    check("Conflicts", CheckResult::Warn, message, Some("make the ports equal, or export it under another name"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use meshfed_model::names::ClusterName;

    use super::*;
    use crate::members::record::{Fate, MemberRecord, StoredState};
    use crate::members::token;

    fn record(cluster: &str, cidr: &str, replace: bool) -> TokenRecord {
        let request = format!(
            r#"{{"cluster":"{cluster}","networks":[{{"name":"net-a","cidrs":["{cidr}"]}}],"regions":["eu"],"replace":{replace}}}"#
        );
        TokenRecord {
            id: "abcdefghij".into(),
            secret_sha256: vec![],
            grant: token::check(&serde_json::from_str(&request).unwrap()).unwrap().grant,
            created_at: Timestamp::UNIX_EPOCH,
            expires_at: Timestamp::UNIX_EPOCH + SignedDuration::from_mins(15) + SignedDuration::from_nanos(123_456_789),
            shown_revision: 1,
            fate: Fate::Unused,
        }
    }

    fn results(token: &TokenRecord, clock: i64, version: &str) -> BTreeMap<String, CheckResult> {
        results_with(token, clock, version, true)
    }

    fn results_with(
        token: &TokenRecord,
        clock: i64,
        version: &str,
        root_online: bool,
    ) -> BTreeMap<String, CheckResult> {
        let fleet = TrustDomain::new("mesh.example").unwrap();
        let east = MemberRecord {
            grant: record("east", "10.1.0.0/16", false).grant,
            state: StoredState::Active,
            drained: false,
            joined_at: Timestamp::UNIX_EPOCH + SignedDuration::from_nanos(123_456_789),
            binding: 1,
            ca_spki: vec![],
            token: String::new(),
        };
        let name = ClusterName::new("east").unwrap();
        let member = east.member(fleet.of_cluster(&name).unwrap());
        let members = Members { revision: 1, members: BTreeMap::from([(name, member)]) };
        let now = Timestamp::UNIX_EPOCH;
        let known = Known {
            fleet: &fleet,
            members: &members,
            root_online,
            federators: &[],
            version: "0.1.0",
            now,
            preview: MergePreview::default(),
        };
        let clock = Some(now + SignedDuration::from_secs(clock));
        let joiner = Joiner { protocol: 1, version: version.into(), clock };
        let plan = plan(token, &joiner, known);
        assert_eq!(plan.allowed, plan.checks.iter().all(|c| c.result != CheckResult::Fail));
        assert!(plan.checks.iter().all(|c| !c.message.contains(".123")), "no fractions of seconds: {:?}", plan.checks);
        plan.checks.into_iter().map(|c| (c.id, c.result)).collect()
    }

    /// Mutation seen to fail: `m.member.cluster != token.grant.cluster` left out; `abs` left out of the skew; `shown`
    /// with the whole time; `root_online` not asked.
    #[test]
    fn each_check_decides_for_itself() {
        use CheckResult::{Fail, Pass, Warn};
        let fine = results(&record("west", "10.1.0.0/16", false), 0, "0.1.7");
        assert!(fine.values().all(|r| *r == Pass), "{fine:?}");
        assert_eq!(fine.len(), 8);
        let offline = results_with(&record("west", "10.1.0.0/16", false), 0, "0.1.7", false);
        assert_eq!(offline["TrustDomainFree"], Fail, "a join would be refused: the root is offline");
        let other = results(&record("west", "10.2.0.0/16", false), -45, "0.2.0");
        assert_eq!((other["NetworkClash"], other["ClockSkew"], other["VersionSkew"]), (Fail, Warn, Warn));
        assert_eq!(results(&record("west", "10.1.0.0/16", false), -200, "0.1.0")["ClockSkew"], Fail);
        let taken = results(&record("east", "10.2.0.0/16", false), 0, "0.1.0");
        assert_eq!((taken["NameFree"], taken["TrustDomainFree"], taken["NetworkClash"]), (Fail, Fail, Pass));
        let replacing = results(&record("east", "10.2.0.0/16", true), 0, "0.1.0");
        assert_eq!((replacing["NameFree"], replacing["TrustDomainFree"]), (Warn, Pass));
    }
}
