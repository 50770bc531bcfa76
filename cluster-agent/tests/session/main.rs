//! Both ends of the session over real sockets with real certificates: what is sent, what is not, and what survives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "tests")]

mod authorities;
mod rules;
mod world;

use std::path::Path;
use std::time::Duration;

use meshfed_api::border::LeaseEpoch;
use meshfed_cluster_agent::downlink::renew;
use meshfed_cluster_agent::lease::Role;
use meshfed_federator::fleet::{EndpointsError, EndpointsQuery, FleetRead};
use meshfed_model::names::ClusterName;
use meshfed_runtime::clock;
use tokio::sync::watch;

use authorities::*;
use world::*;

/// Mutations seen to fail: `History::complete` in the place of `since_considered` in `fanout::changes`; the ledger's
/// `since(Version::default())` in `converse::news`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_change_among_a_thousand_services_sends_only_that() {
    let world = World::start();
    let (east, west) = (world.agent("east"), world.agent("west"));
    east.everything(SERVICES);
    west.everything(0);
    until("west sees all", || west.services() == SERVICES).await;
    world.quiet().await;
    until("bundles", || *west.bundles.lock().unwrap() == 3).await;
    assert!(world.server.bytes("west", "out") > 60_000, "the first view was sent");

    let before = (world.server.bytes("east", "in"), world.server.bytes("west", "out"));
    east.offer(500, 7);
    until("west sees the change", || west.ready(500) == Some(7)).await;
    let sent = (world.server.bytes("east", "in") - before.0, world.server.bytes("west", "out") - before.1);
    eprintln!("bytes of one change: east to hub {}, hub to west {}", sent.0, sent.1);
    assert!(sent.0 < 400 && sent.1 < 400, "{sent:?}");
    assert_eq!(world.server.count("meshfed_offer_complete", &["east"]), 1);

    // A question goes to the agent and back.
    let ask = |from: &str| EndpointsQuery {
        from: ClusterName::new(from).unwrap(),
        service: name(1),
        port: 8080,
        client: None,
        locality: None,
    };
    let refused = world.server.hub.endpoints(ask("west")).await.unwrap_err();
    assert_eq!(refused, EndpointsError::Refused { status: 404, detail: "no service shop/s1".to_owned() });
    let away = world.server.hub.endpoints(ask("south")).await.unwrap_err();
    assert!(matches!(away, EndpointsError::AgentUnavailable { .. }), "{away}");
    east.stop().await;
    west.stop().await;
}

/// Mutations seen to fail: `Hello.view` left empty (everything is sent again); the journal not read (a new epoch, and
/// a complete offer).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconnect_of_either_agent_sends_only_what_changed() {
    let world = World::start();
    let (east, west) = (world.agent("east"), world.agent("west"));
    east.everything(SERVICES);
    west.everything(0);
    until("west sees all", || west.services() == SERVICES).await;
    world.quiet().await;

    west.kill().await;
    east.offer(3, 5);
    until("the change is at the hub", || {
        let service = FleetRead::service(&*world.server.hub, &name(3)).unwrap();
        service.exports.unwrap()[0].groups[0].ready == 5
    })
    .await;
    let before = world.server.bytes("west", "out");
    let west = world.agent("west");
    assert_eq!(west.loaded, SERVICES, "it serves before it has a session");
    west.everything(0);
    until("west has caught up", || west.ready(3) == Some(5)).await;
    world.quiet().await;
    let sent = world.server.bytes("west", "out") - before;
    eprintln!("bytes of west's reconnect with one change: {sent}");
    assert!(sent < 4096, "{sent}");
    assert_eq!((west.complete_views(), west.services()), (0, SERVICES));

    // The other end: killed, started again, same offer but for one service.
    east.kill().await;
    let before = world.server.bytes("east", "in");
    let east = world.agent("east");
    east.everything(SERVICES - 1);
    until("the last service is withdrawn", || west.services() == SERVICES - 1).await;
    until("s3 is as before", || west.ready(3) == Some(1)).await;
    world.quiet().await;
    let sent = world.server.bytes("east", "in") - before;
    eprintln!("bytes of east's restart: {sent}");
    assert!(sent < 4096, "{sent}");
    assert_eq!(world.server.count("meshfed_offer_complete", &["east"]), 1);
    east.stop().await;
    west.stop().await;
}

/// Mutations seen to fail: the importer's cursor not taken from its hello (a whole view again); `OriginGone` for an
/// origin that has not offered yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_restarts_takes_the_offer_and_resumes_the_views() {
    let mut world = World::start();
    let (east, west) = (world.agent("east"), world.agent("west"));
    east.everything(SERVICES);
    west.everything(0);
    until("west sees all", || west.services() == SERVICES).await;
    world.quiet().await;
    let views = west.complete_views();

    let first_seen = |server: &Server| {
        FleetRead::service(&*server.hub, &name(1)).unwrap().exports.unwrap()[0].first_seen_revision.clone()
    };
    let claim = first_seen(&world.server);
    let address = world.server.stop().await;
    east.offer(7, 6);
    assert_eq!(west.services(), SERVICES, "nothing is lost with the hub");
    world.server = Server::start(&world.fleet, address, &world.claims);
    until("west hears of the change", || west.ready(7) == Some(6)).await;
    world.quiet().await;
    let sent = world.server.bytes("west", "out");
    eprintln!("bytes to west after the hub's restart: {sent}");
    assert!(sent < 4096, "{sent}");
    assert_eq!((west.services(), west.complete_views()), (SERVICES, views));
    // It is counted after it is taken.
    until("the whole offer is counted", || world.server.count("meshfed_offer_complete", &["east"]) == 1).await;
    assert_eq!(first_seen(&world.server), claim, "claims are durable");
    east.stop().await;
    west.stop().await;
}

/// Mutation seen to fail: `old.outbox.fence` left out of `State::open`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_session_of_a_replica_fences_the_older() {
    let world = World::start();
    let west = world.agent("west");
    west.everything(0);
    until("west is there", || world.server.waiting("west").is_empty()).await;
    let copy = world.dir.path().join("copy");
    world.fleet.join(&copy, "west", world.server.address);
    let double = Agent::start(&copy);
    until("the older session is fenced", || world.server.count("meshfed_session_refused", &["west", "fenced"]) >= 1)
        .await;
    double.stop().await;
    until("the first one is back", || world.server.waiting("west").is_empty()).await;
    west.stop().await;
}

/// Mutations seen to fail: `challenged` false in `dial` (an expired identity stays away); `renew_in` as a day.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_is_renewed_while_it_is_used_and_after_it_has_expired() {
    let world = World::start();
    // East is past half of its life, west was switched off for a week.
    let (east, west) = (world.dir.path().join("east"), world.dir.path().join("west"));
    world.fleet.join_at(&east, "east", world.server.address, clock::wall() - Duration::from_secs(2400));
    world.fleet.join_at(&west, "west", world.server.address, clock::wall() - 7 * DAY);
    let certificate = |dir: &Path| std::fs::read_to_string(dir.join("identity/cert.pem")).unwrap();
    let before = (certificate(&east), certificate(&west));
    let (east, west) = (Agent::start(&east), Agent::start(&west));
    east.everything(3);
    west.everything(0);
    until("west is there", || west.services() == 3).await;
    until("east has renewed", || east.counter("meshfed_identity_renewals_total") == 1).await;
    until("east goes on over a new stream", || world.server.count("meshfed_session_refused", &["east", "fenced"]) == 1)
        .await;
    east.offer(1, 8);
    until("the change comes", || west.ready(1) == Some(8)).await;
    world.quiet().await;
    let dir = world.dir.path();
    let after = (certificate(&dir.join("east")), certificate(&dir.join("west")));
    assert!(before.0 != after.0 && before.1 != after.1);
    assert!(renew::load(&dir.join("west")).is_ok(), "key and certificate fit");
    assert_eq!(world.server.count("meshfed_offer_complete", &["east"]), 1, "nothing is sent twice");
    east.stop().await;
    west.stop().await;
}

/// Agents of one cluster number what each of them reads, so two offers may have one number: the one that leads from now on
/// sends its own whole, also where the number says that the hub has it.
///
/// Mutation seen to fail: `is_anothers` false.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_agent_that_leads_sends_its_own_offer() {
    let world = World::start();
    let epoch = |transitions| LeaseEpoch { since: 1, transitions };
    let (lead, first) = watch::channel(Role::Leads(epoch(0)));
    let east = Agent::start_as(&world.dir.path().join("east"), "a", first);
    let west = world.agent("west");
    east.everything(2);
    west.everything(0);
    until("west sees both", || west.services() == 2).await;
    world.quiet().await;
    // As two volumes are that were the same: the same numbers from here on.
    let copy = world.dir.path().join("other");
    let copied = std::process::Command::new("cp").arg("-r").arg(world.dir.path().join("east")).arg(&copy).status();
    assert!(copied.unwrap().success());
    let (follow, second) = watch::channel(Role::Follows(epoch(0)));
    let other = Agent::start_as(&copy, "b", second);
    other.everything(2);
    east.offer(0, 5);
    other.offer(1, 7);
    until("west sees what the leader says", || west.ready(0) == Some(5)).await;
    assert_eq!(west.ready(1), Some(1));

    lead.send_replace(Role::Follows(epoch(1)));
    follow.send_replace(Role::Leads(epoch(1)));
    until("west sees what the next leader says", || (west.ready(0), west.ready(1)) == (Some(1), Some(7))).await;
    for agent in [east, other, west] {
        agent.stop().await;
    }
}
