//! Edge. Which Kubernetes cluster, and which release in it, a verb is about.

use std::path::PathBuf;

use meshfed_cluster_agent::membership::connect::{self, Place};
use meshfed_runtime::telemetry::chain;

use crate::exit::Failure;

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
        let options = connect::Options { kubeconfig, context, namespace: Some(namespace) };
        connect::connect(&options).await.map_err(|error| Failure::bad_input(chain(&error)))
    }
}
