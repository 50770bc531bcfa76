//! Claims of services and gateway addresses, with a real store.

use std::sync::Arc;

use meshfed_api::stream::{History, Scope};
use meshfed_runtime::drain;
use meshfed_runtime::metrics::Metrics;
use tokio::sync::watch;

use super::super::hub::Hub;
use super::{cluster, gateways, member, resources, service_name, start};
use crate::fleet::{Bundles, Claims as _, Inputs, Members, Revisions};
use crate::members::claims::StoredClaims;
use crate::members::leaves::StoredLeaves;
use crate::store::Handle;
use crate::store::memory::MemoryStore;

/// A session that is cut off after its offer was taken, and before what it claims is durable: the next session of the
/// cluster resumes and offers nothing, so it is made durable when that opens.
///
/// Mutations seen to fail: `unclaimed` always empty; `keep_gateways` left out of `catch_up`.
#[tokio::test]
async fn what_a_cut_off_session_claimed_is_made_durable_by_the_next() {
    let store = Handle::new(Arc::new(MemoryStore::new()));
    let revisions = Revisions::new(0, 1000);
    let claims = Arc::new(StoredClaims::open(store.clone(), Arc::clone(&revisions)).unwrap());
    let all = [0, 1].map(|i| (cluster(i), member(i, std::collections::BTreeMap::new())));
    let members = watch::Sender::new(Arc::new(Members { revision: 1, members: all.into() }));
    let (bundles, policies) = (watch::Sender::new(Arc::<Bundles>::default()), watch::Sender::new(Arc::default()));
    let (_signal, drained) = drain::channel();
    let hub = Hub::new(Inputs {
        fleet: "f".parse().unwrap(),
        federator: "spiffe://f/federator/1".parse().unwrap(),
        federators: Vec::new(),
        members: members.subscribe(),
        bundles: bundles.subscribe(),
        policies: policies.subscribe(),
        claims: Arc::clone(&claims) as _,
        issued: Arc::new(StoredLeaves::new(store.clone())),
        revisions,
        metrics: Arc::new(Metrics::new()),
        drain: drained,
    });
    let mut offer = History::new(1);
    offer.replace_service(&service_name(0), resources(0, 0, 0, 1));
    offer.replace_gateways(gateways(0, 1));
    let id = hub.change(|state| state.open((&cluster(0), 0, 1), super::hello(), start())).unwrap().id;
    for part in offer.complete(Scope::Replica) {
        hub.change(|state| state.offer(id, part, start())).unwrap();
    }
    assert_eq!((claims.all().len(), claims.gateways().len()), (0, 0), "cut off here");
    hub.catch_up(&cluster(0)).await.unwrap();
    let first = hub.with(|state| state.catalog().first_seen(&service_name(0), &cluster(0)));
    assert!(first.is_some());
    let again = StoredClaims::open(store, Revisions::new(0, 1000)).unwrap();
    assert_eq!(again.all().get(&(service_name(0), cluster(0))).copied(), first);
    assert_eq!(again.gateways().values().cloned().collect::<Vec<_>>(), [cluster(0)]);
    hub.catch_up(&cluster(0)).await.unwrap();
    assert_eq!(hub.with(|state| state.catalog().first_seen(&service_name(0), &cluster(0))), first, "once");
}
