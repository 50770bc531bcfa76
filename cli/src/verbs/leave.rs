//! Edge. `meshfed leave`: a cluster leaves the fleet.

use std::path::PathBuf;
use std::time::Duration;

use kube::Api;
use kube::api::DeleteParams;
use kube::runtime::wait::await_condition;
use meshfed_cluster_agent::downlink::leave::{LeaveError, leave};
use meshfed_cluster_agent::membership::connect::{self, Place};
use meshfed_crds::custom::Membership;
use meshfed_runtime::telemetry::chain;

use crate::exit::{Failure, Outcome};
use crate::output::{print, remark};

/// Arguments of `meshfed leave`.
///
/// Nothing is sent to the cluster any more, what is on its way is let end, and then the cluster is no member: the others
/// forget its services and its trust bundle. Again it changes nothing. A new join needs a new token; the cluster's CA key
/// stays, so that nobody has to trust a new one.
#[derive(clap::Args)]
#[command(after_help = "Example:
  meshfed leave --data-dir east
  meshfed leave --kube --context west")]
pub struct LeaveArgs {
    /// The data directory that 'meshfed join' made
    #[arg(long, value_name = "DIR", required_unless_present = "kube", conflicts_with = "kube")]
    data_dir: Option<PathBuf>,
    /// Leave with a Kubernetes cluster: delete its Membership, upon which its agent leaves
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
    /// Time for all of it
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
    let options = connect::Options {
        kubeconfig: args.kubeconfig.clone(),
        context: args.context.clone(),
        namespace: Some(args.namespace.clone()),
    };
    let place = connect::connect(&options).await.map_err(|error| Failure::bad_input(chain(&error)))?;
    by_object(place, args.timeout).await
}

/// Deletes the Memberships of the release; what the agent does upon it, it says in its log.
async fn by_object(place: Place, timeout: Duration) -> Outcome {
    let failed = |error: kube::Error| Failure::failed(format!("the API server: {}", chain(&error)));
    let memberships: Api<Membership> = Api::namespaced(place.client, &place.namespace);
    let found = memberships.list(&kube::api::ListParams::default()).await.map_err(failed)?;
    if found.items.is_empty() {
        let namespace = &place.namespace;
        remark(&format!(
            "namespace {namespace} has no Membership: nothing to leave; is it the release's? See --namespace"
        ));
    }
    for membership in found.items {
        let (Some(name), Some(uid)) = (membership.metadata.name, membership.metadata.uid) else { continue };
        memberships.delete(&name, &DeleteParams::default()).await.map_err(failed)?;
        let gone = await_condition(memberships.clone(), &name, kube::runtime::conditions::is_deleted(&uid));
        match tokio::time::timeout(timeout, gone).await {
            Ok(Ok(_)) => print(&format!("deleted Membership {name}: its agent leaves the fleet\n")),
            Ok(Err(error)) => return Err(Failure::failed(chain(&error))),
            Err(_elapsed) => {
                return Err(Failure::failed(format!(
                    "Membership {name} is still there after {timeout:?}: something holds it with a finalizer"
                )));
            }
        }
    }
    Ok(0)
}

fn failure(error: &LeaveError) -> Failure {
    match error {
        LeaveError::NoMember(_) | LeaveError::File(_) | LeaveError::Identity(_) | LeaveError::Bundle(..) => {
            Failure::bad_input(chain(error))
        }
        LeaveError::Unreachable(..) | LeaveError::Refused(_) => Failure::failed(chain(error)),
    }
}
