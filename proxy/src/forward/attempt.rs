//! Edge. One request's way to an endpoint: choice, connection, exchange, and another try where that is safe.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use meshfed_runtime::clock;

use super::Core;
use super::connection::{Answered, Connection, Planned, failure};
use super::exchange::{End, Exchange, State};
use super::reply::Reply;
use crate::pool::{ConnectError, Slot, Upstream, connect};
use crate::state::{Cluster, ClusterCounters, Transport};
use crate::telemetry::{Flag, Parties, Party, Reason, Reporter, Series};

/// Endpoints that are tried for one request.
const ENDPOINTS_MAX: usize = 3;
/// Kept connections that may turn out dead for one request; they die together when a server restarts.
const STALE_MAX: usize = 1;
/// The time for all connects of one request.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Counts a request under way for the whole process.
struct Active(Arc<ClusterCounters>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sends the planned request and forwards the answer.
///
/// # Errors
/// The answer to give instead.
pub(super) async fn run(connection: &mut Connection, planned: &Planned, begun: Instant) -> Result<Answered, Reply> {
    let Some(cluster) = planned.pool.cluster() else { return Err(no_endpoints("the service")) };
    let _active = begin(&cluster)?;
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut stale = 0;
    let mut last: Option<ConnectError> = None;
    while tried.len() < ENDPOINTS_MAX {
        let now = connection.core.telemetry.milliseconds(begun);
        let chosen = planned.pool.choose(&mut connection.core.rng.borrow_mut(), &tried, now);
        let Some(slot) = chosen else { break };
        let limit = CONNECT_TIME.saturating_sub(clock::instant().saturating_duration_since(begun));
        let mut upstream = match connection_to(connection, &slot, &cluster, stale > 0, limit).await {
            Ok(upstream) => upstream,
            Err(Refused::Overload) => return Err(overload(&cluster)),
            Err(Refused::Connect(error)) => {
                tracing::debug!(cluster = %cluster.name, error = %meshfed_runtime::telemetry::chain_of(&error), "endpoint cannot be connected to");
                tried.push(slot.address());
                last = Some(error);
                continue;
            }
        };
        let (end, outcome) = exchange(connection, planned, &mut upstream).await;
        if end == End::NoAnswer && may_repeat(connection, planned, &upstream) && stale < STALE_MAX {
            stale += 1;
            connection.request.rewind();
            connection.response.input.discard(&connection.core.buffers);
            continue;
        }
        return finish(connection, &slot, upstream, end, &outcome);
    }
    match last {
        None => Err(no_endpoints(&cluster.host)),
        Some(error) => Err(unreachable(&cluster, &tried, &error)),
    }
}

fn begin(cluster: &Arc<Cluster>) -> Result<Active, Reply> {
    let under_way = cluster.counters.requests.fetch_add(1, Ordering::Relaxed);
    let active = Active(Arc::clone(&cluster.counters));
    if under_way >= cluster.circuit_breakers.max_requests { Err(overload(cluster)) } else { Ok(active) }
}

fn overload(cluster: &Cluster) -> Reply {
    let text = format!("meshfed: the limit of connections or requests of {} is reached", shown(cluster));
    Reply::new(503, Flag::UpstreamOverflow, Reason::Overload, text)
}

fn no_endpoints(host: &str) -> Reply {
    let text = format!("meshfed: {host} has no endpoint that this workload could reach");
    Reply::new(503, Flag::NoHealthyUpstream, Reason::NoEndpoints, text)
}

fn unreachable(cluster: &Cluster, tried: &[SocketAddr], error: &ConnectError) -> Reply {
    let why = meshfed_runtime::telemetry::chain_of(error);
    let text =
        format!("meshfed: none of {} endpoint(s) of {} could be connected to: {why}", tried.len(), shown(cluster));
    Reply::new(503, Flag::UpstreamConnectionFailure, Reason::UpstreamConnect, text)
}

fn shown(cluster: &Cluster) -> &str {
    if cluster.host.is_empty() { &cluster.name } else { &cluster.host }
}

enum Refused {
    Overload,
    Connect(ConnectError),
}

/// A kept connection to the endpoint, or a new one.
async fn connection_to(
    connection: &Connection,
    slot: &Rc<Slot>,
    cluster: &Arc<Cluster>,
    fresh: bool,
    limit: Duration,
) -> Result<Upstream, Refused> {
    let core = &connection.core;
    let epoch = core.clusters.trust_epoch();
    if !fresh && let Some(kept) = poll_fn(|cx| Poll::Ready(slot.checkout(epoch, cx))).await {
        return Ok(kept);
    }
    if cluster.counters.connections.load(Ordering::Relaxed) >= cluster.circuit_breakers.max_connections {
        return Err(Refused::Overload);
    }
    let endpoint = slot.endpoint();
    match connect(cluster, &endpoint, limit).await {
        Ok(stream) => {
            let mut upstream = Upstream::new(stream, endpoint.address, cluster, epoch);
            if connection.side.reporter == Reporter::Source {
                upstream.series = Some(series_of(core, slot, cluster, &upstream));
            }
            Ok(upstream)
        }
        Err(error) => {
            core.mark_failing(&endpoint);
            if let ConnectError::Tls { source, .. } = &error {
                core.telemetry.handshake_failed("upstream", source.as_str());
            }
            Err(Refused::Connect(error))
        }
    }
}

/// The counters between us and whom a new connection leads to.
fn series_of(core: &Core, slot: &Slot, cluster: &Cluster, upstream: &Upstream) -> Rc<Series> {
    let endpoint = slot.endpoint();
    let mut destination = upstream.stream.peer().map(|id| Party::of(&id)).unwrap_or_default();
    if !endpoint.cluster.is_empty() {
        destination.cluster = Arc::clone(&endpoint.cluster);
    }
    core.series(Parties {
        reporter: Reporter::Source,
        source: core.own_party(),
        destination,
        service: Arc::clone(&cluster.host),
        protocol: "http",
        mutual_tls: upstream.stream.is_tls(),
    })
}

/// The counters of a known service's requests that no endpoint answered.
pub(super) fn unanswered(connection: &Connection, planned: &Planned) -> Rc<Series> {
    if connection.side.reporter == Reporter::Destination {
        return Rc::clone(&connection.side.series);
    }
    connection.core.series(Parties {
        reporter: Reporter::Source,
        source: connection.core.own_party(),
        destination: Party::default(),
        service: planned.pool.cluster().map(|c| Arc::clone(&c.host)).unwrap_or_default(),
        protocol: "http",
        mutual_tls: false,
    })
}

async fn exchange(connection: &mut Connection, planned: &Planned, upstream: &mut Upstream) -> (End, Outcome) {
    let keep = planned.persistent && !connection.core.is_draining();
    // A mesh proxy may say why it answered; an application may not speak as one.
    let strip_identity = !upstream.stream.is_tls();
    let mut exchange = Exchange {
        core: &connection.core,
        timer: &connection.timer,
        client: &mut connection.client,
        upstream: &mut upstream.stream,
        request: &mut connection.request,
        response: &mut connection.response,
        method: planned.method,
        version: planned.version,
        keep,
        strip_identity,
        state: State::default(),
    };
    exchange.begin();
    let end = poll_fn(|cx| exchange.poll(cx)).await;
    let outcome = Outcome {
        reusable: exchange.is_reusable(),
        request_done: exchange.is_request_done(),
        answer_begun: exchange.is_answer_begun(),
        keep: exchange.keep,
        status: exchange.state.status,
    };
    (end, outcome)
}

/// What is known after an exchange.
struct Outcome {
    reusable: bool,
    request_done: bool,
    answer_begun: bool,
    keep: bool,
    status: Option<u16>,
}

/// A kept connection that ended before the first byte of an answer: nobody served the request, or doing it twice is the
/// same as doing it once.
fn may_repeat(connection: &Connection, planned: &Planned, upstream: &Upstream) -> bool {
    upstream.reused
        && connection.request.finished
        && connection.response.input.is_empty()
        && !connection.response.wrote
        && (planned.method.is_idempotent() || !connection.request.wrote)
}

fn finish(
    connection: &Connection,
    slot: &Slot,
    upstream: Upstream,
    end: End,
    outcome: &Outcome,
) -> Result<Answered, Reply> {
    let (flag, reason) = failure(end);
    let core = &connection.core;
    let address = upstream.address;
    let answered = Answered {
        status: outcome.status.unwrap_or(0),
        flag,
        reason,
        series: upstream.series.clone(),
        upstream: Some(address),
        keep: end == End::Complete && outcome.keep && outcome.request_done,
    };
    if let End::Malformed(reject) = end {
        core.telemetry.refused("upstream", reject.status());
    }
    if let End::ClientMalformed(reject) = end {
        core.telemetry.refused("downstream", reject.status());
    }
    if end == End::Complete && outcome.reusable {
        slot.give_back(upstream, core.clusters.trust_epoch(), core.wheel.now());
    }
    if outcome.answer_begun {
        return Ok(answered);
    }
    let is_tls = matches!(slot.endpoint().transport.as_ref(), Transport::Tls(_));
    let who = if is_tls { "the peer" } else { "the application" };
    let reply = |status, text: String| Err(Reply::new(status, flag, reason.unwrap_or(Reason::Denied), text).closing());
    match end {
        End::Complete | End::Broken | End::ClientGone => Ok(answered),
        End::NoAnswer => reply(503, format!("meshfed: {who} at {address} closed the connection before it answered")),
        End::Timeout => reply(504, format!("meshfed: {who} at {address} did not answer in time")),
        End::Malformed(reject) => {
            reply(502, format!("meshfed: the answer of {who} at {address} is malformed: {reject}"))
        }
        End::ClientMalformed(reject) => Err(Reply::refused(reject)),
        End::ClientTimeout => reply(408, "meshfed: the request's body did not arrive in time".to_owned()),
    }
}
