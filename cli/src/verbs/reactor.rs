//! Edge. `meshfed reactor`: the demo's sample application. Says who it is and who called, and asks its upstream.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use meshfed_runtime::drain::Signals;
use serde_json::{Value, json};

use crate::exit::{Failure, Outcome};

/// The longest upstream answer, in bytes.
const ANSWER_LIMIT: usize = 1 << 20;
/// How long an upstream may take.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// Arguments of `meshfed reactor`.
#[derive(clap::Args, Debug, Clone)]
pub struct ReactorArgs {
    /// Addresses to serve on
    #[arg(long = "listen", required = true)]
    listen: Vec<SocketAddr>,
    /// Which service this is
    #[arg(long)]
    service: String,
    /// Which version of it
    #[arg(long, default_value = "v1")]
    app_version: String,
    /// The cluster it runs in
    #[arg(long)]
    cluster: String,
    /// The zone it runs in
    #[arg(long)]
    zone: String,
    /// Which instance this is
    #[arg(long)]
    instance: String,
    /// Its identity where no caller's proxy tells it
    #[arg(long)]
    identity: Option<String>,
    /// The authority it asks for each request, say b.shop.svc.clusterset.local:8080
    #[arg(long)]
    upstream: Option<String>,
    /// The sidecar's outbound address that leads there
    #[arg(long, requires = "upstream")]
    via: Option<SocketAddr>,
}

/// Serves until SIGTERM.
pub async fn run(args: ReactorArgs, signals: Option<Signals>) -> Outcome {
    let signals = signals.map_or_else(Signals::listen, Ok);
    let mut signals = signals.map_err(|error| Failure::failed(format!("signals cannot be waited for: {error}")))?;
    let args = Arc::new(args);
    for address in &args.listen {
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .map_err(|error| Failure::bad_input(format!("--listen {address}: {error}")))?;
        let args = Arc::clone(&args);
        let _served_until_exit = meshfed_runtime::tasks::spawn("reactor-listener", async move {
            while let Ok((stream, _peer)) = listener.accept().await {
                let args = Arc::clone(&args);
                // Best effort: without it an answer in two parts may wait for the peer's delayed acknowledgement, 40 ms.
                let _nodelay = stream.set_nodelay(true);
                let service = service_fn(move |request| answer(Arc::clone(&args), request));
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                let _ends_with_its_peer = meshfed_runtime::tasks::spawn("reactor-connection", connection);
            }
        });
    }
    signals.received().await;
    Ok(0)
}

/// One field of a `x-forwarded-client-cert` header.
fn forwarded<'a>(request: &'a Request<Incoming>, field: &str) -> Option<&'a str> {
    let xfcc = request.headers().get("x-forwarded-client-cert")?.to_str().ok()?;
    xfcc.split(';').find_map(|part| part.strip_prefix(field)?.strip_prefix('=')).map(|v| v.trim_matches('"'))
}

async fn answer(
    args: Arc<ReactorArgs>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let upstream = match (&args.upstream, args.via) {
        (Some(authority), Some(via)) => Some(ask(authority, via).await.map_err(|error| format!("{error:#}"))),
        _ => None,
    };
    let status = match &upstream {
        Some(Err(_)) => StatusCode::BAD_GATEWAY,
        _ => StatusCode::OK,
    };
    let body = json!({
        "service": args.service, "version": args.app_version, "cluster": args.cluster, "zone": args.zone,
        "instance": args.instance,
        "identity": forwarded(&request, "By").map(str::to_owned).or_else(|| args.identity.clone()),
        "peerIdentity": forwarded(&request, "URI"),
        "upstream": match upstream {
            None => Value::Null,
            Some(Ok(body)) => body,
            Some(Err(error)) => json!({ "error": error }),
        },
    });
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Asks the upstream over the sidecar, in absolute form.
async fn ask(authority: &str, via: SocketAddr) -> anyhow::Result<Value> {
    let call = async {
        let tcp = tokio::net::TcpStream::connect(via).await.with_context(|| format!("sidecar {via}"))?;
        tcp.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
        let driver = meshfed_runtime::tasks::spawn("reactor-upstream", connection);
        let request = Request::get(format!("http://{authority}/"))
            .header(header::HOST, authority)
            .body(Full::<Bytes>::default())?;
        let response = sender.send_request(request).await.with_context(|| format!("{authority} over {via}"))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_LIMIT).collect().await.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        driver.abort();
        let reason = head.headers.get("x-meshfed-reason").and_then(|v| v.to_str().ok()).unwrap_or_default();
        anyhow::ensure!(
            head.status.is_success(),
            "{authority} answered {} {reason}: {}",
            head.status,
            String::from_utf8_lossy(&body)
        );
        serde_json::from_slice(&body).with_context(|| format!("{authority} answered no JSON"))
    };
    tokio::time::timeout(UPSTREAM_TIMEOUT, call)
        .await
        .with_context(|| format!("{authority} did not answer within 10 s"))?
}
