//! Pure. What a pod's annotations wish. One that cannot be followed keeps the pod from being admitted: a sidecar that
//! captures what it was told to leave alone would be worse than none.

use std::collections::BTreeSet;

use meshfed_model::network::Cidr;
use serde_json::Value;

use super::quantity;
use super::{Refusal, escape};

/// Ports of the pod that are not captured: `22,9090`.
pub(super) const INBOUND_PORTS: &str = "federation.meshfed.io/exclude-inbound-ports";
/// Ports of others to which connections are not captured.
pub(super) const OUTBOUND_PORTS: &str = "federation.meshfed.io/exclude-outbound-ports";
/// Addresses to which connections are not captured: `192.0.2.0/24,2001:db8::/32`.
pub(super) const OUTBOUND_CIDRS: &str = "federation.meshfed.io/exclude-outbound-cidrs";
/// `requests` and `limits` of the proxy, as JSON.
pub(super) const RESOURCES: &str = "federation.meshfed.io/proxy-resources";
/// `none`: the workload has no sidecar (`contracts.md` 1.8).
const SIDECAR: &str = "federation.meshfed.io/sidecar";
/// What our annotations begin with.
const PREFIX: &str = "federation.meshfed.io/";
/// Those that a pod may have: what it wishes, and what was done.
const KNOWN: [&str; 6] = [INBOUND_PORTS, OUTBOUND_PORTS, OUTBOUND_CIDRS, RESOURCES, SIDECAR, super::STATUS];
/// Most unknown annotations that are told of one pod.
const UNKNOWN_MAX: usize = 8;
/// How much of an unknown name is shown: an API server cuts warnings that are longer than 256 bytes in all.
const NAME_SHOWN: usize = 80;
/// Most items of a list.
const ITEMS_MAX: usize = 64;
/// Longest annotation that is read.
const LENGTH_MAX: usize = 4096;

/// The wishes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Wishes {
    pub(super) inbound_ports: BTreeSet<u16>,
    pub(super) outbound_ports: BTreeSet<u16>,
    pub(super) outbound_cidrs: BTreeSet<String>,
    pub(super) resources: Option<Value>,
}

fn get<'a>(pod: &'a Value, name: &'static str) -> Result<Option<&'a str>, Refusal> {
    let refuse = |reason: String| Refusal::Annotation { name, reason };
    match pod.pointer(&format!("/metadata/annotations/{}", escape(name))) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() <= LENGTH_MAX => Ok(Some(text)),
        Some(Value::String(_)) => Err(refuse(format!("is longer than {LENGTH_MAX} bytes"))),
        Some(_) => Err(refuse("is no string; put it in quotes".to_owned())),
    }
}

fn items<T: Ord>(
    pod: &Value,
    name: &'static str,
    (what, example): (&str, &str),
    parse: impl Fn(&str) -> Option<T>,
) -> Result<BTreeSet<T>, Refusal> {
    let mut found = BTreeSet::new();
    let Some(text) = get(pod, name)? else { return Ok(found) };
    if text.trim().is_empty() {
        return Ok(found);
    }
    for item in text.split(',').map(str::trim) {
        let refuse = |reason: String| Refusal::Annotation { name, reason };
        let value = parse(item).ok_or_else(|| refuse(format!("'{item}' is no {what}; write for example {example}")))?;
        found.insert(value);
        if found.len() > ITEMS_MAX {
            return Err(refuse(format!("names more than {ITEMS_MAX}")));
        }
    }
    Ok(found)
}

/// Annotations under our prefix that mean nothing on a pod, say by a slip of the pen, with what is known; at most
/// [`UNKNOWN_MAX`]. The pod is admitted: a later version may know them.
pub(super) fn unknown(pod: &Value) -> Vec<String> {
    let annotations = pod.pointer("/metadata/annotations").and_then(Value::as_object);
    let names = annotations.into_iter().flatten().map(|(name, _)| name.as_str());
    let ours = names.filter(|name| name.starts_with(PREFIX) && !KNOWN.contains(name)).take(UNKNOWN_MAX);
    ours.map(|name| {
        let name: String = name.chars().take(NAME_SHOWN).collect();
        let short = [INBOUND_PORTS, OUTBOUND_PORTS, OUTBOUND_CIDRS, RESOURCES].map(|known| &known[PREFIX.len()..]);
        format!("annotation {name} is not known and without effect; of {PREFIX} there are {}", short.join(", "))
    })
    .collect()
}

/// Reads them.
pub(super) fn read(pod: &Value) -> Result<Wishes, Refusal> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|p| *p != 0);
    let inbound_ports = items(pod, INBOUND_PORTS, ("port", "22,9090"), port)?;
    let outbound_ports = items(pod, OUTBOUND_PORTS, ("port", "3306,6379"), port)?;
    let cidr = |text: &str| text.parse::<Cidr>().ok().map(|c| c.to_string());
    let outbound_cidrs = items(pod, OUTBOUND_CIDRS, ("range of addresses", "192.0.2.0/24,2001:db8::/32"), cidr)?;
    if get(pod, SIDECAR)? == Some("none") {
        let reason = "is 'none', but injection is enabled for this pod: remove the annotation, or label the pod \
                      federation.meshfed.io/injection=disabled";
        return Err(Refusal::Annotation { name: SIDECAR, reason: reason.to_owned() });
    }
    let resources = match get(pod, RESOURCES)? {
        None => None,
        Some(text) => {
            let refuse = |reason: String| Refusal::Annotation { name: RESOURCES, reason };
            let example = r#"write for example {"requests":{"cpu":"10m"},"limits":{"memory":"128Mi"}}"#;
            let value: Value =
                serde_json::from_str(text).map_err(|e| refuse(format!("is not JSON ({e}); {example}")))?;
            check_resources(&value).map_err(|reason| refuse(format!("{reason}; {example}")))?;
            Some(value)
        }
    };
    Ok(Wishes { inbound_ports, outbound_ports, outbound_cidrs, resources })
}

/// Whether these are `requests` and `limits` of a container, and no request is over its limit.
pub(super) fn check_resources(value: &Value) -> Result<(), String> {
    let groups = value.as_object().ok_or("is no object")?;
    for (group, resources) in groups {
        if !["requests", "limits"].contains(&group.as_str()) {
            return Err(format!("has '{group}'; only requests and limits are known"));
        }
        for (resource, amount) in resources.as_object().ok_or_else(|| format!("{group} is no object"))? {
            if !["cpu", "memory", "ephemeral-storage"].contains(&resource.as_str()) {
                return Err(format!("{group} has '{resource}'; only cpu, memory and ephemeral-storage are known"));
            }
            amount_of(amount).ok_or_else(|| format!("{group}.{resource} is no quantity"))?;
        }
    }
    let (requests, limits) = (groups.get("requests"), groups.get("limits"));
    let limited = limits.and_then(Value::as_object).into_iter().flatten();
    for (resource, limit) in limited {
        let request = requests.and_then(|r| r.get(resource)).and_then(amount_of);
        if request.zip(amount_of(limit)).is_some_and(|(request, limit)| request > limit) {
            return Err(format!("requests.{resource} is over limits.{resource}"));
        }
    }
    Ok(())
}

fn amount_of(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => quantity::value(text),
        Value::Number(number) => number.as_f64().filter(|n| *n >= 0.0),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}
