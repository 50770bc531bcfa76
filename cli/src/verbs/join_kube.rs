//! Edge. `meshfed join --kube`: writes the two objects by which the agent of a Kubernetes cluster joins, and waits for
//! what it says (`contracts-kubernetes.md` 5.3).

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::wait::await_condition;
use meshfed_api::proto::federation as pb;
use meshfed_ca::token::Token;
use meshfed_cluster_agent::enroll::{Contact, EnrollError};
use meshfed_cluster_agent::membership::TOKEN_ID;
use meshfed_cluster_agent::membership::connect::{self, Place};
use meshfed_crds::custom::{Condition, ConditionStatus, Membership};
use meshfed_runtime::telemetry::chain;
use serde_json::{Value, json};

use super::join::failure;
use crate::exit::{Failure, Outcome};
use crate::output::{Format, print, remark};
use crate::place::{self, is_missing_kind, refused};

/// Who writes what the command line writes.
const FIELD_MANAGER: &str = "meshfed-cli";
/// The Membership that is written.
const MEMBERSHIP: &str = "meshfed";
/// The Secret that is written, the chart's default of `membership.tokenSecret`.
const TOKEN_SECRET: &str = "meshfed-join";
/// The agent, as the chart names it.
const AGENT: &str = "meshfed-agent";
/// What to do where the fleet of a member is gone.
const LOST_FLEET: &str = "docs/kubernetes/membership.md#a-fleet-that-is-gone";
/// What stands in the place of the token where the objects are printed.
const PLACEHOLDER: &str = "<the token; let a secret manager put it here, and keep it out of git>";

/// Where the cluster is.
#[derive(clap::Args)]
pub struct KubeArgs {
    /// Join a Kubernetes cluster: write Secret meshfed-join and Membership meshfed for its agent, and wait for it.
    /// -o yaml prints the two instead, with a placeholder for the token
    #[arg(long)]
    pub kube: bool,
    /// With --kube: a context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", requires = "kube")]
    pub context: Option<String>,
    /// With --kube: the kubeconfig [default: KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE", requires = "kube")]
    pub kubeconfig: Option<std::path::PathBuf>,
    /// With --kube: the namespace of the chart's release
    #[arg(short, long, value_name = "NAMESPACE", default_value = "meshfed-system")]
    pub namespace: String,
    /// With --kube: how long to wait for the agent
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = super::status::duration)]
    pub timeout: Duration,
}

impl KubeArgs {
    /// The way to the cluster.
    ///
    /// # Errors
    /// Bad input: a kubeconfig that cannot be used.
    pub async fn connect(&self) -> Result<Place, Failure> {
        let options = connect::Options {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            namespace: Some(self.namespace.clone()),
        };
        place::at(options).await
    }
}

/// Prints the two objects instead of writing them. The token is no part of them.
pub fn objects(federator: &str, args: &KubeArgs) -> Outcome {
    for document in [secret(&args.namespace, PLACEHOLDER), membership(&args.namespace, federator, None)] {
        let yaml = serde_saphyr::to_string(&document).map_err(|error| Failure::failed(error.to_string()))?;
        print(&format!("---\n{yaml}"));
    }
    Ok(0)
}

/// Writes and waits.
pub async fn run(federator: &str, token: &Token, token_text: &str, args: &KubeArgs, format: Format) -> Outcome {
    let place = installation(args).await?;
    let namespace = &place.namespace;
    let memberships: Api<Membership> = Api::namespaced(place.client.clone(), namespace);
    let found = memberships.get_opt(MEMBERSHIP).await.map_err(|error| refused(&place, &error))?;
    if let Some(found) = found.as_ref().filter(|found| holds(found, "Joined", ConditionStatus::True)) {
        unchanged(federator, token, found).await?;
        show(found, format);
        return Ok(0);
    }
    // What was refused before says nothing of this token.
    let before = found.as_ref().and_then(|found| condition(found, "Stalled")).map(|c| c.last_transition_time.clone());
    let params = PatchParams::apply(FIELD_MANAGER);
    let secrets: Api<Secret> = Api::namespaced(place.client.clone(), namespace);
    let wanted = membership(namespace, federator, Some(token.id()));
    // Where the Membership is somebody else's, no Secret is left behind, which the agent would take up later.
    let tried = memberships.patch(MEMBERSHIP, &params.clone().dry_run(), &Patch::Apply(&wanted)).await;
    tried.map_err(|error| taken(&place, &format!("Membership {MEMBERSHIP}"), &error))?;
    let written = secrets.patch(TOKEN_SECRET, &params, &Patch::Apply(secret(namespace, token_text))).await;
    written.map_err(|error| taken(&place, &format!("Secret {TOKEN_SECRET}"), &error))?;
    let written = memberships.patch(MEMBERSHIP, &params, &Patch::Apply(wanted)).await;
    let written = written.map_err(|error| taken(&place, &format!("Membership {MEMBERSHIP}"), &error))?;
    remark(&format!("wrote Secret {TOKEN_SECRET} and Membership {MEMBERSHIP} in {namespace}; waiting for the agent"));
    let generation = written.metadata.generation.unwrap_or_default();
    wait(&place, memberships, (generation, before), args.timeout, format).await
}

/// The way to a cluster whose kinds and agent are there.
///
/// # Errors
/// Bad input: a kubeconfig that cannot be used, no kinds, no release.
pub async fn installation(args: &KubeArgs) -> Result<Place, Failure> {
    let place = args.connect().await?;
    installed(&place).await?;
    Ok(place)
}

/// The Membership by which the cluster is a member; none where it is none.
///
/// # Errors
/// An API server that does not answer.
pub async fn joined(place: &Place) -> Result<Option<Membership>, Failure> {
    let memberships: Api<Membership> = Api::namespaced(place.client.clone(), &place.namespace);
    let found = memberships.get_opt(MEMBERSHIP).await.map_err(|error| refused(place, &error))?;
    Ok(found.filter(|found| holds(found, "Joined", ConditionStatus::True)))
}

/// Kinds and agent are there.
async fn installed(place: &Place) -> Result<(), Failure> {
    let namespace = &place.namespace;
    let memberships: Api<Membership> = Api::namespaced(place.client.clone(), namespace);
    let listed = memberships.list(&kube::api::ListParams::default().limit(1)).await;
    let _any = listed.map_err(|error| match is_missing_kind(&error) {
        true => Failure::bad_input(
            "the cluster has no kind Membership; install the kinds first: helm install meshfed-crds helm/meshfed-crds \
             (or: meshfed crds | kubectl apply --server-side -f -)",
        ),
        false => refused(place, &error),
    })?;
    let deployments: Api<Deployment> = Api::namespaced(place.client.clone(), namespace);
    match deployments.get_opt(AGENT).await.map_err(|error| refused(place, &error))? {
        Some(_) => Ok(()),
        None => Err(Failure::bad_input(format!(
            "namespace {namespace} has no Deployment {AGENT}; install the release first: helm install meshfed \
             helm/meshfed-cluster -n {namespace} --create-namespace, or name its namespace with --namespace"
        ))),
    }
}

/// A cluster that is a member stays what it is: fine where the token is for the same one, which stays unused, and the hub knows
/// it. Nobody is asked of the token that it joined with: it is used, and would be refused.
///
/// # Errors
/// A token for another cluster, or a hub of another fleet.
pub async fn unchanged(federator: &str, token: &Token, found: &Membership) -> Result<(), Failure> {
    if let Some(not) = condition(found, "Connected").filter(|c| c.status != ConditionStatus::True) {
        remark(&format!("this cluster has joined, and is not connected now: {}", not.message));
    }
    let member = found.status.as_ref().and_then(|s| s.cluster.as_deref()).unwrap_or("a member");
    if is_its_token(found, token) {
        return Ok(());
    }
    let mut contact = Contact::open(federator, token).await.map_err(|error| failure(&error))?;
    let (plan, placement) = match contact.plan(token, Vec::new()).await {
        Ok(told) => told,
        Err(EnrollError::Refused) if is_at(found, federator) => {
            remark(&format!(
                "this cluster is {member} already, and nothing was changed; whose the token is was not to be learnt: it is \
                 used, expired or unknown"
            ));
            return Ok(());
        }
        Err(error) => return Err(failure(&error)),
    };
    if member != placement.cluster.as_str() {
        other_cluster(member, placement.cluster.as_str());
        return Err(failure(&EnrollError::Refused));
    }
    if !is_known(&plan) {
        return Err(Failure::failed(format!(
            "this cluster is {member} of another fleet than this hub's, which has no member {member}: it is another hub, or \
             its fleet was made anew: let it leave (meshfed leave --kube) and join again; {LOST_FLEET}"
        )));
    }
    Ok(())
}

/// Whether the cluster joined with that very token.
fn is_its_token(found: &Membership, token: &Token) -> bool {
    found.status.as_ref().and_then(|status| status.token_id.as_deref()) == Some(token.id())
}

/// Whether the cluster is connected to the hub of that address.
fn is_at(found: &Membership, federator: &str) -> bool {
    let hub = found.spec.hub.trim_start_matches("https://").trim_end_matches('/');
    hub == federator && holds(found, "Connected", ConditionStatus::True)
}

/// Whether the hub that was asked has a member of the token's name: for it the name is not free.
fn is_known(plan: &pb::PlanResponse) -> bool {
    plan.checks.iter().any(|check| check.id == "NameFree" && check.result != "pass")
}

/// Says which of the two names it is that makes a token that is good the wrong one.
fn other_cluster(member: &str, token: &str) {
    remark(&format!(
        "this cluster is {member} already, and the token is for {token}; to join as {token}, let it leave first: meshfed \
         leave --kube"
    ));
}

/// Waits for the word of the agent on this generation, which is none that was said before.
async fn wait(
    place: &Place,
    memberships: Api<Membership>,
    (generation, before): (i64, Option<String>),
    timeout: Duration,
    format: Format,
) -> Outcome {
    let decided = move |membership: Option<&Membership>| {
        membership.is_none_or(|membership| {
            let stalled = condition(membership, "Stalled").filter(|c| c.status == ConditionStatus::True);
            judged(membership, generation)
                && (holds(membership, "Joined", ConditionStatus::True)
                    || stalled.is_some_and(|c| before.as_ref() != Some(&c.last_transition_time)))
        })
    };
    let ended = tokio::time::timeout(timeout, await_condition(memberships.clone(), MEMBERSHIP, decided)).await;
    let seen = match ended {
        Ok(Ok(membership)) => membership,
        Ok(Err(error)) => return Err(Failure::failed(chain(&error))),
        Err(_elapsed) => {
            let seen = memberships.get_opt(MEMBERSHIP).await.map_err(|error| refused(place, &error))?;
            let said =
                seen.as_ref().and_then(|m| condition(m, "Joined")).map(|c| format!("{}: {}", c.reason, c.message));
            let said = said.unwrap_or_else(|| {
                format!("the agent has said nothing; see kubectl logs deploy/{AGENT} in its namespace")
            });
            return Err(Failure::failed(format!("not joined within {timeout:?}: {said}")));
        }
    };
    let Some(membership) = seen else {
        return Err(Failure::failed(format!("Membership {MEMBERSHIP} was deleted while it was waited for")));
    };
    match condition(&membership, "Stalled").filter(|c| c.status == ConditionStatus::True) {
        Some(stalled) => Err(Failure::failed(format!("{}: {}", stalled.reason, stalled.message))),
        None => {
            show(&membership, format);
            Ok(0)
        }
    }
}

/// Whether the agent has seen this generation of it.
fn judged(membership: &Membership, generation: i64) -> bool {
    membership.status.as_ref().is_some_and(|s| s.observed_generation >= generation)
}

fn condition<'a>(membership: &'a Membership, type_: &str) -> Option<&'a Condition> {
    membership.status.as_ref()?.conditions.iter().find(|c| c.type_ == type_)
}

fn holds(membership: &Membership, type_: &str, status: ConditionStatus) -> bool {
    condition(membership, type_).is_some_and(|c| c.status == status)
}

fn show(membership: &Membership, format: Format) {
    let status = membership.status.clone().unwrap_or_default();
    let (cluster, trust_domain) = (status.cluster.unwrap_or_default(), status.trust_domain.unwrap_or_default());
    match format {
        Format::Json | Format::Yaml => {
            print(&format!("{}\n", json!({ "cluster": cluster, "trustDomain": trust_domain })));
        }
        Format::Table | Format::Wide => print(&format!("joined cluster={cluster} trustDomain={trust_domain}\n")),
    }
}

fn secret(namespace: &str, token: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": TOKEN_SECRET,
            "namespace": namespace,
            "labels": { "app.kubernetes.io/managed-by": "meshfed" },
        },
        "type": "Opaque",
        "stringData": { "token": token.trim() },
    })
}

/// No tool that prunes or uninstalls takes a membership away by the way: its end is the cluster's leave.
/// `token`: the id of the token that was put into the Secret.
fn membership(namespace: &str, federator: &str, token: Option<&str>) -> Value {
    let mut annotations =
        json!({ "argocd.argoproj.io/sync-options": "Prune=false", "helm.sh/resource-policy": "keep" });
    if let Some(token) = token {
        annotations[TOKEN_ID] = token.into();
    }
    json!({
        "apiVersion": "federation.meshfed.io/v1alpha1",
        "kind": "Membership",
        "metadata": {
            "name": MEMBERSHIP,
            "namespace": namespace,
            "annotations": annotations,
        },
        "spec": {
            "hub": format!("https://{federator}"),
            "tokenSecretRef": { "name": TOKEN_SECRET, "key": "token" },
        },
    })
}

/// A field that somebody else owns is not taken from them.
fn taken(place: &Place, what: &str, error: &kube::Error) -> Failure {
    if let kube::Error::Api(status) = error
        && status.code == 409
    {
        return Failure::failed(format!(
            "{what} is kept by somebody else ({}); change it there, say in git, or delete it and try again",
            status.message
        ));
    }
    refused(place, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(hub: &str, connected: &str, token: Option<&str>) -> Membership {
        let condition = json!({ "type": "Connected", "status": connected, "observedGeneration": 1, "reason": "R",
            "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z" });
        let status = json!({ "cluster": "west", "tokenID": token, "observedGeneration": 1, "conditions": [condition] });
        let mut written = membership("meshfed-system", hub, token);
        written["status"] = status;
        serde_json::from_value(written).unwrap()
    }

    /// Who joins by the command line comes under git without a conflict: the examples say what it writes, and may say more.
    ///
    /// Mutation seen to fail: another word in `sync-options`.
    #[test]
    fn the_examples_say_what_a_join_writes() {
        let ours = membership("meshfed-system", "hub.example:15600", None);
        for cluster in ["east", "west"] {
            let path = format!("{}/../examples/gitops/clusters/{cluster}/membership.yaml", env!("CARGO_MANIFEST_DIR"));
            let example: Value = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
            assert_eq!(example["spec"], ours["spec"]);
            for (key, value) in ours["metadata"]["annotations"].as_object().unwrap() {
                assert_eq!(example["metadata"]["annotations"][key], *value, "{cluster}: {key}");
            }
        }
    }

    /// The token that a cluster joined with is known by its id, and needs nobody to be asked; without a word of the hub, another
    /// one is passed over only where the cluster is connected to that very hub.
    ///
    /// Mutations seen to fail: `is_its_token` always false; `is_at` blind to `Connected`.
    #[test]
    fn a_member_knows_its_token_and_its_hub() {
        let (own, other) = (Token::generate([1; 32]).unwrap(), Token::generate([1; 32]).unwrap());
        let found = member("hub.example:15600", "True", Some(own.id()));
        assert!(is_its_token(&found, &own) && !is_its_token(&found, &other));
        assert!(!is_its_token(&member("hub.example:15600", "True", None), &own));
        assert!(is_at(&found, "hub.example:15600") && !is_at(&found, "other.example:15600"));
        assert!(!is_at(&member("hub.example:15600", "False", None), "hub.example:15600"));
    }
}
