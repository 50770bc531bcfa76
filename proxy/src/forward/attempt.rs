//! Edge. One request's way to an endpoint: choice, connection, exchange, and another try where that is safe.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::Core;
use super::connection::{Answered, Connection, Planned, failure};
use super::exchange::{End, Exchange, State};
use super::reply::Reply;
use super::tries::Tries;
use crate::pool::{ConnectError, Slot, Upstream, connect, end_when_unheard};
use crate::state::{Cluster, ClusterCounters, Transport};
use crate::telemetry::{Flag, Parties, Party, Reason, Reporter, RetryOutcome, Security, Series};

/// Counts a request under way for the whole process.
struct Active(Arc<ClusterCounters>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that got no answer of an endpoint: what the client is told, and after how many attempts.
pub(super) struct Unanswered {
    pub(super) reply: Reply,
    pub(super) attempts: u32,
}

/// Sends the planned request and forwards the answer; to another endpoint where it certainly reached no application, or
/// where nobody answered and doing it twice is doing it once.
///
/// # Errors
/// The answer to give instead.
pub(super) async fn run(
    connection: &mut Connection,
    planned: &Planned,
    begun: Instant,
) -> Result<Answered, Box<Unanswered>> {
    let unsent = |reply| Box::new(Unanswered { reply, attempts: 0 });
    let Some(cluster) = planned.pool.cluster() else { return Err(unsent(no_endpoints("the service"))) };
    let _active = begin(&cluster).map_err(unsent)?;
    let mut tries = Tries::new(&connection.core, &cluster, planned.policy, begun);
    if connection.request.finished {
        tries.start_clock(&connection.core);
    }
    let answered = run_tries(connection, planned, &cluster, &mut tries, begun).await;
    answered.map_err(|reply| {
        tries.ended(&connection.core, false);
        Box::new(Unanswered { reply, attempts: tries.attempts })
    })
}

async fn run_tries(
    connection: &mut Connection,
    planned: &Planned,
    cluster: &Arc<Cluster>,
    tries: &mut Tries<'_>,
    begun: Instant,
) -> Result<Answered, Reply> {
    loop {
        // The clock is read once for a request that is served at once.
        let now = if tries.attempts == 0 { begun } else { meshfed_runtime::clock::instant() };
        let now = connection.core.telemetry.milliseconds(now);
        let chosen = {
            let client = connection.side.client.ip();
            planned.pool.choose(&mut connection.core.rng.borrow_mut(), client, &tries.tried, now)
        };
        let Some(slot) = chosen else { break };
        tries.attempts += 1;
        tracing::debug!(cluster = %cluster.name, endpoint = %slot.address(), attempt = tries.attempts, "upstream chosen");
        let limit = tries.connect_limit(&connection.core);
        let mut upstream = match connection_to(connection, &slot, cluster, tries.fresh, limit).await {
            Ok(upstream) => upstream,
            Err(Refused::Overload) => return Err(overload(cluster)),
            Err(Refused::Connect(error)) => {
                tracing::debug!(cluster = %cluster.name, error = %meshfed_runtime::telemetry::chain_of(&error), "endpoint cannot be connected to");
                if tries.is_late(&connection.core) {
                    return Err(late(cluster));
                }
                if tries.after_connect(&connection.core, &planned.pool, &slot, error) {
                    continue;
                }
                break;
            }
        };
        let (end, outcome) = exchange(connection, planned, &mut upstream, tries, &slot).await;
        let again = match end {
            End::NotServed => true,
            End::NoAnswer => is_unanswered(connection) && goes_on(connection, planned, &upstream, tries, &slot),
            End::Complete
            | End::Timeout
            | End::Malformed(_)
            | End::Broken
            | End::ClientGone
            | End::ClientMalformed(_)
            | End::ClientTimeout
            | End::ClientUntrusted
            | End::UpstreamUntrusted => false,
        };
        if again {
            tracing::debug!(cluster = %cluster.name, endpoint = %slot.address(), "the request goes to another connection");
            connection.request.rewind();
            connection.response.input.discard(&connection.core.buffers);
            connection.response.reset(&connection.core.buffers);
            continue;
        }
        return finish(connection, &slot, upstream, end, &outcome, tries);
    }
    Err(nobody_left(cluster, tries))
}

/// What the client is told where no endpoint is left to ask.
fn nobody_left(cluster: &Arc<Cluster>, tries: &Tries<'_>) -> Reply {
    if tries.may_have_been_served() {
        let (flag, reason) = failure(End::NoAnswer);
        let text = format!("meshfed: an endpoint of {} ended the request, and no other could be asked", shown(cluster));
        return Reply::new(503, flag, reason.unwrap_or(Reason::UpstreamReset), text);
    }
    let flag = tries.unconnected_flag();
    match &tries.last {
        Some(error) => unreachable(cluster, &tries.tried, error, flag),
        None if tries.attempts > 0 => {
            let text = format!("meshfed: no endpoint of {} reached its application", shown(cluster));
            Reply::new(503, flag, Reason::UpstreamConnect, text)
        }
        None => no_endpoints(&cluster.host),
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

fn late(cluster: &Cluster) -> Reply {
    let text = format!("meshfed: the route's time for {} is over", shown(cluster));
    Reply::new(504, Flag::UpstreamRequestTimeout, Reason::Timeout, text)
}

fn unreachable(cluster: &Cluster, tried: &[std::net::SocketAddr], error: &ConnectError, flag: Flag) -> Reply {
    let why = meshfed_runtime::telemetry::chain_of(error);
    let text =
        format!("meshfed: none of {} endpoint(s) of {} could be connected to: {why}", tried.len(), shown(cluster));
    Reply::new(503, flag, Reason::UpstreamConnect, text)
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
            end_when_unheard(&stream);
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
    let mut destination =
        upstream.stream.peer().map(|id| Party::of(&id, upstream.stream.described())).unwrap_or_default();
    if !endpoint.cluster.is_empty() {
        destination.cluster = Arc::clone(&endpoint.cluster);
    }
    core.series(Parties {
        reporter: Reporter::Source,
        source: core.own_party(),
        destination,
        service: Arc::clone(&cluster.host),
        protocol: "http",
        security: Security::of(upstream.stream.is_tls()),
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
        security: Security::Unknown,
    })
}

async fn exchange(
    connection: &mut Connection,
    planned: &Planned,
    upstream: &mut Upstream,
    tries: &mut Tries<'_>,
    slot: &Slot,
) -> (End, Outcome) {
    let keep = planned.persistent && !connection.core.is_draining();
    // A mesh proxy may say why it answered; an application may not speak as one.
    let is_mesh = upstream.stream.is_tls();
    let core = Rc::clone(&connection.core);
    let mut exchange = Exchange {
        core: &core,
        timer: &connection.timer,
        client: &mut connection.client,
        upstream: &mut upstream.stream,
        request: &mut connection.request,
        response: &mut connection.response,
        method: planned.method,
        version: planned.version,
        keep,
        strip_identity: !is_mesh,
        heed: is_mesh && planned.policy.heed_peers,
        repeatable: is_repeatable(connection.side.reporter, planned),
        guest: connection.side.guest.as_ref(),
        limit: tries.limit(),
        deadline: tries.deadline,
        state: State::new(tries.trust_seen),
    };
    exchange.begin();
    let mut end = poll_fn(|cx| exchange.poll(cx)).await;
    let reached_nobody = exchange.state.said.is_some_and(Reason::reached_nobody);
    if end == End::NotServed && !tries.after_word(&core, &planned.pool, slot, reached_nobody) {
        // Nobody else can be asked: the answer goes on to the client.
        end = poll_fn(|cx| exchange.poll(cx)).await;
    }
    if end != End::NotServed && exchange.state.said.is_some_and(Reason::reached_nobody) {
        tries.after_answered_refusal(&core, &planned.pool, slot);
    }
    (tries.deadline, tries.trust_seen) = (exchange.deadline, exchange.state.trust_seen);
    let outcome = Outcome {
        reusable: exchange.is_reusable(),
        request_done: exchange.is_request_done(),
        answer_begun: exchange.is_answer_begun(),
        keep: exchange.keep,
        status: exchange.state.status,
        said: exchange.state.said,
    };
    (end, outcome)
}

/// Whether a request may be asked of another endpoint after one that may have served it. The proxy of the one who calls
/// decides, and alone: if every proxy on the way repeated it, the attempts would multiply (security L7-12).
fn is_repeatable(reporter: Reporter, planned: &Planned) -> bool {
    reporter == Reporter::Source && planned.method.is_idempotent()
}

/// What is known after an exchange.
struct Outcome {
    reusable: bool,
    request_done: bool,
    answer_begun: bool,
    keep: bool,
    status: Option<u16>,
    /// What the upstream's proxy said: that the request reached no application, or that one ended it.
    said: Option<Reason>,
}

/// Whether no byte of an answer came, and the whole request is still here.
fn is_unanswered(connection: &Connection) -> bool {
    connection.request.is_replayable() && connection.response.input.is_empty() && !connection.response.wrote
}

/// After a connection that ended before the first byte of an answer: whether the request is sent again. A kept connection
/// is replaced where nothing was sent over it, or where doing it twice is doing it once (RFC 9112 9.3.1, RFC 9110 9.2.2):
/// as a rule nobody served it. After that, and after a connection of its own, another endpoint is asked.
fn goes_on(
    connection: &Connection,
    planned: &Planned,
    upstream: &Upstream,
    tries: &mut Tries<'_>,
    slot: &Slot,
) -> bool {
    let core = &connection.core;
    let is_stale = upstream.reused && (planned.method.is_idempotent() || !connection.request.wrote);
    (is_stale && tries.after_stale(core))
        || (is_repeatable(connection.side.reporter, planned) && tries.after_reset(core, &planned.pool, slot))
}

fn finish(
    connection: &Connection,
    slot: &Slot,
    upstream: Upstream,
    end: End,
    outcome: &Outcome,
    tries: &mut Tries<'_>,
) -> Result<Answered, Reply> {
    let (mut flag, mut reason) = failure(end);
    let core = &connection.core;
    if end == End::Complete && outcome.said.is_some() {
        // The answer is the peer's proxy's own.
        reason = outcome.said;
        if let Some(limited) = tries.limited_flag() {
            flag = limited;
        } else if outcome.said.is_some_and(Reason::reached_nobody) && !connection.request.is_replayable() {
            tries.refusal = Some(RetryOutcome::NotReplayable);
        }
    }
    if outcome.status.is_some() && !outcome.said.is_some_and(Reason::reached_nobody) {
        slot.answered();
    }
    let address = upstream.address;
    let answered = Answered {
        status: outcome.status.unwrap_or(0),
        flag,
        reason,
        series: upstream.series.clone(),
        upstream: Some(address),
        attempts: tries.attempts,
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
    if end == End::ClientUntrusted || end == End::UpstreamUntrusted {
        let listener = if end == End::ClientUntrusted { "inbound" } else { "outbound" };
        core.telemetry.denied(listener, "trust_withdrawn");
        tracing::info!(client = %connection.side.client, upstream = %address, "request ended: its peer's trust domain is accepted no longer");
    }
    if outcome.answer_begun {
        tries.ended(core, end == End::Complete && outcome.said.is_none());
        return Ok(answered);
    }
    let is_tls = matches!(slot.endpoint().transport.as_ref(), Transport::Tls(_));
    let who = if is_tls { "the peer" } else { "the application" };
    let reply = |status, text: String| Err(Reply::new(status, flag, reason.unwrap_or(Reason::Denied), text).closing());
    match end {
        End::Complete | End::Broken | End::ClientGone | End::ClientUntrusted | End::NotServed => {
            tries.ended(core, false);
            Ok(answered)
        }
        End::UpstreamUntrusted => {
            reply(503, format!("meshfed: the trust domain of the peer at {address} is accepted no longer"))
        }
        End::NoAnswer => reply(503, format!("meshfed: {who} at {address} closed the connection before it answered")),
        End::Timeout => reply(504, format!("meshfed: {who} at {address} did not answer in time")),
        End::Malformed(reject) => {
            reply(502, format!("meshfed: the answer of {who} at {address} is malformed: {reject}"))
        }
        End::ClientMalformed(reject) => Err(Reply::refused(reject)),
        End::ClientTimeout => reply(408, "meshfed: the request's body did not arrive in time".to_owned()),
    }
}
