//! Edge. Changed anchors of known trust domains: what was refused, and what people of this cluster have approved
//! (`meshfed trust approve`). Both are files of `E/state/`, so that neither needs the agent to run at the same time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use meshfed_api::proto::federation as wire;
use meshfed_ca::bundle::{hex, new_keys, unhex};
use meshfed_model::bundle::Bundle;
use meshfed_model::identity::TrustDomain;
use meshfed_runtime::files::{self, FileError, MODE_SECRET};
use prost::Message as _;

use super::bundles::{FILE_MAX, WITHDRAWN, proven, read};
use crate::enroll::{AgentFile, AgentFileError};

/// The largest file of approvals, in bytes: a hash a line, for some changes that were never offered.
const APPROVED_MAX: usize = 4096;

/// Why an approval was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum ApproveError {
    /// Not the data directory of an agent.
    #[error("--data-dir is no data directory of an agent")]
    Agent(#[source] AgentFileError),
    /// Not a hash.
    #[error("--sha256 {0}: write the 64 hexadecimal digits that the refusal names")]
    Hash(String),
    /// The cluster's own.
    #[error(
        "{0} is this cluster's own trust domain: its agent holds the CA key itself; approve it in the clusters that \
         import from here, with --data-dir of their agents"
    )]
    Own(TrustDomain),
    /// The federators'.
    #[error(
        "{0} is the fleet's own trust domain: its anchor is the one that this cluster's join token named, and no \
         approval changes it; a new one needs a new token and a new join"
    )]
    Fleet(TrustDomain),
    /// Nothing is held of that trust domain, so nothing of it can change.
    #[error("no bundle of {trust_domain} is held here, so its first one needs no approval; held are: {held}")]
    Unknown {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// Those that are.
        held: String,
    },
    /// Another key was offered.
    #[error(
        "the changed anchor of {trust_domain} that was refused has --sha256 {offered}; compare it with its owner's"
    )]
    Other {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// What was offered.
        offered: String,
    },
    /// Too many that nothing was offered for.
    #[error("there are approvals of {0} already that nothing was offered for; remove state/approved/{0} first")]
    Full(TrustDomain),
    /// A file.
    #[error("the approval cannot be recorded")]
    File(#[from] FileError),
}

/// What became of an approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approved {
    /// The refused anchor is taken: by a running agent within a second, else at its start.
    Recorded,
    /// No change of that trust domain was offered yet; the approval waits for it.
    Waits,
    /// A key that is held; nothing was recorded.
    Held,
}

/// The file in which approvals of a trust domain stand until they are used; who removes it takes them back.
#[must_use]
pub fn file(data_dir: &Path, trust_domain: &TrustDomain) -> PathBuf {
    data_dir.join("state").join("approved").join(trust_domain.as_str())
}

/// Records the approval of a changed anchor in data directory `data_dir`, for the agent that runs there or will.
///
/// # Errors
/// [`ApproveError`]; nothing is recorded then.
pub fn approve(data_dir: &Path, trust_domain: &TrustDomain, sha256: &str) -> Result<Approved, ApproveError> {
    let member = AgentFile::read(data_dir).map_err(ApproveError::Agent)?;
    if *trust_domain == member.trust_domain {
        return Err(ApproveError::Own(trust_domain.clone()));
    }
    if *trust_domain == member.fleet {
        return Err(ApproveError::Fleet(trust_domain.clone()));
    }
    let key = unhex(sha256).ok_or_else(|| ApproveError::Hash(sha256.chars().take(80).collect()))?;
    let state = data_dir.join("state");
    let anchors = data_dir.join("bundles").join(format!("{trust_domain}.pem"));
    let proof = |directory: &str| state.join(directory).join(trust_domain.as_str());
    let known = read(&anchors, &proof("bundles"), trust_domain);
    let Ok(held) = known.or_else(|_unknown| read(&anchors, &proof(WITHDRAWN), trust_domain)) else {
        return Err(ApproveError::Unknown { trust_domain: trust_domain.clone(), held: held_in(data_dir, &member) });
    };
    let nothing = Bundle { anchors: Vec::new(), ..held.clone() };
    if new_keys(&nothing, &held).contains(&key) {
        return Ok(Approved::Held);
    }
    let approvals = Approvals::new(&state)?;
    let refused = approvals.refused(trust_domain);
    if let Some(refused) = &refused {
        let offered = new_keys(&held, refused);
        if !offered.contains(&key) {
            let offered = offered.iter().map(|key| hex(key)).collect::<Vec<_>>().join(" or ");
            return Err(ApproveError::Other { trust_domain: trust_domain.clone(), offered });
        }
    }
    approvals.record(trust_domain, &key)?;
    Ok(if refused.is_some() { Approved::Recorded } else { Approved::Waits })
}

/// Approves for the agent of `data_dir` what another agent of the same cluster trusts by now: `anchors`, PEM. People
/// approve once a cluster, and not once an agent. Only what was refused here is approved.
///
/// # Errors
/// [`FileError`]; nothing is recorded then.
pub fn approve_as(data_dir: &Path, trust_domain: &TrustDomain, anchors: &str) -> Result<(), ApproveError> {
    let approvals = Approvals::new(&data_dir.join("state"))?;
    let Some(refused) = approvals.refused(trust_domain) else { return Ok(()) };
    let Ok(trusted) = meshfed_ca::pem::certificates(anchors) else { return Ok(()) };
    let nothing = Bundle { anchors: Vec::new(), ..refused.clone() };
    let trusted = Bundle { anchors: trusted.iter().map(|c| c.to_vec()).collect(), ..refused.clone() };
    let (offered, trusted) = (new_keys(&nothing, &refused), new_keys(&nothing, &trusted));
    for key in offered.intersection(&trusted) {
        approvals.record(trust_domain, key)?;
    }
    Ok(())
}

/// Those that can be approved: neither the cluster's own nor the fleet's.
fn held_in(data_dir: &Path, member: &AgentFile) -> String {
    let listed = std::fs::read_dir(data_dir.join("bundles")).into_iter().flatten().flatten();
    let names = listed.filter_map(|e| e.file_name().to_str().and_then(|n| n.strip_suffix(".pem")).map(str::to_owned));
    let names = names.filter(|name| *name != member.trust_domain.as_str() && *name != member.fleet.as_str());
    names.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
}

/// The files of both.
#[derive(Debug)]
pub(super) struct Approvals {
    approved: PathBuf,
    refused: PathBuf,
}

impl Approvals {
    /// Those of `E/state`.
    pub(super) fn new(state: &Path) -> Result<Self, FileError> {
        let all = Self { approved: state.join("approved"), refused: state.join("refused") };
        for dir in [&all.approved, &all.refused] {
            files::create_private_dir(dir)?;
            give(dir, state);
        }
        Ok(all)
    }

    /// Keys of a trust domain that were approved and not used yet.
    pub(super) fn of(&self, trust_domain: &TrustDomain) -> BTreeSet<[u8; 32]> {
        let text = files::read_text(&self.approved.join(trust_domain.as_str()), APPROVED_MAX);
        text.unwrap_or_default().lines().filter_map(|line| unhex(line.trim())).collect()
    }

    fn record(&self, trust_domain: &TrustDomain, key: &[u8; 32]) -> Result<(), ApproveError> {
        let mut keys = self.of(trust_domain);
        keys.insert(*key);
        let text: String = keys.iter().map(|key| hex(key) + "\n").collect();
        if text.len() > APPROVED_MAX {
            return Err(ApproveError::Full(trust_domain.clone()));
        }
        let path = self.approved.join(trust_domain.as_str());
        files::write_atomic(&path, text.as_bytes(), MODE_SECRET)?;
        give(&path, &self.approved);
        Ok(())
    }

    /// An approval was used: it is no standing permission.
    pub(super) fn settle(&self, bundle: &Bundle) -> Result<(), FileError> {
        let name = bundle.trust_domain.as_str();
        files::remove(&self.refused.join(name))?;
        files::remove(&self.approved.join(name)).map(drop)
    }

    /// The refused bundle of a trust domain.
    fn refused(&self, trust_domain: &TrustDomain) -> Option<Bundle> {
        let bytes = files::read_limited(&self.refused.join(trust_domain.as_str()), FILE_MAX).ok()?;
        proven(&bytes, trust_domain).ok()
    }

    /// All refused bundles.
    pub(super) fn all_refused<'a>(&self, of: impl Iterator<Item = &'a TrustDomain>) -> Vec<Bundle> {
        of.filter_map(|trust_domain| self.refused(trust_domain)).collect()
    }

    /// Keeps a refused bundle.
    pub(super) fn refuse(&self, bundle: &Bundle) -> Result<(), FileError> {
        let bytes = wire::Bundle::from(bundle).encode_to_vec();
        files::write_atomic(&self.refused.join(bundle.trust_domain.as_str()), &bytes, MODE_SECRET)
    }

    /// Forgets what was refused of a trust domain.
    pub(super) fn forget(&self, trust_domain: &TrustDomain) -> Result<(), FileError> {
        files::remove(&self.refused.join(trust_domain.as_str())).map(drop)
    }
}

/// Root may approve for an agent of another user, which must be able to read it. Best effort: who owns it already needs
/// no gift.
fn give(path: &Path, like: &Path) {
    use std::os::unix::fs::MetadataExt as _;
    if let Ok(owner) = std::fs::metadata(like) {
        let _owned_already = std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid()));
    }
}
