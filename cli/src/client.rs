//! Edge. The HTTP API from the command line: HTTPS with the credentials of an `admin.yaml`.

mod hub;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use bytes::Bytes;
use clap::builder::TypedValueParser;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;

use self::hub::{Hub, Unforwarded};
use crate::answer::Answer;
use crate::exit::Failure;
use crate::output::{Format, items};

/// The longest answer taken, in bytes.
const ANSWER_LIMIT: usize = 64 << 20;
/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the API is and who we are there.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct ServerArgs {
    /// Credentials: an admin.yaml [default: $MESHFED_CONFIG, else $XDG_CONFIG_HOME/meshfed/config.yaml, else
    /// ~/.config/meshfed/config.yaml]
    #[arg(long, value_name = "FILE", global = true, value_parser = path(), conflicts_with_all = ["context", "kubeconfig"])]
    pub config: Option<PathBuf>,
    /// The variable alone: a flag beside it wins, where two flags are an error
    #[arg(long, env = "MESHFED_CONFIG", hide = true, global = true, value_parser = path())]
    pub environment_config: Option<PathBuf>,
    /// A hub on Kubernetes, by a context of the kubeconfig: its credentials are Secret meshfed-admin there, and its pod is
    /// asked by a forwarded port
    #[arg(long, value_name = "NAME", global = true)]
    pub context: Option<String>,
    /// The kubeconfig of a hub on Kubernetes [default with --context: KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// With --context or --kubeconfig: the namespace of the hub's release
    #[arg(long, value_name = "NAMESPACE", default_value = "meshfed-hub", global = true)]
    pub hub_namespace: String,
    /// Another server than the one the credentials name, say https://127.0.0.1:15680
    #[arg(long, value_name = "URL", global = true)]
    pub server: Option<String>,
    /// Base of user configuration, as the XDG specification says
    #[arg(long, env = "XDG_CONFIG_HOME", hide = true, global = true, value_parser = path())]
    pub xdg_config_home: Option<PathBuf>,
    /// The home directory
    #[arg(long, env = "HOME", hide = true, global = true, value_parser = path())]
    pub home: Option<PathBuf>,
}

/// A path, also an empty one: an empty environment variable counts as none.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    clap::builder::OsStringValueParser::new().map(PathBuf::from)
}

fn given(path: Option<&PathBuf>) -> Option<&Path> {
    path.map(PathBuf::as_path).filter(|path| !path.as_os_str().is_empty())
}

/// The content of an `admin.yaml`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Credentials {
    server: String,
    certificate_authority_data: String,
    token: String,
}

/// How a server is written.
const FORM: &str = "https://HOST:15680";

/// A client of one federator.
pub struct Client {
    /// Where the credentials are from.
    credentials: String,
    /// The hub on Kubernetes through which it is reached; none: by its address.
    hub: Option<Hub>,
    server: http::Uri,
    token: String,
    tls: Arc<rustls::ClientConfig>,
}

impl Client {
    /// Reads the credentials.
    ///
    /// # Errors
    /// Usage when none are named; bad input when the file is no `admin.yaml`; failed when a cluster does not give them.
    pub async fn open(args: &ServerArgs) -> Result<Self, Failure> {
        if args.context.is_some() || args.kubeconfig.is_some() {
            let (kubeconfig, context) = (args.kubeconfig.clone(), args.context.clone());
            let hub = Hub::find(kubeconfig, context, args.hub_namespace.clone()).await?;
            let (credentials, from) = hub.credentials().await?;
            // Whoever names a server dials it.
            let hub = Some(hub).filter(|_| args.server.is_none());
            return Self::by(&credentials, from, hub, args);
        }
        let named = given(args.config.as_ref()).or_else(|| given(args.environment_config.as_ref())).map(Path::to_owned);
        let default = given(args.xdg_config_home.as_ref())
            .map(|base| base.join("meshfed/config.yaml"))
            .or_else(|| given(args.home.as_ref()).map(|home| home.join(".config/meshfed/config.yaml")));
        let path = match (named, default) {
            (Some(named), _) => named,
            (None, Some(default)) if default.exists() => default,
            (None, default) => return Err(no_credentials(default.as_deref())),
        };
        let credentials = read_credentials(&path)?;
        Self::by(&credentials, path.display().to_string(), None, args)
    }

    /// A client with these credentials; `from`: where they are.
    fn by(credentials: &Credentials, from: String, hub: Option<Hub>, args: &ServerArgs) -> Result<Self, Failure> {
        let bad =
            |what: &str| Failure::bad_input(format!("{from}: {what}; use the admin.yaml that the federator wrote"));
        let pem = base64::engine::general_purpose::STANDARD
            .decode(&credentials.certificate_authority_data)
            .map_err(|_not_base64| bad("certificateAuthorityData is not base64"))?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in rustls_pki_types::CertificateDer::pem_slice_iter(&pem) {
            let certificate =
                certificate.map_err(|_not_pem| bad("certificateAuthorityData holds no PEM certificate"))?;
            roots.add(certificate).map_err(|_refused| bad("certificateAuthorityData holds no CA certificate"))?;
        }
        if roots.is_empty() {
            return Err(bad("certificateAuthorityData holds no certificate"));
        }
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let server = args.server.as_ref().unwrap_or(&credentials.server);
        let server: http::Uri =
            server.parse().map_err(|_no_url| Failure::usage(format!("--server '{server}' is no URL; write {FORM}")))?;
        if server.scheme_str() != Some("https") || server.host().is_none() {
            return Err(Failure::usage(format!("the server '{server}' is no https:// URL; write {FORM}")));
        }
        Ok(Self { server, token: credentials.token.clone(), tls: Arc::new(tls), credentials: from, hub })
    }

    /// GETs a path below `/api/v1`.
    pub async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.call(Method::GET, path, None).await
    }

    /// GETs a list: its first page for JSON and YAML, every page in one for tables, which never end in the middle.
    pub async fn list(&self, path: &str, format: Format) -> Result<Answer, Failure> {
        let first = self.get(path).await?.ok()?;
        if matches!(format, Format::Json | Format::Yaml) {
            return Ok(first);
        }
        let mut body = first.json()?;
        let mut all = items(&body);
        while let Some(next) = body.get("continue").and_then(serde_json::Value::as_str).map(encode) {
            let and = if path.contains('?') { '&' } else { '?' };
            body = self.get(&format!("{path}{and}continue={next}")).await?.ok()?.json()?;
            all.extend(items(&body));
        }
        Ok(Answer { body: serde_json::json!({ "items": all }).to_string().into(), ..first })
    }

    /// Calls a path below `/api/v1`, with a JSON body or none.
    pub async fn call(&self, method: Method, path: &str, body: Option<&serde_json::Value>) -> Result<Answer, Failure> {
        let call = self.call_once(method, path, body);
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(answer)) if answer.status == 401 => Err(Failure::failed(format!(
                "the federator at {} does not know the token in {}; use the admin.yaml in its data directory (HTTP 401)",
                self.place(),
                self.credentials
            ))),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.unreachable(&error)),
            Err(_elapsed) => {
                Err(Failure::failed(format!("the federator at {} did not answer within 30 s", self.place())))
            }
        }
    }

    /// `HOST:PORT` as it was written.
    fn place(&self) -> String {
        self.server.authority().map(ToString::to_string).unwrap_or_default()
    }

    /// What kept the call from being answered, and what usually helps.
    fn unreachable(&self, error: &anyhow::Error) -> Failure {
        use rustls::{CertificateError as C, Error as E};
        let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
        let tls = error.chain().find_map(|cause| {
            let inside = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            cause.downcast_ref::<E>().or_else(|| inside?.downcast_ref::<E>())
        });
        let (place, file) = (self.place(), &self.credentials);
        if let Some(why) = error.downcast_ref::<Unforwarded>() {
            return Failure::failed(format!("the federator at {place} cannot be asked: {why}"));
        }
        let remedy = match tls {
            Some(E::InvalidCertificate(
                C::Expired | C::ExpiredContext { .. } | C::NotValidYet | C::NotValidYetContext { .. },
            )) => "compare the clocks of both machines; the federator makes a new certificate at each start".to_owned(),
            Some(E::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. })) => {
                "start the federator with --http-san and this name, or name it with --server as its certificate does"
                    .to_owned()
            }
            Some(E::InvalidCertificate(_)) => {
                format!(
                    "another server than the one that wrote {file} answers there; its HTTP API is the address of --http-listen (port 15680)"
                )
            }
            Some(_) => "no HTTPS is spoken there; the HTTP API is the address of --http-listen (port 15680)".to_owned(),
            None if io.is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) => {
                format!("see that the federator runs; {file} or --server says where")
            }
            None if self.server.host().is_some_and(|host| host.ends_with(".svc")) => {
                "only pods reach that name: name the hub's cluster with --context, or its address with --server"
                    .to_owned()
            }
            None => format!("see {file} or --server, which say where it is"),
        };
        Failure::failed(format!("the federator at {place} cannot be asked: {error:#}; {remedy}"))
    }

    async fn call_once(&self, method: Method, path: &str, body: Option<&serde_json::Value>) -> anyhow::Result<Answer> {
        let host = self.server.host().context("no host")?.trim_start_matches('[').trim_end_matches(']');
        let port = self.server.port_u16().unwrap_or(443);
        let stream: Box<dyn Stream> = match &self.hub {
            Some(hub) => Box::new(hub.connect().await?),
            None => Box::new(tokio::net::TcpStream::connect((host, port)).await.context("cannot connect")?),
        };
        let name = rustls_pki_types::ServerName::try_from(host.to_owned()).context("host name")?;
        let tls = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await.context("TLS")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        let driver = meshfed_runtime::tasks::spawn("api-connection", connection);
        let bytes = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let mut request = Request::builder().method(&method);
        if method == Method::DELETE {
            // What is deleted from here was named by its id; whatever it became meanwhile, it goes.
            request = request.header(header::IF_MATCH, "*");
        }
        let request = request
            .uri(format!("/api/v1/{path}"))
            .header(header::HOST, self.place())
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::ACCEPT, "application/json, application/problem+json")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(bytes)))?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT)
            .collect()
            .await
            .map_err(|error| anyhow!("the answer broke off: {error}"))?
            .to_bytes();
        driver.abort();
        Ok(Answer { status, body })
    }
}

/// What a connection is made of.
trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for S {}

fn no_credentials(default: Option<&Path>) -> Failure {
    let looked = default.map(|path| format!(" and there is no {}", path.display())).unwrap_or_default();
    Failure::usage(format!(
        "no credentials: neither --config nor MESHFED_CONFIG is set{looked}; set one to the admin.yaml in the federator's data directory, or name the cluster of a hub on Kubernetes with --context"
    ))
}

fn read_credentials(path: &Path) -> Result<Credentials, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::bad_input(format!(
            "credentials {}: {error}; set --config or MESHFED_CONFIG to the admin.yaml in the federator's data directory",
            path.display()
        ))
    })?;
    parse(&text, &path.display().to_string())
}

/// Reads what an `admin.yaml` holds; `from`: where it is.
fn parse(text: &str, from: &str) -> Result<Credentials, Failure> {
    serde_saphyr::from_str(text).map_err(|error| {
        // The parser's message goes on with a picture of the file, which holds a secret.
        let error = error.to_string();
        let first = error.lines().next().unwrap_or_default().trim_start_matches("error: ");
        Failure::bad_input(format!("{from}: {first}; use the admin.yaml that the federator wrote"))
    })
}

/// Percent-encodes a query value or path segment.
pub fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, b| {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
        out
    })
}
