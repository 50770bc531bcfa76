//! Edge. `meshfed check`: what of an installation, a member's or a hub's, is not as it has to be, by asking its API server,
//! and with `--pre` what would keep it from becoming so. Each check has an id, which stays; the page docs/kubernetes/check.md says of each
//! what it means and how to mend it.

mod before;
mod kinds;
mod misplaced;
mod release;
mod storage;

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::ListParams;
use meshfed_cluster_agent::membership::connect::Place;
use meshfed_crds::custom::{ConditionStatus, Membership};
use serde_json::{Value, json};

use crate::exit::{FINDINGS, Failure, Outcome};
use crate::output::{Column, Format, OutputArgs, column, print, shown, table, text, wide};
use crate::place::{PlaceArgs, refused};

/// How often `--wait` looks again.
const POLL: Duration = Duration::from_millis(500);
/// Memberships that are looked at: there is to be one.
const MEMBERSHIPS_MAX: u32 = 16;
/// What each Membership has to be, in the order in which it comes about.
const CONDITIONS: [&str; 3] = ["Joined", "Connected", "Ready"];

/// The page that has an anchor for each id.
const PAGE: &str = "docs/kubernetes/check.md";

/// A check: its id, which stays, and its name.
#[derive(Debug, Clone, Copy)]
struct Id(&'static str, &'static str);

/// All checks. An id is never used again.
mod id {
    use super::Id;

    pub(super) const KINDS: Id = Id("MF0001", "kinds");
    pub(super) const AGENT: Id = Id("MF0002", "agent");
    pub(super) const GATEWAY: Id = Id("MF0003", "gateway");
    pub(super) const MEMBERSHIP: Id = Id("MF0004", "membership");
    pub(super) const MCS: Id = Id("MF0005", "mcs-kinds");
    pub(super) const DNS: Id = Id("MF0006", "cluster-dns");
    pub(super) const ADDRESSES: Id = Id("MF0007", "gateway-addresses");
    pub(super) const HUB_DEPLOYMENT: Id = Id("MF0008", "hub-deployment");
    pub(super) const HUB_VOLUME: Id = Id("MF0009", "hub-volume");
    pub(super) const VERSION: Id = Id("MF0010", "version");
    pub(super) const FOREIGN: Id = Id("MF0011", "foreign-kinds");
    pub(super) const POD_SECURITY: Id = Id("MF0012", "pod-security");
    pub(super) const CLOCK: Id = Id("MF0013", "clock");
    pub(super) const HUB: Id = Id("MF0014", "hub");
    pub(super) const LABELS: Id = Id("MF0015", "injection-labels");
    pub(super) const LEASE: Id = Id("MF0016", "agent-lease");
    pub(super) const CLASS: Id = Id("MF0017", "default-storage-class");
    pub(super) const MISPLACED: Id = Id("MF0018", "misplaced");

    pub(super) const ALL: [Id; 18] = [
        KINDS,
        AGENT,
        GATEWAY,
        MEMBERSHIP,
        MCS,
        DNS,
        ADDRESSES,
        HUB_DEPLOYMENT,
        HUB_VOLUME,
        VERSION,
        FOREIGN,
        POD_SECURITY,
        CLOCK,
        HUB,
        LABELS,
        LEASE,
        CLASS,
        MISPLACED,
    ];
}

const COLUMNS: [Column; 5] = [
    column("RESULT", |row| text(row, &["result"])),
    column("ID", |row| text(row, &["id"])),
    column("CHECK", |row| text(row, &["name"])),
    column("MESSAGE", |row| match row.get("remedy").and_then(Value::as_str) {
        Some(remedy) => format!("{} → {remedy}", text(row, &["message"])),
        None => text(row, &["message"]),
    }),
    wide("DOCS", |row| text(row, &["docs"])),
];

/// Arguments of `meshfed check`.
#[derive(clap::Args)]
pub struct CheckArgs {
    /// Before anything is installed: whether it can be
    #[arg(long)]
    pre: bool,
    /// With --pre: the hub's gRPC port, which has to accept a connection from here
    #[arg(long, value_name = "https://HOST:PORT", value_parser = hub, requires = "pre")]
    hub: Option<Hub>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Leave a check out, by its id; may be repeated
    #[arg(long, value_name = "ID", value_parser = known_id)]
    skip: Vec<String>,
    /// Look again until nothing fails, for so long at most
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = super::status::duration)]
    wait: Duration,
    #[command(flatten)]
    output: OutputArgs,
}

/// An id of a check, in any case.
fn known_id(text: &str) -> Result<String, String> {
    let wanted = text.to_ascii_uppercase();
    if id::ALL.iter().any(|Id(id, _)| *id == wanted) {
        return Ok(wanted);
    }
    Err(format!("there is no such check; {PAGE} lists them"))
}

/// Where a hub is.
#[derive(Debug, Clone)]
struct Hub {
    host: String,
    port: u16,
}

fn hub(text: &str) -> Result<Hub, String> {
    let parsed = text.strip_prefix("https://").and_then(|rest| rest.trim_end_matches('/').rsplit_once(':'));
    let parsed = parsed.and_then(|(host, port)| Some((host, port.parse::<u16>().ok().filter(|port| *port > 0)?)));
    let (host, port) = parsed.filter(|(host, _)| !host.is_empty()).ok_or("write https://HOST:PORT")?;
    Ok(Hub { host: host.trim_matches(['[', ']']).to_owned(), port })
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Pass,
    /// It works, and less than its user may think.
    Warn,
    Fail,
}

/// What one check found.
struct Found {
    id: Id,
    message: String,
    verdict: Verdict,
    /// None: it passed.
    remedy: Option<String>,
}

impl Found {
    fn pass(id: Id, message: impl Into<String>) -> Self {
        Self { id, message: message.into(), verdict: Verdict::Pass, remedy: None }
    }
    fn warn(id: Id, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { id, message: message.into(), verdict: Verdict::Warn, remedy: Some(remedy.into()) }
    }
    fn fail(id: Id, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { id, message: message.into(), verdict: Verdict::Fail, remedy: Some(remedy.into()) }
    }
    fn fails(&self) -> bool {
        self.verdict == Verdict::Fail
    }
}

/// Checks, prints, and exits 0 when nothing fails, 79 otherwise.
pub async fn run(args: CheckArgs) -> Outcome {
    let here = args.place.here();
    let place = args.place.connect().await?;
    let deadline = tokio::time::Instant::now() + args.wait;
    let found = loop {
        let looked =
            if args.pre { before::look(&place, args.hub.as_ref()).await } else { look(&place, &place.namespace).await };
        let found = looked.map(|all| {
            let wanted = |f: &Found| !args.skip.iter().any(|skip| skip == f.id.0);
            all.into_iter().filter(wanted).collect::<Vec<_>>()
        });
        let fine = found.as_ref().is_ok_and(|found| !found.iter().any(Found::fails));
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        if fine || left.is_zero() {
            break found?;
        }
        tokio::time::sleep(POLL.min(left)).await;
    };
    let found: Vec<Found> = found.into_iter().map(|f| Found { remedy: f.remedy.as_deref().map(&here), ..f }).collect();
    show(&found, args.output.output)?;
    Ok(if found.iter().any(Found::fails) { FINDINGS } else { 0 })
}

/// All checks, in the order in which an installation comes about: of a hub, of a member, or of both where a namespace has
/// both.
async fn look(place: &Place, namespace: &str) -> Result<Vec<Found>, Failure> {
    let memberships: Api<Membership> = Api::namespaced(place.client.clone(), namespace);
    let listed = match memberships.list(&ListParams::default().limit(MEMBERSHIPS_MAX)).await {
        Ok(list) => list.items,
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let message = "the API server has no kind Membership of federation.meshfed.io/v1alpha1";
            return Ok(vec![Found::fail(id::KINDS, message, "helm install meshfed-crds helm/meshfed-crds")]);
        }
        Err(error) => return Err(refused(place, &error)),
    };
    let mut found = vec![Found::pass(id::KINDS, "the kinds of federation.meshfed.io/v1alpha1 are there")];
    let deployments: Api<Deployment> = Api::namespaced(place.client.clone(), namespace);
    let deployment = async |name: &str| deployments.get_opt(name).await.map_err(|error| refused(place, &error));
    let (agent, hub) = (deployment("meshfed-agent").await?, deployment("meshfed-hub").await?);
    if agent.is_none()
        && hub.is_none()
        && listed.is_empty()
        && let Some(elsewhere) = elsewhere(place, namespace).await?
    {
        found.push(elsewhere);
        return Ok(found);
    }
    if let Some(hub) = hub {
        found.push(available(id::HUB_DEPLOYMENT, "meshfed-hub", &hub, namespace));
        found.push(storage::hub_volume(place, &hub, namespace).await?);
        if agent.is_none() && listed.is_empty() {
            return Ok(found);
        }
    }
    found.push(mcs(place).await?);
    found.push(match &agent {
        Some(agent) => available(id::AGENT, "meshfed-agent", agent, namespace),
        None => {
            let message = format!("namespace {namespace} has neither Deployment meshfed-agent nor meshfed-hub");
            let remedy = format!(
                "helm install meshfed helm/meshfed-cluster -n {namespace}, or name its namespace with --namespace"
            );
            Found::fail(id::AGENT, message, remedy)
        }
    });
    let gateway = deployment("meshfed-eastwest").await?;
    let gateway = gateway.map(|gateway| available(id::GATEWAY, "meshfed-eastwest", &gateway, namespace));
    let serves = gateway.as_ref().is_some_and(|gateway| !gateway.fails());
    found.extend(gateway);
    found.push(membership(place, agent.is_some(), &listed).await?);
    if agent.is_some() && !listed.is_empty() {
        found.extend(release::agent_lease(place, namespace).await?);
    }
    if serves {
        // Gateways listen once the cluster has joined: that it has not comes before what follows from it.
        found.push(release::gateway_addresses(place, namespace, has_joined(&listed)).await?);
    }
    found.extend(release::injection_labels(place).await?);
    found.extend(misplaced::look(place).await?);
    if agent.is_some() {
        found.extend(release::cluster_dns(place, namespace).await?);
    }
    Ok(found)
}

/// What a namespace without a release is told where others have one: a second one is the last thing to want. None: there is
/// none elsewhere, or whoever asks may not see it.
async fn elsewhere(place: &Place, namespace: &str) -> Result<Option<Found>, Failure> {
    let agents = misplaced::namespaces_with(place, "meshfed-agent").await?.unwrap_or_default();
    let hubs = misplaced::namespaces_with(place, "meshfed-hub").await?.unwrap_or_default();
    let others: BTreeSet<&String> = agents.iter().chain(&hubs).collect();
    if others.is_empty() {
        return Ok(None);
    }
    let mut remedies: Vec<String> = others.iter().map(|other| format!("meshfed check -n {other}")).collect();
    if agents.is_empty() {
        remedies.push(format!(
            "helm install meshfed helm/meshfed-cluster -n {namespace} to make the hub's cluster a member"
        ));
    }
    let others = others.into_iter().map(String::as_str).collect::<Vec<_>>().join(" and ");
    let message = format!("namespace {namespace} has no release of meshfed; this cluster has one in {others}");
    Ok(Some(Found::fail(id::AGENT, message, remedies.join(", or "))))
}

/// Whether services can be exported and imported.
async fn mcs(place: &Place) -> Result<Found, Failure> {
    for kind in kinds::MCS.kinds {
        if kinds::served(place, kind).await? != kinds::Served::Yes {
            let message = format!("the API server has no kind {} of {}/{}", kind.kind, kind.group, kind.version);
            return Ok(Found::fail(
                id::MCS,
                message,
                "helm upgrade --install meshfed-crds helm/meshfed-crds --set mcs=true",
            ));
        }
    }
    Ok(Found::pass(id::MCS, "ServiceExport and ServiceImport are there"))
}

/// Whether a Deployment has the pods that it wants.
fn available(id: Id, name: &str, deployment: &Deployment, namespace: &str) -> Found {
    let wanted = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    let ready = deployment.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0);
    if wanted == 0 {
        let message = format!("Deployment {name} is scaled to 0: it has no pods, and no logs");
        return Found::fail(id, message, format!("kubectl -n {namespace} scale deployment {name} --replicas=1"));
    }
    let message = format!("{ready} of {wanted} pods of Deployment {name} are available");
    if ready >= wanted {
        return Found::pass(id, message);
    }
    let remedy = format!("kubectl -n {namespace} describe pods, and kubectl -n {namespace} logs deploy/{name}");
    Found::fail(id, message, remedy)
}

/// Whether the agent says that the cluster has joined.
fn has_joined(memberships: &[Membership]) -> bool {
    let conditions = memberships.iter().filter_map(|m| m.status.as_ref()).flat_map(|status| &status.conditions);
    conditions.into_iter().any(|c| c.type_ == CONDITIONS[0] && c.status == ConditionStatus::True)
}

/// What the cluster's Membership says, and who stands behind it.
async fn membership(place: &Place, has_agent: bool, listed: &[Membership]) -> Result<Found, Failure> {
    let namespace = &place.namespace;
    if has_agent && listed.is_empty() && super::leave::is_leaving(place).await? == Some(true) {
        return Ok(Found::fail(
            id::MEMBERSHIP,
            format!(
                "namespace {namespace} has no Membership any more, and its agent has yet to tell the hub that the cluster leaves"
            ),
            format!(
                "meshfed leave --kube -n {namespace} waits for it; where the hub is gone for good, the next join gives it up"
            ),
        ));
    }
    Ok(match member(listed, namespace) {
        // What a condition says is the word of who wrote it last.
        said if !has_agent && !said.fails() => Found::warn(
            id::MEMBERSHIP,
            format!("{}, says an agent that is not there any more", said.message),
            format!("install the release again, or kubectl -n {namespace} delete membership --all"),
        ),
        said => said,
    })
}

/// Whether there is one Membership, and the first of its conditions that does not hold.
fn member(memberships: &[Membership], namespace: &str) -> Found {
    const ID: Id = id::MEMBERSHIP;
    let [membership] = memberships else {
        return if memberships.is_empty() {
            let remedy = format!("meshfed join https://HUB:15600 --token-file FILE --kube -n {namespace}");
            Found::fail(
                ID,
                format!("namespace {namespace} has no Membership: the cluster has not joined a fleet"),
                remedy,
            )
        } else {
            let message = format!("namespace {namespace} has {} Memberships, and one is read", memberships.len());
            Found::fail(ID, message, "delete all but the one whose Joined is True")
        };
    };
    let status = membership.status.clone().unwrap_or_default();
    for wanted in CONDITIONS {
        match status.conditions.iter().find(|c| c.type_ == wanted) {
            Some(condition) if condition.status == ConditionStatus::True => {}
            Some(condition) => {
                let message = format!("{wanted} is not True: {}: {}", condition.reason, condition.message);
                return Found::fail(ID, message, format!("kubectl -n {namespace} describe membership"));
            }
            None => {
                let message = format!("the agent has not said whether the cluster is {wanted}");
                return Found::fail(ID, message, format!("kubectl -n {namespace} logs deploy/meshfed-agent"));
            }
        }
    }
    let cluster = status.cluster.unwrap_or_default();
    Found::pass(ID, format!("joined as {cluster}, connected and ready"))
}

fn show(found: &[Found], format: Format) -> Result<(), Failure> {
    let result = |f: &Found| match f.verdict {
        Verdict::Pass => "pass",
        Verdict::Warn => "warn",
        Verdict::Fail => "fail",
    };
    let checks: Vec<Value> = found
        .iter()
        .map(|f| {
            let Id(id, name) = f.id;
            let docs = format!("{PAGE}#{}", id.to_ascii_lowercase());
            json!({ "id": id, "name": name, "result": result(f), "message": f.message, "remedy": f.remedy, "docs": docs })
        })
        .collect();
    match format {
        Format::Table | Format::Wide => print(&table(&shown(&COLUMNS, format), &checks)),
        Format::Json => print(&format!("{}\n", json!({ "checks": checks }))),
        Format::Yaml => {
            let yaml = serde_saphyr::to_string(&json!({ "checks": checks }));
            print(&yaml.map_err(|error| Failure::failed(error.to_string()))?);
        }
    }
    Ok(())
}
