use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use meshfed_api::proto::spiffe as pb;
use meshfed_api::proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use meshfed_ca::keys::SigningKey;
use meshfed_ca::{anchor, pem};
use meshfed_crds::{FileChange, LastGood, Scope};
use meshfed_model::bundle::Bundle;
use meshfed_model::identity::TrustDomain;
use meshfed_model::locality::Locality;
use meshfed_model::names::{ClusterName, NetworkName};
use meshfed_model::network::Network;
use meshfed_model::version::Version;
use meshfed_runtime::grpc::{self, ServeOptions};
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::readiness::Readiness;
use meshfed_runtime::tls::peer_spiffe_id;
use meshfed_runtime::{clock, drain, tasks};
use rustls_pki_types::CertificateDer;
use tokio::sync::mpsc;
use tonic::{Code, Request, Status};

use super::server::STREAMS_PER_UID_MAX;
use super::*;
use crate::core::run::{Actor, COMMANDS_MAX, CoreMetrics, Guards, Inputs};
use crate::core::store::StreamId;
use crate::core::{Core, CoreSettings};
use crate::identity::{Authority, AuthorityError, Entitled, Peer, SVID_TTL, attest, entitled};
use crate::index::{Index, IndexSettings};
use crate::source::SourceUpdate;
use crate::translate::{Claim, Node};
use crate::uplink::UplinkHandle;
use crate::view::View;

const AGENT_UID: u32 = 1000;

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn anchor_of(name: &str) -> (SigningKey, Vec<u8>) {
    let key = SigningKey::generate().unwrap();
    let anchor = anchor::self_signed(&key, &domain(name), clock::wall(), Duration::from_secs(86_400)).unwrap();
    (key, anchor)
}

fn bundle(name: &str) -> Bundle {
    Bundle { trust_domain: domain(name), serial: 1, anchors: vec![anchor_of(name).1], lineages: Vec::new() }
}

fn workload(name: &str, uid: Option<u32>) -> String {
    let annotations = uid.map_or(String::new(), |uid| format!("federation.meshfed.io/unix-uid: \"{uid}\""));
    format!(
        "apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}-1, namespace: shop, annotations: {{{annotations}}}}}
spec: {{address: 10.0.0.1, serviceAccount: {name}}}
---
"
    )
}

/// A core of cluster west that nobody has told anything yet.
struct Bench {
    core: Core,
    source: LastGood,
    revision: u64,
    now: Instant,
    wall: SystemTime,
    issued: u64,
}

impl Bench {
    fn new(agent_uid: u32) -> Self {
        let networks = vec![Network {
            name: NetworkName::new("net-west").unwrap(),
            cidrs: ["0.0.0.0/0".parse().unwrap()].into_iter().collect(),
        }];
        let own = domain("west.mesh.example");
        let settings = CoreSettings {
            cluster: ClusterName::new("west").unwrap(),
            trust_domain: own.clone(),
            networks: networks.clone(),
            locality: Locality::new("us", "us-1"),
            agent_uid,
        };
        let index = Index::new(IndexSettings {
            cluster: settings.cluster.clone(),
            fleet: domain("mesh.example"),
            trust_domain: own.clone(),
            networks,
            regions: vec!["us".to_owned()],
            zones: vec!["us-1".to_owned()],
            gateway_cidrs: BTreeSet::new(),
        });
        let view = View::new(settings.cluster.clone());
        let (key, anchor) = anchor_of("west.mesh.example");
        let authority = Authority::new(&key.to_pkcs8_pem(), anchor, own).unwrap();
        Self {
            core: Core::new(settings, index, view, true, authority),
            source: LastGood::new(Scope::Cluster, None),
            revision: 0,
            now: clock::instant(),
            wall: clock::wall(),
            issued: 0,
        }
    }
    fn scan(&mut self, yaml: &str) -> SourceUpdate {
        let content = FileChange::Content { path: "all.yaml".into(), bytes: yaml.as_bytes().to_vec() };
        let changes = self.source.apply(vec![content]);
        let errors: Vec<String> = self.source.errors().iter().map(ToString::to_string).collect();
        assert!(errors.is_empty(), "{errors:?}");
        self.revision += 1;
        SourceUpdate { version: Version::new(1, self.revision), objects: 1, changes, errors: Arc::from([]) }
    }
    fn objects(&mut self, workloads: &[(&str, Option<u32>)]) -> BTreeMap<StreamId, Word> {
        let yaml: String = workloads.iter().map(|(name, uid)| workload(name, *uid)).collect();
        let update = self.scan(&yaml);
        self.core.apply_source(update, self.now, self.wall);
        self.told()
    }
    fn hold(&mut self, id: StreamId, uid: u32) -> Word {
        self.core.hold(id, uid, self.now, self.wall);
        let mut told = self.told();
        let word = told.remove(&id).expect("the first word comes at once");
        assert!(told.is_empty(), "who asks disturbs nobody else: {told:?}");
        word
    }
    fn told(&mut self) -> BTreeMap<StreamId, Word> {
        let effects = self.core.take_effects();
        self.issued += effects.issued;
        let count = effects.words.len();
        let told: BTreeMap<StreamId, Word> = effects.words.into_iter().collect();
        assert_eq!(told.len(), count, "one word per stream and input");
        told
    }
    fn pass(&mut self, time: Duration) -> BTreeMap<StreamId, Word> {
        self.now += time;
        self.wall += time;
        self.core.tick(self.now, self.wall);
        self.told()
    }
}

fn answer(word: &Word) -> Arc<Answer> {
    match word {
        Word::Answer(answer) => Arc::clone(answer),
        Word::Denied(_) | Word::Unavailable(_) => panic!("no answer: {word:?}"),
    }
}
fn hints(word: &Word) -> Vec<String> {
    answer(word).svids.iter().map(|s| s.hint.to_string()).collect()
}

/// Mutation seen to fail: `entitled` counts workloads without annotation for every user; `apply_dirty` does not look at
/// `owners`.
#[test]
fn a_user_is_what_the_objects_say() {
    let mut b = Bench::new(AGENT_UID);
    assert!(matches!(b.hold(1, 4242), Word::Unavailable(_)), "nothing was read yet, so nobody is denied");
    b.objects(&[("b", Some(4242)), ("a", Some(4242)), ("c", None), ("d", Some(7)), ("e", Some(0))]);
    assert_eq!(hints(&b.hold(2, 4242)), ["shop/a", "shop/b"]);
    assert_eq!(hints(&b.hold(3, AGENT_UID)), ["shop/c"]);
    assert_eq!(hints(&b.hold(4, 0)), ["shop/e", "shop/c", "shop/d", "shop/a", "shop/b"], "root, its own first");
    let Word::Denied(text) = b.hold(5, 8) else { panic!("uid 8 is nobody") };
    assert!(text.contains("uid 8") && text.contains("federation.meshfed.io/unix-uid: \"8\""), "{text}");
    for svid in &answer(&b.hold(6, 4242)).svids {
        let leaf = CertificateDer::from(svid.certificates.clone());
        assert_eq!(peer_spiffe_id(&leaf).unwrap(), svid.id);
        SigningKey::from_pkcs8_der(&svid.key).unwrap();
    }

    // a goes to another user, d away: only who is concerned hears of it.
    let told = b.objects(&[("b", Some(4242)), ("a", Some(7)), ("c", None), ("e", Some(0))]);
    let heard: Vec<StreamId> = told.keys().copied().collect();
    assert_eq!(heard, [2, 4, 6]);
    assert_eq!(hints(&told[&2]), ["shop/b"]);
    // 4242 is no workload any more: its streams end, and are forgotten.
    let told = b.objects(&[("a", Some(7)), ("c", None), ("e", Some(0))]);
    assert!(matches!((&told[&2], &told[&6]), (Word::Denied(_), Word::Denied(_))), "{told:?}");
    let told = b.objects(&[("b", Some(4242)), ("a", Some(7)), ("c", None), ("e", Some(0))]);
    assert!(!told.contains_key(&2), "an ended stream is told nothing");
}

/// What the Workload API hands out is what `xds.sock` would let the same process claim.
///
/// Mutation seen to fail: `entitled` gives root its own workloads only.
#[test]
fn entitlement_is_attestation_the_other_way_round() {
    let mut b = Bench::new(AGENT_UID);
    b.objects(&[("a", Some(4242)), ("b", Some(0)), ("c", None), ("d", Some(AGENT_UID))]);
    for uid in [0, 7, AGENT_UID, 4242] {
        let mut allowed = BTreeSet::new();
        for workload in b.core.index().workloads() {
            let claim = Claim::Workload(format!("shop/{}", workload.service_account).parse().unwrap());
            let node = Node::of_claim("", claim);
            if attest(&Peer::Unix { uid }, &node, workload, AGENT_UID).is_ok() {
                allowed.insert(workload.identity.clone());
            }
        }
        let all = entitled(b.core.index(), uid, AGENT_UID, SVIDS_MAX).identities;
        assert_eq!(all.into_iter().map(|(_, id)| id).collect::<BTreeSet<_>>(), allowed, "uid {uid}");
    }
}

/// Mutation seen to fail: `svid` does not look for one that is held; `renew` keeps what nobody holds.
#[test]
fn certificates_are_shared_renewed_and_forgotten() {
    let mut b = Bench::new(AGENT_UID);
    b.objects(&[("a", Some(4242))]);
    let first = answer(&b.hold(1, 4242));
    b.core.released(1);
    assert_eq!(answer(&b.hold(2, 4242)).svids, first.svids, "asking again costs no signature");
    b.hold(3, 0);
    assert_eq!(b.issued, 1);
    assert!(b.pass(SVID_TTL / 2 - Duration::from_secs(1)).is_empty(), "not due yet");
    assert!(b.core.deadline().is_some_and(|t| t <= b.now + Duration::from_secs(1)));
    let told = b.pass(Duration::from_secs(1));
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), [2, 3], "both users who hold it are told");
    assert_eq!(b.issued, 2);
    assert_ne!(answer(&told[&2]).svids, first.svids);
    assert_eq!(answer(&told[&2]).svids, answer(&told[&3]).svids);
    b.core.released(2);
    b.core.released(3);
    assert!(b.pass(SVID_TTL / 2).is_empty());
    assert_eq!((b.issued, b.core.deadline()), (2, None), "nobody holds it: nothing is issued, nothing is kept");
}

/// Mutation seen to fail: `set_bundles` tells nobody; the own domain is left among the federated ones.
#[test]
fn bundles_come_whole_and_only_when_they_change() {
    let mut b = Bench::new(AGENT_UID);
    b.objects(&[("a", Some(4242))]);
    let first = answer(&b.hold(1, 4242));
    let anchor = CertificateDer::from(first.bundles.own.clone());
    assert!(meshfed_runtime::tls::is_signed_by(&CertificateDer::from(first.svids[0].certificates.clone()), &anchor));
    assert!(first.bundles.federated.is_empty());

    let (own, east, fleet) = (bundle("west.mesh.example"), bundle("east.mesh.example"), bundle("mesh.example"));
    let held: BTreeMap<TrustDomain, Bundle> =
        [&own, &east, &fleet].into_iter().map(|b| (b.trust_domain.clone(), b.clone())).collect();
    b.core.set_bundles(&held, b.now, b.wall);
    let told = answer(&b.told()[&1]);
    assert_eq!(told.bundles.own, own.anchors[0]);
    let others =
        [(domain("east.mesh.example"), east.anchors[0].clone()), (domain("mesh.example"), fleet.anchors[0].clone())];
    assert_eq!(told.bundles.federated, others.into_iter().collect());
    assert_eq!(told.svids, first.svids, "a bundle costs no signature");
    b.core.set_bundles(&held, b.now, b.wall);
    assert!(b.told().is_empty(), "the same again is no news");
}

/// Mutation seen to fail: `max` is not compared.
#[test]
fn an_answer_has_a_limit_and_says_so() {
    let mut b = Bench::new(AGENT_UID);
    let names: Vec<String> = (0..=SVIDS_MAX).map(|n| format!("w{n:03}")).collect();
    let all: Vec<(&str, Option<u32>)> = names.iter().map(|n| (n.as_str(), Some(4242))).collect();
    b.objects(&all[..SVIDS_MAX]);
    assert!(!answer(&b.hold(1, 4242)).cut);
    let told = b.objects(&all);
    let cut = answer(&told[&1]);
    assert_eq!((cut.svids.len(), cut.cut), (SVIDS_MAX, true));
    assert_eq!(&*cut.svids[0].hint, "shop/w000", "the first ones stay");
}

/// Mutation seen to fail: `over_at` is not looked at; a failed renewal is an end.
#[test]
fn a_certificate_stays_until_it_is_over() {
    let (key, anchor) = anchor_of("west.mesh.example");
    let ca = Authority::new(&key.to_pkcs8_pem(), anchor.clone(), domain("west.mesh.example")).unwrap();
    let id: meshfed_model::identity::SpiffeId = "spiffe://west.mesh.example/ns/shop/sa/a".parse().unwrap();
    let entitled = || Entitled { identities: vec![("shop/a".into(), id.clone())], more: false };
    let mut holders = Holders::new(BundleSet::new(domain("west.mesh.example"), &anchor, &BTreeMap::new()));
    let (start, half) = (clock::instant(), SVID_TTL / 2);
    let broken = |_: &_| Err(AuthorityError::Key(meshfed_ca::keys::KeyError::Generate));
    holders.open(1, 4242);
    holders.tell(4242, entitled(), String::new, |id| ca.issue(id, None, clock::wall()), half, start);
    let first = answer(&holders.take_words()[0].1);

    holders.renew(start + half);
    assert!(holders.take_stale().contains(&4242));
    holders.tell(4242, entitled(), String::new, broken, half, start + half);
    assert!(holders.take_words().is_empty(), "the old one still holds");
    holders.open(2, 4242);
    holders.tell(4242, entitled(), String::new, broken, half, start + half);
    let words = holders.take_words();
    assert_eq!((words.len(), words[0].0, answer(&words[0].1)), (1, 2, first));
    assert!(holders.deadline().is_some_and(|t| t > start + half), "it is tried again");

    let over = start + SVID_TTL;
    holders.tell(4242, entitled(), String::new, broken, half, over);
    let words = holders.take_words();
    assert_eq!(words.len(), 2);
    assert!(words.iter().all(|(_, word)| matches!(word, Word::Unavailable(_))), "{words:?}");
}

/// One of two identities cannot be issued: the user is told the other one, and both when it can, without a new event.
///
/// Mutation seen to fail: `lacking` left out of `renew` (the second identity is never issued).
#[test]
fn an_identity_that_could_not_be_issued_is_issued_later() {
    let (key, anchor) = anchor_of("west.mesh.example");
    let ca = Authority::new(&key.to_pkcs8_pem(), anchor.clone(), domain("west.mesh.example")).unwrap();
    let identity = |name: &str| {
        let id: meshfed_model::identity::SpiffeId =
            format!("spiffe://west.mesh.example/ns/shop/sa/{name}").parse().unwrap();
        (format!("shop/{name}").into(), id)
    };
    let entitled = || Entitled { identities: vec![identity("a"), identity("b")], more: false };
    let mut holders = Holders::new(BundleSet::new(domain("west.mesh.example"), &anchor, &BTreeMap::new()));
    let (start, half) = (clock::instant(), SVID_TTL / 2);
    let first_only = |id: &meshfed_model::identity::SpiffeId| match id.to_string().ends_with("/a") {
        true => ca.issue(id, None, clock::wall()),
        false => Err(AuthorityError::Key(meshfed_ca::keys::KeyError::Generate)),
    };
    holders.open(1, 4242);
    holders.tell(4242, entitled(), String::new, first_only, half, start);
    assert_eq!(answer(&holders.take_words()[0].1).svids.len(), 1);
    holders.take_stale();

    let again = holders.deadline().unwrap();
    assert!(again < start + half, "it does not wait for the renewal of the other one");
    holders.renew(again);
    assert!(holders.take_stale().contains(&4242));
    holders.tell(4242, entitled(), String::new, |id| ca.issue(id, None, clock::wall()), half, again);
    assert_eq!(answer(&holders.take_words()[0].1).svids.len(), 2);
    assert!(holders.deadline().is_some_and(|t| t >= start + half), "nothing is lacking any more");
}

// ---- over the socket ----

/// A served core, and what feeds it.
struct Served {
    trigger: drain::Trigger,
    updates: mpsc::Sender<SourceUpdate>,
    _downlink: mpsc::Sender<crate::downlink::CoreCommand>,
    _lookups: mpsc::Sender<crate::lookup::Lookup>,
    bench: Bench,
    socket: std::path::PathBuf,
    _directory: tempfile::TempDir,
}

fn serve() -> Served {
    let own_uid = rustix::process::getuid().as_raw();
    let mut bench = Bench::new(own_uid);
    bench.objects(&[("a", None)]);
    let core = std::mem::replace(&mut bench, Bench::new(own_uid)).core;
    bench.scan(&workload("a", None));
    let metrics = Metrics::new();
    let (trigger, watch) = drain::channel();
    let (commands, received) = mpsc::channel(COMMANDS_MAX);
    let (downlink, from_hub) = mpsc::channel(1);
    let (updates, scanned) = mpsc::channel(1);
    let (lookups, resolved) = mpsc::channel(1);
    let (imports, _none) =
        crate::core::kept::ImportsFile::open(std::env::temp_dir().join("no-such-folder/imports.json"));
    let actor = Actor::new(
        core,
        UplinkHandle::new(),
        CoreMetrics::register(&metrics),
        Readiness::new(),
        Guards::default(),
        imports,
    );
    let inputs = Inputs { commands: received, downlink: from_hub, source: scanned, lookups: resolved };
    tasks::spawn("core", actor.run(inputs, watch.clone()));
    let server = WorkloadServer::new(commands, watch.clone(), WorkloadMetrics::register(&metrics));
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("workload.sock");
    let listener = grpc::bind_unix("--run-dir", &socket).unwrap();
    tasks::spawn("workload", grpc::serve_unix(listener, server.routes(), watch, ServeOptions::default()));
    Served { trigger, updates, _downlink: downlink, _lookups: lookups, bench, socket, _directory: directory }
}

impl Served {
    async fn client(&self) -> SpiffeWorkloadApiClient<tonic::transport::Channel> {
        SpiffeWorkloadApiClient::new(grpc::connect_unix(&self.socket).await.unwrap())
    }
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

async fn first<T>(stream: Result<tonic::Response<tonic::Streaming<T>>, Status>) -> Result<T, Status> {
    let message = tokio::time::timeout(Duration::from_secs(10), stream?.into_inner().message()).await;
    message.expect("an answer within 10 s")?.ok_or_else(|| Status::unknown("end"))
}

/// Mutation seen to fail: `check` accepts any value of the header; `unimplemented` does not check it.
#[tokio::test]
async fn without_its_header_nothing_is_answered() {
    let served = serve();
    let mut client = served.client().await;
    for value in [None, Some("True"), Some("")] {
        let bare = |()| {
            let mut request = Request::new(());
            if let Some(value) = value {
                request.metadata_mut().insert("workload.spiffe.io", value.parse().unwrap());
            }
            request
        };
        let answers = [
            first(client.fetch_x509svid(bare(()).map(|()| pb::X509svidRequest {})).await).await.err(),
            first(client.fetch_x509_bundles(bare(()).map(|()| pb::X509BundlesRequest {})).await).await.err(),
            client.fetch_jwtsvid(bare(()).map(|()| pb::JwtsvidRequest::default())).await.err(),
            first(client.fetch_jwt_bundles(bare(()).map(|()| pb::JwtBundlesRequest {})).await).await.err(),
            client.validate_jwtsvid(bare(()).map(|()| pb::ValidateJwtsvidRequest::default())).await.err(),
        ];
        for (rpc, status) in answers.into_iter().enumerate() {
            let status = status.expect("refused");
            assert_eq!(status.code(), Code::InvalidArgument, "{rpc} {value:?}: {status}");
            assert!(status.message().contains("workload.spiffe.io"), "{status}");
        }
    }
    let answers = [
        client.fetch_jwtsvid(with_header(pb::JwtsvidRequest::default())).await.err(),
        first(client.fetch_jwt_bundles(with_header(pb::JwtBundlesRequest {})).await).await.err(),
        client.validate_jwtsvid(with_header(pb::ValidateJwtsvidRequest::default())).await.err(),
    ];
    for status in answers {
        let status = status.expect("refused");
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
        assert!(status.message().contains("not in this version"), "{status}");
    }
    drop(client);
    assert!(served.trigger.drained(Duration::from_secs(10)).await);
}

/// Mutation seen to fail: bundles are compared as whole answers (the renewal of an SVID is then news of bundles); the
/// stream does not look at the drain.
#[tokio::test]
async fn streams_hear_of_changes_until_the_drain() {
    let mut served = serve();
    let mut client = served.client().await;
    let mut svids = client.fetch_x509svid(with_header(pb::X509svidRequest {})).await.unwrap().into_inner();
    let mut bundles = client.fetch_x509_bundles(with_header(pb::X509BundlesRequest {})).await.unwrap().into_inner();
    let one = svids.message().await.unwrap().unwrap();
    assert_eq!(one.svids.len(), 1);
    let own = bundles.message().await.unwrap().unwrap().bundles;
    assert_eq!(own, [("spiffe://west.mesh.example".to_owned(), one.svids[0].bundle.clone())].into());
    let update = served.bench.scan(&[workload("a", None), workload("b", None)].concat());
    served.updates.send(update).await.unwrap();
    let two = svids.message().await.unwrap().unwrap();
    assert_eq!(two.svids.len(), 2);
    assert_eq!(two.svids[0], one.svids[0]);
    // The bundle stream was told nothing of it: what it says next is its end.
    let draining = served.trigger.drained(Duration::from_secs(10));
    let ends = async {
        let ends = [svids.message().await, bundles.message().await.map(|_bundles| None)].map(Result::unwrap_err);
        drop((client, svids, bundles));
        ends
    };
    let (drained, ends) = tokio::join!(draining, ends);
    assert!(drained);
    for end in ends {
        assert_eq!((end.code(), end.message()), (Code::Unavailable, "the agent is draining"));
    }
}

/// Mutation seen to fail: `Slot` is not dropped with its stream; the limit of one user is not compared.
#[tokio::test]
async fn one_user_has_so_many_streams() {
    let served = serve();
    let (mut clients, mut streams) = (Vec::new(), Vec::new());
    for n in 0..STREAMS_PER_UID_MAX {
        // A connection has 100 streams.
        if n % 100 == 0 {
            clients.push(served.client().await);
        }
        let client = clients.last_mut().unwrap();
        let mut stream = client.fetch_x509svid(with_header(pb::X509svidRequest {})).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        streams.push(stream);
    }
    let client = clients.last_mut().unwrap();
    let refused = first(client.fetch_x509svid(with_header(pb::X509svidRequest {})).await).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("at most 256 of one user"), "{refused}");
    streams.pop();
    let deadline = clock::instant() + Duration::from_secs(10);
    while let Err(error) = first(client.fetch_x509svid(with_header(pb::X509svidRequest {})).await).await {
        assert!(clock::instant() < deadline, "the place of a closed stream is free again: {error}");
        tokio::task::yield_now().await;
    }
}

/// Keys and certificates are what the standard says: PKCS#8, one leaf, no anchor in the chain.
///
/// Mutation seen to fail: the chain is sent as PEM.
#[tokio::test]
async fn the_message_is_der() {
    let served = serve();
    let mut client = served.client().await;
    let answer = first(client.fetch_x509svid(with_header(pb::X509svidRequest {})).await).await.unwrap();
    let svid = &answer.svids[0];
    assert_eq!(svid.spiffe_id, "spiffe://west.mesh.example/ns/shop/sa/a");
    assert_eq!(svid.hint, "shop/a");
    let leaf = pem::certificates(&pem::encode_certificates([svid.x509_svid.as_slice()])).unwrap();
    assert_eq!(peer_spiffe_id(&leaf[0]).unwrap().to_string(), svid.spiffe_id);
    let key = SigningKey::from_pkcs8_der(&svid.x509_svid_key).unwrap();
    assert_eq!(anchor::spki_sha256(&svid.x509_svid), Some(key.spki_sha256()), "the key is that of the certificate");
}
