//! Edge. What the hub refuses, holds back or ends, seen from the other end of a real session.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meshfed_api::proto::federation as wire;
use meshfed_cluster_agent::uplink::Resources;
use meshfed_federator::fleet::FleetRead;
use meshfed_model::identity::SpiffeId;
use meshfed_model::names::ClusterName;
use meshfed_model::offer::{OfferKey, OfferValue};
use meshfed_runtime::tls::{Identity, IdentityStore, TrustStore};
use meshfed_runtime::{clock, grpc};
use rustls_pki_types::CertificateDer;

use super::authorities::*;
use super::world::*;

/// JT10 from outside. Mutations seen to fail: `Reader::binding` without `is_of` (the old agent comes back); `fence`
/// left out of `State::withdraw` (its session stands).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_replace_the_old_agent_has_no_session_and_gets_none() {
    let world = World::start();
    let (old, west) = (world.agent("east"), world.agent("west"));
    old.everything(3);
    west.everything(0);
    until("west sees the old one's", || west.services() == 3).await;
    world.quiet().await;
    let refused = |code: &str| world.server.count("meshfed_session_refused", &["\"east\"", &format!("\"{code}\"")]);
    assert_eq!((refused("fenced"), refused("binding")), (0, 0));

    // Another takes the cluster's place.
    world.fleet.east.store(2, Ordering::SeqCst);
    world.server.inputs.0.send_replace(Arc::new(world.fleet.members()));
    until("the old session ends", || refused("fenced") == 1).await;
    until("the old certificate opens no other", || refused("binding") >= 2).await;
    until("nothing of the old one is left", || west.services() == 0).await;
    old.offer(5, 1);

    let place = world.dir.path().join("east-2");
    world.fleet.join(&place, "east", world.server.address);
    let new = Agent::start(&place);
    new.everything(2);
    until("west sees the new one's", || west.services() == 2).await;
    world.quiet().await;
    let before = refused("binding");
    until("the old one is still refused", || refused("binding") > before).await;
    assert_eq!((west.services(), refused("fenced")), (2, 1), "and disturbs nobody");
    old.stop().await;
    new.stop().await;
    west.stop().await;
}

/// A raw session as east: what is said is what the test says.
struct Raw {
    say: tokio::sync::mpsc::Sender<wire::AgentMessage>,
    hear: tonic::Streaming<wire::HubMessage>,
}

impl Raw {
    async fn open(world: &World) -> Self {
        let fleet = &world.fleet;
        let id = SpiffeId::agent(fleet.domain.clone(), ClusterName::new("east").unwrap(), 0);
        let (key, leaf) = fleet.issue(&id);
        let identity = Identity::new(vec![CertificateDer::from(leaf)], key.to_private_key_der()).unwrap();
        let anchors = vec![CertificateDer::from(fleet.own.anchor.clone())];
        let trust = Arc::new(TrustStore::with(BTreeMap::from([(fleet.domain.clone(), anchors)])).unwrap());
        let identity = Some(Arc::new(IdentityStore::new(identity)));
        let tls =
            meshfed_runtime::tls::client_config(identity, trust, Arc::new(|_: &SpiffeId| true), &[b"h2"]).unwrap();
        let channel = grpc::connect(&world.server.address.to_string(), tls).await.unwrap();
        let mut client = wire::federation_client::FederationClient::new(channel);
        let (say, said) = tokio::sync::mpsc::channel(4);
        let hello = wire::Hello { protocol: 1, clock: clock::timestamp().to_string(), ..wire::Hello::default() };
        say.send(message(wire::agent_message::Message::Hello(hello))).await.unwrap();
        let said = tokio_stream::wrappers::ReceiverStream::new(said);
        let mut hear = client.session(said).await.unwrap().into_inner();
        let first = hear.message().await.unwrap().unwrap().message;
        assert!(matches!(first, Some(wire::hub_message::Message::Welcome(_))), "{first:?}");
        Self { say, hear }
    }
    async fn offer(&mut self, delta: wire::Delta) -> wire::Ack {
        self.say.send(message(wire::agent_message::Message::Offer(delta))).await.unwrap();
        loop {
            let next = tokio::time::timeout(Duration::from_secs(60), self.hear.message()).await.unwrap();
            if let Some(wire::hub_message::Message::OfferAck(ack)) = next.unwrap().unwrap().message {
                return ack;
            }
        }
    }
}

fn message(message: wire::agent_message::Message) -> wire::AgentMessage {
    wire::AgentMessage { message: Some(message) }
}

fn on_the_wire(resources: &Resources) -> Vec<wire::Resource> {
    let resource =
        |(k, v): (&OfferKey, &OfferValue)| wire::Resource { key: Some(k.into()), revision: 1, value: Some(v.into()) };
    resources.iter().map(resource).collect()
}

/// SY2 on the wire: what is wrong or too much is refused by name with its class, the stream stays.
/// Mutations seen to fail: `Delta::try_from` in the place of `Part::try_from` in `heard`; `OBJECT_MAX` as 1 MiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_in_an_offer_is_refused_by_name_and_the_stream_stays() {
    let world = World::start();
    let west = world.agent("west");
    west.everything(0);
    let mut east = Raw::open(&world).await;
    let mut upserts = on_the_wire(&service(1, 12));
    upserts.extend(on_the_wire(&service(2, 4)));
    let mut huge = on_the_wire(&service(3, 1));
    for resource in &mut huge {
        if let Some(wire::resource::Value::Service(s)) = &mut resource.value {
            s.identities = (0..2_000).map(|n| format!("spiffe://east.mesh.example/ns/shop/sa/account-{n}")).collect();
        }
    }
    upserts.extend(huge);
    upserts.extend((10..300).flat_map(|n| on_the_wire(&service(n, 1))));
    let gateway = wire::GatewayKey {
        network: "net-east".to_owned(),
        address: "::ffff:10.0.0.1".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec(),
        port: 15443,
    };
    let key = Some(wire::ResourceKey { key: Some(wire::resource_key::Key::Gateway(gateway)) });
    let value = Some(wire::resource::Value::Gateway(wire::GatewayOffer::default()));
    upserts.insert(0, wire::Resource { key, revision: 1, value });
    let ack = east
        .offer(wire::Delta {
            version: Some(wire::Version { epoch: 1, revision: 1 }),
            complete: true,
            upserts,
            ..wire::Delta::default()
        })
        .await;
    let refused = |code: &str| ack.refused.iter().filter(|r| r.code == code).collect::<Vec<_>>();
    let invalid = refused("InvalidResource");
    assert_eq!(invalid.iter().map(|r| r.status).collect::<Vec<_>>(), [3, 3], "INVALID_ARGUMENT: {invalid:?}");
    assert_eq!(invalid[0].said.as_ref().unwrap().name, "::ffff:10.0.0.1 port 15443 of net-east");
    assert_eq!(invalid[1].message, "group.ready: 12 of 9 is too many");
    let large = refused("ResourceTooLarge");
    assert_eq!((large.len(), large[0].status), (1, 8), "RESOURCE_EXHAUSTED");
    assert!(refused("MessageTooLong").iter().all(|r| r.status == 8) && refused("MessageTooLong").len() > 200);
    // The rest is there, and the session goes on.
    until("west sees the good ones", || west.ready(2) == Some(4)).await;
    assert_eq!(west.ready(1), None);
    let mut upserts = on_the_wire(&service(2, 5));
    upserts.iter_mut().for_each(|r| r.revision = 2);
    let ack = east
        .offer(wire::Delta {
            base: Some(wire::Version { epoch: 1, revision: 1 }),
            version: Some(wire::Version { epoch: 1, revision: 2 }),
            upserts,
            ..wire::Delta::default()
        })
        .await;
    assert_eq!(ack.refused, vec![]);
    until("west sees the change", || west.ready(2) == Some(5)).await;
    assert_eq!(world.server.count("meshfed_session_refused", &["\"east\""]), 0);
    assert_eq!(world.server.count("meshfed_offer_refused", &["\"east\"", "InvalidResource"]), 2);
    let facts = world.server.hub.cluster(&ClusterName::new("east").unwrap()).unwrap();
    let named = |code: &str| facts.source.errors.iter().any(|e| e.code == code && !e.name.is_empty());
    assert!(named("InvalidResource") && named("ResourceTooLarge") && named("MessageTooLong"), "{:?}", facts.source);
    west.stop().await;
}

/// SY2 for a real agent: it is told, says it, and goes on; what is too large is not even sent.
/// Mutations seen to fail: `fit` left out of `Ledger::take` (the hub refuses it instead); the refusals left out of
/// `Taken` (the agent is not told).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_told_what_was_refused_and_keeps_its_session() {
    let world = World::start();
    let (east, west) = (world.agent("east"), world.agent("west"));
    east.everything(5);
    west.everything(0);
    until("west sees all", || west.services() == 5).await;
    world.quiet().await;
    east.offer(1, 12);
    let mut large = service(2, 1);
    for value in large.values_mut() {
        if let OfferValue::Service(s) = value {
            let name = |n| format!("spiffe://east.mesh.example/ns/shop/sa/account-{n}").parse().unwrap();
            s.identities = (0..2_000).map(name).collect();
        }
    }
    east.uplink.offer_service(name(2), large);
    east.offer(3, 7);
    until("the good one arrives", || west.ready(3) == Some(7)).await;
    until("the agent is told", || east.counted("meshfed_session_refused", "InvalidResource") == 1).await;
    assert_eq!(east.counted("meshfed_session_refused", "ResourceTooLarge"), 1);
    assert_eq!((west.ready(1), west.services()), (Some(1), 5), "the last good ones stay");
    let codes = || -> Vec<(String, String)> {
        let facts = world.server.hub.cluster(&ClusterName::new("east").unwrap()).unwrap();
        facts.source.errors.into_iter().map(|e| (e.code, e.name)).collect()
    };
    until("both are shown", || codes().len() == 2).await;
    assert!(codes().contains(&("InvalidResource".to_owned(), "s1".to_owned())), "{:?}", codes());
    assert!(codes().contains(&("ResourceTooLarge".to_owned(), "s2".to_owned())), "{:?}", codes());
    assert_eq!(world.server.count("meshfed_session_refused", &["\"east\""]), 0);
    // Mended, nothing is refused any more.
    east.offer(1, 2);
    east.offer(2, 2);
    until("both are there", || west.ready(1) == Some(2) && west.ready(2) == Some(2)).await;
    until("no error is left", || codes().is_empty()).await;
    east.stop().await;
    west.stop().await;
}

/// SY6 and SY7 from outside: two agents of one identity flip, and one that has lost its source takes nothing away at
/// once. Mutations seen to fail: `alarms` left out of `cluster_facts`; `hold_back` left out of `Catalog::take`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flips_raise_an_alarm_and_an_empty_sync_is_held() {
    let world = World::start();
    let west = world.agent("west");
    west.everything(0);
    let sync = |epoch: u64, upserts: Vec<wire::Resource>| wire::Delta {
        version: Some(wire::Version { epoch, revision: 1 }),
        complete: true,
        upserts,
        ..wire::Delta::default()
    };
    let mut sessions = vec![Raw::open(&world).await];
    sessions[0].offer(sync(1, (0..4).flat_map(|n| on_the_wire(&service(n, 1))).collect())).await;
    until("west sees all", || west.services() == 4).await;
    let errors = || -> Vec<String> {
        let facts = world.server.hub.cluster(&ClusterName::new("east").unwrap()).unwrap();
        facts.source.errors.into_iter().map(|e| e.code).collect()
    };
    for _ in 0..4 {
        assert_eq!(errors(), Vec::<String>::new());
        sessions.push(Raw::open(&world).await);
    }
    until("the alarm is shown", || errors() == ["SessionFlips"]).await;
    assert_eq!(world.server.count("meshfed_session_flips", &["\"east\""]), 4);
    assert!(world.server.metrics.encode().contains("meshfed_session_flip_alarm{cluster=\"east\"} 1"));
    assert_eq!(west.services(), 4);

    let last = sessions.last_mut().unwrap();
    last.offer(sync(2, on_the_wire(&service(0, 7)))).await;
    until("what it names is taken", || west.ready(0) == Some(7)).await;
    assert_eq!(west.services(), 4, "what it does not name stays");
    assert!(errors().contains(&"ResyncHeld".to_owned()), "{:?}", errors());
    assert_eq!(world.server.count("meshfed_offer_held", &["\"east\""]), 1);
    last.offer(sync(3, on_the_wire(&service(0, 7)))).await;
    until("the next full sync confirms it", || west.services() == 1).await;
    assert_eq!(errors(), ["SessionFlips"]);
    west.stop().await;
}
