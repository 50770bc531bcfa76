//! Edge. One function per path.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use kube::core::{Selector, SelectorExt as _};
use meshfed_api::http::{self, ProblemKind};
use meshfed_model::names::{ClusterName, Namespace, ServiceName};
use meshfed_runtime::clock;
use serde::Serialize;
use serde_json::Value;

use super::form;
use super::page::{self, Listed};
use super::problem::{Answer, DRY_RUN, json, names, refuse, repeated, shown};
use super::query::{self, Query};
use super::read::{Facts, Sight};
use super::router::{Shared, bearer};
use super::selector;
use super::serve::Peer;
use crate::fleet::{EndpointsError, EndpointsQuery};
use crate::operations::{Refused, WouldBe};

/// The largest body, in bytes (AP3).
const BODY_MAX: usize = 1 << 20;
/// So much of a body that is too large is thrown away before it is cut off, in bytes.
const BODY_HEARD_MAX: usize = 16 << 20;
/// Time for a body to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// The longest `client` and `locality` passed on to an agent, in bytes.
const TEXT_MAX: usize = 512;

type Shares = State<Arc<Shared>>;

fn if_none_match(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok())
}

impl Shared {
    fn sight<T>(&self, look: impl FnOnce(&Sight<'_>) -> T) -> T {
        let revision = self.api.revisions.current();
        let members = Arc::clone(&self.api.members.borrow());
        let bundles = Arc::clone(&self.api.bundles.borrow());
        let of = |name: &ClusterName| Some((name.clone(), self.api.fleet.cluster(name)?));
        let facts: Facts = members.members.keys().filter_map(of).collect();
        look(&Sight {
            fleet: &self.api.domain,
            members: &members,
            bundles: &bundles,
            facts: &facts,
            revision,
            now: clock::timestamp(),
        })
    }

    fn list<T: Serialize>(
        &self,
        name: &str,
        wanted: page::Wanted,
        revision: u64,
        items: &[T],
    ) -> Result<http::Page<Value>, Refused> {
        let written: Result<Vec<Value>, _> = items.iter().map(serde_json::to_value).collect();
        let items = written.map_err(|e| {
            tracing::error!(error = %e, "an answer could not be written");
            Refused::new(ProblemKind::Internal, "the answer could not be written")
        })?;
        let listed = Listed { name: name.to_owned(), revision, items: Arc::new(items) };
        Ok(self.kept.lock().unwrap_or_else(PoisonError::into_inner).page(&listed, wanted))
    }

    /// A later page of a list that is kept.
    fn later_page(&self, name: &str, wanted: page::Wanted) -> Result<Option<http::Page<Value>>, Refused> {
        let Some(cursor) = wanted.cursor else { return Ok(None) };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let listed = kept.find(name, cursor)?;
        Ok(Some(kept.page(&listed, wanted)))
    }
}

/// Not fresh for want of words from its agent, rather than gone for good.
const fn is_silent(freshness: http::Freshness) -> bool {
    match freshness {
        http::Freshness::Stale | http::Freshness::Deprioritised => true,
        http::Freshness::Fresh | http::Freshness::Withdrawn => false,
    }
}

/// Silence makes a cluster stale without a new revision: then what the caller holds may be older than it looks.
fn held_unless_stale(headers: &HeaderMap, stale: bool) -> Option<&str> {
    if_none_match(headers).filter(|_| !stale)
}

pub(super) async fn status(State(shared): Shares, RawQuery(raw): RawQuery, headers: HeaderMap) -> Answer {
    Query::parse(raw.as_deref(), &[])?;
    let status = shared.sight(|sight| sight.status());
    let stale = status.clusters.iter().any(|c| is_silent(c.freshness));
    Ok(shown(&status, &status.revision, held_unless_stale(&headers, stale)))
}

/// The parameter by which lists are narrowed to what bears labels.
const LABELS: &str = "labelSelector";

/// What is selected; everything where nothing is asked.
fn selector(query: &Query) -> Result<Selector, Refused> {
    match query.get(LABELS) {
        None => Ok(Selector::default()),
        Some(_given) => query.required(LABELS, |text: &str| selector::read(text)),
    }
}

pub(super) async fn clusters(State(shared): Shares, RawQuery(raw): RawQuery, headers: HeaderMap) -> Answer {
    let query = Query::parse(raw.as_deref(), &["limit", "continue", LABELS])?;
    let selector = selector(&query)?;
    let list = format!("clusters?{selector}");
    let wanted = page::wanted(&list, &query)?;
    if let Some(page) = shared.later_page(&list, wanted)? {
        return Ok(shown(&page, &page.revision, None));
    }
    let (revision, mut clusters) = shared.sight(|sight| (sight.revision, sight.clusters()));
    let members = Arc::clone(&shared.api.members.borrow());
    clusters.retain(|cluster| {
        let member = members.members.iter().find(|(name, _)| name.as_str() == cluster.name);
        member.map_or_else(|| selector.selects_all(), |(_, member)| selector.matches(&member.member.labels))
    });
    let stale = clusters.iter().any(|c| is_silent(c.freshness));
    let page = shared.list(&list, wanted, revision, &clusters)?;
    Ok(shown(&page, &page.revision, held_unless_stale(&headers, stale)))
}

/// So many of the live clusters are named at most.
const NAMED_MAX: usize = 20;

impl Shared {
    /// 404, with the names that there are.
    fn unknown_cluster(&self, field: &str, name: &str) -> Refused {
        let members = self.api.members.borrow();
        let live = members.members.iter().filter(|(_, member)| member.is_live()).map(|(name, _)| name.as_str());
        let mut names: Vec<&str> = live.take(NAMED_MAX + 1).collect();
        if names.len() > NAMED_MAX {
            names.truncate(NAMED_MAX);
            names.push("…");
        }
        let remedy = if names.is_empty() {
            "no cluster has joined yet; make a token with 'meshfed token create'".to_owned()
        } else {
            format!("the clusters of this fleet: {}", names.join(", "))
        };
        let message = format!("no cluster '{}' in this fleet", repeated(name));
        refuse(ProblemKind::UnknownCluster, field, "NotFound", message, Some(&remedy))
    }
}

pub(super) async fn cluster(
    State(shared): Shares,
    Path(name): Path<String>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Answer {
    Query::parse(raw.as_deref(), &[])?;
    let found = ClusterName::new(&name).ok().and_then(|name| shared.sight(|sight| sight.cluster(&name)));
    let cluster = found.ok_or_else(|| shared.unknown_cluster("name", &name))?;
    let stale = is_silent(cluster.freshness);
    Ok(shown(&cluster, &cluster.revision, held_unless_stale(&headers, stale)))
}

pub(super) async fn services(State(shared): Shares, RawQuery(raw): RawQuery, headers: HeaderMap) -> Answer {
    let query = Query::parse(raw.as_deref(), &["limit", "continue", "namespace", LABELS])?;
    let selector = selector(&query)?;
    let namespace = query
        .get("namespace")
        .map(|_given| query.required("namespace", |text: &str| Namespace::new(text)))
        .transpose()?;
    let list = format!("services?{}?{selector}", namespace.as_ref().map(Namespace::as_str).unwrap_or_default());
    let wanted = page::wanted(&list, &query)?;
    if let Some(page) = shared.later_page(&list, wanted)? {
        return Ok(shown(&page, &page.revision, None));
    }
    let revision = shared.api.revisions.current();
    let mut services = shared.api.fleet.services(&|name, labels| {
        namespace.as_ref().is_none_or(|wanted| name.namespace == *wanted) && selector.matches(labels)
    });
    for service in &mut services {
        service.revision = revision.to_string();
        service.exports = None;
    }
    let page = shared.list(&list, wanted, revision, &services)?;
    Ok(shown(&page, &page.revision, if_none_match(&headers)))
}

fn unknown_service(namespace: &str, name: &str) -> Refused {
    let detail = format!("no cluster exports a service '{}/{}'", repeated(namespace), repeated(name));
    Refused::new(ProblemKind::UnknownService, detail)
}

pub(super) async fn service(
    State(shared): Shares,
    Path((namespace, name)): Path<(String, String)>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Answer {
    Query::parse(raw.as_deref(), &[])?;
    let revision = shared.api.revisions.current();
    let found = ServiceName::new(&namespace, &name).ok().and_then(|name| shared.api.fleet.service(&name));
    let mut service = found.ok_or_else(|| unknown_service(&namespace, &name))?;
    service.revision = revision.to_string();
    Ok(shown(&service, &service.revision, if_none_match(&headers)))
}

fn port(text: &str) -> Result<u16, &'static str> {
    text.parse().ok().filter(|p| *p > 0).ok_or("a port is a number from 1 to 65535")
}

fn passed_on(query: &Query, name: &str) -> Result<Option<String>, Refused> {
    let short = |text: &str| match text.len() {
        1..=TEXT_MAX => Ok(text.to_owned()),
        len => Err(format!("{len} bytes, 1 to {TEXT_MAX} are allowed")),
    };
    query.get(name).map(|_given| query.required(name, short)).transpose()
}

/// A service that nobody exports is asked for all the same: the agent may know it, and tells why it is empty.
pub(super) async fn endpoints(
    State(shared): Shares,
    Path((namespace, name)): Path<(String, String)>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let query = Query::parse(raw.as_deref(), &["from", "port", "client", "locality"])?;
    let from = query.required("from", |text: &str| ClusterName::new(text))?;
    let port = query.required("port", port)?;
    let service = ServiceName::new(&namespace, &name).map_err(|_no_name| unknown_service(&namespace, &name))?;
    let asked = EndpointsQuery {
        from: from.clone(),
        service: service.clone(),
        port,
        client: passed_on(&query, "client")?,
        locality: passed_on(&query, "locality")?,
    };
    if !shared.api.members.borrow().members.get(&from).is_some_and(crate::fleet::Member::is_live) {
        return Err(shared.unknown_cluster("from", from.as_str()));
    }
    let revision = shared.api.revisions.current();
    let mut answer = shared.api.fleet.endpoints(asked).await.map_err(|error| match error {
        EndpointsError::AgentUnavailable { .. } => Refused::new(ProblemKind::AgentUnavailable, error.to_string()),
        EndpointsError::Refused { status: 404, detail } if detail.starts_with("client:") => {
            refuse(ProblemKind::InvalidParameter, "client", "NotFound", detail, None)
        }
        EndpointsError::Refused { status: 404, detail } => Refused::new(ProblemKind::UnknownService, detail),
        EndpointsError::Refused { detail, .. } => Refused::new(ProblemKind::InvalidParameter, detail),
    })?;
    answer.dropped.extend(shared.api.fleet.not_exported(&service, port, &from));
    answer.dropped.sort();
    answer.revision = revision.to_string();
    Ok(shown(&answer, &answer.revision, if_none_match(&headers)))
}

pub(super) async fn trust(State(shared): Shares, RawQuery(raw): RawQuery, headers: HeaderMap) -> Answer {
    Query::parse(raw.as_deref(), &[])?;
    let trust = shared.sight(|sight| sight.trust(&shared.api.root, shared.api.root_online));
    Ok(shown(&trust, &trust.revision, if_none_match(&headers)))
}

pub(super) async fn tokens(State(shared): Shares, RawQuery(raw): RawQuery) -> Answer {
    let wanted = page::wanted("tokens", &Query::parse(raw.as_deref(), &["limit", "continue"])?)?;
    if let Some(page) = shared.later_page("tokens", wanted)? {
        return Ok(shown(&page, &page.revision, None));
    }
    let (revision, tokens) = shared.api.operations.list_tokens().await?;
    let page = shared.list("tokens", wanted, revision, &tokens)?;
    // Tokens expire without a new revision, so the caller's copy is never good enough.
    Ok(shown(&page, &page.revision, None))
}

/// The whole body; none when it is too large.
///
/// A little more than is taken is read and thrown away, so that a client that is still sending hears why it is refused.
async fn collect(mut body: Body) -> Result<Option<Bytes>, axum::Error> {
    let (mut held, mut length) = (Vec::new(), 0usize);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        length += data.len();
        if length <= BODY_MAX {
            held.extend_from_slice(&data);
        } else if length > BODY_HEARD_MAX {
            break;
        }
    }
    Ok((length <= BODY_MAX).then(|| held.into()))
}

async fn read_body(headers: &HeaderMap, body: Body) -> Result<Bytes, Refused> {
    query::check_type(headers)?;
    match tokio::time::timeout(BODY_DEADLINE, collect(body)).await {
        Ok(Ok(Some(body))) => Ok(body),
        Ok(Ok(None)) => {
            let detail = format!("the body has more than {BODY_MAX} bytes");
            Err(Refused::new(ProblemKind::TooLarge, detail))
        }
        Ok(Err(_broken)) => Err(Refused::new(ProblemKind::BadRequest, "the body broke off")),
        Err(_elapsed) => Err(Refused::new(ProblemKind::BadRequest, "the body did not arrive within 10 s")),
    }
}

fn marked_dry(mut response: Response) -> Response {
    response.headers_mut().insert(DRY_RUN, HeaderValue::from_static("true"));
    response
}

/// The would-be answer of a token request: a token that does not exist has no id, and nothing to run.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WouldBeToken {
    id: Option<String>,
    token: Option<String>,
    cluster: String,
    expires_at: String,
    command: Option<Vec<String>>,
}

impl Shared {
    /// The refusal of a token request with these faults of form: they are told with all that is wrong about the rest.
    async fn misformed(&self, request: &http::TokenRequest, mut faults: Vec<http::FieldError>) -> Refused {
        if let Err(refused) = self.api.operations.would_be_token(request).await {
            let more = refused.errors.into_iter().filter(|e| !form::follows(e, &faults)).collect::<Vec<_>>();
            faults.extend(more);
        }
        faults.truncate(form::FAULTS_MAX);
        Refused::new(ProblemKind::InvalidBody, "the token cannot be made as asked; see errors").with(faults)
    }
}

pub(super) async fn create_token(
    State(shared): Shares,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let dry = Query::parse(raw.as_deref(), &["dryRun"])?.dry_run()?;
    let (request, faults) = form::token_request(&query::body(&read_body(&headers, body).await?)?);
    if !faults.is_empty() {
        return Err(shared.misformed(&request, faults).await);
    }
    if dry {
        let WouldBe { cluster, expires_at } = shared.api.operations.would_be_token(&request).await?;
        let would_be = WouldBeToken { id: None, token: None, cluster, expires_at, command: None };
        return Ok(marked_dry(json(StatusCode::OK, &would_be)));
    }
    let created = shared.api.operations.create_token(request).await?;
    let mut response = json(StatusCode::CREATED, &created);
    if let Ok(location) = HeaderValue::from_str(&format!("/api/v1/tokens/{}", created.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// One token with the revision of its last change.
#[derive(Serialize)]
struct TokenShown {
    #[serde(flatten)]
    token: http::Token,
    revision: String,
}

fn unknown_token(id: &str) -> Refused {
    Refused::new(ProblemKind::UnknownToken, format!("no token '{}'", repeated(id)))
}

pub(super) async fn token(State(shared): Shares, Path(id): Path<String>, RawQuery(raw): RawQuery) -> Answer {
    Query::parse(raw.as_deref(), &[])?;
    let found = shared.api.operations.find_token(&id).await?;
    let (revision, token) = found.ok_or_else(|| unknown_token(&id))?;
    let revision = revision.to_string();
    // Tokens expire without a new revision, so the caller's copy is never good enough.
    Ok(shown(&TokenShown { token, revision: revision.clone() }, &revision, None))
}

pub(super) async fn revoke_token(
    State(shared): Shares,
    Path(id): Path<String>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let dry = Query::parse(raw.as_deref(), &["dryRun"])?.dry_run()?;
    let Some(tags) = headers.get(header::IF_MATCH).and_then(|v| v.to_str().ok()) else {
        let detail = "send 'if-match: \"REVISION\"' with the revision of the token or of the list, or 'if-match: *'";
        return Err(Refused::new(ProblemKind::PreconditionRequired, detail));
    };
    let (own, _) = shared.api.operations.find_token(&id).await?.ok_or_else(|| unknown_token(&id))?;
    if !names(tags, &own.to_string()) {
        let (listed, _) = shared.api.operations.list_tokens().await?;
        if !names(tags, &listed.to_string()) {
            let detail = format!("the token is at revision {own}, the list at {listed}; read it again");
            return Err(Refused::new(ProblemKind::PreconditionFailed, detail));
        }
    }
    if dry {
        return Ok(marked_dry(StatusCode::NO_CONTENT.into_response()));
    }
    if shared.api.operations.revoke_token(&id).await? {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(unknown_token(&id))
    }
}

pub(super) async fn plan(
    State(shared): Shares,
    peer: Option<Extension<Peer>>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let Some(token) = bearer(&headers) else {
        let detail = "send 'authorization: Bearer TOKEN' with a join token";
        return Err(Refused::new(ProblemKind::Unauthenticated, detail));
    };
    Query::parse(raw.as_deref(), &[])?;
    let request: http::PlanRequest = query::body(&read_body(&headers, body).await?)?;
    let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let address = peer.map_or(nowhere, |Extension(peer)| peer.0);
    let plan = shared.api.operations.plan(token, request, address).await?;
    Ok(json(StatusCode::OK, &plan))
}
