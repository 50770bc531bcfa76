//! Edge. Which Kubernetes cluster, and which release in it, a verb is about, and what its API server's errors say.

use std::path::PathBuf;

use meshfed_cluster_agent::membership::connect::{self, Place};
use meshfed_crds::api_server::said;
use meshfed_runtime::telemetry::chain;

use crate::exit::Failure;

/// The page and section that say which rights each verb needs.
const RIGHTS: &str = "docs/kubernetes/check.md#rights";

/// The flags that kubectl has for it.
#[derive(clap::Args, Debug, Clone)]
pub struct PlaceArgs {
    /// A context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The kubeconfig [default: KUBECONFIG, else ~/.kube/config; in a pod its service account]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The namespace of the chart's release
    #[arg(short, long, value_name = "NAMESPACE", default_value = "meshfed-system")]
    namespace: String,
}

impl PlaceArgs {
    /// The way to it; nobody is asked yet.
    ///
    /// # Errors
    /// Bad input: a kubeconfig that cannot be used.
    pub async fn connect(self) -> Result<Place, Failure> {
        let Self { context, kubeconfig, namespace } = self;
        at(connect::Options { kubeconfig, context, namespace: Some(namespace) }).await
    }
}

/// The way to a place; nobody is asked yet.
///
/// # Errors
/// Bad input: a kubeconfig that cannot be used.
pub async fn at(options: connect::Options) -> Result<Place, Failure> {
    connect::connect(&options).await.map_err(|error| Failure::bad_input(chain(&error)))
}

/// Whether the API server has no such kind, where a list was asked for.
pub fn is_missing_kind(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// The API server did not answer, or refused: which one, what it said, and what to see to.
pub fn refused(place: &Place, error: &kube::Error) -> Failure {
    let (whence, said) = (&place.whence, said(error));
    let code = if let kube::Error::Api(status) = error { Some(status.code) } else { None };
    let remedy = match code {
        Some(401) => "; see the credentials in the kubeconfig".to_owned(),
        Some(403) => format!("; {RIGHTS} lists the rights that this needs"),
        Some(_) => String::new(),
        None => {
            "; see that it runs and can be reached from here, and that this is the cluster that is meant".to_owned()
        }
    };
    Failure::failed(format!("the API server {whence}: {said}{remedy}"))
}
