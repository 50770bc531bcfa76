//! Edge. `meshfed join`: one token, one new key, one member.

use std::path::PathBuf;
use std::time::Duration;

use meshfed_api::border::Placement;
use meshfed_api::proto::federation as pb;
use meshfed_ca::keys::SigningKey;
use meshfed_ca::token::Token;
use meshfed_ca::{anchor, csr, lineage};
use meshfed_model::bundle::Bundle;
use meshfed_model::identity::TrustDomain;

use super::contact::{Contact, credential};
use super::directory::{CA_KEY, Content, Pending};
use super::{AgentFile, EnrollError};

/// How long a cluster's anchor is valid: ten years; it is replaced by rotation, not by expiry.
const ANCHOR_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What the command line chose.
pub struct Options {
    /// `HOST:PORT` of a federator.
    pub federator: String,
    /// The join token.
    pub token: Token,
    /// The data directory `E`.
    pub data_dir: PathBuf,
    /// Take the place of a live cluster of this name.
    pub replace: bool,
    /// A data directory of the same cluster whose CA key and anchor are kept, so that nobody has to trust a new one.
    pub ca_from: Option<PathBuf>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// What `agent.yaml` says.
    pub member: AgentFile,
    /// Whether the directory was a member already, and nothing was changed.
    pub unchanged: bool,
    /// SHA-256 of the SPKI of the anchor, in hexadecimal digits, where this join made it.
    pub new_anchor: Option<String>,
}

/// Makes the data directory a member of the fleet; again with the same directory changes nothing.
///
/// # Errors
/// [`EnrollError`]; the data directory is then as it was.
pub async fn join(options: Options) -> Result<Joined, EnrollError> {
    join_keeping(options, async |_pending| Ok(())).await
}

/// As [`join`]. `keep` is handed the directory of the keys that the federator is about to be asked with, before it is
/// asked: who keeps them somewhere else can repeat the same join after this machine is lost.
///
/// # Errors
/// [`EnrollError`]; what `keep` says is told as a fault of that directory.
pub async fn join_keeping(
    options: Options,
    keep: impl AsyncFnOnce(PathBuf) -> Result<(), String>,
) -> Result<Joined, EnrollError> {
    let Options { federator, token, data_dir, replace, ca_from } = options;
    let member = match AgentFile::read(&data_dir) {
        Ok(member) => Some(member),
        Err(super::AgentFileError::Missing(..)) => None,
        Err(error) => {
            let problem = if data_dir.is_dir() {
                meshfed_runtime::telemetry::chain(&error)
            } else {
                "is no directory; name a new one with --data-dir".to_owned()
            };
            return Err(EnrollError::Directory { path: data_dir, problem });
        }
    };
    if let Some(member) = member {
        return already_member(member, &federator, &token).await;
    }
    let mut contact = Contact::open(&federator, &token).await?;
    // What was asked before may have been taken: asking what the token would give, of a used one, would be refused.
    let trust_domain = match Pending::asked(&data_dir, token.id()) {
        Some(trust_domain) => trust_domain,
        None => contact.placement(&token).await?.trust_domain,
    };
    let pending = Pending::open(&data_dir)?;
    if let Some(from) = &ca_from {
        pending.keep_ca(from, &trust_domain)?;
    }
    let result = enroll(&mut contact, &token, &pending, &trust_domain, replace, keep).await;
    match result {
        Ok(enrolled) => {
            pending.finish(&enrolled.content())?;
            let made = anchor::spki_sha256(&enrolled.anchor).filter(|_| ca_from.is_none());
            let new_anchor = made.map(|key| meshfed_ca::bundle::hex(&key));
            Ok(Joined { member: enrolled.agent_file, unchanged: false, new_anchor })
        }
        // A join that broke off may have been taken: the key must survive, so that a repetition is the same join.
        Err(error @ EnrollError::Unreachable { .. }) => Err(error),
        Err(error) => {
            pending.discard();
            Err(error)
        }
    }
}

async fn already_member(member: AgentFile, federator: &str, token: &Token) -> Result<Joined, EnrollError> {
    if member.token_id == token.id() {
        return Ok(Joined { member, unchanged: true, new_anchor: None });
    }
    let mut contact = Contact::open(federator, token).await?;
    let (_, placement) = contact.plan(token, Vec::new()).await?;
    if placement.cluster == member.cluster && placement.fleet == member.fleet {
        return Ok(Joined { member, unchanged: true, new_anchor: None });
    }
    Err(EnrollError::Refused)
}

/// What the federator gave, checked.
struct Enrolled {
    agent_file: AgentFile,
    anchor: Vec<u8>,
    lineage: Vec<u8>,
    root: Vec<u8>,
    agent_certificate: Vec<u8>,
    bundles: Vec<Bundle>,
}

impl Enrolled {
    fn content(&self) -> Content<'_> {
        Content {
            agent_file: &self.agent_file,
            anchor: &self.anchor,
            lineage: &self.lineage,
            root: &self.root,
            agent_certificate: &self.agent_certificate,
            bundles: self.bundles.iter().map(|b| (b.trust_domain.clone(), b.anchors.clone())).collect(),
        }
    }
}

async fn enroll(
    contact: &mut Contact,
    token: &Token,
    pending: &Pending,
    trust_domain: &TrustDomain,
    replace: bool,
    keep: impl AsyncFnOnce(PathBuf) -> Result<(), String>,
) -> Result<Enrolled, EnrollError> {
    let now = meshfed_runtime::clock::wall();
    let ca_key = pending.key(CA_KEY)?;
    let agent_key = pending.key("identity/key.pem")?;
    let cannot = |what: &str, error: &dyn std::error::Error| contact.untrusted(&format!("no {what} for it: {error}"));
    let own_anchor = match pending.anchor(trust_domain, now) {
        Some(anchor) => anchor,
        None => {
            anchor::self_signed(&ca_key, trust_domain, now, ANCHOR_TTL).map_err(|error| cannot("anchor", &error))?
        }
    };
    pending.ask(token.id(), trust_domain, &own_anchor)?;
    keep(pending.path().to_owned())
        .await
        .map_err(|problem| EnrollError::Directory { path: pending.path().to_owned(), problem })?;
    let ca_request = csr::create(&ca_key).map_err(|error| cannot("certificate request", &error))?;
    let agent_request = csr::create(&agent_key).map_err(|error| cannot("certificate request", &error))?;
    let request = pb::JoinRequest {
        token: Some(credential(token)),
        anchor: own_anchor.clone(),
        ca_request,
        agent_request,
        replace,
    };
    let (response, confirmed) = contact.join(request).await?;
    let bundles = check(contact, trust_domain, &confirmed, &response, &own_anchor, &agent_key)?;
    let agent_file = AgentFile {
        cluster: confirmed.cluster,
        trust_domain: confirmed.trust_domain,
        fleet: confirmed.fleet,
        federators: with_target(confirmed.federators, contact.target()),
        networks: confirmed.networks,
        gateway_cidrs: confirmed.gateway_cidrs,
        regions: confirmed.regions,
        zones: confirmed.zones,
        token_id: token.id().to_owned(),
    };
    Ok(Enrolled {
        agent_file,
        anchor: own_anchor,
        lineage: response.lineage,
        root: response.root,
        agent_certificate: response.agent_certificate,
        bundles,
    })
}

/// The address that worked comes first: what the federator advertises may not be reachable from here.
fn with_target(advertised: Vec<String>, target: &str) -> Vec<String> {
    let target = target.trim_start_matches("https://").trim_end_matches('/').to_owned();
    let others = advertised.into_iter().filter(|f| *f != target).collect::<Vec<_>>();
    std::iter::once(target).chain(others).collect()
}

/// The federator must answer for this cluster, key and fleet, and prove its own anchor's lineage.
fn check(
    contact: &Contact,
    asked: &TrustDomain,
    confirmed: &Placement,
    response: &pb::JoinResponse,
    own_anchor: &[u8],
    agent_key: &SigningKey,
) -> Result<Vec<Bundle>, EnrollError> {
    let now = meshfed_runtime::clock::wall();
    if *asked != confirmed.trust_domain {
        return Err(contact.untrusted("it planned one cluster and joined another"));
    }
    lineage::verify(own_anchor, &response.lineage, &response.root, &confirmed.trust_domain, now)
        .map_err(|error| contact.untrusted(&format!("the lineage of this cluster: {error}")))?;
    let identity = meshfed_runtime::tls::Identity::new(
        vec![response.agent_certificate.clone().into()],
        agent_key.to_private_key_der(),
    )
    .map_err(|error| contact.untrusted(&format!("the agent's certificate: {error}")))?;
    let expected = meshfed_model::identity::SpiffeId::agent(confirmed.fleet.clone(), confirmed.cluster.clone(), 0);
    if identity.id != expected {
        return Err(contact.untrusted(&format!("the agent's certificate is for {}", identity.id)));
    }
    let mut bundles = Vec::new();
    for message in &response.bundles {
        let offered = Bundle::try_from(message.clone()).map_err(|error| contact.untrusted(&error.to_string()))?;
        if offered.trust_domain == confirmed.fleet && offered.anchors != [contact.fleet.anchor.to_vec()] {
            return Err(contact.untrusted("its fleet bundle is not the anchor that the token pins"));
        }
        let accepted = meshfed_ca::bundle::accept(None, &offered, &response.root, now)
            .map_err(|error| contact.untrusted(&format!("bundle of {}: {error}", offered.trust_domain)))?;
        bundles.push(accepted);
    }
    if !bundles.iter().any(|b| b.trust_domain == confirmed.fleet) {
        return Err(contact.untrusted("it sends no bundle of the fleet"));
    }
    Ok(bundles)
}
