//! Edge. The last good view on disk: an agent serves from it without the federator, and resumes where it stood.
//!
//! Per origin a file of the changes as they came, so that a change costs what it is; when the file has grown to a
//! multiple of what it stands for, it is rewritten as one complete change. What the disk lost in a power cut is only
//! a newer state: the session resumes from the older one.
//!
//! What is damaged is another matter: what can still be read of it is older than what proxies hold, and would take from
//! them what came since. It is set aside, and a file `NAME.missing` says over restarts that the part was there once,
//! until the hub has told it anew. While a part is missing, the view is not whole: [`Loaded::missing`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use meshfed_api::border::{
    Interest, Seniority, seniority_message, seniority_services, shared_networks, shared_networks_message,
};
use meshfed_api::proto::federation as wire;
use meshfed_api::stream::{Delta, Upsert};
use meshfed_model::member::Members;
use meshfed_model::names::{ClusterName, Namespace, NetworkName};
use meshfed_model::offer::OfferKey;
use meshfed_model::policy::FleetPolicies;
use meshfed_runtime::files::{self, FileError, MODE_SECRET};
use prost::Message;

use super::{Part, View, ViewChange, follows};
use crate::records::{Damage, RecordError, RecordFile, checksum, set_aside, unreadable};

/// The largest file beside the origins' own, in bytes: 10,000 members or policies.
pub(super) const FILE_MAX: usize = 64 << 20;
/// The file of the order of exports.
pub(super) const ORDER: &str = "order";
/// The file of the interest.
pub(super) const INTEREST: &str = "interest";
/// How the mark of a missing part ends.
pub(super) const MISSING: &str = ".missing";

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
    /// In which order the federator first saw exports.
    pub order: Seniority,
    /// Parts that were there once and could not be read back.
    pub missing: BTreeSet<Part>,
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
        let _all = view.set_order(self.order.clone());
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
    missing: BTreeSet<Part>,
}

impl ViewStore {
    /// Opens the directory and reads what it holds. What is damaged is set aside and missing until the hub has told it
    /// again.
    ///
    /// # Errors
    /// [`RecordError`] when the directory cannot be used.
    pub fn open(directory: &Path) -> Result<(Self, Loaded), RecordError> {
        files::create_private_dir(directory)?;
        let mut store = Self { directory: directory.to_owned(), origins: BTreeMap::new(), missing: BTreeSet::new() };
        let (origins, marked) = store.listed()?;
        store.missing = marked;
        let mut loaded = Loaded {
            members: store.read(&Part::Members, |m: wire::Members| m.try_into().ok())?,
            policies: store.read(&Part::Policies, |m: wire::Policies| m.try_into().ok())?,
            shared_networks: store.read(&Part::SharedNetworks, |m| shared_networks(m).ok())?,
            interest: store.read_unmissed(INTEREST, |m: wire::Interest| Interest::try_from(m).ok())?.namespaces,
            order: store.read_unmissed(ORDER, |m: wire::Seniority| seniority_services(m.services).ok())?,
            ..Loaded::default()
        };
        for origin in origins {
            let (part, path) = (Part::Origin(origin.clone()), store.path(&origin));
            let records = RecordFile::read(&path)?;
            let damage = records.damage.clone();
            match folded(&origin, &records.whole).filter(|_| damage.is_none()) {
                Some(change) => {
                    let file = RecordFile::rewrite(&path, self::records(&change).iter().map(Vec::as_slice))?;
                    store.origins.insert(origin, file);
                    loaded.changes.push(change);
                    store.found(&part)?;
                }
                None => store.damaged(&part, &damage.unwrap_or_else(not_whole))?,
            }
        }
        if loaded.is_some() {
            store.only_members(&loaded.members)?;
        }
        loaded.missing.clone_from(&store.missing);
        Ok((store, loaded))
    }

    fn path(&self, origin: &ClusterName) -> PathBuf {
        self.directory.join(Part::Origin(origin.clone()).file())
    }

    fn mark(&self, part: &Part) -> PathBuf {
        self.directory.join(part.file() + MISSING)
    }

    /// The origins of which there is a file, and the parts that are missing since an earlier life.
    fn listed(&self) -> Result<(Vec<ClusterName>, BTreeSet<Part>), RecordError> {
        let failed = |source| RecordError::Io { action: "list", path: self.directory.clone(), source };
        let (mut origins, mut missing) = (Vec::new(), BTreeSet::new());
        for entry in std::fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            match name.strip_suffix(MISSING) {
                Some(part) => missing.extend(Part::of_file(part)),
                None => match Part::of_file(&name) {
                    Some(Part::Origin(origin)) => origins.push(origin),
                    Some(Part::Members | Part::Policies | Part::SharedNetworks) | None => {}
                },
            }
        }
        origins.sort();
        Ok((origins, missing))
    }

    /// A part that is one message; the default where it was never saved, or is damaged.
    fn read<M: Message + Default, T: Default>(
        &mut self,
        part: &Part,
        convert: impl Fn(M) -> Option<T>,
    ) -> Result<T, RecordError> {
        match decoded(&self.directory.join(part.file()), convert)? {
            Ok(Some(found)) => {
                self.found(part)?;
                Ok(found)
            }
            Ok(None) => Ok(T::default()),
            Err(damage) => {
                self.damaged(part, &damage)?;
                Ok(T::default())
            }
        }
    }

    /// What no proxy holds anything of, so that nobody misses it: the interest, which follows from the source, and the
    /// order of exports, which the hub tells anew.
    fn read_unmissed<M: Message + Default, T: Default>(
        &self,
        name: &str,
        convert: impl Fn(M) -> Option<T>,
    ) -> Result<T, RecordError> {
        let path = self.directory.join(name);
        let found = match decoded(&path, convert)? {
            Ok(found) => found,
            Err(damage) => {
                let kept = set_aside(&path)?;
                tracing::warn!(path = %path.display(), %damage, kept = %kept.display(), "a saved file is damaged");
                None
            }
        };
        Ok(found.unwrap_or_default())
    }

    // ---- what is missing ----

    /// A part that cannot be read back: it is missing from here on, and its file is kept under another name.
    fn damaged(&mut self, part: &Part, damage: &Damage) -> Result<(), RecordError> {
        let path = self.directory.join(part.file());
        self.lost(part)?;
        let (kept, mark) = (set_aside(&path)?, self.mark(part));
        tracing::error!(
            path = %path.display(), %damage, kept = %kept.display(),
            "a part of the saved view is damaged; proxies keep what they hold until the hub has told it again. Where \
             there is no hub any more, remove {} and restart the agent: what that part held is then gone",
            mark.display()
        );
        Ok(())
    }

    /// Marks a part as missing. The mark is empty, so that a full disk has room for it.
    fn lost(&mut self, part: &Part) -> Result<(), RecordError> {
        let path = self.mark(part);
        let failed = |source| RecordError::Io { action: "create", path: path.clone(), source };
        std::fs::File::create(&path).and_then(|f| f.sync_all()).map_err(failed)?;
        self.missing.insert(part.clone());
        Ok(())
    }

    fn found(&mut self, part: &Part) -> Result<(), FileError> {
        if self.missing.remove(part) {
            let _was_there = files::remove(&self.mark(part))?;
        }
        Ok(())
    }

    /// An origin that is no member any more is not missed.
    fn only_members(&mut self, members: &Members) -> Result<(), FileError> {
        let gone = |part: &&Part| matches!(part, Part::Origin(o) if !members.members.contains_key(o));
        for part in self.missing.iter().filter(gone).cloned().collect::<Vec<_>>() {
            self.found(&part)?;
        }
        Ok(())
    }

    /// What is saved of an origin no longer follows on what proxies are served: dropped, and missing at a restart until
    /// it comes whole.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn lose(&mut self, origin: &ClusterName) -> Result<(), RecordError> {
        let marked = self.lost(&Part::Origin(origin.clone()));
        self.origins.remove(origin);
        files::remove(&self.path(origin))?;
        marked
    }

    fn write(&self, name: &str, message: &impl Message) -> Result<(), FileError> {
        let body = message.encode_to_vec();
        let bytes = [checksum(&body).to_le_bytes().as_slice(), &body].concat();
        files::write_atomic(&self.directory.join(name), &bytes, MODE_SECRET)
    }

    fn save(&mut self, part: &Part, message: &impl Message) -> Result<(), FileError> {
        self.write(&part.file(), message)?;
        self.found(part)
    }

    /// Saves one change: before the core actor hears of it, so that what proxies serve is never newer than what is
    /// saved, and a restart never goes back.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn append(&mut self, change: &ViewChange) -> Result<(), RecordError> {
        let path = self.path(&change.origin);
        let records = records(change);
        let records = records.iter().map(Vec::as_slice);
        match self.origins.get_mut(&change.origin) {
            Some(file) if !change.delta.complete => {
                file.append(records)?;
                if file.is_long() {
                    let read = RecordFile::read(&path)?;
                    let Some(whole) = folded(&change.origin, &read.whole).filter(|_| read.damage.is_none()) else {
                        // Better none than one that grows for ever.
                        self.origins.remove(&change.origin);
                        let damage = read.damage.unwrap_or_else(not_whole);
                        return self.damaged(&Part::Origin(change.origin.clone()), &damage);
                    };
                    let records = self::records(&whole);
                    *file = RecordFile::rewrite(&path, records.iter().map(Vec::as_slice))?;
                }
            }
            // Without the file that the change follows on there is nothing to append to; the next whole one begins it.
            None if !change.delta.complete => {}
            Some(_) | None => {
                self.origins.insert(change.origin.clone(), RecordFile::rewrite(&path, records)?);
                self.found(&Part::Origin(change.origin.clone()))?;
            }
        }
        Ok(())
    }

    /// Forgets an origin.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn remove(&mut self, origin: &ClusterName) -> Result<(), RecordError> {
        self.origins.remove(origin);
        files::remove(&self.path(origin))?;
        Ok(self.found(&Part::Origin(origin.clone()))?)
    }

    /// Saves the members.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn save_members(&mut self, members: &Members) -> Result<(), FileError> {
        self.save(&Part::Members, &wire::Members::from(members))?;
        self.only_members(members)
    }
    /// Saves the fleet's policies.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn save_policies(&mut self, policies: &FleetPolicies) -> Result<(), FileError> {
        self.save(&Part::Policies, &wire::Policies::from(policies))
    }
    /// Saves the shared networks.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn save_shared_networks(&mut self, networks: &BTreeSet<NetworkName>) -> Result<(), FileError> {
        self.save(&Part::SharedNetworks, &shared_networks_message(networks))
    }
    /// Saves the order of exports: before the core actor hears of it.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn save_order(&self, order: &Seniority) -> Result<(), FileError> {
        self.write(ORDER, &seniority_message(order))
    }
    /// Saves the interest: before the hub hears of it.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn save_interest(&self, namespaces: &BTreeSet<Namespace>) -> Result<(), FileError> {
        self.write(INTEREST, &wire::Interest::from(&Interest { namespaces: namespaces.clone() }))
    }
}

/// The records are whole, and together they are no view.
fn not_whole() -> Damage {
    Damage::Unreadable("its records make no whole view".to_owned())
}

/// One message with its checksum; `None` where there is no file.
fn decoded<M: Message + Default, T>(
    path: &Path,
    convert: impl Fn(M) -> Option<T>,
) -> Result<Result<Option<T>, Damage>, RecordError> {
    let bytes = match files::read_limited(path, FILE_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(Ok(None)),
        Err(error) => return unreadable(error).map(Err),
    };
    // An empty or cut message parses, too: only the checksum tells that it is what was saved.
    let message = bytes
        .split_first_chunk::<4>()
        .filter(|(sum, body)| u32::from_le_bytes(**sum) == checksum(body))
        .and_then(|(_, body)| M::decode(body).ok())
        .and_then(convert);
    Ok(message.map(Some).ok_or_else(|| Damage::Unreadable("its checksum is not that of what it holds".to_owned())))
}

/// One record per part, each a `ViewDelta`.
pub(super) fn records(change: &ViewChange) -> Vec<Vec<u8>> {
    let message = |delta: &Delta| wire::ViewDelta {
        origin: change.origin.to_string(),
        delta: Some(delta.into()),
        filter: change.filter,
    };
    change.delta.clone().parts().iter().map(|part| message(part).encode_to_vec()).collect()
}

/// The records of one origin as one complete change; `None` where they make none.
pub(super) fn folded(origin: &ClusterName, records: &[Vec<u8>]) -> Option<ViewChange> {
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
