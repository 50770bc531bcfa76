//! Edge. `meshfed join --plan`: what would happen, judged by the hub and, for addresses, by the joiner.

use std::path::{Path, PathBuf};
use std::time::Duration;

use meshfed_api::border::{Placement, PlannedOffer};
use meshfed_api::proto::federation as pb;
use meshfed_ca::token::Token;
use meshfed_cluster_agent::enroll::{AgentFile, Contact, EnrollError, check_ca};
use meshfed_cluster_agent::membership::connect::Place;
use meshfed_crds::api_server::{ApiServer, Selection};
use meshfed_crds::directory::Walker;
use meshfed_crds::{Body, Bounds, Code, LastGood, ObjectError, Scope};
use meshfed_model::names::Namespace;
use meshfed_runtime::clock;
use serde_json::{Value, json};

use super::join::{JoinArgs, failure};
use super::join_kube;
use crate::exit::{FINDINGS, Failure, Outcome};
use crate::output::{Column, Format, column, print, table as table_of, text};

/// The check that only the joiner can make.
const ADDRESSES: &str = "AddressesAllowed";
/// The check of the name, which warns when the token may replace the live cluster of that name.
const NAME: &str = "NameFree";
/// The check that comes after it.
const CONFLICTS: &str = "Conflicts";
const COLUMNS: &[Column] = &[
    column("RESULT", |c| text(c, &["result"])),
    column("CHECK", |c| text(c, &["check"])),
    column("MESSAGE", |c| text(c, &["message"])),
];
/// How many findings a check names.
const SHOWN: usize = 5;
/// How long an API server may take to list what a plan reads.
const LISTED_WITHIN: Duration = Duration::from_secs(30);

/// Asks the federator, judges the objects, and prints the plan: 0 nothing blocks, 79 findings.
pub async fn run(federator: &str, token: &Token, args: &JoinArgs) -> Outcome {
    let (data_dir, format) = (&args.data_dir, args.output.output);
    let place = if args.kube.kube { Some(join_kube::installation(&args.kube).await?) } else { None };
    if let Some(place) = &place
        && let Some(found) = join_kube::joined(place).await?
    {
        join_kube::unchanged(federator, token, &found).await?;
        let status = found.status.unwrap_or_default();
        let (cluster, trust_domain) = (status.cluster.unwrap_or_default(), status.trust_domain.unwrap_or_default());
        return show(&settled(&cluster, &trust_domain), None, format);
    }
    let member = data_dir.as_ref().and_then(|dir| AgentFile::read(dir).ok());
    let as_it_is = |member: &AgentFile| settled(member.cluster.as_str(), member.trust_domain.as_str());
    if let Some(member) = member.as_ref().filter(|member| member.token_id == token.id()) {
        return show(&as_it_is(member), None, format);
    }
    let mut contact = Contact::open(federator, token).await.map_err(|error| failure(&error))?;
    let (mut plan, placement) = contact.plan(token, Vec::new()).await.map_err(|error| failure(&error))?;
    if let Some(member) = member {
        if member.cluster != placement.cluster || member.fleet != placement.fleet {
            return Err(failure(&EnrollError::Refused));
        }
        return show(&as_it_is(&member), Some(&placement), format);
    }
    let mut addresses = check("pass", "no objects were named with --source".to_owned(), None);
    let objects = match (&place, &args.source) {
        (Some(place), _) => Some(list(place, &placement).await?),
        (None, Some(source)) => Some(read(source, &placement)?),
        (None, None) => None,
    };
    if let Some(objects) = objects {
        addresses = judge(&objects.errors());
        let offers = offers(&objects).iter().map(pb::PlannedOffer::from).collect();
        plan = contact.plan(token, offers).await.map_err(|error| failure(&error))?.0;
    }
    if let Some(from) = &args.ca_from {
        check_ca(from, &placement.trust_domain).map_err(|error| failure(&error))?;
    }
    if let Some(name) = plan.checks.iter_mut().find(|c| c.id == NAME) {
        replacement(name, args, placement.trust_domain.as_str());
    }
    plan.checks.retain(|c| c.id != ADDRESSES);
    let place = plan.checks.iter().position(|c| c.id == CONFLICTS).unwrap_or(plan.checks.len());
    plan.checks.insert(place, addresses);
    plan.allowed = plan.checks.iter().all(|c| c.result != "fail");
    show(&plan, Some(&placement), format)
}

/// Prints a plan, and says by the exit code whether anything blocks.
fn show(plan: &pb::PlanResponse, placement: Option<&Placement>, format: Format) -> Outcome {
    match format {
        Format::Table | Format::Wide => print(&table(plan)),
        Format::Json => print(&format!("{}\n", body(plan, placement))),
        Format::Yaml => {
            let yaml = serde_saphyr::to_string(&body(plan, placement));
            print(&yaml.map_err(|error| Failure::failed(error.to_string()))?);
        }
    }
    Ok(if plan.allowed { 0 } else { FINDINGS })
}

/// The plan of a cluster that is a member of that name already: its join changes nothing, whatever else is in the way.
fn settled(cluster: &str, trust_domain: &str) -> pb::PlanResponse {
    let message = format!("this cluster is {cluster} already: a join changes nothing, and uses no token");
    let name = pb::PlanCheck { id: NAME.to_owned(), result: "pass".to_owned(), message, remedy: String::new() };
    pb::PlanResponse {
        cluster: cluster.to_owned(),
        trust_domain: trust_domain.to_owned(),
        allowed: true,
        checks: vec![name],
        ..pb::PlanResponse::default()
    }
}

/// What the flags make of a name that is taken. The hub knows what the token allows, and only the joiner what is asked:
/// without `--replace` the join is refused, and with a CA key that is kept nobody has to trust a new one.
fn replacement(name: &mut pb::PlanCheck, args: &JoinArgs, trust_domain: &str) {
    if args.kube.kube && name.result != "pass" {
        // Nobody is replaced with --kube: a cluster of Kubernetes keeps its CA key, and leaves by its own agent.
        if name.result == "warn" {
            name.message.push_str(", but none does on Kubernetes");
        }
        name.result = "fail".to_owned();
        name.remedy = "let that cluster leave first (meshfed leave --kube), or choose another name".to_owned();
        return;
    }
    if name.result != "warn" {
        return;
    }
    if !args.replace {
        name.result = "fail".to_owned();
        name.message.push_str(", but is not told to");
        name.remedy = "join with --replace, or choose another name".to_owned();
    } else if args.ca_from.is_some() {
        name.remedy =
            "its earlier agent loses its identity; the CA key is kept, and its workloads keep theirs".to_owned();
    } else {
        name.remedy = format!(
            "its agent and its workloads lose their identities, and every cluster that knows it must approve the new \
             anchor (meshfed trust approve {trust_domain}); with --ca-from OLD_E the earlier one is kept"
        );
    }
}

fn read(source: &str, placement: &Placement) -> Result<LastGood, Failure> {
    let path = source
        .strip_prefix("dir:")
        .ok_or_else(|| Failure::usage(format!("--source {source}: only dir:PATH is in this version")))?;
    if !Path::new(path).is_dir() {
        return Err(Failure::bad_input(format!("--source {source}: {path} is no directory")));
    }
    let mut walker = Walker::new(PathBuf::from(path), []);
    let walk = walker.walk(true, |_path, _stamp| false);
    let mut objects = LastGood::new(Scope::Cluster, Some(bounds(placement, None)));
    objects.set_walk_errors(walker.errors().to_vec());
    let _all_new = objects.apply(walk.changes);
    Ok(objects)
}

/// What an agent would be held to; `gateways_in`: the namespace of its release, on Kubernetes.
fn bounds(placement: &Placement, gateways_in: Option<Namespace>) -> Bounds {
    Bounds {
        networks: placement.networks.clone(),
        regions: placement.regions.clone(),
        zones: placement.zones.clone(),
        gateway_cidrs: placement.gateway_cidrs.clone(),
        gateways_in,
    }
}

/// The objects of an API server, each kind listed once, as its agent would read them.
async fn list(place: &Place, placement: &Placement) -> Result<LastGood, Failure> {
    let selection = Selection { scope: Scope::Member, fleet_namespace: None };
    let mut server = ApiServer::new(&place.client, &selection, []);
    let mut objects = LastGood::new(Scope::Member, Some(bounds(placement, place.namespace.parse().ok())));
    let listed = async {
        while !server.kinds().iter().all(|(_, watched)| watched.is_answered()) {
            let changes = server.next(clock::instant).await;
            let _all_new = objects.apply(changes);
        }
    };
    let late = tokio::time::timeout(LISTED_WITHIN, listed).await.is_err();
    let faults = server.kinds().faults(clock::instant());
    if late {
        let missing = server.kinds().iter().filter(|(_, watched)| !watched.is_answered());
        let missing = missing.map(|(kind, _)| kind.to_string()).collect::<Vec<_>>().join(", ");
        let why = faults.first().map(|fault| format!(": {}", fault.message)).unwrap_or_default();
        return Err(Failure::failed(format!("the API server did not list {missing} within {LISTED_WITHIN:?}{why}")));
    }
    objects.set_walk_errors(faults);
    Ok(objects)
}

/// The services that the objects export.
fn offers(objects: &LastGood) -> Vec<PlannedOffer> {
    let exported: std::collections::BTreeSet<_> = objects
        .objects()
        .filter_map(|o| match &o.body {
            Body::ServiceExport(export) => Some(export.service.clone()),
            Body::Namespace(_)
            | Body::Service(_)
            | Body::WorkloadEntry(_)
            | Body::ExportPolicy(_)
            | Body::FailoverPolicy(_)
            | Body::EndpointSlice(_)
            | Body::Pod(_)
            | Body::Node(_)
            | Body::PeerAuthentication(_)
            | Body::Mesh(_) => None,
        })
        .collect();
    objects
        .objects()
        .filter_map(|o| match &o.body {
            Body::Service(service) if exported.contains(&service.name) => Some(PlannedOffer {
                service: service.name.clone(),
                service_type: service.service_type,
                ports: service.ports.iter().map(|p| p.port.clone()).collect(),
            }),
            Body::Service(_)
            | Body::Namespace(_)
            | Body::ServiceExport(_)
            | Body::WorkloadEntry(_)
            | Body::ExportPolicy(_)
            | Body::FailoverPolicy(_)
            | Body::EndpointSlice(_)
            | Body::Pod(_)
            | Body::Node(_)
            | Body::PeerAuthentication(_)
            | Body::Mesh(_) => None,
        })
        .collect()
}

fn check(result: &str, message: String, remedy: Option<&str>) -> pb::PlanCheck {
    let remedy = remedy.unwrap_or_default().to_owned();
    pb::PlanCheck { id: ADDRESSES.to_owned(), result: result.to_owned(), message, remedy }
}

/// Objects that the token does not allow fail; other faults warn, since they would not be offered.
fn judge(errors: &[ObjectError]) -> pb::PlanCheck {
    let is_outside = |e: &&ObjectError| e.code == Code::NotAllowed;
    // Objects of an API server have no lines.
    let place = |e: &ObjectError| match (e.file.as_deref(), e.line, e.column) {
        (Some(file), Some(line), Some(column)) => format!("{file}:{line}:{column}: {}", e.message),
        (Some(file), ..) => format!("{file}: {}", e.message),
        (None, ..) => e.message.clone(),
    };
    let outside: Vec<String> = errors.iter().filter(is_outside).map(place).collect();
    if !outside.is_empty() {
        let shown = outside.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
        let message = format!("what the token does not allow, {} times: {shown}", outside.len());
        return check("fail", message, Some("make a token that names these ranges, or change the objects"));
    }
    let faults: Vec<String> = errors.iter().filter(|e| e.is_error()).map(place).collect();
    if !faults.is_empty() {
        let shown = faults.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
        return check("warn", format!("faults in the objects, {}: {shown}", faults.len()), Some("mend the objects"));
    }
    check("pass", "every address lies in the token's ranges".to_owned(), None)
}

fn table(plan: &pb::PlanResponse) -> String {
    let mut out = format!("cluster {} (trust domain {})\n\n", plan.cluster, plan.trust_domain);
    let rows: Vec<Value> = plan
        .checks
        .iter()
        .map(|c| {
            let remedy = Some(&c.remedy).filter(|r| !r.is_empty() && c.result != "pass");
            let remedy = remedy.map(|r| format!(" → {r}")).unwrap_or_default();
            json!({ "result": c.result, "check": c.id, "message": format!("{}{remedy}", c.message) })
        })
        .collect();
    out.push_str(&table_of(&COLUMNS.iter().collect::<Vec<_>>(), &rows));
    for merge in &plan.merges {
        out.push_str(&format!("\n{} would merge with {}\n", merge.service, merge.with.join(", ")));
        if !merge.conflict.is_empty() {
            out.push_str(&format!("  conflict: {}\n", merge.conflict));
        }
    }
    if !plan.new_services.is_empty() {
        out.push_str(&format!("\nnew services: {}\n", plan.new_services.join(", ")));
    }
    out.push_str(if plan.allowed { "\nnothing blocks the join\n" } else { "\nblocked: mend what failed first\n" });
    out
}

fn null_if_empty(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

/// What the token grants is null where nobody was asked about it.
fn body(plan: &pb::PlanResponse, placement: Option<&Placement>) -> Value {
    let checks: Vec<Value> = plan
        .checks
        .iter()
        .map(|c| json!({ "id": c.id, "result": c.result, "message": c.message, "remedy": null_if_empty(&c.remedy) }))
        .collect();
    let merges: Vec<Value> = plan
        .merges
        .iter()
        .map(|m| json!({ "service": m.service, "with": m.with, "conflict": null_if_empty(&m.conflict) }))
        .collect();
    json!({
        "cluster": plan.cluster, "trustDomain": plan.trust_domain, "networks": placement.map(|p| &p.networks),
        "gatewayCidrs": placement.map(|p| &p.gateway_cidrs), "regions": placement.map(|p| &p.regions),
        "zones": placement.map(|p| &p.zones),
        "allowed": plan.allowed, "checks": checks, "merges": merges, "newServices": plan.new_services,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plan promises what the join with the same flags does.
    ///
    /// Mutations seen to fail: `replace` not asked; `ca_from` not asked; `args.kube.kube` not asked.
    #[test]
    fn a_plan_is_of_the_flags_that_it_was_given() {
        let judged = |result: &str, flags: &[&str]| {
            let mut name = pb::PlanCheck { result: result.to_owned(), ..check("warn", String::new(), None) };
            replacement(&mut name, &crate::verbs::join::parsed(flags), "east.mesh.example");
            (name.result, name.remedy)
        };
        let (result, remedy) = judged("warn", &["--data-dir", "e"]);
        assert!(result == "fail" && remedy.contains("--replace"), "{result}: {remedy}");
        for found in ["warn", "fail"] {
            let (result, remedy) = judged(found, &["--kube"]);
            let said = remedy.contains("leave --kube") && !remedy.contains("--replace");
            assert!(result == "fail" && said, "a flag that --kube does not take is no remedy: {remedy}");
        }
        assert_eq!(judged("pass", &["--kube"]).0, "pass");
        let (result, remedy) = judged("warn", &["--data-dir", "e", "--replace"]);
        assert!(result == "warn" && remedy.contains("meshfed trust approve east.mesh.example"), "{result}: {remedy}");
        let keeps_ca = &["--data-dir", "e", "--replace", "--ca-from", "old"];
        let (result, remedy) = judged("warn", keeps_ca);
        assert!(result == "warn" && !remedy.contains("approve"), "{result}: {remedy}");
        for as_it_was in ["pass", "fail"] {
            assert_eq!(judged(as_it_was, keeps_ca), (as_it_was.to_owned(), String::new()));
        }
    }
}
