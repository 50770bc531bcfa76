//! Edge. The checks before anything is installed.

use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::ListParams;
use kube::client::Body;
use meshfed_cluster_agent::membership::connect::Place;
use meshfed_runtime::clock;

use super::kinds::{self, Foreign, ISTIO, MCS, Release, Served, served};
use super::{Found, id};
use crate::exit::Failure;
use crate::place::refused;

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
pub(super) async fn look(place: &Place, hub: Option<&super::Hub>) -> Result<Vec<Found>, Failure> {
    let mut found = Vec::new();
    found.push(version(place).await?);
    found.push(kinds(place).await?);
    found.push(pod_security(place).await?);
    found.extend(super::release::injection_labels(place).await?);
    found.extend(super::storage::default_class(place).await?);
    found.push(clocks(place).await?);
    if let Some(hub) = hub {
        found.push(reach(hub).await);
    }
    Ok(found)
}

async fn version(place: &Place) -> Result<Found, Failure> {
    let info = place.client.apiserver_version().await.map_err(|error| refused(place, &error))?;
    let digits: String = info.minor.chars().take_while(char::is_ascii_digit).collect();
    let recent = digits.parse::<u32>().is_ok_and(|minor| minor >= MINOR_MIN) || info.major != "1";
    let message = format!("the API server is of version {}", info.git_version);
    Ok(if recent {
        Found::pass(id::VERSION, message)
    } else {
        Found::fail(id::VERSION, message, format!("upgrade it to 1.{MINOR_MIN} at least, which the charts need"))
    })
}

/// With which values the chart of the kinds can be installed beside the kinds that are there. Those that its own release has
/// brought are no others': an upgrade with a flag against them would take them away, with all objects.
async fn kinds(place: &Place) -> Result<Found, Failure> {
    let ours = kinds::ours(place).await?;
    let mut flags = String::new();
    for foreign in [MCS, ISTIO] {
        match beside(place, &foreign).await? {
            Ok(flag) if !flag.is_empty() && ours.is_some() && brought(place, &foreign, ours.as_ref()).await? => {}
            Ok(flag) => flags.push_str(&flag),
            Err(found) => return Ok(found),
        }
    }
    Ok(Found::pass(
        id::FOREIGN,
        match ours {
            None => format!("nothing is in the way of: helm install meshfed-crds helm/meshfed-crds{flags}"),
            Some(Release { namespace, name }) => format!(
                "release {name} of namespace {namespace} has brought the kinds; to upgrade them: \
                 helm upgrade --install {name} helm/meshfed-crds -n {namespace}{flags}"
            ),
        },
    ))
}

/// Whether the release that brought our kinds brought these as well.
async fn brought(place: &Place, foreign: &Foreign, ours: Option<&Release>) -> Result<bool, Failure> {
    for kind in foreign.kinds {
        if kinds::owner_of(place, kind).await?.as_ref() != ours {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The flag for kinds that are all there or all missing; a finding for those of which some are there.
async fn beside(place: &Place, foreign: &Foreign) -> Result<Result<String, Found>, Failure> {
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for kind in foreign.kinds {
        let name = format!("{} of {}/{}", kind.kind, kind.group, kind.version);
        match served(place, kind).await? {
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
async fn pod_security(place: &Place) -> Result<Found, Failure> {
    let namespaces: Api<Namespace> = Api::all(place.client.clone());
    let params = ListParams::default().labels(INJECTED).limit(NAMESPACES_MAX);
    let listed = namespaces.list(&params).await.map_err(|error| refused(place, &error))?.items;
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
async fn clocks(place: &Place) -> Result<Found, Failure> {
    let request = http::Request::get("/version").body(Body::empty());
    let request = request.map_err(|error| Failure::failed(error.to_string()))?;
    let answer = place.client.send(request).await.map_err(|error| refused(place, &error))?;
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
