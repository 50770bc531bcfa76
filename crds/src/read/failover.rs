//! Pure. The border of FailoverPolicy (`contracts.md` 1.11).

use std::sync::Arc;

use meshfed_model::names::{ClusterName, Namespace, ServiceName};
use meshfed_model::policy::{
    FailoverSpec, HOLD_SECONDS, MIN_HEALTHY_ENDPOINTS, MIN_HEALTHY_PERCENT, Relative, SelectItem, Selector, Tier,
};

use super::common::Reader;
use crate::error::Code;
use crate::object::{FailoverPolicyObject, PolicyTarget, Scope};
use crate::tree::Node;

/// The most tiers of a policy.
const TIERS_MAX: usize = 32;
/// The most items of a tier.
const ITEMS_MAX: usize = 256;
/// The longest `holdDown` and `rampUp`, in seconds.
const HOLD_MAX: u32 = 86_400;

pub(super) fn read(r: &mut Reader<'_>) -> Option<FailoverPolicyObject> {
    let target = target(r);
    let tiers = tiers(r);
    let hold_down_seconds = duration(r, "holdDown");
    let ramp_up_seconds = duration(r, "rampUp");
    Some(FailoverPolicyObject {
        namespace: Arc::clone(&r.key.namespace),
        name: Arc::clone(&r.key.name),
        target: target?,
        spec: FailoverSpec { tiers, hold_down_seconds, ramp_up_seconds },
    })
}

fn target(r: &mut Reader<'_>) -> Option<PolicyTarget> {
    let namespace = if r.key.namespace.is_empty() { "default" } else { &*r.key.namespace };
    let Some(reference) = r.get(&["spec", "targetRef"]) else {
        if r.scope == Scope::Hub || r.scope == Scope::Fleet && r.key.namespace.is_empty() {
            return Some(PolicyTarget::Default);
        }
        return r.checked("metadata.namespace", Namespace::new(namespace)).map(PolicyTarget::Namespace);
    };
    r.mark("spec.targetRef", reference);
    if reference.get("kind").is_none() {
        r.bad(reference, "spec.targetRef.kind", "is required", "write kind: Service");
    }
    let namespace = target_namespace(r, reference, namespace)?;
    let Some(name) = reference.get("name") else {
        if r.scope.is_fleet() && reference.get("namespace").is_some() {
            return r.checked("spec.targetRef.namespace", Namespace::new(namespace)).map(PolicyTarget::Namespace);
        }
        r.bad(reference, "spec.targetRef.name", "is required", "write the name of a service of the policy's namespace");
        return None;
    };
    r.mark("spec.targetRef.name", name);
    r.parsed(name, "spec.targetRef.name", "write the name of a service", |t| ServiceName::new(namespace, t))
        .map(PolicyTarget::Service)
}

/// A cluster's policy speaks for its own namespace; the fleet's names the one it is about.
fn target_namespace<'a>(r: &mut Reader<'_>, reference: &'a Node, own: &'a str) -> Option<&'a str> {
    let Some(node) = reference.get("namespace") else {
        if r.scope == Scope::Hub {
            let remedy = "write the namespace of the service; the policy's own is the hub's";
            r.bad(reference, "spec.targetRef.namespace", "is required", remedy);
            return None;
        }
        return Some(own);
    };
    let named = node.text()?;
    if !r.scope.is_fleet() && named != own {
        let message = format!("a policy of namespace {own} speaks for that namespace only");
        let remedy = Some("put the policy into the namespace of the service, or into the fleet's source".to_owned());
        r.find(Code::NamespaceNotAllowed, node.place, "spec.targetRef.namespace", message, remedy);
        return None;
    }
    Some(named)
}

fn tiers(r: &mut Reader<'_>) -> Vec<Tier> {
    let Some(list) = r.get(&["spec", "tiers"]) else {
        r.missing("spec.tiers", "write at least one tier, say [{select: [{relative: any}]}]");
        return Vec::new();
    };
    if list.is_empty_list() {
        r.bad(list, "spec.tiers", "has no tier", "write at least one tier, say [{select: [{relative: any}]}]");
    }
    if list.items().len() > TIERS_MAX {
        r.find(Code::TooLarge, list.place, "spec.tiers", format!("has more than {TIERS_MAX} tiers"), None);
    }
    let mut found = Vec::new();
    for (i, tier) in list.items().iter().take(TIERS_MAX).enumerate() {
        let number = |key: &str, default: u32| {
            tier.get(key).and_then(Node::integer).and_then(|n| u32::try_from(n).ok()).unwrap_or(default)
        };
        found.push(Tier {
            name: tier.get("name").and_then(Node::text).unwrap_or_default().to_owned(),
            select: select(r, tier, &format!("spec.tiers[{i}].select")),
            min_healthy_percent: number("minHealthyPercent", MIN_HEALTHY_PERCENT),
            min_healthy_endpoints: number("minHealthyEndpoints", MIN_HEALTHY_ENDPOINTS),
        });
    }
    found
}

fn select(r: &mut Reader<'_>, tier: &Node, field: &str) -> Vec<SelectItem> {
    let Some(list) = tier.get("select") else {
        r.bad(tier, field, "is required", "say [{relative: any}]");
        return Vec::new();
    };
    if list.is_empty_list() {
        r.bad(list, field, "selects nothing", "say [{relative: any}]");
    }
    if list.items().len() > ITEMS_MAX {
        r.find(Code::TooLarge, list.place, field, format!("has more than {ITEMS_MAX} items"), None);
    }
    let mut found: Vec<SelectItem> = Vec::new();
    let mut weighted = 0;
    for (i, item) in list.items().iter().take(ITEMS_MAX).enumerate() {
        let weight = item.get("weight").and_then(Node::integer).and_then(|n| u32::try_from(n).ok());
        weighted += usize::from(item.get("weight").is_some());
        if let Some(selector) = selector(r, item, &format!("{field}[{i}]")) {
            found.push(SelectItem { selector, weight });
        }
    }
    if weighted != 0 && weighted != list.items().len() {
        r.bad(
            list,
            field,
            "some items have a weight and some have none",
            "give all items of the tier a weight, or none",
        );
    }
    found
}

fn selector(r: &mut Reader<'_>, item: &Node, field: &str) -> Option<Selector> {
    const KEYS: [&str; 4] = ["cluster", "region", "zone", "relative"];
    let mut given = KEYS.into_iter().filter_map(|key| Some((key, item.get(key)?)));
    let (key, node) = match (given.next(), given.next()) {
        (Some(one), None) => one,
        (None, _) => {
            let remedy = "name one of the four; a misspelt one is told as an unknown field";
            r.bad(item, field, "has none of cluster, region, zone, relative", remedy);
            return None;
        }
        (Some(_), Some(_)) => {
            let message = "must have exactly one of cluster, region, zone, relative";
            r.bad(item, field, message, "split it into several items");
            return None;
        }
    };
    let field = format!("{field}.{key}");
    r.mark(field.clone(), node);
    let place_name = |text: &str| {
        if text.is_empty() || text.len() > 63 { Err("a name has 1 to 63 characters") } else { Ok(text.to_owned()) }
    };
    match key {
        "cluster" => {
            r.parsed(node, &field, "write the name of a cluster", |t| ClusterName::new(t)).map(Selector::Cluster)
        }
        "region" => r.parsed(node, &field, "write the name of a region", place_name).map(Selector::Region),
        "zone" => r.parsed(node, &field, "write the name of a zone", place_name).map(Selector::Zone),
        // A value that is none of these is the schema's to tell.
        _ => match node.text()? {
            "sameCluster" => Some(Selector::Relative(Relative::SameCluster)),
            "sameZone" => Some(Selector::Relative(Relative::SameZone)),
            "sameRegion" => Some(Selector::Relative(Relative::SameRegion)),
            "any" => Some(Selector::Relative(Relative::Any)),
            _ => None,
        },
    }
}

fn duration(r: &mut Reader<'_>, key: &str) -> u32 {
    let field = format!("spec.{key}");
    let Some(node) = r.get(&["spec", key]) else { return HOLD_SECONDS };
    let remedy = "write hours, minutes and seconds, say \"30s\" or \"1m30s\", at most 24h";
    let Some(seconds) = r.parsed(node, &field, remedy, parse_duration) else { return HOLD_SECONDS };
    // The schema of an API server writes the default into every object: nobody has asked for it.
    let is_default = matches!(r.scope, Scope::Member | Scope::Hub) && seconds == HOLD_SECONDS;
    if !is_default {
        let message = format!("is kept and shown, but {key} is not in this version: it has no effect yet");
        r.find(Code::NoEffectYet, node.place, &field, message, None);
    }
    seconds
}

/// Whole seconds of `1h2m3s`, parts in this order, each at most once.
pub(super) fn parse_duration(text: &str) -> Result<u32, String> {
    let refuse = || format!("{:?} is no duration", text.chars().take(40).collect::<String>());
    let mut rest = text;
    let mut total: u32 = 0;
    for (unit, seconds) in [('h', 3600), ('m', 60), ('s', 1)] {
        if let Some((number, after)) = rest.split_once(unit) {
            if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
                return Err(refuse());
            }
            let number: u32 = number.parse().map_err(|_too_large| refuse())?;
            total = number.checked_mul(seconds).and_then(|s| total.checked_add(s)).ok_or_else(refuse)?;
            rest = after;
        }
    }
    if !rest.is_empty() || text.is_empty() || total > HOLD_MAX { Err(refuse()) } else { Ok(total) }
}
