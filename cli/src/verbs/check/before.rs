//! Edge. The checks before anything is installed.

use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::client::Body;
use kube::{Api, Client};
use meshfed_runtime::clock;

use super::kinds::{Foreign, ISTIO, MCS, Served, served};
use super::{Found, id, refused};
use crate::exit::Failure;

/// The first version that has what the charts use (`matchConditions`, ValidatingAdmissionPolicy), as their `kubeVersion`.
const MINOR_MIN: u32 = 30;
/// Certificates are dated back by two minutes: a clock further away sees some that are not valid yet.
const SKEW_MAX: SignedDuration = SignedDuration::from_secs(110);
/// How long the hub may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Namespaces that are looked at.
const NAMESPACES_MAX: u32 = 5_000;
/// Namespaces whose pods are injected.
const INJECTED: &str = "federation.meshfed.io/injection=enabled";
/// The label of the Pod Security Standards.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// All of them.
pub(super) async fn look(client: &Client, hub: Option<&super::Hub>) -> Result<Vec<Found>, Failure> {
    let mut found = Vec::new();
    found.push(version(client).await?);
    found.push(kinds(client).await?);
    found.push(pod_security(client).await?);
    found.extend(super::release::injection_labels(client).await?);
    found.push(clocks(client).await?);
    if let Some(hub) = hub {
        found.push(reach(hub).await);
    }
    Ok(found)
}

async fn version(client: &Client) -> Result<Found, Failure> {
    let info = client.apiserver_version().await.map_err(|error| refused(&error))?;
    let digits: String = info.minor.chars().take_while(char::is_ascii_digit).collect();
    let recent = digits.parse::<u32>().is_ok_and(|minor| minor >= MINOR_MIN) || info.major != "1";
    let message = format!("the API server is of version {}", info.git_version);
    Ok(if recent {
        Found::pass(id::VERSION, message)
    } else {
        Found::fail(id::VERSION, message, format!("upgrade it to 1.{MINOR_MIN} at least, which the charts need"))
    })
}

/// With which values the chart of the kinds can be installed beside the kinds that are there.
async fn kinds(client: &Client) -> Result<Found, Failure> {
    let mut flags = String::new();
    for foreign in [MCS, ISTIO] {
        match beside(client, &foreign).await? {
            Ok(flag) => flags.push_str(&flag),
            Err(found) => return Ok(found),
        }
    }
    Ok(Found::pass(id::FOREIGN, format!("helm install meshfed-crds helm/meshfed-crds{flags}")))
}

/// The flag for kinds that are all there or all missing; a finding for those of which some are there.
async fn beside(client: &Client, foreign: &Foreign) -> Result<Result<String, Found>, Failure> {
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for kind in foreign.kinds {
        let name = format!("{} of {}/{}", kind.kind, kind.group, kind.version);
        match served(client, kind).await? {
            Served::Yes => there.push(name),
            Served::No => missing.push(name),
            Served::Otherwise(versions) => {
                let message = format!("the API server has {} of {} at {versions} only", kind.kind, kind.group);
                let remedy = format!("upgrade that kind to a release that serves {}", kind.version);
                return Ok(Err(Found::fail(id::FOREIGN, message, remedy)));
            }
        }
    }
    Ok(match (&there[..], &missing[..]) {
        ([], _) => Ok(String::new()),
        (_, []) => Ok(format!(" --set {}=false", foreign.value)),
        (there, missing) => Err(Found::fail(
            id::FOREIGN,
            format!("the API server has {}, but not {}", there.join(", "), missing.join(", ")),
            format!(
                "install what is missing from where the other is, then helm/meshfed-crds with --set {}=false",
                foreign.value
            ),
        )),
    })
}

/// Whether a namespace that is labelled for injection forbids what `meshfed-init` needs.
async fn pod_security(client: &Client) -> Result<Found, Failure> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let params = ListParams::default().labels(INJECTED).limit(NAMESPACES_MAX);
    let listed = namespaces.list(&params).await.map_err(|error| refused(&error))?.items;
    let count = listed.len();
    let forbids = |n: &Namespace| {
        let level = n.metadata.labels.as_ref()?.get(ENFORCE).filter(|level| level.as_str() != "privileged")?;
        Some(format!("{} ({level})", n.metadata.name.as_deref().unwrap_or_default()))
    };
    let forbidding: Vec<String> = listed.iter().filter_map(forbids).collect();
    Ok(if forbidding.is_empty() {
        Found::pass(id::POD_SECURITY, format!("none of {count} namespaces with {INJECTED} forbids NET_ADMIN"))
    } else {
        let message =
            format!("namespaces with {INJECTED} forbid NET_ADMIN, which meshfed-init needs: {}", forbidding.join(", "));
        Found::fail(id::POD_SECURITY, message, format!("kubectl label --overwrite namespace NAME {ENFORCE}=privileged"))
    })
}

/// How far this machine's clock is from the API server's, by the Date of an answer.
async fn clocks(client: &Client) -> Result<Found, Failure> {
    let request = http::Request::get("/version").body(Body::empty());
    let request = request.map_err(|error| Failure::failed(error.to_string()))?;
    let answer = client.send(request).await.map_err(|error| refused(&error))?;
    let date = answer.headers().get(http::header::DATE).and_then(|d| d.to_str().ok());
    let Some(date) = date.and_then(|d| jiff::fmt::rfc2822::parse(d).ok()) else {
        return Ok(Found::fail(id::CLOCK, "the API server's answer has no Date", "ask it without a proxy in between"));
    };
    let skew = date.timestamp().duration_since(clock::timestamp()).abs();
    let message = format!("the API server's clock and this machine's are {} s apart", skew.as_secs());
    Ok(if skew <= SKEW_MAX {
        Found::pass(id::CLOCK, message)
    } else {
        Found::fail(id::CLOCK, message, format!("set both by NTP: certificates bear {} s", SKEW_MAX.as_secs()))
    })
}

/// Whether the hub's port accepts a connection from here.
async fn reach(hub: &super::Hub) -> Found {
    let super::Hub { host, port } = hub;
    let remedy = "start the hub, open its port, or name the address that its Service has outside of its cluster";
    match tokio::time::timeout(CONNECT, tokio::net::TcpStream::connect((host.as_str(), *port))).await {
        Ok(Ok(_connection)) => Found::pass(id::HUB, format!("{host}:{port} accepts connections")),
        Ok(Err(error)) => Found::fail(id::HUB, format!("{host}:{port} cannot be reached: {error}"), remedy),
        Err(_late) => Found::fail(id::HUB, format!("{host}:{port} does not answer within {CONNECT:?}"), remedy),
    }
}
