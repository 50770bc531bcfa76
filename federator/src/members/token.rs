//! Pure. Tokens: what may be asked for, and whether one may be used.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use meshfed_api::http::{self, FieldError, TokenState};
use meshfed_model::names::{ClusterName, NetworkName};
use meshfed_model::network::{Cidr, Network};

use super::record::{Fate, Grant, TokenRecord, Use};
use crate::duration;

/// How long a token may be used when nobody says.
pub const TTL_DEFAULT: SignedDuration = SignedDuration::from_mins(15);
/// How long it may be used at most (JT4).
pub const TTL_MAX: SignedDuration = SignedDuration::from_hours(24);
/// How long the same keys get the same result again (JT3).
pub const REPEAT_WINDOW: SignedDuration = SignedDuration::from_mins(5);
/// Networks, ranges, regions, zones and labels of one token.
pub const ITEMS_MAX: usize = 64;

/// Why a token was refused. Only the log and the audit ever know (JT5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TokenRefusal {
    /// Not of the form of a token.
    Malformed,
    /// No such id.
    Unknown,
    /// The secret is another.
    WrongSecret,
    /// Used by other keys, or too long ago.
    Used,
    /// Too old.
    Expired,
    /// Taken back.
    Revoked,
}

impl TokenRefusal {
    /// A stable word for logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::WrongSecret => "wrong_secret",
            Self::Used => "used",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// The keys of a joiner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinerKeys {
    /// SHA-256 of the agent key's SPKI.
    pub agent_key_sha256: [u8; 32],
    /// SHA-256 of the cluster's anchor.
    pub anchor_sha256: [u8; 32],
}

/// What a valid token allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing<'a> {
    /// A first use.
    Fresh,
    /// What it gave before, to the same keys.
    Repeat(&'a Use),
}

/// Whether these keys may use the token now. The secret has been compared already.
///
/// # Errors
/// [`TokenRefusal`].
pub fn judge<'a>(
    token: &'a TokenRecord,
    keys: Option<&JoinerKeys>,
    now: Timestamp,
) -> Result<Standing<'a>, TokenRefusal> {
    match &token.fate {
        Fate::Revoked { .. } => Err(TokenRefusal::Revoked),
        Fate::Used(used) => {
            let same = keys
                .is_some_and(|k| used.agent_key_sha256 == k.agent_key_sha256 && used.anchor_sha256 == k.anchor_sha256);
            if same && now.duration_since(used.at) < REPEAT_WINDOW {
                Ok(Standing::Repeat(used))
            } else {
                Err(TokenRefusal::Used)
            }
        }
        Fate::Unused if now >= token.expires_at => Err(TokenRefusal::Expired),
        Fate::Unused => Ok(Standing::Fresh),
    }
}

/// Where a token stands, as shown.
#[must_use]
pub fn state(token: &TokenRecord, now: Timestamp) -> TokenState {
    match &token.fate {
        Fate::Used(_) => TokenState::Used,
        Fate::Revoked { .. } => TokenState::Revoked,
        Fate::Unused if now >= token.expires_at => TokenState::Expired,
        Fate::Unused => TokenState::Unused,
    }
}

/// The token as listed.
#[must_use]
pub fn shown(token: &TokenRecord, now: Timestamp) -> http::Token {
    http::Token {
        id: token.id.clone(),
        cluster: token.grant.cluster.to_string(),
        expires_at: token.expires_at.to_string(),
        state: state(token, now),
    }
}

/// A checked request for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What it binds to.
    pub grant: Grant,
    /// How long it may be used.
    pub ttl: SignedDuration,
}

struct Fields(Vec<FieldError>);

impl Fields {
    fn error(&mut self, field: impl Into<String>, reason: &str, message: impl Into<String>, remedy: Option<&str>) {
        self.0.push(FieldError {
            field: field.into(),
            reason: reason.to_owned(),
            message: message.into(),
            remedy: remedy.map(str::to_owned),
        });
    }
    fn take<T, E: std::fmt::Display>(&mut self, field: impl Into<String>, result: Result<T, E>) -> Option<T> {
        result.map_err(|e| self.error(field, "Invalid", e.to_string(), None)).ok()
    }
    fn count(&mut self, field: &str, actual: usize) {
        if actual > ITEMS_MAX {
            self.error(field, "TooMany", format!("{actual} items, at most {ITEMS_MAX} are allowed"), None);
        }
    }
}

/// A region, zone or label part as localities carry it.
fn place(text: &str) -> Result<String, String> {
    let ok = !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if ok { Ok(text.to_owned()) } else { Err(format!("'{text}' is not made of letters, digits, '-', '_' and '.'")) }
}

fn networks(wanted: &[http::Network], fields: &mut Fields) -> Vec<Network> {
    fields.count("networks", wanted.len());
    if wanted.is_empty() {
        let remedy = Some("name the network that the cluster's endpoints are on");
        fields.error("networks", "Required", "a cluster needs at least one network", remedy);
    }
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for (i, network) in wanted.iter().take(ITEMS_MAX).enumerate() {
        let name = fields.take(format!("networks[{i}].name"), NetworkName::new(&network.name));
        let cidrs = ranges(&format!("networks[{i}].cidrs"), &network.cidrs, fields);
        if !seen.insert(&network.name) {
            let message = format!("network '{}' is named twice", network.name);
            fields.error(format!("networks[{i}].name"), "Invalid", message, Some("put all its ranges into one entry"));
        }
        if let Some(name) = name {
            out.push(Network { name, cidrs });
        }
    }
    out
}

fn ranges(field: &str, wanted: &[String], fields: &mut Fields) -> BTreeSet<Cidr> {
    fields.count(field, wanted.len());
    let each = wanted.iter().take(ITEMS_MAX).enumerate();
    each.filter_map(|(i, text)| {
        let field = format!("{field}[{i}]");
        let range = fields.take(field.clone(), text.parse::<Cidr>())?;
        // A range that is wider than it looks would let the cluster offer what nobody meant to grant.
        let written: std::net::IpAddr = text.split_once('/')?.0.parse().ok()?;
        if range.to_string().starts_with(&format!("{written}/")) {
            return Some(range);
        }
        let message = format!("'{text}' is an address in a range, and no range");
        let one = if written.is_ipv4() { 32 } else { 128 };
        let remedy = format!("write {range} for the whole range, or {written}/{one} for that address alone");
        fields.error(field, "Invalid", message, Some(&remedy));
        None
    })
    .collect()
}

fn places(field: &str, wanted: &[String], fields: &mut Fields) -> BTreeSet<String> {
    fields.count(field, wanted.len());
    let each = wanted.iter().take(ITEMS_MAX).enumerate();
    each.filter_map(|(i, p)| fields.take(format!("{field}[{i}]"), place(p))).collect()
}

fn labels(wanted: &BTreeMap<String, String>, fields: &mut Fields) -> BTreeMap<String, String> {
    fields.count("labels", wanted.len());
    for (key, value) in wanted {
        let ok = |t: &str, max: usize| t.len() <= max && !t.bytes().any(|b| b.is_ascii_control());
        if key.is_empty() || !ok(key, 317) || !ok(value, 63) {
            fields.error("labels", "Invalid", "a label has a key of 1 to 317 and a value of up to 63 characters", None);
        }
    }
    wanted.clone()
}

/// Checks a request for a token.
///
/// # Errors
/// Every field at fault.
pub fn check(request: &http::TokenRequest) -> Result<Wanted, Vec<FieldError>> {
    let mut fields = Fields(Vec::new());
    let cluster = fields.take("cluster", ClusterName::new(&request.cluster));
    let networks = networks(&request.networks, &mut fields);
    if request.regions.is_empty() {
        let remedy = Some("name the region that the cluster is in");
        fields.error("regions", "Required", "a cluster needs at least one region", remedy);
    }
    let regions = places("regions", &request.regions, &mut fields);
    let zones = places("zones", &request.zones, &mut fields);
    let gateway_cidrs = ranges("gatewayCidrs", &request.gateway_cidrs, &mut fields);
    let labels = labels(&request.labels, &mut fields);
    let ttl = request.ttl.as_deref().map_or(Ok(TTL_DEFAULT), duration::parse);
    let ttl = fields.take("ttl", ttl).unwrap_or(TTL_DEFAULT);
    if ttl > TTL_MAX || ttl < SignedDuration::from_secs(1) {
        fields.error("ttl", "Invalid", "a token may be used for 1s to 24h", None);
    }
    match cluster {
        Some(cluster) if fields.0.is_empty() => {
            let replace = request.replace;
            Ok(Wanted { grant: Grant { cluster, networks, gateway_cidrs, regions, zones, labels, replace }, ttl })
        }
        _ => Err(fields.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn request() -> http::TokenRequest {
        serde_json::from_str(
            r#"{"cluster":"east","networks":[{"name":"net-east","cidrs":["127.1.0.0/16"]}],"regions":["eu"],"zones":["eu-1"],"ttl":"15m"}"#,
        )
        .unwrap()
    }

    fn token(fate: Fate) -> TokenRecord {
        let now = Timestamp::UNIX_EPOCH;
        TokenRecord {
            id: "abcdefghij".into(),
            secret_sha256: vec![1; 32],
            grant: check(&request()).unwrap().grant,
            created_at: now,
            expires_at: now + TTL_DEFAULT,
            shown_revision: 1,
            fate,
        }
    }

    /// Mutation seen to fail: `now >= token.expires_at` replaced by `>`; the key check of `Repeat` left out.
    #[test]
    fn a_token_works_once_in_its_time_and_for_its_keys() {
        let at = |s| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(s);
        let keys = JoinerKeys { agent_key_sha256: [2; 32], anchor_sha256: [3; 32] };
        let fresh = token(Fate::Unused);
        assert_eq!(judge(&fresh, Some(&keys), at(899)), Ok(Standing::Fresh));
        assert_eq!(judge(&fresh, Some(&keys), at(900)), Err(TokenRefusal::Expired));
        assert_eq!(judge(&token(Fate::Revoked { at: at(1) }), None, at(2)), Err(TokenRefusal::Revoked));
        let used = token(Fate::Used(Box::new(Use {
            at: at(10),
            agent_key_sha256: vec![2; 32],
            anchor_sha256: vec![3; 32],
            lineage: vec![],
            agent_certificate: vec![],
        })));
        assert!(matches!(judge(&used, Some(&keys), at(309)), Ok(Standing::Repeat(_))));
        assert_eq!(judge(&used, Some(&keys), at(310)), Err(TokenRefusal::Used));
        assert_eq!(judge(&used, None, at(11)), Err(TokenRefusal::Used));
        let other_agent = JoinerKeys { agent_key_sha256: [9; 32], ..keys };
        let other_anchor = JoinerKeys { anchor_sha256: [9; 32], ..keys };
        assert_eq!(judge(&used, Some(&other_agent), at(11)), Err(TokenRefusal::Used));
        assert_eq!(judge(&used, Some(&other_anchor), at(11)), Err(TokenRefusal::Used));
    }

    /// Mutation seen to fail: every range that parses taken as it is masked.
    #[test]
    fn an_address_in_a_range_is_no_range() {
        let judged = |cidr: &str| {
            let mut request = request();
            request.networks[0].cidrs = vec![cidr.to_owned()];
            request.gateway_cidrs = vec![cidr.to_owned()];
            check(&request)
        };
        for fine in ["10.0.0.0/8", "10.9.8.7/32", "0.0.0.0/0", "fd00::/8", "fd00::1/128", "FD00:0::/16"] {
            assert!(judged(fine).is_ok(), "{fine}: {:?}", judged(fine));
        }
        for (bad, range, one) in
            [("10.9.8.7/8", "10.0.0.0/8", "10.9.8.7/32"), ("fd00::1:0/64", "fd00::/64", "fd00::1:0/128")]
        {
            let errors = judged(bad).unwrap_err();
            let fields: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
            assert_eq!(fields, ["networks[0].cidrs[0]", "gatewayCidrs[0]"]);
            let remedy = errors[0].remedy.clone().unwrap();
            assert!(remedy.contains(range) && remedy.contains(one), "{remedy}");
        }
    }

    /// Mutation seen to fail: `check` returning after the first error.
    #[test]
    fn all_wrong_fields_are_named_at_once() {
        assert!(check(&request()).is_ok());
        let mut bad = request();
        bad.cluster = "East".into();
        bad.networks.push(http::Network { name: "net-east".into(), cidrs: vec!["10.0.0.0/40".into()] });
        bad.regions.clear();
        bad.ttl = Some("25h".into());
        bad.gateway_cidrs = vec!["x".into()];
        let fields: Vec<_> = check(&bad).unwrap_err().into_iter().map(|e| e.field).collect();
        assert_eq!(
            fields,
            ["cluster", "networks[1].cidrs[0]", "networks[1].name", "regions", "gatewayCidrs[0]", "ttl"]
        );
    }
}
