//! Edge. Keeps a member's files in the Secret that the chart has made, and brings them back from there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{Patch, PatchParams};
use meshfed_ca::keys::SigningKey;
use meshfed_crds::api_server::said;
use meshfed_model::identity::TrustDomain;
use meshfed_runtime::files::{self, FileError};
use meshfed_runtime::tls::Identity;

use super::damage::{self, Damage, KeptCa};
use super::identity::{
    AGENT_FILE, CA_KEY, DIRECTORIES, Files, Kept, LEAVING, MEMBERSHIP, OtherCa, SIZE_MAX, changes, key_of,
    membership_file, unpack,
};
use crate::downlink::approvals::{ApproveError, approve_as};
use crate::enroll::AgentFile;

/// A member's file with the root of its fleet.
const ROOT: &str = "ca/root.pem";
/// The largest file of a member, in bytes.
const FILE_MAX: usize = 512 << 10;
/// How often a write is tried that another one came before.
const CONFLICTS_MAX: usize = 5;

/// Why the files cannot be kept or brought back.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The chart makes it, empty, and the agent may not.
    #[error("Secret {0} is not there; it comes with the chart meshfed-cluster: install or upgrade the release")]
    Missing(String),
    /// The API server.
    #[error("Secret {name}: {}", said(cause))]
    Api {
        /// The Secret.
        name: String,
        /// What the API server or the way to it says.
        cause: Box<kube::Error>,
    },
    /// Somebody else writes it all the time.
    #[error("Secret {0} is changed by somebody else again and again")]
    Contended(String),
    /// Two CA keys.
    #[error(transparent)]
    OtherCa(#[from] OtherCa),
    /// Somebody has edited it, or brought half of it back.
    #[error("Secret {secret}, key {key}: {why}")]
    Damaged {
        /// The Secret.
        secret: String,
        /// Its key.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// They are too large for a Secret.
    #[error("the member's files have {0} bytes, a Secret holds at most {SIZE_MAX} of them")]
    TooLarge(usize),
    /// The data directory.
    #[error("the data directory cannot be used")]
    File(#[from] FileError),
    /// What another agent has approved.
    #[error(transparent)]
    Approval(#[from] ApproveError),
    /// The data directory.
    #[error("{} cannot be used", .0.display())]
    Io(PathBuf, #[source] std::io::Error),
}

/// The Secret of this member and the directory that it stands for.
#[derive(Debug, Clone)]
pub struct Keeper {
    secrets: Api<Secret>,
    name: String,
    data_dir: PathBuf,
}

/// What was brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Restored {
    /// The data directory is a member's.
    pub member: bool,
    /// A directory with the CA of a cluster that left, for a join to go on with.
    pub ca: Option<PathBuf>,
}

/// What an agent that does not lead found in the Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Followed {
    /// A member, which the data directory is now, too.
    Member {
        /// Whether its identity is another one than the directory had.
        renewed: bool,
    },
    /// A member by another join than the directory is: the cluster has left, and joined anew, between two looks.
    Anew,
    /// No member: nobody has joined, or the cluster has left.
    NoMember,
}

/// What is known of the Secret that keeps the member's files.
#[derive(Debug, Default)]
pub(super) struct IdentityKept {
    /// Which Secret it was, and which of its contents; none: it was not there, or nobody has looked.
    pub(super) version: Option<String>,
    /// Why it does not hold them.
    pub(super) fault: Option<(&'static str, String)>,
}

impl IdentityKept {
    /// Takes a look; whether something else was seen than the last time. What cannot be seen has not changed.
    pub(super) fn is_changed(&mut self, found: Result<Option<String>, KeeperError>) -> bool {
        let Ok(found) = found else { return false };
        let changed = found.is_none() || found != self.version;
        self.version = found;
        changed
    }
}

impl Keeper {
    /// The Secret `name` and the data directory of a member, which need not be there.
    #[must_use]
    pub const fn new(secrets: Api<Secret>, name: String, data_dir: PathBuf) -> Self {
        Self { secrets, name, data_dir }
    }

    async fn read(&self) -> Result<(BTreeMap<String, ByteString>, ObjectMeta), KeeperError> {
        let found = self.secrets.get_opt(&self.name).await.map_err(|cause| self.api(cause))?;
        let secret = found.ok_or_else(|| KeeperError::Missing(self.name.clone()))?;
        Ok((secret.data.unwrap_or_default(), secret.metadata))
    }

    fn api(&self, cause: kube::Error) -> KeeperError {
        KeeperError::Api { name: self.name.clone(), cause: Box::new(cause) }
    }

    /// Makes the Secret hold what `wanted` makes of what it holds. Nothing is written where nothing changes, and nothing
    /// over a change of somebody else.
    async fn write(&self, wanted: impl Fn(Kept) -> Result<Kept, KeeperError>) -> Result<(), KeeperError> {
        for _ in 0..CONFLICTS_MAX {
            let (found, ObjectMeta { resource_version: version, .. }) = self.read().await?;
            let wanted = wanted(unpack(&found))?;
            let changes = changes(&found, &wanted)?;
            if changes.is_empty() {
                return Ok(());
            }
            let patch = serde_json::json!({ "metadata": { "resourceVersion": version }, "data": changes });
            let params = PatchParams { field_manager: Some(super::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            match self.secrets.patch_metadata(&self.name, &params, &Patch::Merge(patch)).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(cause) => return Err(self.api(cause)),
            }
        }
        Err(KeeperError::Contended(self.name.clone()))
    }

    /// Keeps what the data directory holds now; a join that was asked for is answered with it.
    ///
    /// # Errors
    /// [`KeeperError`]; the Secret is then as it was.
    pub async fn keep(&self) -> Result<(), KeeperError> {
        let member = read_files(&self.data_dir)?;
        let keep = |found: Kept| {
            // A CA key is never replaced; what is none is for people to take out.
            let lost = found.member.contains_key(CA_KEY) && !damage::has_ca_key(&found.member);
            match damage::of_ca(&found.member).filter(|_| lost) {
                Some(damage) => Err(self.damaged(damage)),
                None => Ok(Kept { member: member.clone(), pending: Files::new() }),
            }
        };
        self.write(keep).await
    }

    fn damaged(&self, Damage { file, why }: Damage) -> KeeperError {
        KeeperError::Damaged { secret: self.name.clone(), key: key_of(file), why }
    }

    /// Which Secret it is, and which of its contents: another text once anybody has written it.
    pub(super) async fn version(&self) -> Result<Option<String>, KeeperError> {
        let found = self.secrets.get_metadata_opt(&self.name).await.map_err(|cause| self.api(cause))?;
        let of = |meta: ObjectMeta| Some(format!("{} {}", meta.uid?, meta.resource_version?));
        Ok(found.and_then(|found| of(found.metadata)))
    }

    /// Keeps what a join is about to ask with: its keys must outlive this pod, or the token is spent for nothing.
    pub(super) async fn keep_pending(&self, pending: &Path) -> Result<(), KeeperError> {
        let pending = read_files(pending)?;
        self.write(|found| Ok(Kept { member: found.member, pending: pending.clone() })).await
    }

    /// Forgets a join that was refused.
    pub(super) async fn forget_pending(&self) -> Result<(), KeeperError> {
        self.write(|found| Ok(Kept { member: found.member, pending: Files::new() })).await
    }

    /// Remembers by which Membership, named by its uid, this is a member.
    pub(super) async fn remember(&self, membership: &str) -> Result<(), KeeperError> {
        let secret = self.read().await?.1.uid.unwrap_or_default();
        files::write_secret(&self.data_dir.join(MEMBERSHIP), membership_file(membership, &secret).as_bytes())?;
        self.keep().await
    }

    /// The uid of the Membership that was remembered; `None`: none was, or in another Secret.
    pub(super) async fn remembered(&self) -> Result<Option<String>, KeeperError> {
        let (data, metadata) = self.read().await?;
        Ok(unpack(&data).membership(&metadata.uid.unwrap_or_default()).map(str::to_owned))
    }

    /// Whether the member is leaving.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.data_dir.join(LEAVING).exists()
    }

    /// Says that the member is leaving, so that the next agent goes on with it.
    pub(super) async fn begin_leaving(&self) -> Result<(), KeeperError> {
        files::write_secret(&self.data_dir.join(LEAVING), b"")?;
        self.keep().await
    }

    /// Forgets the membership in the data directory alone: another agent has left for all of them.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn forget_here(&self) -> Result<(), KeeperError> {
        remove_dir(&self.data_dir)
    }

    /// Forgets the membership; the cluster's CA stays.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub async fn forget(&self) -> Result<(), KeeperError> {
        self.write(|_| Ok(Kept::default())).await?;
        remove_dir(&self.data_dir)
    }

    /// The CA that the Secret keeps of a cluster that has left; none: it is a member, or never was one.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub async fn left(&self) -> Result<Option<KeptCa>, KeeperError> {
        let kept = unpack(&self.read().await?.0);
        if kept.is_member() || !kept.has_ca() {
            return Ok(None);
        }
        damage::ca(&kept.member).map(Some).map_err(|damage| self.damaged(damage))
    }

    /// Brings the directory of an agent that does not lead to what the one that leads keeps in the Secret. Nothing is
    /// written there.
    pub(super) async fn follow(&self) -> Result<Followed, KeeperError> {
        let kept = unpack(&self.read().await?.0);
        if !kept.is_member() {
            return Ok(Followed::NoMember);
        }
        let found = read_files(&self.data_dir)?;
        if !found.contains_key(AGENT_FILE) {
            if let Some(damage) = damage::of_member(&kept.member) {
                return Err(self.damaged(damage));
            }
            remove_dir(&self.data_dir)?;
            write_files(&self.data_dir, &kept.member)?;
            return Ok(Followed::Member { renewed: true });
        }
        if found.get(CA_KEY) != kept.member.get(CA_KEY) {
            return Err(OtherCa.into());
        }
        if is_another_join(&found, &kept.member) {
            return Ok(Followed::Anew);
        }
        if kept.member.contains_key(LEAVING) {
            files::write_secret(&self.data_dir.join(LEAVING), b"")?;
        }
        // Bundles are taken from the hub by each agent for itself, but people have approved a changed anchor at one.
        for (path, bytes) in kept.member.iter().filter(|(path, bytes)| found.get(*path) != Some(*bytes)) {
            let name = path.strip_prefix("bundles/").and_then(|file| file.strip_suffix(".pem"));
            if let (Some(Ok(trust_domain)), Ok(pem)) = (name.map(TrustDomain::new), std::str::from_utf8(bytes)) {
                approve_as(&self.data_dir, &trust_domain, pem)?;
            }
        }
        // Of two identities the one that lasts longer is the newer.
        let renewed = identity_end(&kept.member) > identity_end(&found);
        if renewed {
            let identity = kept.member.iter().filter(|(path, _)| path.starts_with("identity/"));
            for (path, bytes) in identity {
                files::write_secret(&self.data_dir.join(path), bytes)?;
            }
        }
        Ok(Followed::Member { renewed })
    }

    /// Brings back what the Secret holds. A directory that is a member's by the same join is the fresher one, and is kept.
    pub(super) async fn restore(&self) -> Result<Restored, KeeperError> {
        let kept = unpack(&self.read().await?.0);
        let found = read_files(&self.data_dir)?;
        // A directory that is damaged is worth less than a Secret that is whole.
        let is_lost =
            || damage::of_member(&found).is_some() && kept.is_member() && damage::of_member(&kept.member).is_none();
        if found.contains_key(AGENT_FILE) && !is_lost() && !is_another_join(&found, &kept.member) {
            self.keep().await?;
            return Ok(Restored { member: true, ca: None });
        }
        // What is there without its own file was left by a restart in the middle; another join came later, by another agent.
        remove_dir(&self.data_dir)?;
        if kept.is_member() {
            if let Some(damage) = damage::of_member(&kept.member) {
                return Err(self.damaged(damage));
            }
            write_files(&self.data_dir, &kept.member)?;
            return Ok(Restored { member: true, ca: None });
        }
        let pending = beside(&self.data_dir, ".pending");
        if !kept.pending.is_empty() && !pending.exists() {
            write_files(&pending, &kept.pending)?;
        }
        let ca = beside(&self.data_dir, ".ca");
        remove_dir(&ca)?;
        if !kept.has_ca() {
            return Ok(Restored { member: false, ca: None });
        }
        if let Some(damage) = damage::of_ca(&kept.member) {
            return Err(self.damaged(damage));
        }
        write_files(&ca, &kept.member)?;
        Ok(Restored { member: false, ca: Some(ca) })
    }
}

/// Whether both are members, and by another join each. The hub, the networks and the root may be others then, and the identity of
/// the one before is refused.
fn is_another_join(one: &Files, other: &Files) -> bool {
    let both = |name| one.get(name).zip(other.get(name));
    both(AGENT_FILE).is_some_and(|(one, other)| !AgentFile::are_of_one_join(one, other))
        || both(ROOT).is_some_and(|(one, other)| one != other)
}

/// When the identity among these files ends; `None`: there is none that can be used.
fn identity_end(all: &Files) -> Option<SystemTime> {
    let text = |path| std::str::from_utf8(all.get(path)?).ok();
    let chain = meshfed_ca::pem::certificates(text("identity/cert.pem")?).ok()?;
    let key = SigningKey::from_pkcs8_pem(text("identity/key.pem")?).ok()?;
    Some(Identity::new(chain, key.to_private_key_der()).ok()?.not_after)
}

/// `E` with something after its name.
fn beside(data_dir: &Path, suffix: &str) -> PathBuf {
    let mut name = data_dir.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    data_dir.with_file_name(name)
}

fn remove_dir(dir: &Path) -> Result<(), KeeperError> {
    match std::fs::remove_dir_all(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(KeeperError::Io(dir.to_owned(), error)),
    }
}

/// The files of a data directory that make it a member's; none where there is no directory.
fn read_files(data_dir: &Path) -> Result<Files, KeeperError> {
    let mut all = Files::new();
    let mut size = 0;
    let mut take = |path: String| -> Result<(), KeeperError> {
        match files::read_limited(&data_dir.join(&path), FILE_MAX) {
            Ok(bytes) => {
                size += path.len() + bytes.len();
                all.insert(path, bytes);
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        if size > SIZE_MAX { Err(KeeperError::TooLarge(size)) } else { Ok(()) }
    };
    for name in [AGENT_FILE, "asked", LEAVING, MEMBERSHIP] {
        take(name.to_owned())?;
    }
    for directory in DIRECTORIES {
        let path = data_dir.join(directory);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(KeeperError::Io(path, error)),
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        // A name with a dot before it is a write that is not finished.
        for name in names.filter(|name| !name.starts_with('.')) {
            take(format!("{directory}/{name}"))?;
        }
    }
    Ok(all)
}

/// Writes files below a directory; the member's own one last, because it says that the others are there.
fn write_files(dir: &Path, all: &Files) -> Result<(), KeeperError> {
    files::create_data_dir(dir)?;
    for directory in DIRECTORIES.into_iter().chain(["state"]) {
        files::create_private_dir(&dir.join(directory))?;
    }
    let (own, others): (Vec<_>, Vec<_>) = all.iter().partition(|(path, _)| *path == AGENT_FILE);
    for (path, bytes) in others.into_iter().chain(own) {
        files::write_secret(&dir.join(path), bytes)?;
    }
    Ok(())
}
