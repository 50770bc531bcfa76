//! Edge. The gRPC service that joiners and agents with an expired identity speak to.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, PoisonError};

use axum::extract::State;
use meshfed_api::border::planned_offers;
use meshfed_api::http;
use meshfed_api::proto::federation as pb;
use meshfed_api::proto::federation::enrollment_server::{Enrollment, EnrollmentServer};
use meshfed_ca::keys::sha256;
use meshfed_ca::{csr, keys, token as ca_token};
use meshfed_model::identity::{Principal, SpiffeId};
use meshfed_model::names::ClusterName;
use meshfed_runtime::clock;
use meshfed_runtime::grpc::PeerInfo;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::challenge::message;
use super::issued;
use super::joining::Joining;
use super::leaving::Step;
use super::plan::{Joiner, Known, plan};
use super::record::{Grant, MemberRecord, StoredState, TokenRecord, member_key};
use super::refusal::{Act, Refusal};
use super::registry::Registry;
use super::token::{JoinerKeys, TokenRefusal};
use crate::fleet::{Declarations, FleetRead, Members, MergePreview};
use crate::store::{Table, Transaction};

/// The highest agent replica of a cluster.
const REPLICA_MAX: u32 = 15;

/// The largest plan, in bytes: it names up to 10,000 services.
const PLAN_MAX: usize = 4 << 20;
/// The largest of all other messages, in bytes (JT9): an anchor and two certificate requests take some 1,500.
const MESSAGE_MAX: usize = 4 << 10;

/// Labels of joins.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct JoinLabel {
    /// `joined`, `planned`, `renewed`, `left`, `refused`, `reused` (a used token came with other keys, to join), `limited`, `invalid` or
    /// `failed`.
    pub(super) result: &'static str,
}

/// The service.
#[derive(Clone)]
pub struct Enroll {
    registry: Arc<Registry>,
    fleet: Arc<dyn FleetRead>,
    declarations: Option<Arc<dyn Declarations>>,
    joins: Family<JoinLabel, Counter>,
}

impl Enroll {
    /// Over a registry; the catalog tells what offers would merge with.
    #[must_use]
    pub fn new(
        registry: Arc<Registry>,
        fleet: Arc<dyn FleetRead>,
        metrics: &meshfed_runtime::metrics::Metrics,
    ) -> Self {
        let joins = metrics.counters("meshfed_joins", "Plans, joins, renewals and leaves by their end");
        Self { registry, fleet, declarations: None, joins }
    }

    /// Tokens take from there what their request leaves out.
    #[must_use]
    pub fn with_declarations(self, declarations: Option<Arc<dyn Declarations>>) -> Self {
        Self { declarations, ..self }
    }

    /// Where clusters are declared; none: nowhere.
    pub(super) fn declarations(&self) -> Option<&dyn Declarations> {
        self.declarations.as_deref()
    }

    /// Adds the service to the routes of port 15600. Whoever has no certificate is counted before a message of it is read
    /// (JT9), and only a plan may be longer than a few certificate requests.
    #[must_use]
    pub fn routes(&self, routes: Routes) -> Routes {
        let served = |most| EnrollmentServer::new(self.clone()).max_decoding_message_size(most);
        let name = <EnrollmentServer<Self> as tonic::server::NamedService>::NAME;
        let limited = axum::Router::new()
            .route_service(&format!("/{name}/Plan"), served(PLAN_MAX))
            .route_service(&format!("/{name}/{{*method}}"), served(MESSAGE_MAX))
            .layer(axum::middleware::from_fn_with_state(self.clone(), count));
        routes.into_axum_router().merge(limited).into()
    }

    /// The registry.
    pub(super) const fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Counts and tells how it ended; `done`: the word of the metric for what was granted.
    fn end<T>(
        &self,
        (act, done): (Act, &'static str),
        address: IpAddr,
        result: Result<T, Refusal>,
    ) -> Result<Response<T>, Status> {
        let refusal = match result {
            Ok(answer) => {
                self.joins.get_or_create(&JoinLabel { result: done }).inc();
                return Ok(Response::new(answer));
            }
            Err(refusal) => refusal,
        };
        self.joins.get_or_create(&JoinLabel { result: refusal.result(act) }).inc();
        if refusal.is_alarm(act) {
            let stolen = "a used token came again with other keys; if its use was not yours, it was stolen";
            tracing::error!(%address, "a join is refused: {stolen}");
        } else {
            let reason = meshfed_runtime::telemetry::chain(&refusal);
            tracing::warn!(%address, reason, "a {} is refused", act.as_str());
        }
        Err(refusal.status())
    }

    async fn token(&self, credential: Option<&pb::TokenCredential>) -> Result<TokenRecord, Refusal> {
        let (id, secret_sha256) = credential_of(credential)?;
        self.registry.valid_token(&id, &secret_sha256).await
    }

    /// The plan of the holder of a token.
    pub(super) fn plan_of(
        &self,
        token: &TokenRecord,
        joiner: &Joiner,
        offers: &[http::PlannedOffer],
    ) -> (http::Plan, String) {
        let members: Arc<Members> = Arc::clone(&self.registry.members().borrow());
        let preview: MergePreview = self.fleet.preview(&token.grant.cluster, offers);
        let known = Known {
            fleet: self.registry.trust().fleet(),
            members: &members,
            root_online: self.registry.trust().root_online(),
            federators: &self.registry.federators,
            version: env!("CARGO_PKG_VERSION"),
            now: clock::timestamp(),
            preview,
        };
        (plan(token, joiner, known), self.registry.trust().fleet().to_string())
    }

    async fn planned(&self, request: pb::PlanRequest) -> Result<pb::PlanResponse, Refusal> {
        let token = self.token(request.token.as_ref()).await?;
        let invalid =
            |e: meshfed_api::border::InvalidMessage| Refusal::Invalid { field: "offers", reason: e.to_string() };
        let offers = planned_offers(request.offers).map_err(invalid)?;
        let offers: Vec<http::PlannedOffer> = offers.iter().map(shown_offer).collect();
        let joiner = Joiner { protocol: request.protocol, version: request.version, clock: request.clock.parse().ok() };
        let (plan, fleet) = self.plan_of(&token, &joiner, &offers);
        let checks = plan.checks.into_iter().map(|c| pb::PlanCheck {
            id: c.id,
            result: result_word(c.result).to_owned(),
            message: c.message,
            remedy: c.remedy.unwrap_or_default(),
        });
        let merges = plan.merges.into_iter().map(|m| pb::PlanMerge {
            service: m.service,
            with: m.with,
            conflict: m.conflict.unwrap_or_default(),
        });
        Ok(pb::PlanResponse {
            cluster: plan.cluster,
            trust_domain: plan.trust_domain,
            networks: token.grant.networks.iter().map(Into::into).collect(),
            gateway_cidrs: plan.gateway_cidrs,
            regions: plan.regions,
            zones: plan.zones,
            allowed: plan.allowed,
            checks: checks.collect(),
            merges: merges.collect(),
            new_services: plan.new_services,
            fleet,
            federators: self.registry.federators.clone(),
        })
    }

    async fn joined(&self, request: pb::JoinRequest) -> Result<pb::JoinResponse, Refusal> {
        let (id, secret_sha256) = credential_of(request.token.as_ref())?;
        // What the holder of a token sends is judged only once it is known to hold one.
        let invalid = |field: &'static str, reason: String| Refusal::Invalid { field, reason };
        let checked = (|| {
            let ca_key = csr::verify(&request.ca_request).map_err(|e| invalid("ca_request", e.to_string()))?;
            let agent_key = csr::verify(&request.agent_request).map_err(|e| invalid("agent_request", e.to_string()))?;
            if anchor_key(&request.anchor).as_deref() != Some(ca_key.spki_der()) {
                return Err(invalid("anchor", "it is not the certificate of the CA key that is proved".to_owned()));
            }
            if ca_key == agent_key {
                return Err(invalid("agent_request", "the agent's key must be another than the CA key".to_owned()));
            }
            Ok((ca_key, agent_key))
        })();
        let (ca_key, agent_key) = match checked {
            Ok(keys) => keys,
            Err(refusal) => {
                let _holder: TokenRecord = self.registry.valid_token(&id, &secret_sha256).await?;
                return Err(refusal);
            }
        };
        let joining = Joining {
            id,
            secret_sha256,
            keys: JoinerKeys { agent_key_sha256: agent_key.sha256(), anchor_sha256: sha256(&request.anchor) },
            anchor: request.anchor,
            ca_spki: ca_key.spki_der().to_vec(),
            agent_spki: agent_key.spki_der().to_vec(),
            replace: request.replace,
        };
        let bound = self.registry.join(joining).await?;
        let grant: &Grant = &bound.token.grant;
        let trust = self.registry.trust();
        let trust_domain = super::registry::domain_of(trust.fleet(), &grant.cluster)?;
        tracing::info!(cluster = %grant.cluster, token = bound.token.id, "joined");
        Ok(pb::JoinResponse {
            cluster: grant.cluster.to_string(),
            trust_domain: trust_domain.to_string(),
            fleet: trust.fleet().to_string(),
            networks: grant.networks.iter().map(Into::into).collect(),
            gateway_cidrs: grant.gateway_cidrs.iter().map(ToString::to_string).collect(),
            regions: grant.regions.iter().cloned().collect(),
            zones: grant.zones.iter().cloned().collect(),
            lineage: bound.lineage,
            agent_certificate: bound.agent_certificate,
            root: trust.root().to_vec(),
            bundles: self.registry.bundles().borrow().bundles.values().map(Into::into).collect(),
            federators: self.registry.federators.clone(),
        })
    }

    async fn live_member(&self, cluster: &ClusterName) -> Result<MemberRecord, Refusal> {
        let found: Option<(MemberRecord, u64)> = self.registry.store.get(Table::Members, member_key(cluster)).await?;
        found
            .map(|(m, _)| m)
            .filter(|m| m.state == StoredState::Active)
            .ok_or(Refusal::Renewal { reason: "no live member of that name" })
    }

    async fn renewed(&self, peer: PeerInfo, request: pb::RenewRequest) -> Result<pb::RenewResponse, Refusal> {
        let trust = self.registry.trust();
        let (cluster, replica, binding) = match (peer.id, peer.leaf_sha256) {
            (Some(SpiffeId { trust_domain, principal: Principal::Agent { cluster, replica } }), Some(leaf))
                if trust_domain == *trust.fleet() =>
            {
                let binding = self.live_member(&cluster).await?.binding;
                // A cluster that another took the place of still holds a certificate for a while: it ends with it.
                if !issued::is_of(&self.registry.store, &leaf, &cluster, binding).await? {
                    return Err(Refusal::Renewal { reason: "its certificate is of an earlier binding of the cluster" });
                }
                (cluster, replica, binding)
            }
            _ => self.by_challenge(&request).await?,
        };
        if replica > REPLICA_MAX {
            return Err(Refusal::Renewal { reason: "no such replica" });
        }
        let key = csr::verify(&request.agent_request)
            .map_err(|e| Refusal::Invalid { field: "agent_request", reason: e.to_string() })?;
        let id = SpiffeId::agent(trust.fleet().clone(), cluster.clone(), replica);
        let _turn = self.registry.renewals.turn(&cluster, clock::instant()).await.ok_or(Refusal::Flooded)?;
        let agent_certificate = trust.issue_agent(&id, key.spki_der(), self.registry.clock.now()?)?;
        let transaction = issued::record(Transaction::new(), &agent_certificate, &cluster, binding)?;
        self.registry.store.commit(transaction).await?;
        Ok(pb::RenewResponse { agent_certificate, federators: self.registry.federators.clone() })
    }

    /// The cluster and binding of whoever shows an agent's certificate of its latest binding.
    async fn proved(&self, peer: PeerInfo) -> Result<(ClusterName, u64), Refusal> {
        let refuse = |reason: &'static str| Refusal::Renewal { reason };
        let (Some(SpiffeId { trust_domain, principal: Principal::Agent { cluster, .. } }), Some(leaf)) =
            (peer.id, peer.leaf_sha256)
        else {
            return Err(refuse("it shows no agent's certificate"));
        };
        if trust_domain != *self.registry.trust().fleet() {
            return Err(refuse("its certificate is of another fleet"));
        }
        let found: Option<(MemberRecord, u64)> = self.registry.store.get(Table::Members, member_key(&cluster)).await?;
        let binding = found.map(|(m, _)| m.binding).ok_or_else(|| refuse("no member of that name"))?;
        if !issued::is_of(&self.registry.store, &leaf, &cluster, binding).await? {
            return Err(refuse("its certificate is of an earlier binding of the cluster"));
        }
        Ok((cluster, binding))
    }

    async fn left(&self, peer: PeerInfo, request: pb::LeaveRequest) -> Result<pb::LeaveResponse, Refusal> {
        let (cluster, binding) = self.proved(peer).await?;
        let step = if request.drain { Step::Drain } else { Step::Leave };
        let _state = self.registry.leave(&cluster, binding, step).await?;
        Ok(pb::LeaveResponse { cluster: cluster.to_string() })
    }

    /// Without a valid certificate: the holder of the cluster CA key signs our nonce.
    async fn by_challenge(&self, request: &pb::RenewRequest) -> Result<(ClusterName, u32, u64), Refusal> {
        let refuse = |reason: &'static str| Refusal::Renewal { reason };
        let cluster = ClusterName::new(&request.cluster).map_err(|_name| refuse("no cluster name"))?;
        let known = {
            let mut nonces = self.registry.nonces.lock().unwrap_or_else(PoisonError::into_inner);
            nonces.take(&request.nonce, cluster.as_str(), clock::instant())
        };
        if !known {
            return Err(refuse("the nonce is not ours, too old, or used"));
        }
        let member = self.live_member(&cluster).await?;
        let message = message(&request.nonce, &request.agent_request);
        if !keys::verify_signature(&member.ca_spki, &message, &request.signature) {
            return Err(refuse("the signature is not by the cluster's CA key"));
        }
        Ok((cluster, request.replica, member.binding))
    }

    /// A nonce to sign.
    fn nonce(&self, cluster: &str) -> Result<[u8; 32], Refusal> {
        let mut nonce = [0_u8; 32];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_unspecified| Refusal::Renewal { reason: "no random numbers" })?;
        let known = ClusterName::new(cluster).map_err(|_name| Refusal::Renewal { reason: "no cluster name" })?;
        let mut nonces = self.registry.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        if nonces.give(nonce, known.as_str(), clock::instant()) { Ok(nonce) } else { Err(Refusal::Limited) }
    }

    pub(super) fn limited(&self, address: IpAddr) -> Result<(), Refusal> {
        if self.registry.admits(address) { Ok(()) } else { Err(Refusal::Limited) }
    }
}

pub(super) fn shown_offer(o: &meshfed_api::border::PlannedOffer) -> http::PlannedOffer {
    http::PlannedOffer {
        namespace: o.service.namespace.to_string(),
        name: o.service.name().to_owned(),
        ports: o
            .ports
            .iter()
            .map(|p| http::PlannedPort {
                name: p.name.clone(),
                port: p.port,
                protocol: Some(p.protocol.clone()),
                app_protocol: p.app_protocol.clone(),
            })
            .collect(),
        service_type: Some(format!("{:?}", o.service_type)),
    }
}

const fn result_word(result: http::CheckResult) -> &'static str {
    match result {
        http::CheckResult::Pass => "pass",
        http::CheckResult::Warn => "warn",
        http::CheckResult::Fail => "fail",
    }
}

fn credential_of(credential: Option<&pb::TokenCredential>) -> Result<(String, [u8; 32]), Refusal> {
    let malformed = || Refusal::Token(TokenRefusal::Malformed);
    let credential = credential.ok_or_else(malformed)?;
    if !ca_token::is_id(&credential.id) {
        return Err(malformed());
    }
    let hash = ca_token::hash_of_secret_text(&credential.secret).ok_or_else(malformed)?;
    Ok((credential.id.clone(), hash))
}

/// The key of a certificate.
fn anchor_key(der: &[u8]) -> Option<Vec<u8>> {
    use x509_parser::prelude::FromDer as _;
    let (rest, parsed) = x509_parser::prelude::X509Certificate::from_der(der).ok()?;
    rest.is_empty().then(|| parsed.tbs_certificate.subject_pki.raw.to_vec())
}

fn address(peer: &PeerInfo) -> IpAddr {
    peer.address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |a| a.ip())
}

fn address_of<T>(request: &Request<T>) -> IpAddr {
    address(&PeerInfo::of(request))
}

/// Counts the attempts of strangers. Holders of a certificate are bounded by their number, and renew in lanes.
async fn count(
    State(enroll): State<Enroll>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    let peer = request.extensions().get::<PeerInfo>().cloned().unwrap_or_default();
    let is_renewal = peer.id.is_some() && request.uri().path().ends_with("/Renew");
    if is_renewal || enroll.registry.admits(address(&peer)) {
        return next.run(request).await;
    }
    match enroll.end::<()>((Act::Attempt, "attempt"), address(&peer), Err(Refusal::Limited)) {
        Err(status) => status.into_http(),
        Ok(_) => Status::internal("a refusal that is none").into_http(),
    }
}

#[tonic::async_trait]
impl Enrollment for Enroll {
    async fn plan(&self, request: Request<pb::PlanRequest>) -> Result<Response<pb::PlanResponse>, Status> {
        let address = address_of(&request);
        let request = request.into_inner();
        let act = if request.joining { Act::Join } else { Act::Plan };
        let result = self.planned(request).await;
        if result.is_ok() {
            self.registry.gives_back(address);
        }
        self.end((act, "planned"), address, result)
    }
    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::JoinResponse>, Status> {
        let address = address_of(&request);
        let result = self.joined(request.into_inner()).await;
        self.end((Act::Join, "joined"), address, result)
    }
    async fn challenge(
        &self,
        request: Request<pb::ChallengeRequest>,
    ) -> Result<Response<pb::ChallengeResponse>, Status> {
        let address = address_of(&request);
        self.end(
            (Act::Challenge, "challenged"),
            address,
            self.nonce(&request.into_inner().cluster).map(|nonce| pb::ChallengeResponse { nonce: nonce.to_vec() }),
        )
    }
    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::RenewResponse>, Status> {
        let peer = PeerInfo::of(&request);
        let address = address(&peer);
        let result = self.renewed(peer, request.into_inner()).await;
        self.end((Act::Renewal, "renewed"), address, result)
    }
    async fn leave(&self, request: Request<pb::LeaveRequest>) -> Result<Response<pb::LeaveResponse>, Status> {
        let peer = PeerInfo::of(&request);
        let address = address(&peer);
        let result = self.left(peer, request.into_inner()).await;
        self.end((Act::Leave, "left"), address, result)
    }
}
