//! Pure. `GET services/{ns}/{name}/endpoints`, for a client of this cluster.

use std::sync::Arc;

use meshfed_api::http as body;
use meshfed_model::horizon::{Assignment, Client, Families, Item, Via};
use meshfed_model::locality::Locality;
use meshfed_model::names::{ServiceName, WorkloadRef};

use crate::core::Core;
use crate::core::store::Class;
use crate::downlink::{EndpointsAnswer, EndpointsQuery};
use crate::translate::endpoints::via;
use crate::translate::{Domain, Mode, OutboundName, PortFacts};

fn problem(status: u16, detail: impl ToString) -> EndpointsAnswer {
    EndpointsAnswer::Problem { status, detail: detail.to_string() }
}

/// Answers a query.
#[must_use]
pub fn endpoints(core: &Core, query: &EndpointsQuery) -> EndpointsAnswer {
    match answer(core, query) {
        Ok(answer) => match serde_json::to_vec(&answer) {
            Ok(json) => EndpointsAnswer::Body(json),
            Err(error) => problem(500, error),
        },
        Err(problem) => problem,
    }
}

fn client(core: &Core, query: &EndpointsQuery) -> Result<Client, EndpointsAnswer> {
    let settings = core.settings();
    let mut client = if query.client.is_empty() {
        let network = settings.networks.first().ok_or_else(|| problem(503, "the cluster has no network"))?;
        Client {
            cluster: settings.cluster.clone(),
            network: network.name.clone(),
            locality: settings.locality.clone(),
            families: Families::BOTH,
        }
    } else {
        let wanted: WorkloadRef = query.client.parse().map_err(|e| problem(400, format!("client: {e}")))?;
        let workload = core.index().workload(&wanted).map_err(|e| problem(404, format!("client: {e}")))?;
        core.class_of(workload, Mode::Sidecar).client
    };
    if !query.locality.is_empty() {
        let locality: Locality = query.locality.parse().map_err(|e| problem(400, format!("locality: {e}")))?;
        client.locality = locality;
    }
    Ok(client)
}

/// The node of the workload that asks; of nobody in particular: none.
fn node(core: &Core, query: &EndpointsQuery) -> Option<Arc<str>> {
    let wanted: WorkloadRef = query.client.parse().ok()?;
    core.index().node_of(&core.index().workload(&wanted).ok()?.key)
}

fn answer(core: &Core, query: &EndpointsQuery) -> Result<body::Endpoints, EndpointsAnswer> {
    let service = ServiceName::new(&query.namespace, &query.name).map_err(|e| problem(400, e))?;
    let client = client(core, query)?;
    let facts = core.facts(&service).map(|f| &f.clusterset);
    let port = match (u16::try_from(query.port), facts) {
        (Err(_), _) => return Err(problem(400, format!("port {} is no port", query.port))),
        (Ok(0), Some(ports)) if ports.len() == 1 => ports.keys().next().copied().unwrap_or_default(),
        (Ok(0), Some(ports)) if ports.len() > 1 => {
            let known: Vec<String> = ports.keys().map(ToString::to_string).collect();
            return Err(problem(400, format!("{service} has the ports {}; name one", known.join(", "))));
        }
        (Ok(port), Some(ports)) if !ports.is_empty() && !ports.contains_key(&port) => {
            let known: Vec<String> = ports.keys().map(ToString::to_string).collect();
            let (has, ports) = (if known.len() == 1 { "port" } else { "the ports" }, known.join(", "));
            return Err(problem(404, format!("{service} has {has} {ports} and no port {port}")));
        }
        (Ok(port), _) => port,
    };
    let class = Class { mode: Mode::Sidecar, client, node: node(core, query) };
    let outbound = OutboundName::new(service.clone(), port, Domain::Clusterset);
    let mut assignment = core.assignment(&class, &outbound).unwrap_or_default();
    if assignment.items.is_empty() {
        // Nothing is left: a tier that names what is not there looks like this.
        assignment.dropped.extend(core.unselected(&class.client, &outbound));
    }
    let known = facts.and_then(|f| f.get(&port));
    Ok(body_of(core, &class.client, &outbound, &assignment, known))
}

fn body_of(
    core: &Core,
    client: &Client,
    outbound: &OutboundName,
    assignment: &Assignment,
    facts: Option<&PortFacts>,
) -> body::Endpoints {
    // Contracts part 3: what a client may be sent; those without a share stand by, and have none.
    let items = assignment.items.iter().map(|item| endpoint(outbound, item, facts)).collect();
    let dropped = assignment
        .dropped
        .iter()
        .map(|d| body::Dropped {
            cluster: d.cluster.to_string(),
            network: d.network.to_string(),
            ready: d.ready,
            reason: d.reason,
        })
        .collect();
    body::Endpoints {
        service: outbound.service.to_string(),
        port: outbound.port,
        from: body::EndpointsFrom {
            cluster: client.cluster.to_string(),
            network: client.network.to_string(),
            locality: client.locality.to_string(),
        },
        policy: core.policy(outbound).name,
        revision: core.revision().to_string(),
        items,
        dropped,
    }
}

fn endpoint(outbound: &OutboundName, item: &Item, facts: Option<&PortFacts>) -> body::Endpoint {
    let sum =
        |of: fn(&meshfed_model::horizon::GroupShare) -> u32| item.groups.iter().map(of).fold(0, u32::saturating_add);
    let represents = match item.via {
        Via::Direct => body::Count { ready: 1, total: 1 },
        Via::Gateway => body::Count { ready: sum(|g| g.ready).into(), total: sum(|g| g.total).into() },
    };
    let identities = facts.and_then(|f| f.identities.get(&item.cluster)).filter(|_| item.mtls);
    body::Endpoint {
        address: item.address.to_string(),
        port: item.port,
        via: via(item.via).to_owned(),
        cluster: item.cluster.to_string(),
        network: item.network.to_string(),
        locality: item.locality.to_string(),
        tier: item.tier,
        weight: item.weight,
        share: item.share.to_f64(),
        state: "ready".to_owned(),
        represents,
        sni: item.mtls.then(|| outbound.sni()),
        identities: identities.into_iter().flatten().map(ToString::to_string).collect(),
    }
}
