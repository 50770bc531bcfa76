//! Edge. The last good view on disk: an agent serves from it without the federator, and resumes where it stood.
//!
//! Per origin a file of the changes as they came, so that a change costs what it is; when the file has grown to a
//! multiple of what it stands for, it is rewritten as one complete change. What the disk lost in a power cut is only
//! a newer state: the session resumes from the older one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use meshfed_api::border::{Interest, shared_networks, shared_networks_message};
use meshfed_api::proto::federation as wire;
use meshfed_api::stream::{Delta, Upsert};
use meshfed_model::member::Members;
use meshfed_model::names::{ClusterName, Namespace, NetworkName};
use meshfed_model::offer::OfferKey;
use meshfed_model::policy::FleetPolicies;
use meshfed_runtime::files::{self, FileError, MODE_SECRET};
use prost::Message;

use super::{View, ViewChange, follows};
use crate::uplink::journal::{JournalError, RecordFile, checksum};

/// The largest file beside the origins' own, in bytes: 10,000 members or policies.
const FILE_MAX: usize = 64 << 20;
/// How the file of an origin ends.
const SUFFIX: &str = ".origin";

/// What was held when the agent ended.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// Per origin one complete change.
    pub changes: Vec<ViewChange>,
    /// The members.
    pub members: Members,
    /// The fleet's policies.
    pub policies: FleetPolicies,
    /// Networks shared with other clusters.
    pub shared_networks: BTreeSet<NetworkName>,
    /// The namespaces by which the view was filtered.
    pub interest: BTreeSet<Namespace>,
}

impl Loaded {
    /// The view as it was.
    #[must_use]
    pub fn view(&self, own: ClusterName) -> View {
        let mut view = View::new(own);
        view.set_members(self.members.clone());
        for change in &self.changes {
            if let Err(error) = view.apply(change.clone()) {
                tracing::warn!(origin = %change.origin, %error, "a saved view is left out");
            }
        }
        view
    }
    /// Whether there is a last good view: members were told once.
    #[must_use]
    pub fn is_some(&self) -> bool {
        !self.members.members.is_empty()
    }
}

/// The directory `state/view/`.
#[derive(Debug)]
pub struct ViewStore {
    directory: PathBuf,
    origins: BTreeMap<ClusterName, RecordFile>,
}

impl ViewStore {
    /// Opens the directory and reads what it holds. What cannot be read is left out, with a warning: the hub sends it
    /// again.
    ///
    /// # Errors
    /// [`JournalError`] when the directory cannot be used.
    pub fn open(directory: &Path) -> Result<(Self, Loaded), JournalError> {
        files::create_private_dir(directory)?;
        let mut store = Self { directory: directory.to_owned(), origins: BTreeMap::new() };
        let mut loaded = Loaded {
            members: store.read::<wire::Members>("members").and_then(|m| m.try_into().ok()).unwrap_or_default(),
            policies: store.read::<wire::Policies>("policies").and_then(|m| m.try_into().ok()).unwrap_or_default(),
            shared_networks: store
                .read::<wire::SharedNetworks>("shared_networks")
                .and_then(|m| shared_networks(m).ok())
                .unwrap_or_default(),
            interest: store
                .read::<wire::Interest>("interest")
                .and_then(|m| Interest::try_from(m).ok())
                .unwrap_or_default()
                .namespaces,
            changes: Vec::new(),
        };
        for origin in store.listed()? {
            if let Some(change) = folded(&origin, &RecordFile::read(&store.path(&origin))?) {
                let file = RecordFile::rewrite(&store.path(&origin), records(&change).iter().map(Vec::as_slice))?;
                store.origins.insert(origin, file);
                loaded.changes.push(change);
            }
        }
        Ok((store, loaded))
    }

    fn path(&self, origin: &ClusterName) -> PathBuf {
        self.directory.join(format!("{origin}{SUFFIX}"))
    }

    fn listed(&self) -> Result<Vec<ClusterName>, JournalError> {
        let failed = |source| JournalError::Io { action: "list", path: self.directory.clone(), source };
        let mut origins = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            origins.extend(name.strip_suffix(SUFFIX).and_then(|n| ClusterName::new(n).ok()));
        }
        origins.sort();
        Ok(origins)
    }

    fn read<M: Message + Default>(&self, name: &str) -> Option<M> {
        let path = self.directory.join(name);
        match files::read_limited(&path, FILE_MAX) {
            Ok(bytes) => {
                // An empty or cut message parses, too: only the checksum tells that it is what was saved.
                let message = bytes
                    .split_first_chunk::<4>()
                    .filter(|(sum, body)| u32::from_le_bytes(**sum) == checksum(body))
                    .and_then(|(_, body)| M::decode(body).ok());
                if message.is_none() {
                    tracing::warn!(path = %path.display(), "a saved file is damaged and left out; the hub will tell it anew");
                }
                message
            }
            Err(error) if error.is_not_found() => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a saved file is left out");
                None
            }
        }
    }

    fn write(&self, name: &str, message: &impl Message) -> Result<(), FileError> {
        let body = message.encode_to_vec();
        let bytes = [checksum(&body).to_le_bytes().as_slice(), &body].concat();
        files::write_atomic(&self.directory.join(name), &bytes, MODE_SECRET)
    }

    /// Saves one change: before the core actor hears of it, so that what proxies serve is never newer than what is
    /// saved, and a restart never goes back.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn append(&mut self, change: &ViewChange) -> Result<(), JournalError> {
        let path = self.path(&change.origin);
        let records = records(change);
        let records = records.iter().map(Vec::as_slice);
        match self.origins.get_mut(&change.origin) {
            Some(file) if !change.delta.complete => {
                file.append(records)?;
                if file.is_long() {
                    let Some(whole) = folded(&change.origin, &RecordFile::read(&path)?) else {
                        // What was saved cannot be read back: better none than one that grows for ever.
                        tracing::warn!(origin = %change.origin, "the saved view cannot be read back and is dropped");
                        return self.remove(&change.origin);
                    };
                    let records = self::records(&whole);
                    *file = RecordFile::rewrite(&path, records.iter().map(Vec::as_slice))?;
                }
            }
            // Without the file that the change follows on there is nothing to append to; the next whole one begins it.
            None if !change.delta.complete => {}
            Some(_) | None => {
                self.origins.insert(change.origin.clone(), RecordFile::rewrite(&path, records)?);
            }
        }
        Ok(())
    }

    /// Forgets an origin.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn remove(&mut self, origin: &ClusterName) -> Result<(), JournalError> {
        self.origins.remove(origin);
        files::remove(&self.path(origin))?;
        Ok(())
    }

    /// Saves the members.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn save_members(&self, members: &Members) -> Result<(), FileError> {
        self.write("members", &wire::Members::from(members))
    }
    /// Saves the fleet's policies.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn save_policies(&self, policies: &FleetPolicies) -> Result<(), FileError> {
        self.write("policies", &wire::Policies::from(policies))
    }
    /// Saves the shared networks.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn save_shared_networks(&self, networks: &BTreeSet<NetworkName>) -> Result<(), FileError> {
        self.write("shared_networks", &shared_networks_message(networks))
    }
    /// Saves the interest: before the hub hears of it.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn save_interest(&self, namespaces: &BTreeSet<Namespace>) -> Result<(), FileError> {
        self.write("interest", &wire::Interest::from(&Interest { namespaces: namespaces.clone() }))
    }
}

/// One record per part, each a `ViewDelta`.
fn records(change: &ViewChange) -> Vec<Vec<u8>> {
    let message = |delta: &Delta| wire::ViewDelta {
        origin: change.origin.to_string(),
        delta: Some(delta.into()),
        filter: change.filter,
    };
    change.delta.clone().parts().iter().map(|part| message(part).encode_to_vec()).collect()
}

/// The records of one origin as one complete change; `None` where they make none.
fn folded(origin: &ClusterName, records: &[Vec<u8>]) -> Option<ViewChange> {
    let mut resources: BTreeMap<OfferKey, Upsert> = BTreeMap::new();
    let mut stands: Option<(meshfed_model::version::Version, u64)> = None;
    let mut parts: Option<Delta> = None;
    for record in records {
        let message = wire::ViewDelta::decode(record.as_slice()).ok()?;
        let part = Delta::try_from(message.delta?).ok()?;
        let more = part.more;
        let whole = match parts.take() {
            None => part,
            Some(mut first) => {
                first.upserts.extend(part.upserts);
                first.removals.extend(part.removals);
                first.more = more;
                first
            }
        };
        if more {
            parts = Some(whole);
            continue;
        }
        let change = ViewChange { origin: origin.clone(), delta: whole, filter: message.filter };
        follows(&change, stands.map(|(version, _)| version)).ok()?;
        if change.delta.complete {
            resources.clear();
        }
        for removal in &change.delta.removals {
            resources.remove(&removal.key);
        }
        resources.extend(change.delta.upserts.into_iter().map(|u| (u.key.clone(), u)));
        stands = Some((change.delta.version, change.filter));
    }
    let (version, filter) = stands?;
    let delta = Delta {
        version,
        complete: true,
        upserts: resources.into_values().collect(),
        tombstone_floor: version.revision,
        ..Delta::default()
    };
    Some(ViewChange { origin: origin.clone(), delta, filter })
}
