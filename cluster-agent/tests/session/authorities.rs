//! Edge. What a session needs of a fleet: authorities, members, claims, and the desk that renews identities.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use meshfed_api::proto::federation as wire;
use meshfed_api::proto::federation::enrollment_server::Enrollment;
use meshfed_ca::keys::SigningKey;
use meshfed_ca::{anchor, csr, keys, lineage, pem, root, svid};
use meshfed_cluster_agent::enroll::AgentFile;
use meshfed_federator::fleet::{self, Bundles, ClaimError, Claims, GatewayAddress, Issued, IssuedError, Members};
use meshfed_model::bundle::Bundle;
use meshfed_model::identity::{Principal, SpiffeId, TrustDomain};
use meshfed_model::member::Member;
use meshfed_model::names::{ClusterName, NetworkName, ServiceName};
use meshfed_model::network::Network;
use meshfed_model::policy::FleetPolicies;
use meshfed_runtime::{clock, grpc};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

pub(super) const DAY: Duration = Duration::from_secs(86_400);
pub(super) const SERVICES: usize = 1000;

/// Waits for a condition; the deadline is generous because test machines are busy.
pub(super) async fn until(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = clock::instant() + Duration::from_secs(60);
    while !met() {
        assert!(clock::instant() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) struct Authority {
    pub(super) key: SigningKey,
    pub(super) anchor: Vec<u8>,
    pub(super) lineage: Vec<u8>,
}

pub(super) struct Fleet {
    pub(super) domain: TrustDomain,
    pub(super) root: Vec<u8>,
    pub(super) own: Authority,
    pub(super) clusters: BTreeMap<ClusterName, Authority>,
    /// The binding of east, which another agent may take; that of west is always 1.
    pub(super) east: AtomicU64,
    /// By SHA-256, under which binding a certificate was given out.
    issued: Mutex<BTreeMap<[u8; 32], (SpiffeId, u64)>>,
}

pub(super) fn authority(domain: &TrustDomain, root_key: &SigningKey, root: &[u8], now: SystemTime) -> Authority {
    let key = SigningKey::generate().unwrap();
    let anchor = anchor::self_signed(&key, domain, now, 30 * DAY).unwrap();
    let lineage = lineage::issue(root_key, root, &anchor, now).unwrap();
    Authority { key, anchor, lineage }
}

impl Fleet {
    pub(super) fn new(names: &[&str]) -> Self {
        // Ten days old, so that certificates of last week can be made.
        let now = clock::wall() - 10 * DAY;
        let domain = TrustDomain::new("mesh.example").unwrap();
        let root_key = SigningKey::generate().unwrap();
        let root = root::create(&root_key, &domain, now, 60 * DAY).unwrap();
        let own = authority(&domain, &root_key, &root, now);
        let clusters = names.iter().map(|name| {
            let name = ClusterName::new(name).unwrap();
            let authority = authority(&domain.of_cluster(&name).unwrap(), &root_key, &root, now);
            (name, authority)
        });
        Self {
            root: root.clone(),
            own,
            clusters: clusters.collect(),
            domain,
            east: AtomicU64::new(1),
            issued: Mutex::default(),
        }
    }

    /// A certificate of the fleet's own domain, with its key.
    pub(super) fn issue(&self, id: &SpiffeId) -> (SigningKey, Vec<u8>) {
        self.issue_at(id, clock::wall())
    }
    pub(super) fn issue_at(&self, id: &SpiffeId, now: SystemTime) -> (SigningKey, Vec<u8>) {
        let key = SigningKey::generate().unwrap();
        let ttl = Duration::from_secs(3600);
        let leaf = svid::issue(&self.own.key, &self.own.anchor, id, key.public_key_der(), ttl, now).unwrap();
        self.record(id, &leaf);
        (key, leaf)
    }
    pub(super) fn binding(&self, cluster: &str) -> u64 {
        if cluster == "east" { self.east.load(Ordering::SeqCst) } else { 1 }
    }
    fn record(&self, id: &SpiffeId, leaf: &[u8]) {
        if let Principal::Agent { cluster, .. } = &id.principal {
            let entry = (id.clone(), self.binding(cluster.as_str()));
            self.issued.lock().unwrap().insert(keys::sha256(leaf), entry);
        }
    }

    pub(super) fn bundles(&self) -> Bundles {
        let bundle = |domain: TrustDomain, a: &Authority| {
            let bundle = Bundle {
                trust_domain: domain.clone(),
                serial: 1,
                anchors: vec![a.anchor.clone()],
                lineages: vec![a.lineage.clone()],
            };
            (domain, bundle)
        };
        let clusters = self.clusters.iter().map(|(name, a)| bundle(self.domain.of_cluster(name).unwrap(), a));
        Bundles { bundles: clusters.chain([bundle(self.domain.clone(), &self.own)]).collect() }
    }

    pub(super) fn members(&self) -> Members {
        let member = |name: &ClusterName| fleet::Member {
            member: Member {
                cluster: name.clone(),
                trust_domain: self.domain.of_cluster(name).unwrap(),
                labels: BTreeMap::new(),
                drained: false,
                leaving: false,
                networks: vec![network(name)],
                gateway_cidrs: BTreeSet::new(),
                regions: BTreeSet::from(["eu".to_owned()]),
            },
            zones: BTreeSet::new(),
            state: fleet::MemberState::Active,
            joined_at: clock::timestamp(),
            binding: self.binding(name.as_str()),
        };
        Members { revision: 1, members: self.clusters.keys().map(|n| (n.clone(), member(n))).collect() }
    }

    /// What join leaves in a data directory.
    pub(super) fn join(&self, data_dir: &Path, name: &str, federator: SocketAddr) {
        self.join_at(data_dir, name, federator, clock::wall());
    }
    /// The same, at another time.
    pub(super) fn join_at(&self, data_dir: &Path, name: &str, federator: SocketAddr, now: SystemTime) {
        let name = ClusterName::new(name).unwrap();
        for directory in ["identity", "ca", "bundles", "state"] {
            std::fs::create_dir_all(data_dir.join(directory)).unwrap();
        }
        let own = &self.clusters[&name];
        let (key, leaf) = self.issue_at(&SpiffeId::agent(self.domain.clone(), name.clone(), 0), now);
        let write = |file: &str, text: &str| std::fs::write(data_dir.join(file), text).unwrap();
        write("identity/key.pem", &key.to_pkcs8_pem());
        write("identity/cert.pem", &pem::encode_certificates([leaf.as_slice()]));
        write("ca/key.pem", &own.key.to_pkcs8_pem());
        write("ca/root.pem", &pem::encode_certificates([self.root.as_slice()]));
        let fleet_anchor = pem::encode_certificates([self.own.anchor.as_slice()]);
        write(&format!("bundles/{}.pem", self.domain), &fleet_anchor);
        let file = AgentFile {
            cluster: name.clone(),
            trust_domain: self.domain.of_cluster(&name).unwrap(),
            fleet: self.domain.clone(),
            federators: vec![federator.to_string()],
            networks: vec![network(&name)],
            gateway_cidrs: BTreeSet::new(),
            regions: vec!["eu".to_owned()],
            zones: vec![],
            token_id: "aaaaaaaaaa".to_owned(),
        };
        file.write(data_dir).unwrap();
    }
}

pub(super) fn network(cluster: &ClusterName) -> Network {
    Network { name: NetworkName::new(format!("net-{cluster}")).unwrap(), cidrs: BTreeSet::new() }
}

#[derive(Default)]
pub(super) struct MemoryClaims {
    services: Mutex<BTreeMap<(ServiceName, ClusterName), u64>>,
    gateways: Mutex<BTreeMap<GatewayAddress, ClusterName>>,
}

#[tonic::async_trait]
impl Claims for MemoryClaims {
    fn all(&self) -> BTreeMap<(ServiceName, ClusterName), u64> {
        self.services.lock().unwrap().clone()
    }
    async fn change(
        &self,
        cluster: &ClusterName,
        added: Vec<ServiceName>,
        removed: Vec<ServiceName>,
    ) -> Result<BTreeMap<ServiceName, u64>, ClaimError> {
        let mut claims = self.services.lock().unwrap();
        for service in removed {
            claims.remove(&(service, cluster.clone()));
        }
        let next = claims.len() as u64 + 1;
        Ok(added.into_iter().map(|s| (s.clone(), *claims.entry((s, cluster.clone())).or_insert(next))).collect())
    }
    fn gateways(&self) -> BTreeMap<GatewayAddress, ClusterName> {
        self.gateways.lock().unwrap().clone()
    }
    async fn keep_gateways(&self, owners: BTreeMap<GatewayAddress, ClusterName>) -> Result<(), ClaimError> {
        *self.gateways.lock().unwrap() = owners;
        Ok(())
    }
}

/// What the store of a hub knows of certificates.
pub(super) struct Leaves(pub(super) Arc<Fleet>);

#[tonic::async_trait]
impl Issued for Leaves {
    async fn is_of(&self, leaf: [u8; 32], cluster: &ClusterName, binding: u64) -> Result<bool, IssuedError> {
        let issued = self.0.issued.lock().unwrap();
        Ok(issued.get(&leaf).is_some_and(|(id, of)| {
            matches!(&id.principal, Principal::Agent { cluster: named, .. } if named == cluster) && *of == binding
        }))
    }
}

/// The half of enrollment that renewals need.
pub(super) struct Desk(pub(super) Arc<Fleet>);

#[tonic::async_trait]
impl Enrollment for Desk {
    async fn plan(&self, _request: Request<wire::PlanRequest>) -> Result<Response<wire::PlanResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
    async fn join(&self, _request: Request<wire::JoinRequest>) -> Result<Response<wire::JoinResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
    async fn leave(&self, _request: Request<wire::LeaveRequest>) -> Result<Response<wire::LeaveResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
    async fn challenge(
        &self,
        _request: Request<wire::ChallengeRequest>,
    ) -> Result<Response<wire::ChallengeResponse>, Status> {
        Ok(Response::new(wire::ChallengeResponse { nonce: vec![7; 32] }))
    }
    async fn renew(&self, request: Request<wire::RenewRequest>) -> Result<Response<wire::RenewResponse>, Status> {
        let peer = grpc::PeerInfo::of(&request).id;
        let request = request.into_inner();
        let cluster = ClusterName::new(&request.cluster).unwrap();
        let id = match peer {
            Some(id) => id,
            None => {
                let signed = [b"meshfed renew v1\0".as_slice(), &[7; 32], &request.agent_request].concat();
                let spki = self.0.clusters[&cluster].key.public_key_der();
                if !keys::verify_signature(spki, &signed, &request.signature) {
                    return Err(Status::permission_denied("the proof does not hold"));
                }
                SpiffeId::agent(self.0.domain.clone(), cluster, request.replica)
            }
        };
        let key = csr::verify(&request.agent_request).unwrap();
        let own = &self.0.own;
        let ttl = Duration::from_secs(3600);
        let leaf = svid::issue(&own.key, &own.anchor, &id, key.spki_der(), ttl, clock::wall()).unwrap();
        self.0.record(&id, &leaf);
        Ok(Response::new(wire::RenewResponse { agent_certificate: leaf, federators: vec![] }))
    }
}

/// Held, so that the hub's inputs stay open.
pub(super) type InputSenders =
    (watch::Sender<Arc<Members>>, watch::Sender<Arc<Bundles>>, watch::Sender<Arc<FleetPolicies>>);
