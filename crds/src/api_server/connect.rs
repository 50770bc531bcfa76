//! Edge. The way to an API server, and what its errors say to people.

use std::path::{Path, PathBuf};

use futures::FutureExt as _;
use http::Request;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt as _;
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::util::MapRequestLayer;

use super::{CONNECT_WITHIN, READ_WITHIN};

/// Most contexts of a kubeconfig that a message names.
const CONTEXTS_SHOWN: usize = 20;

/// The content type of server-side apply.
const APPLY: &str = "application/apply-patch+yaml";

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A kubeconfig cannot be read.
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// It has no such context.
    #[error("{} has no context '{wanted}'; it has {}", name(file.as_deref()), shown(there))]
    NoContext {
        /// The file that was named.
        file: Option<PathBuf>,
        /// What was asked for.
        wanted: String,
        /// Those that there are.
        there: Vec<String>,
    },
    /// Neither kubeconfig nor pod.
    #[error("no API server: name a kubeconfig with --kubeconfig or KUBECONFIG, or run in a pod")]
    Nowhere(#[from] kube::config::InferConfigError),
    /// The client cannot be made.
    #[error("no client of the API server can be made")]
    Client(#[from] kube::Error),
}

fn name(file: Option<&Path>) -> String {
    file.map_or_else(|| "the kubeconfig".to_owned(), |file| format!("kubeconfig {}", file.display()))
}

fn shown(there: &[String]) -> String {
    let more = if there.len() > CONTEXTS_SHOWN {
        format!(" and {} more", there.len() - CONTEXTS_SHOWN)
    } else {
        String::new()
    };
    let some: Vec<&str> = there.iter().take(CONTEXTS_SHOWN).map(String::as_str).collect();
    if some.is_empty() { "none".to_owned() } else { format!("{}{more}", some.join(", ")) }
}

/// A client, and what it is a client of.
#[derive(Clone)]
pub struct Connected {
    /// The client.
    pub client: Client,
    /// The namespace of the context or, in a pod, of the pod.
    pub namespace: String,
    /// For messages: the API server's URL, and where that is written.
    pub whence: String,
}

/// A client by a kubeconfig and one of its contexts (none: the current one); without a file that of `KUBECONFIG`,
/// `~/.kube/config`, or in a pod its service account. Connects to nobody yet.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(file: Option<&Path>, context: Option<&str>) -> Result<Client, ConnectError> {
    reach(file, context).await.map(|connected| connected.client)
}

/// As [`connect`], with what else is known of it.
///
/// # Errors
/// [`ConnectError`].
pub async fn reach(file: Option<&Path>, context: Option<&str>) -> Result<Connected, ConnectError> {
    let chosen = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let (mut config, written) = if file.is_some() || context.is_some() {
        let kubeconfig = file.map_or_else(Kubeconfig::read, Kubeconfig::read_from)?;
        let wanted = context.map(str::to_owned).or_else(|| kubeconfig.current_context.clone());
        if let Some(wanted) = context.filter(|wanted| !kubeconfig.contexts.iter().any(|c| c.name == *wanted)) {
            let there = kubeconfig.contexts.into_iter().map(|c| c.name).collect();
            return Err(ConnectError::NoContext { file: file.map(Path::to_owned), wanted: wanted.to_owned(), there });
        }
        let wanted = wanted.unwrap_or_default();
        (Config::from_custom_kubeconfig(kubeconfig, &chosen).await?, format!("context {wanted} of {}", name(file)))
    } else {
        (Config::infer().await?, "of the current context, or of this pod".to_owned())
    };
    config.connect_timeout = Some(CONNECT_WITHIN);
    config.read_timeout = Some(READ_WITHIN);
    let namespace = config.default_namespace.clone();
    let whence = format!("{} ({written})", config.cluster_url.to_string().trim_end_matches('/'));
    Ok(Connected { client: client(config)?, namespace, whence })
}

/// A client whose applies an API server can read: it reads their JSON as YAML, which holds no control character but tabs and
/// line ends (YAML 1.2.2, 5.1), while JSON holds DEL and U+0080 to U+009F as they are (RFC 8259, 7). In the words of others,
/// which statuses quote, one of them would keep the object from being written at all.
fn client(config: Config) -> Result<Client, kube::Error> {
    let layer = MapRequestLayer::new(|request: Request<Body>| {
        let (parts, body) = request.into_parts();
        let applies = parts.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == APPLY);
        // A body that was made of bytes is there at once; any other goes as it is.
        match body.try_clone().filter(|_| applies).and_then(|body| body.collect().now_or_never()) {
            Some(Ok(json)) => Request::from_parts(parts, Body::from(escaped(&json.to_bytes()))),
            Some(Err(_)) | None => Request::from_parts(parts, body),
        }
    });
    Ok(ClientBuilder::try_from(config)?.with_layer(&layer).build())
}

/// JSON without control characters within its texts.
fn escaped(json: &[u8]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(json) else { return json.to_vec() };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.into_bytes()
}

/// What an API server said, or what kept it from saying anything, once and without the forms of our own libraries.
#[must_use]
pub fn said(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        let (message, code) = (status.message.as_str(), status.code);
        return if message.is_empty() { format!("HTTP {code} {}", status.reason) } else { message.to_owned() };
    }
    let mut said = error.to_string();
    let mut cause: &(dyn std::error::Error + 'static) = error;
    while let Some(next) = cause.source() {
        let text = next.to_string();
        // What the operating system says is the whole of it; the layers around it are ours.
        if next.downcast_ref::<std::io::Error>().is_some_and(|io| io.raw_os_error().is_some()) {
            return text;
        }
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        cause = next;
    }
    said.strip_prefix("ServiceError: ").unwrap_or(&said).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// People read what the API server said, once.
    ///
    /// Mutation seen to fail: the first `if` of `said` left out.
    #[test]
    fn an_error_is_said_once_and_in_words() {
        let status = |message: &str| {
            let status =
                serde_json::json!({ "status": "Failure", "message": message, "reason": "Forbidden", "code": 403 });
            kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()))
        };
        let words = "memberships is forbidden: User \"u\" cannot list resource";
        assert_eq!(said(&status(words)), words);
        assert_eq!(said(&status("")), "HTTP 403 Forbidden");
        let refused = std::io::Error::from_raw_os_error(111);
        let layered = kube::Error::Service(std::io::Error::other(refused).into());
        assert_eq!(said(&layered), "Connection refused (os error 111)");
    }

    /// A context that is not there is told with those that are.
    ///
    /// Mutation seen to fail: the check of `contexts` left out.
    #[tokio::test]
    async fn a_context_that_is_not_there_is_told_with_those_that_are() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        let text = "{apiVersion: v1, kind: Config, clusters: [{name: c, cluster: {server: 'http://192.0.2.1:6443'}}], \
                    users: [{name: u, user: {}}], current-context: east, contexts: [\
                    {name: east, context: {cluster: c, user: u}}, {name: west, context: {cluster: c, user: u}}]}";
        std::fs::write(&file, text).unwrap();
        let error = reach(Some(&file), Some("wset")).await.err().unwrap().to_string();
        assert_eq!(error, format!("kubeconfig {} has no context 'wset'; it has east, west", file.display()));
        let there = reach(Some(&file), None).await.unwrap();
        assert_eq!(there.whence, format!("http://192.0.2.1:6443 (context east of kubeconfig {})", file.display()));
    }

    /// Mutations seen to fail: `\u{7f}` of `escaped` written `\u{80}`; nothing but ASCII kept.
    #[test]
    fn what_a_server_reads_as_yaml_has_no_control_characters() {
        let said = "del \u{7f} csi \u{9b} nel \u{85} bell \u{7} é 漢 \u{ffff}";
        let json = escaped(serde_json::json!({ "message": said }).to_string().as_bytes());
        let text = std::str::from_utf8(&json).unwrap();
        assert!(!text.chars().any(|c| c.is_control() || c == '\u{ffff}'), "{text}");
        assert!(text.contains("é 漢"), "{text}");
        let read: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(read["message"], said);
    }
}
