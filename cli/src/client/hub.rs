//! Edge. A hub on Kubernetes: its credentials are a Secret, and its pod is asked by a port that the API server forwards, so
//! that whoever may do that needs no address of it.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::ListParams;
use meshfed_cluster_agent::membership::connect::{Options, Place};
use meshfed_crds::api_server::said;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Credentials, parse};
use crate::exit::Failure;
use crate::place;

/// The Secret of the chart meshfed-hub.
const SECRET: &str = "meshfed-admin";
/// Its key.
const KEY: &str = "admin.yaml";
/// The hub's pods.
const PODS: &str = "app.kubernetes.io/name=meshfed,app.kubernetes.io/component=hub";
/// Pods that are looked at: a hub has one, and one that ends beside it.
const PODS_MAX: u32 = 16;
/// Where the hub's HTTP API listens in its pod.
const PORT: u16 = 15680;

/// Why the hub's pod is not reached through its API server, and what to do.
#[derive(Debug)]
pub(super) struct Unforwarded(String);

impl std::fmt::Display for Unforwarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unforwarded {}

/// Where a hub is.
pub(super) struct Hub(Place);

impl Hub {
    /// The way to it; nobody is asked yet.
    ///
    /// # Errors
    /// Bad input: a kubeconfig that cannot be used.
    pub(super) async fn find(
        kubeconfig: Option<PathBuf>,
        context: Option<String>,
        namespace: String,
    ) -> Result<Self, Failure> {
        Ok(Self(place::at(Options { kubeconfig, context, namespace: Some(namespace) }).await?))
    }

    /// The hub's credentials, and where they are.
    ///
    /// # Errors
    /// Failed: the API server does not give them; bad input: they are none.
    pub(super) async fn credentials(&self) -> Result<(Credentials, String), Failure> {
        let Place { client, namespace, whence } = &self.0;
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let found = secrets.get_opt(SECRET).await.map_err(|error| place::refused(&self.0, &error))?;
        let from = format!("Secret {SECRET} of namespace {namespace} at {whence}");
        let Some(data) = found.map(|secret| secret.data.unwrap_or_default()) else {
            return Err(Failure::failed(format!(
                "there is no {from}: the hub is another cluster's, or of another namespace: see --context and \
                 --hub-namespace"
            )));
        };
        let Some(text) = data.get(KEY).and_then(|bytes| std::str::from_utf8(&bytes.0).ok()) else {
            return Err(Failure::failed(format!(
                "{from} has no {KEY} yet; the hub writes it when it starts: kubectl -n {namespace} get pods"
            )));
        };
        Ok((parse(text, &from)?, from))
    }

    /// A connection to the HTTP API of a pod that is ready.
    ///
    /// # Errors
    /// No such pod, or it is not forwarded to.
    pub(super) async fn connect(&self) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>, Unforwarded> {
        let Place { client, namespace, whence } = &self.0;
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let asked = |error: kube::Error| Unforwarded(place::refused(&self.0, &error).message);
        let listed = pods.list(&ListParams::default().labels(PODS).limit(PODS_MAX)).await.map_err(asked)?;
        let pod = listed.items.iter().find(|pod| is_ready(pod)).and_then(|pod| pod.metadata.name.clone());
        let pod = pod.ok_or_else(|| {
            Unforwarded(format!(
                "no pod of the hub is ready in namespace {namespace} at {whence}; 'meshfed check -n {namespace}' and \
                 'kubectl -n {namespace} get pods', with the same context, say why"
            ))
        })?;
        let lost = |why: &str| {
            Unforwarded(format!("port {PORT} of pod {pod} {why}; name the hub's address with --server, or try again"))
        };
        let mut forwarded = pods
            .portforward(&pod, &[PORT])
            .await
            .map_err(|error| lost(&format!("cannot be forwarded: {}", said(&error))))?;
        forwarded.take_stream(PORT).ok_or_else(|| lost("was not forwarded"))
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}
