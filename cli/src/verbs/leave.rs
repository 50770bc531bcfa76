//! Edge. `meshfed leave`: a cluster leaves the fleet.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::Api;
use kube::api::DeleteParams;
use kube::runtime::wait::await_condition;
use meshfed_cluster_agent::downlink::leave::{LeaveError, leave};
use meshfed_cluster_agent::membership::connect::{self, Place};
use meshfed_crds::custom::Membership;
use meshfed_runtime::telemetry::chain;

use crate::exit::{Failure, Outcome};
use crate::output::{print, remark};
use crate::place::{self, is_missing_kind, refused};

/// What the agent keeps of its membership, as the chart names it.
const IDENTITY: &str = "meshfed-identity";
/// How often the agent's progress is looked at.
const POLL: Duration = Duration::from_millis(500);

/// Arguments of `meshfed leave`.
///
/// Nothing is sent to the cluster any more, what is on its way is let end, and then the cluster is no member: the others
/// forget its services and its trust bundle. Again it changes nothing. A new join needs a new token; the cluster's CA key
/// stays, so that nobody has to trust a new one.
#[derive(clap::Args)]
#[command(after_help = "Example:
  meshfed leave --data-dir east
  meshfed leave --kube --context west

With --kube the cluster's agent leaves, and needs to run for it: uninstall its release afterwards.")]
pub struct LeaveArgs {
    /// The data directory that 'meshfed join' made
    #[arg(long, value_name = "DIR", conflicts_with = "kube")]
    data_dir: Option<PathBuf>,
    /// Leave with a Kubernetes cluster: delete its Membership, upon which its agent leaves, and wait until it has
    #[arg(long)]
    kube: bool,
    /// With --kube: a context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", requires = "kube")]
    context: Option<String>,
    /// With --kube: the kubeconfig [default: KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE", requires = "kube")]
    kubeconfig: Option<PathBuf>,
    /// With --kube: the namespace of the chart's release
    #[arg(short, long, value_name = "NAMESPACE", default_value = "meshfed-system")]
    namespace: String,
    /// Time for all of it, until the hub has let go
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = super::status::duration)]
    timeout: Duration,
}

/// Leaves.
pub async fn run(args: LeaveArgs) -> Outcome {
    if let Some(data_dir) = &args.data_dir {
        let member = leave(data_dir, args.timeout).await.map_err(|error| failure(&error))?;
        print(&format!("left cluster={} fleet={}\n", member.cluster, member.fleet));
        return Ok(0);
    }
    if !args.kube {
        return Err(Failure::usage(
            "say what leaves: --kube a Kubernetes cluster, --data-dir DIR a cluster without it",
        ));
    }
    let options =
        connect::Options { kubeconfig: args.kubeconfig, context: args.context, namespace: Some(args.namespace) };
    by_object(&place::at(options).await?, args.timeout).await
}

/// Deletes the Memberships of the release, and waits for what the agent does upon it.
async fn by_object(place: &Place, timeout: Duration) -> Outcome {
    let deadline = tokio::time::Instant::now() + timeout;
    let memberships: Api<Membership> = Api::namespaced(place.client.clone(), &place.namespace);
    let found = memberships.list(&kube::api::ListParams::default()).await;
    let found = found.map_err(|error| match is_missing_kind(&error) {
        true => nothing_to_leave(place),
        false => refused(place, &error),
    })?;
    if found.items.is_empty() {
        let namespace = &place.namespace;
        let secrets: Api<Secret> = Api::namespaced(place.client.clone(), namespace);
        match secrets.get_metadata_opt(IDENTITY).await {
            Ok(None) => return Err(no_release(namespace)),
            Err(error) if !matches!(&error, kube::Error::Api(status) if status.code == 403) => {
                return Err(refused(place, &error));
            }
            Ok(Some(_)) | Err(_) => {}
        }
        remark(&format!(
            "namespace {namespace} has no Membership: nothing to leave; is it the release's? See --namespace"
        ));
    }
    for membership in found.items {
        let (Some(name), Some(uid)) = (membership.metadata.name, membership.metadata.uid) else { continue };
        memberships.delete(&name, &DeleteParams::default()).await.map_err(|error| refused(place, &error))?;
        let gone = await_condition(memberships.clone(), &name, kube::runtime::conditions::is_deleted(&uid));
        match tokio::time::timeout_at(deadline, gone).await {
            Ok(Ok(_)) => print(&format!("deleted Membership {name}: its agent leaves the fleet\n")),
            Ok(Err(error)) => return Err(Failure::failed(chain(&error))),
            Err(_elapsed) => {
                return Err(Failure::failed(format!(
                    "Membership {name} is still there after {timeout:?}: something holds it with a finalizer"
                )));
            }
        }
    }
    until_let_go(place, deadline, timeout).await
}

/// Where no agent has ever kept anything, nobody leaves.
fn no_release(namespace: &str) -> Failure {
    Failure::bad_input(format!(
        "namespace {namespace} has neither a Membership nor Secret {IDENTITY}, so no release of meshfed-cluster has been there \
         and nothing leaves; name the release's namespace with --namespace"
    ))
}

/// Without the kind no cluster has joined by an object.
fn nothing_to_leave(place: &Place) -> Failure {
    Failure::bad_input(format!(
        "the cluster has no kind Membership, so it has joined nothing and has nothing to leave: see that the API server {} is \
         the one that is meant; the kind comes with helm/meshfed-crds",
        place.whence
    ))
}

/// Waits until the agent keeps nothing of a membership: it takes that out once the hub has let go.
async fn until_let_go(place: &Place, deadline: tokio::time::Instant, timeout: Duration) -> Outcome {
    let secrets: Api<Secret> = Api::namespaced(place.client.clone(), &place.namespace);
    loop {
        match holds_membership(&secrets).await {
            Ok(true) => {}
            Ok(false) => {
                print("left: the hub has let go of this cluster\n");
                return Ok(0);
            }
            Err(kube::Error::Api(status)) if status.code == 403 => {
                remark(&format!(
                    "whether the hub has let go is not seen from here, as Secret {IDENTITY} may not be read: see 'meshfed \
                     clusters', and let the agent run until it says left"
                ));
                return Ok(0);
            }
            Err(error) => return Err(refused(place, &error)),
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(Failure::failed(format!(
                "not left within {timeout:?}: the agent has yet to tell the hub, and goes on by itself; see kubectl -n {} logs \
                 deploy/meshfed-agent, and let the release be until this verb ends with 0; a hub that is gone for good is \
                 given up when the cluster joins again",
                place.namespace
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether the agent of a release has yet to tell its hub that the cluster leaves. None: who asks may not see it.
///
/// # Errors
/// The API server is away, or fails.
pub(super) async fn is_leaving(place: &Place) -> Result<Option<bool>, Failure> {
    let secrets: Api<Secret> = Api::namespaced(place.client.clone(), &place.namespace);
    match holds_membership(&secrets).await {
        Ok(holds) => Ok(Some(holds)),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
        Err(error) => Err(refused(place, &error)),
    }
}

/// Whether the agent's Secret holds more than the cluster's CA, which stays. What its keys hold is a private key's and is not
/// asked for where the API server notes their names of whoever writes; it notes none of an object whose notes somebody has
/// emptied.
async fn holds_membership(secrets: &Api<Secret>) -> Result<bool, kube::Error> {
    let Some(found) = secrets.get_metadata_opt(IDENTITY).await? else { return Ok(false) };
    if let Some(noted) = found.metadata.managed_fields.as_ref().filter(|noted| !noted.is_empty()) {
        return Ok(notes_membership(noted));
    }
    let found = secrets.get_opt(IDENTITY).await?;
    Ok(found.and_then(|secret| secret.data).is_some_and(|data| data.keys().any(|key| is_of_membership(key))))
}

fn notes_membership(noted: &[ManagedFieldsEntry]) -> bool {
    let data = noted.iter().filter_map(|entry| entry.fields_v1.as_ref()?.0.get("f:data")?.as_object());
    data.flat_map(|keys| keys.keys()).filter_map(|key| key.strip_prefix("f:")).any(is_of_membership)
}

fn is_of_membership(key: &str) -> bool {
    !key.starts_with("ca.")
}

fn failure(error: &LeaveError) -> Failure {
    match error {
        LeaveError::NoMember(_) | LeaveError::File(_) | LeaveError::Identity(_) | LeaveError::Bundle(..) => {
            Failure::bad_input(chain(error))
        }
        LeaveError::Unreachable(..) | LeaveError::Refused(_) => Failure::failed(chain(error)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Mutation seen to fail: `ca.` counted as a membership's.
    #[test]
    fn the_ca_alone_is_no_membership() {
        let holds = |data: serde_json::Value| {
            let agent = json!({ "manager": "meshfed-agent", "fieldsV1": { "f:data": data } });
            let chart = json!({ "manager": "helm", "fieldsV1": { "f:type": {} } });
            notes_membership(&serde_json::from_value::<Vec<_>>(json!([chart, agent])).unwrap())
        };
        assert!(holds(json!({ ".": {}, "f:ca.key.pem": {}, "f:agent.yaml": {} })));
        assert!(holds(json!({ "f:leaving": {} })));
        assert!(!holds(json!({ ".": {}, "f:ca.key.pem": {}, "f:ca.anchor.pem": {} })));
    }
}
