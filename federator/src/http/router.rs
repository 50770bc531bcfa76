//! Edge. Paths of the HTTP API, and what holds for each: rate, credentials, problems, headers, metric.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use meshfed_api::http::ProblemKind;
use meshfed_ca::keys::sha256;
use meshfed_ca::token::same_hash;
use meshfed_runtime::clock;
use meshfed_runtime::rate::{Limiter, Rate};

use super::handlers as on;
use super::page::Kept;
use super::problem::{problem, seal};
use super::seat::Seat;
use super::serve::{HEADERS_MAX, Peer};
use super::{Api, Code};
use crate::operations::Refused;

/// What one principal may ask (AP9): fifty a second, a hundred at once. The CLI polls five times a second.
const RATE: Rate = Rate { per_second: 50.0, burst: 100.0 };
/// What all addresses without credentials may ask together: enough for a fleet that joins, too little to burn a core.
const STRANGERS: Rate = Rate { per_second: 500.0, burst: 1000.0 };
/// The bearer here is a join token.
const PLAN_PATH: &str = "/api/v1/joins/plan";
/// The longest bearer looked at, in bytes.
const BEARER_MAX: usize = 512;

/// What all requests share.
pub(super) struct Shared {
    pub(super) api: Api,
    pub(super) kept: Mutex<Kept>,
    admin: Mutex<Limiter>,
    strangers: Mutex<Limiter>,
}

/// The routes of `/api/v1`.
pub fn router(api: Api) -> Router {
    let shared = Arc::new(Shared {
        api,
        kept: Mutex::default(),
        admin: Mutex::new(Limiter::new(RATE, RATE)),
        strangers: Mutex::new(Limiter::new(RATE, STRANGERS)),
    });
    let routes = Router::new()
        .route("/status", get(on::status))
        .route("/clusters", get(on::clusters))
        .route("/clusters/{name}", get(on::cluster).delete(later))
        .route("/services", get(on::services))
        .route("/services/{namespace}/{name}", get(on::service))
        .route("/services/{namespace}/{name}/endpoints", get(on::endpoints))
        .route("/trust", get(on::trust))
        .route("/tokens", get(on::tokens).post(on::create_token))
        .route("/tokens/{id}", get(on::token).delete(on::revoke_token))
        .route("/joins/plan", post(on::plan))
        .route("/clusters/{name}/drain", post(later))
        .route("/clusters/{name}/undrain", post(later))
        .route("/services/{namespace}/{name}/failover", get(later).put(later))
        .route("/failover", get(later).put(later))
        .route("/failover/simulate", post(later))
        .route("/overrides", get(later).post(later))
        .route("/overrides/{id}", delete(later))
        .route("/explain", get(later))
        .route("/events", get(later))
        .route("/topology", get(later))
        .route("/openapi.json", get(later));
    Router::new()
        .nest("/api/v1", routes)
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(&shared), guard))
        .with_state(shared)
}

impl IntoResponse for Refused {
    /// [`guard`] writes the problem, because it knows the path.
    fn into_response(self) -> Response {
        let mut response = Response::default();
        response.extensions_mut().insert(self);
        response
    }
}

async fn later() -> Refused {
    Refused::new(ProblemKind::NotInThisVersion, "this part of the API is not in this version of meshfed")
}

async fn unknown_path() -> Refused {
    Refused::new(ProblemKind::UnknownPath, "there is nothing at this path; all paths begin with /api/v1/")
}

async fn wrong_method() -> Refused {
    Refused::new(ProblemKind::MethodNotAllowed, "this path does not take that method; see the header 'allow'")
}

/// The only bearer of a request.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(one), None) = (all.next(), all.next()) else { return None };
    let (scheme, token) = one.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && token.len() <= BEARER_MAX && !token.is_empty()).then_some(token)
}

fn admit(shared: &Shared, request: &Request) -> Result<(), Refused> {
    let api = &shared.api;
    if request.headers().len() > HEADERS_MAX {
        return Err(Refused::new(ProblemKind::HeadTooLarge, format!("a request has at most {HEADERS_MAX} headers")));
    }
    let admin_token_sha256 = *api.admin_token_sha256.borrow();
    let is_admin = bearer(request.headers()).is_some_and(|t| same_hash(&sha256(t.as_bytes()), &admin_token_sha256));
    if let Some(seat) = request.extensions().get::<Seat>().filter(|_| is_admin) {
        seat.known();
    }
    let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let address = request.extensions().get::<Peer>().map_or(nobody, |peer| peer.0.ip());
    // Strangers never use up what the administrator may ask, not even from the same address.
    let (limiter, principal) = if is_admin { (&shared.admin, nobody) } else { (&shared.strangers, address) };
    if !limiter.lock().unwrap_or_else(PoisonError::into_inner).allows(principal, clock::instant()) {
        let detail = "more than 50 requests a second; wait a second and try again";
        return Err(Refused::new(ProblemKind::TooManyRequests, detail));
    }
    if is_admin || request.uri().path() == PLAN_PATH {
        return Ok(());
    }
    let detail = "send 'authorization: Bearer TOKEN' with the token of the federator's admin.token";
    Err(Refused::new(ProblemKind::Unauthenticated, detail))
}

async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut response = match admit(&shared, &request) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    };
    let refused = response.extensions_mut().remove::<Refused>();
    let is_bare = response.status().is_client_error() || response.status().is_server_error();
    let refused = refused.or_else(|| {
        // axum's own refusals, say of a path that is no UTF-8.
        (is_bare && !is_problem(&response))
            .then(|| Refused::new(ProblemKind::BadRequest, "the request cannot be understood"))
    });
    if let Some(refused) = refused {
        let allow = response.headers_mut().remove(header::ALLOW);
        response = problem(&refused, &path);
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
    }
    seal(&mut response);
    shared.api.requests.get_or_create(&Code { code: response.status().as_u16() }).inc();
    response
}

fn is_problem(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|t| t == meshfed_api::http::PROBLEM_TYPE)
}
