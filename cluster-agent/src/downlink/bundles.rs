//! Edge. Trust bundles: taken by the rule of `ca::bundle`, kept in `E/bundles/`, given to everybody who verifies.
//!
//! What is refused is counted and logged, and the last good bundle stays.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use meshfed_api::proto::federation as wire;
use meshfed_ca::bundle::BundleError;
use meshfed_model::bundle::Bundle;
use meshfed_model::identity::TrustDomain;
use meshfed_runtime::clock;
use meshfed_runtime::files::{self, FileError, MODE_SECRET};
use meshfed_runtime::tls::{InvalidAnchor, TrustStore};
use prost::Message as _;
use rustls_pki_types::CertificateDer;

use super::approvals::Approvals;

/// The largest bundle file, in bytes: some anchors of at most 8 KiB each.
pub(super) const FILE_MAX: usize = 1 << 20;

/// How the command line is run on the machine of an agent.
pub const CLI: &str = "meshfed";

/// Why a bundle was not taken. The last good one stays.
#[derive(Debug, thiserror::Error)]
pub enum BundleRefused {
    /// It is not proved.
    #[error("the bundle of {trust_domain} is not accepted")]
    Unproved {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// Why.
        #[source]
        source: BundleError,
    },
    /// A trust domain that is not of this fleet.
    #[error("{0} is no trust domain of this fleet")]
    Foreign(TrustDomain),
    /// It cannot be saved.
    #[error("the bundle of {trust_domain} cannot be saved")]
    File {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// Why.
        #[source]
        source: FileError,
    },
    /// An anchor is no certificate.
    #[error("an anchor cannot be used")]
    Anchor(#[from] InvalidAnchor),
    /// The fleet's own domain and the own cluster's stay, whatever the hub says.
    #[error("the bundle of {0} is never withdrawn")]
    Own(TrustDomain),
}

/// The bundles that are held.
#[derive(Debug)]
pub struct Bundles {
    anchors: PathBuf,
    proofs: PathBuf,
    gone: PathBuf,
    root: Vec<u8>,
    fleet: TrustDomain,
    own: TrustDomain,
    held: BTreeMap<TrustDomain, Bundle>,
    /// What was held last of trust domains that the hub has withdrawn: it judges what comes back. One for each lineage
    /// that the root has certified, at most.
    withdrawn: BTreeMap<TrustDomain, Bundle>,
    trust: Arc<TrustStore>,
    data_dir: PathBuf,
    /// How people run the command line where `data_dir` is.
    cli: String,
    approvals: Approvals,
    /// Bundles with a changed anchor that nobody has approved yet: at most one for each that is held.
    refused: BTreeMap<TrustDomain, Bundle>,
}

impl Bundles {
    /// Reads the bundles of data directory `data_dir` into `trust`. `root` is the pinned root, DER.
    ///
    /// # Errors
    /// [`FileError`] when a directory cannot be read; a file that is no bundle is left out, with a warning.
    pub fn open(
        data_dir: &Path,
        root: Vec<u8>,
        fleet: TrustDomain,
        own: TrustDomain,
        trust: Arc<TrustStore>,
    ) -> Result<Self, FileError> {
        let anchors = data_dir.join("bundles");
        let state = data_dir.join("state");
        let proofs = state.join("bundles");
        let gone = state.join(WITHDRAWN);
        files::create_private_dir(&anchors)?;
        files::create_private_dir(&state)?;
        files::create_private_dir(&proofs)?;
        files::create_private_dir(&gone)?;
        let mut held = BTreeMap::new();
        // Where the anchors were lost, the proof still tells whom to trust.
        let with_anchors = names(&anchors)?.into_iter().filter_map(|n| n.strip_suffix(".pem").map(str::to_owned));
        let all: BTreeSet<String> = with_anchors.chain(names(&proofs)?).collect();
        let withdrawn = withdrawn(&gone)?;
        for trust_domain in all.iter().filter_map(|name| TrustDomain::new(name).ok()) {
            // The end came amid a withdrawal.
            if withdrawn.contains_key(&trust_domain) {
                continue;
            }
            let path = anchors.join(format!("{trust_domain}.pem"));
            if !path.exists() {
                tracing::warn!(%trust_domain, path = %path.display(), "the anchors are gone; their proof in state/bundles stands");
            }
            match read(&path, &proofs.join(trust_domain.as_str()), &trust_domain) {
                Ok(bundle) => {
                    held.insert(trust_domain, bundle);
                }
                Err(reason) => tracing::warn!(%trust_domain, reason, "a saved bundle is left out"),
            }
        }
        let approvals = Approvals::new(&state)?;
        let refused = approvals
            .all_refused(held.keys().chain(withdrawn.keys()))
            .into_iter()
            .map(|b| (b.trust_domain.clone(), b))
            .collect();
        let data_dir = data_dir.to_owned();
        let cli = CLI.to_owned();
        let mut bundles =
            Self { anchors, proofs, gone, root, fleet, own, held, withdrawn, trust, data_dir, cli, approvals, refused };
        if let Err(error) = bundles.publish(&bundles.held) {
            tracing::warn!(%error, "saved bundles are left out");
        }
        let _told_by_the_hello = bundles.take_approved(clock::wall());
        Ok(bundles)
    }

    /// People run the command line that approves like this, say by `kubectl exec`, and not as [`CLI`].
    #[must_use]
    pub fn with_cli(self, cli: String) -> Self {
        Self { cli, ..self }
    }

    /// What is held.
    #[must_use]
    pub const fn held(&self) -> &BTreeMap<TrustDomain, Bundle> {
        &self.held
    }

    /// What is held of a trust domain, or was when it was withdrawn.
    fn known(&self, trust_domain: &TrustDomain) -> Option<&Bundle> {
        self.held.get(trust_domain).or_else(|| self.withdrawn.get(trust_domain))
    }

    /// Takes a bundle; whether anything changed.
    ///
    /// # Errors
    /// [`BundleRefused`].
    pub fn take(&mut self, offered: &Bundle, now: SystemTime) -> Result<bool, BundleRefused> {
        let trust_domain = offered.trust_domain.clone();
        if trust_domain != self.fleet && trust_domain.cluster_in(&self.fleet).is_none() {
            return Err(BundleRefused::Foreign(trust_domain));
        }
        if self.held.get(&trust_domain) == Some(offered) {
            return Ok(false);
        }
        let unproved = |source| BundleRefused::Unproved { trust_domain: trust_domain.clone(), source };
        let approved = self.approvals.of(&trust_domain);
        let held = self.known(&trust_domain);
        let bundle = match meshfed_ca::bundle::accept_approved(held, offered, &approved, &self.root, now) {
            Ok(bundle) => bundle,
            Err(source) => {
                if matches!(source, BundleError::AnchorChanged { .. }) {
                    self.keep_refused(offered);
                }
                return Err(unproved(source));
            }
        };
        let mut all = self.held.clone();
        all.insert(trust_domain.clone(), bundle.clone());
        self.publish(&all)?;
        self.held = all;
        self.withdrawn.remove(&trust_domain);
        let was_refused = self.refused.remove(&trust_domain).is_some();
        let saved =
            self.save(&bundle).and_then(|()| files::remove(&self.gone.join(trust_domain.as_str()))).and_then(|_| {
                // After the bundle: an approval that is gone while the bundle is not saved would be asked for once more.
                if was_refused || !approved.is_empty() { self.approvals.settle(&bundle) } else { Ok(()) }
            });
        saved.map_err(|source| BundleRefused::File { trust_domain, source })?;
        Ok(true)
    }

    fn keep_refused(&mut self, offered: &Bundle) {
        let before = self.refused.insert(offered.trust_domain.clone(), offered.clone());
        if before.as_ref() != Some(offered)
            && let Err(error) = self.approvals.refuse(offered)
        {
            let error = meshfed_runtime::telemetry::chain_of(&error);
            tracing::warn!(error, "a refused bundle cannot be kept; it can be approved once the hub offers it again");
        }
    }

    /// Takes what was refused and has been approved since; trust domains and serials.
    pub fn take_approved(&mut self, now: SystemTime) -> Vec<(TrustDomain, u64)> {
        let approved = |bundle: &&Bundle| !self.approvals.of(&bundle.trust_domain).is_empty();
        let all: Vec<Bundle> = self.refused.values().filter(approved).cloned().collect();
        let mut taken = Vec::new();
        for bundle in all {
            let trust_domain = bundle.trust_domain.clone();
            match self.take(&bundle, now) {
                Ok(_changed) => {
                    tracing::info!(%trust_domain, serial = bundle.serial, "the approved anchor is trusted from now on");
                    taken.push((trust_domain, bundle.serial));
                }
                Err(error) => {
                    let error = meshfed_runtime::telemetry::chain_of(&error);
                    tracing::debug!(%trust_domain, error, "an approval does not fit what was refused");
                }
            }
        }
        taken
    }

    /// Trust domains whose changed anchor waits for an approval, each with the command line that approves it.
    pub fn awaiting(&self) -> impl Iterator<Item = (&TrustDomain, String)> {
        self.refused.values().filter_map(|bundle| {
            let held = self.known(&bundle.trust_domain)?;
            let keys = meshfed_ca::bundle::new_keys(held, bundle);
            let commands = keys.iter().map(|key| {
                let (cli, name, key) = (&self.cli, &bundle.trust_domain, meshfed_ca::bundle::hex(key));
                format!("{cli} trust approve {name} --sha256 {key} --data-dir {}", self.data_dir.display())
            });
            Some((&bundle.trust_domain, commands.collect::<Vec<_>>().join(" && ")))
        })
    }

    /// All of [`Self::awaiting`].
    #[must_use]
    pub fn all_awaiting(&self) -> BTreeMap<TrustDomain, String> {
        self.awaiting().map(|(trust_domain, command)| (trust_domain.clone(), command)).collect()
    }

    /// Whether a changed anchor waits for an approval.
    #[must_use]
    pub fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Drops the bundle of a trust domain: nobody of it is trusted any more. What it was is remembered, so that a hub
    /// cannot bring it back with another key.
    ///
    /// # Errors
    /// [`BundleRefused`].
    pub fn withdraw(&mut self, trust_domain: &TrustDomain) -> Result<bool, BundleRefused> {
        if *trust_domain == self.fleet || *trust_domain == self.own {
            return Err(BundleRefused::Own(trust_domain.clone()));
        }
        let forgotten = self.refused.remove(trust_domain).map(|_| self.approvals.forget(trust_domain)).transpose();
        let Some(bundle) = self.held.remove(trust_domain) else { return Ok(false) };
        self.publish(&self.held)?;
        let failed = |source| BundleRefused::File { trust_domain: trust_domain.clone(), source };
        // First of all: from here on an end in between is a withdrawal.
        let kept = proof_in(&self.gone, &bundle);
        self.withdrawn.insert(trust_domain.clone(), bundle);
        kept.map_err(failed)?;
        files::remove(&self.anchors.join(format!("{trust_domain}.pem"))).map_err(failed)?;
        files::remove(&self.proofs.join(trust_domain.as_str())).map_err(failed)?;
        forgotten.map_err(failed)?;
        Ok(true)
    }

    fn publish(&self, all: &BTreeMap<TrustDomain, Bundle>) -> Result<(), InvalidAnchor> {
        let der = |b: &Bundle| b.anchors.iter().map(|a| CertificateDer::from(a.clone())).collect();
        self.trust.replace(all.iter().map(|(t, b)| (t.clone(), der(b))).collect())?;
        Ok(())
    }

    fn save(&self, bundle: &Bundle) -> Result<(), FileError> {
        let name = &bundle.trust_domain;
        // The proof first: a file of anchors without it would count as one from the join.
        proof_in(&self.proofs, bundle)?;
        let pem = meshfed_ca::pem::encode_certificates(bundle.anchors.iter().map(Vec::as_slice));
        files::write_atomic(&self.anchors.join(format!("{name}.pem")), pem.as_bytes(), MODE_SECRET)
    }
}

/// Where `E/state` keeps what was held of trust domains that the hub has withdrawn.
pub(super) const WITHDRAWN: &str = "withdrawn";

fn proof_in(directory: &Path, bundle: &Bundle) -> Result<(), FileError> {
    let proof = wire::Bundle::from(bundle).encode_to_vec();
    files::write_atomic(&directory.join(bundle.trust_domain.as_str()), &proof, MODE_SECRET)
}

fn names(directory: &Path) -> Result<Vec<String>, FileError> {
    let failed = |source| FileError::Io { action: "list", path: directory.to_owned(), source };
    let listed = std::fs::read_dir(directory).map_err(failed)?;
    Ok(listed.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// What was held of trust domains that were withdrawn.
fn withdrawn(directory: &Path) -> Result<BTreeMap<TrustDomain, Bundle>, FileError> {
    let mut found = BTreeMap::new();
    for trust_domain in names(directory)?.iter().filter_map(|name| TrustDomain::new(name).ok()) {
        let path = directory.join(trust_domain.as_str());
        let bytes = files::read_limited(&path, FILE_MAX).map_err(|e| e.to_string());
        match bytes.and_then(|bytes| proven(&bytes, &trust_domain)) {
            Ok(bundle) => drop(found.insert(trust_domain, bundle)),
            Err(reason) => {
                tracing::warn!(path = %path.display(), reason, "what was held of a withdrawn bundle is lost")
            }
        }
    }
    Ok(found)
}

/// The saved bundle: from its proof, or, where there is none yet, the anchors as join wrote them, with serial 0.
pub(super) fn read(anchors: &Path, proof: &Path, trust_domain: &TrustDomain) -> Result<Bundle, String> {
    match files::read_limited(proof, FILE_MAX) {
        Ok(bytes) => match proven(&bytes, trust_domain) {
            Ok(bundle) => return Ok(bundle),
            // The anchors beside it still tell whom to trust, the hub before all; they cannot be replaced by others
            // without a rollover, so only the serial is lost.
            Err(reason) => {
                tracing::warn!(%trust_domain, reason, "the proof of a saved bundle is damaged; its anchors stand")
            }
        },
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.to_string()),
    }
    let text = files::read_text(anchors, FILE_MAX).map_err(|e| e.to_string())?;
    let certificates = meshfed_ca::pem::certificates(&text).map_err(|e| e.to_string())?;
    Ok(Bundle {
        trust_domain: trust_domain.clone(),
        serial: 0,
        anchors: certificates.iter().map(|c| c.to_vec()).collect(),
        lineages: Vec::new(),
    })
}

pub(super) fn proven(bytes: &[u8], trust_domain: &TrustDomain) -> Result<Bundle, String> {
    let message = wire::Bundle::decode(bytes).map_err(|e| e.to_string())?;
    let bundle = Bundle::try_from(message).map_err(|e| e.to_string())?;
    if bundle.trust_domain == *trust_domain && !bundle.anchors.is_empty() {
        return Ok(bundle);
    }
    Err(format!("it is that of {} with {} anchors", bundle.trust_domain, bundle.anchors.len()))
}
