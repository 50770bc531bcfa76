//! Edge. The way to this cluster's API server.

use std::path::PathBuf;

use kube::Client;
use meshfed_crds::api_server::{self, ConnectError, Connected};

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
    /// For messages: the API server's URL, and where that is written.
    pub whence: String,
}

/// Makes the client; nothing is asked yet.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(options: &Options) -> Result<Place, ConnectError> {
    let Connected { client, namespace, whence } =
        api_server::reach(options.kubeconfig.as_deref(), options.context.as_deref()).await?;
    Ok(Place { client, namespace: options.namespace.clone().unwrap_or(namespace), whence })
}
