//! Edge. On Kubernetes: the administrator's credentials for people outside of the pod, as key `admin.yaml` of a Secret that
//! the chart has made (`contracts-kubernetes.md` 5.1). They are those of the data directory but for `server`, which is an
//! address that others reach. Written at every start, and again whenever the credentials are renewed.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use meshfed_crds::api_server;
use meshfed_runtime::backoff::Backoff;
use meshfed_runtime::clock;
use meshfed_runtime::drain;
use meshfed_runtime::files::{self, FileError};
use meshfed_runtime::telemetry::chain;
use tokio::sync::watch;
use zeroize::Zeroizing;

/// Who writes the Secret.
const FIELD_MANAGER: &str = "meshfed-hub";
/// Its key.
const KEY: &str = "admin.yaml";
/// The largest `admin.yaml` that is read.
const FILE_MAX: usize = 64 << 10;
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Why the Secret was not written.
#[derive(Debug, thiserror::Error)]
enum SecretError {
    #[error("the credentials of the data directory cannot be read")]
    File(#[from] FileError),
    #[error(transparent)]
    Nowhere(#[from] api_server::ConnectError),
    #[error(
        "the API server: Secret {0} must be there (the chart makes it), and the hub's account must be allowed to patch it"
    )]
    Api(String, #[source] Box<kube::Error>),
    #[error("the API server did not answer within {ATTEMPT:?}")]
    Late,
}

/// Which Secret is kept, and what it says.
#[derive(Debug, Clone)]
pub struct AdminSecret {
    /// Its name.
    pub name: String,
    /// Where it is: a kubeconfig, one of its contexts, and the namespace. Without the first two the usual ones.
    pub place: (Option<PathBuf>, Option<String>, String),
    /// The `server` that it names, `https://HOST:PORT`; none: that of the data directory's own file.
    pub server: Option<String>,
    /// The data directory.
    pub data_dir: PathBuf,
}

impl AdminSecret {
    /// Writes the Secret now and whenever `token` changes, until the drain. What fails is logged and tried again; nothing
    /// else waits for it.
    ///
    /// # Errors
    /// Never.
    pub async fn keep(self, mut token: watch::Receiver<[u8; 32]>, drain: drain::Watch) -> Result<(), Infallible> {
        let mut pauses = Backoff::new();
        loop {
            token.mark_unchanged();
            let written = tokio::time::timeout(ATTEMPT, self.write()).await.unwrap_or(Err(SecretError::Late));
            let pause = match written {
                Ok(()) => {
                    tracing::info!(secret = self.name, "the administrator's credentials are in their Secret");
                    pauses.reset();
                    None
                }
                Err(error) => {
                    tracing::warn!(
                        secret = self.name,
                        error = chain(&error),
                        "the Secret with credentials is not written"
                    );
                    Some(pauses.failed(clock::instant()))
                }
            };
            tokio::select! {
                renewed = token.changed() => if renewed.is_err() { return Ok(()) },
                () = async { match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                } } => {}
                () = drain.signaled() => return Ok(()),
            }
        }
    }

    async fn write(&self) -> Result<(), SecretError> {
        let text = Zeroizing::new(files::read_text(&self.data_dir.join(KEY), FILE_MAX)?);
        let text = self.with_server(&text);
        let (kubeconfig, context, namespace) = &self.place;
        let client = api_server::connect(kubeconfig.as_deref(), context.as_deref()).await?;
        let refused = |error| SecretError::Api(format!("{namespace}/{}", self.name), Box::new(error));
        let secrets: Api<Secret> = Api::namespaced(client, namespace);
        let patch = serde_json::json!({ "data": { KEY: STANDARD.encode(text.as_bytes()) } });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        // A merge, which makes no Secret where there is none: its name is all that the role allows.
        secrets.patch(&self.name, &params, &Patch::Merge(patch)).await.map_err(refused)?;
        Ok(())
    }

    /// The file with the server that others reach.
    fn with_server(&self, text: &str) -> Zeroizing<String> {
        let Some(server) = &self.server else { return Zeroizing::new(text.to_owned()) };
        let lines = text.lines().map(|line| {
            if line.starts_with("server:") { format!("server: \"{server}\"\n") } else { format!("{line}\n") }
        });
        Zeroizing::new(lines.collect())
    }
}

/// Whether a text is `https://HOST:PORT`, which stands in the Secret between quotes.
#[must_use]
pub fn is_server(text: &str) -> bool {
    let Some((host, port)) = text.strip_prefix("https://").and_then(|rest| rest.rsplit_once(':')) else { return false };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':' | b'[' | b']');
    !host.is_empty() && host.bytes().all(plain) && port.parse::<u16>().is_ok_and(|port| port > 0)
}
