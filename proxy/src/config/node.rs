//! Pure. The xDS node: what the agent is told we were started with. It decides who we are by itself, by attestation.

use std::collections::BTreeMap;
use std::net::IpAddr;

use meshfed_api::proto::envoy::service::discovery::v3::Node;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use super::Config;

fn text(s: impl Into<String>) -> Value {
    Value { kind: Some(Kind::StringValue(s.into())) }
}
fn list(items: impl IntoIterator<Item = String>) -> Value {
    Value { kind: Some(Kind::ListValue(ListValue { values: items.into_iter().map(text).collect() })) }
}
fn object(fields: impl IntoIterator<Item = (String, Value)>) -> Value {
    let fields: BTreeMap<String, Value> = fields.into_iter().collect();
    Value { kind: Some(Kind::StructValue(Struct { fields: fields.into_iter().collect() })) }
}

/// The node of this process, with `metadata.meshfed` as contracts 1.8 says. A gateway tells the host's addresses, too:
/// which of its declared addresses are its own follows from them.
#[must_use]
pub fn node(config: &Config, host_addresses: &[IpAddr]) -> Node {
    let workload = &config.workload;
    let name = workload.name.as_ref().unwrap_or(&workload.service_account);
    let address = config.bind.first().map_or_else(|| "0.0.0.0".to_owned(), ToString::to_string);
    let mode = config.mode.as_str();
    let ns = &workload.namespace;
    let meshfed = object([
        ("workload".to_owned(), text(workload.to_string())),
        ("mode".to_owned(), text(mode)),
        ("bind".to_owned(), list(config.bind.iter().map(ToString::to_string))),
        ("capture".to_owned(), text(config.capture.as_str())),
        ("hostAddresses".to_owned(), list(host_addresses.iter().map(ToString::to_string))),
        ("inbound".to_owned(), object(config.inbound.iter().map(|(p, a)| (p.to_string(), text(a.to_string()))))),
        ("outbound".to_owned(), object(config.outbound.iter().map(|(l, s)| (l.to_string(), text(s))))),
        (
            "listen".to_owned(),
            object(config.listen.iter().map(|(k, v)| ((*k).to_owned(), list(v.iter().map(ToString::to_string))))),
        ),
    ]);
    Node {
        id: format!("{mode}~{address}~{name}.{ns}~{ns}.svc.cluster.local"),
        cluster: format!("{}.{ns}", workload.service_account),
        metadata: Some(Struct { fields: [("meshfed".to_owned(), meshfed)].into_iter().collect() }),
        user_agent_name: "meshfed-proxy".to_owned(),
        user_agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Node::default()
    }
}
