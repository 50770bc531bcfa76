//! Pure. Tokens of a cluster that is declared: what a request leaves out is taken from the `Cluster`, and what
//! contradicts it is refused (`contracts-kubernetes.md` 5.2).

use std::collections::BTreeSet;

use meshfed_api::http::{FieldError, Network, TokenRequest};
use meshfed_model::network::Cidr;

use super::token::{Wanted, check};
use crate::fleet::{Declaration, DeclaredBy};

/// A request as it is once the declaration is read, and what each said where the two differ.
struct Merged {
    request: TokenRequest,
    /// Fields that were taken from the declaration.
    taken: BTreeSet<&'static str>,
    faults: Vec<FieldError>,
}

/// Checks a request for a token of a cluster of which this is declared.
///
/// # Errors
/// Every field at fault: contradictions first, each with both values, then what [`check`] finds.
pub fn judge(request: &TokenRequest, declared: Option<&Declaration>) -> Result<Wanted, Vec<FieldError>> {
    let Some(declared) = declared else { return check(request) };
    // Of what the hub has written down itself, all or nothing: who names something means other terms than the last ones.
    if declared.origin == DeclaredBy::Hub && !is_bare(request) {
        return check(request);
    }
    let merged = merge(request, declared);
    let mut faults = merged.faults;
    faults.extend(declared.conflict.as_ref().map(|why| conflict(&request.cluster, why)));
    let found = check(&merged.request);
    if let Err(errors) = &found {
        faults.extend(errors.iter().map(|error| told(error, &request.cluster, &merged.taken)));
    }
    if faults.is_empty() { found } else { Err(faults) }
}

/// Whether it names nothing that a declaration could give.
fn is_bare(request: &TokenRequest) -> bool {
    let TokenRequest { networks, regions, zones, gateway_cidrs, labels, .. } = request;
    networks.is_empty() && regions.is_empty() && zones.is_empty() && gateway_cidrs.is_empty() && labels.is_empty()
}

/// A token would be of no use: its join is refused.
fn conflict(cluster: &str, why: &str) -> FieldError {
    FieldError {
        field: "cluster".to_owned(),
        reason: "Conflict".to_owned(),
        message: format!("Cluster {cluster} is not accepted: {why}"),
        remedy: Some("change the Cluster first".to_owned()),
    }
}

/// A fault in what was declared is mended there.
fn told(error: &FieldError, cluster: &str, taken: &BTreeSet<&'static str>) -> FieldError {
    let root = error.field.split(['[', '.']).next().unwrap_or_default();
    let mut error = error.clone();
    if taken.contains(root) {
        error.message = format!("declared by Cluster {cluster}: {}", error.message);
    } else if error.reason == "Required" {
        let more = format!("or declare it in Cluster {cluster}");
        error.remedy = Some(error.remedy.map_or_else(|| more.clone(), |remedy| format!("{remedy}, {more}")));
    }
    error
}

fn merge(request: &TokenRequest, declared: &Declaration) -> Merged {
    let mut merged = Merged { request: request.clone(), taken: BTreeSet::new(), faults: Vec::new() };
    // Networks and regions are needed: a Cluster without any leaves them open. The others mean something when empty.
    let same = networks(&request.networks) == networks(&declared.networks);
    if merged.takes("networks", !request.networks.is_empty(), !declared.networks.is_empty(), same, || {
        (networks_in_words(&request.networks), networks_in_words(&declared.networks))
    }) {
        merged.request.networks.clone_from(&declared.networks);
    }
    let same = set(&request.regions) == set(&declared.regions);
    if merged.takes("regions", !request.regions.is_empty(), !declared.regions.is_empty(), same, || {
        (words(&request.regions), words(&declared.regions))
    }) {
        merged.request.regions.clone_from(&declared.regions);
    }
    let same = set(&request.zones) == set(&declared.zones);
    if merged.takes("zones", !request.zones.is_empty(), true, same, || (words(&request.zones), words(&declared.zones)))
    {
        merged.request.zones.clone_from(&declared.zones);
    }
    let same = ranges(&request.gateway_cidrs) == ranges(&declared.gateway_cidrs);
    if merged.takes("gatewayCidrs", !request.gateway_cidrs.is_empty(), true, same, || {
        (words(&request.gateway_cidrs), words(&declared.gateway_cidrs))
    }) {
        merged.request.gateway_cidrs.clone_from(&declared.gateway_cidrs);
    }
    let pairs = |all: &std::collections::BTreeMap<String, String>| {
        all.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
    };
    if merged.takes("labels", !request.labels.is_empty(), true, request.labels == declared.labels, || {
        (words(&pairs(&request.labels)), words(&pairs(&declared.labels)))
    }) {
        merged.request.labels.clone_from(&declared.labels);
    }
    merged
}

impl Merged {
    /// Whether the field is to be taken from the declaration. One that both give must be the same in both.
    fn takes(
        &mut self,
        field: &'static str,
        given: bool,
        says: bool,
        same: bool,
        both: impl FnOnce() -> (String, String),
    ) -> bool {
        if says && !given {
            self.taken.insert(field);
            return true;
        }
        if says && !same {
            let (asked, declared) = both();
            let cluster = &self.request.cluster;
            self.faults.push(FieldError {
                field: field.to_owned(),
                reason: "Contradicts".to_owned(),
                message: format!("{asked} is asked for, and Cluster {cluster} declares {declared}"),
                remedy: Some("leave it out, or change what the Cluster declares".to_owned()),
            });
        }
        false
    }
}

fn words(all: &[String]) -> String {
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

fn networks_in_words(all: &[Network]) -> String {
    let each = all.iter().map(|network| match network.cidrs.as_slice() {
        [] => network.name.clone(),
        cidrs => format!("{}={}", network.name, cidrs.join(",")),
    });
    each.collect::<Vec<_>>().join(" ")
}

fn set(all: &[String]) -> BTreeSet<&String> {
    all.iter().collect()
}

/// By what they mean: one range may be written in several ways. What is no range is told by [`check`].
fn ranges(all: &[String]) -> BTreeSet<String> {
    all.iter().map(|text| text.parse::<Cidr>().map_or_else(|_| text.clone(), |range| range.to_string())).collect()
}

/// In their order: the first is the default.
fn networks(all: &[Network]) -> Vec<(&String, BTreeSet<String>)> {
    all.iter().map(|network| (&network.name, ranges(&network.cidrs))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared() -> Declaration {
        Declaration {
            networks: vec![Network { name: "net-east".into(), cidrs: vec!["fd00::/8".into(), "10.1.0.0/16".into()] }],
            gateway_cidrs: vec!["172.30.0.11/32".into()],
            regions: vec!["eu".into()],
            zones: vec!["eu-1".into()],
            labels: [("tier".to_owned(), "one".to_owned())].into(),
            ..Declaration::default()
        }
    }

    fn request(text: &str) -> TokenRequest {
        let mut body: serde_json::Value = serde_json::json!({"cluster": "east", "networks": [], "regions": []});
        let more: serde_json::Value = serde_json::from_str(text).unwrap();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(body).unwrap()
    }

    /// A token has what the Cluster declares, and flags that say the same change nothing.
    ///
    /// Mutations seen to fail: `takes` gives false where `says && !given`; ranges compared as they are written.
    #[test]
    fn what_is_left_out_is_taken_from_the_declaration() {
        let bare = judge(&request("{}"), Some(&declared())).unwrap().grant;
        assert_eq!(bare.networks[0].name.to_string(), "net-east");
        assert_eq!(bare.networks[0].cidrs.len(), 2);
        assert_eq!(bare.gateway_cidrs.len(), 1);
        assert!(bare.regions.contains("eu") && bare.zones.contains("eu-1"));
        assert_eq!(bare.labels, declared().labels);
        let same = r#"{"networks": [{"name": "net-east", "cidrs": ["10.1.0.0/16", "FD00::/8"]}], "regions": ["eu"],
            "zones": ["eu-1"], "gatewayCidrs": ["172.30.0.11/32"], "labels": {"tier": "one"}}"#;
        assert_eq!(judge(&request(same), Some(&declared())).unwrap().grant, bare);
        // A Cluster that names no networks and no regions leaves them to the flags.
        let open = Declaration { labels: declared().labels, ..Declaration::default() };
        let flags = r#"{"networks": [{"name": "n", "cidrs": []}], "regions": ["us"]}"#;
        let made = judge(&request(flags), Some(&open)).unwrap().grant;
        assert_eq!((made.labels, made.regions.contains("us")), (open.labels, true));
    }

    /// What the hub wrote down of the last token is the next one's terms where none are named, and binds nobody: with one flag of
    /// its own a request says all of it. A Cluster by which nobody can join gives no token.
    ///
    /// Mutations seen to fail: `is_bare` answered `true`, and `false`; `conflict` left out of the faults.
    #[test]
    fn what_the_hub_made_gives_terms_and_binds_nobody() {
        let last = Declaration { origin: DeclaredBy::Hub, ..declared() };
        let bare = judge(&request("{}"), Some(&last)).unwrap().grant;
        assert_eq!((bare.networks[0].name.as_str(), bare.labels), ("net-east", declared().labels));
        let other = r#"{"networks": [{"name": "n", "cidrs": []}], "regions": ["us"]}"#;
        let made = judge(&request(other), Some(&last)).unwrap().grant;
        assert_eq!((made.networks[0].name.as_str(), made.zones.len(), made.labels.len()), ("n", 0, 0));
        assert_eq!(judge(&request(r#"{"regions": ["us"]}"#), Some(&last)).unwrap_err()[0].field, "networks");
        let clash = Declaration { conflict: Some("net-east is elsewhere".to_owned()), ..declared() };
        let errors = judge(&request("{}"), Some(&clash)).unwrap_err();
        assert!(errors.len() == 1 && errors[0].message.ends_with("not accepted: net-east is elsewhere"), "{errors:?}");
    }

    /// What contradicts is refused, all at once, with both values; what is declared wrongly is told as such.
    ///
    /// Mutations seen to fail: `says && !same` never; `told` that leaves the message as it is.
    #[test]
    fn contradictions_name_both_sides() {
        let other = r#"{"networks": [{"name": "net-east", "cidrs": ["10.0.0.0/8"]}], "regions": ["us"], "zones": ["us-1"],
            "gatewayCidrs": ["192.0.2.0/24"], "labels": {"tier": "two"}}"#;
        let errors = judge(&request(other), Some(&declared())).unwrap_err();
        let fields: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(fields, ["networks", "regions", "zones", "gatewayCidrs", "labels"]);
        assert!(errors.iter().all(|e| e.reason == "Contradicts" && e.remedy.is_some()));
        assert_eq!(errors[1].message, "us is asked for, and Cluster east declares eu");
        assert!(errors[0].message.contains("net-east=10.0.0.0/8") && errors[0].message.contains("fd00::/8"));
        // All zones are declared where none is named: fewer is another thing.
        let wide = Declaration { zones: Vec::new(), ..declared() };
        assert_eq!(judge(&request(r#"{"zones": ["eu-1"]}"#), Some(&wide)).unwrap_err()[0].field, "zones");
        let broken = Declaration { gateway_cidrs: vec!["10.9.8.7/8".into()], ..declared() };
        let errors = judge(&request("{}"), Some(&broken)).unwrap_err();
        assert!(errors[0].message.starts_with("declared by Cluster east: "), "{errors:?}");
        let missing = judge(&request("{}"), Some(&Declaration::default())).unwrap_err();
        assert!(missing.iter().all(|e| e.remedy.as_deref().unwrap().contains("in Cluster east")), "{missing:?}");
    }
}
