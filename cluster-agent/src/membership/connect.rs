//! Edge. The way to this cluster's API server.

use std::path::PathBuf;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Where the API server is and who asks.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A kubeconfig file; none: `KUBECONFIG`, `~/.kube/config`, and inside a pod its service account.
    pub kubeconfig: Option<PathBuf>,
    /// One of its contexts; none: the current one.
    pub context: Option<String>,
    /// The namespace of this release; none: that of the context or the pod.
    pub namespace: Option<String>,
}

/// A client and the namespace of this release.
#[derive(Clone)]
pub struct Place {
    /// The client.
    pub client: Client,
    /// The namespace.
    pub namespace: String,
}

/// Why there is no way to an API server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file.
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// Neither file nor pod.
    #[error("no API server: name a kubeconfig with --kubeconfig or KUBECONFIG, or run in a pod")]
    Nowhere(#[from] kube::config::InferConfigError),
    /// The client.
    #[error("the client of the API server cannot be made")]
    Client(#[from] kube::Error),
}

/// Makes the client; nothing is asked yet.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(options: &Options) -> Result<Place, ConnectError> {
    let chosen = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
    let config = match &options.kubeconfig {
        Some(path) => Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &chosen).await?,
        None if options.context.is_some() => Config::from_kubeconfig(&chosen).await?,
        None => Config::infer().await?,
    };
    let namespace = options.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    Ok(Place { client: Client::try_from(config)?, namespace })
}
