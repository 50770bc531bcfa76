//! Pure. How the files of a member lie in its Secret: the key of a file is its path with `.` for the one `/`, so
//! `ca/key.pem` is `ca.key.pem`. What a join has asked for, and has not been given yet, begins with `pending.`.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;

/// Files by their path below the data directory.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// The directories of a member whose files are kept.
pub(super) const DIRECTORIES: [&str; 3] = ["bundles", "ca", "identity"];
/// Its own file: a Secret with it belongs to a member.
pub(super) const AGENT_FILE: &str = "agent.yaml";
/// What a join that has not been answered remembers.
const ASKED: &str = "asked";
/// A member's file that says it is leaving: its Membership was deleted, and the hub has not answered yet.
pub(super) const LEAVING: &str = "leaving";
/// A member's file that says by which Membership it is one, and in which Secret that was written.
pub(super) const MEMBERSHIP: &str = "membership";
/// The CA key: once in the Secret it is never replaced.
pub(super) const CA_KEY: &str = "ca/key.pem";
/// The keys of a join that has not been answered begin with this.
const PENDING: &str = "pending.";
/// The most bytes of all files together: a Secret holds 1 MiB, and its other fields need room.
pub(super) const SIZE_MAX: usize = 900 << 10;

/// What a Secret holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// The files of the member, or what is left of one that left.
    pub(super) member: Files,
    /// Those of a join that broke off.
    pub(super) pending: Files,
}

impl Kept {
    /// Whether it is a member's whole.
    pub(super) fn is_member(&self) -> bool {
        [AGENT_FILE, CA_KEY, "ca/anchor.pem", "identity/cert.pem", "identity/key.pem"]
            .iter()
            .all(|name| self.member.contains_key(*name))
    }
    /// The uid of the Membership that it is a member by, if that was written into this very Secret. One that was copied into
    /// another cluster, or brought back from a backup, may be there before its Membership is, which is no deletion.
    pub(super) fn membership(&self, secret: &str) -> Option<&str> {
        let text = std::str::from_utf8(self.member.get(MEMBERSHIP)?).ok()?;
        let (membership, of) = text.split_once(' ')?;
        (of == secret).then_some(membership)
    }
    /// Whether it has the CA of a cluster that left: a join goes on with it, so that nobody has to trust a new one.
    pub(super) fn has_ca(&self) -> bool {
        self.member.contains_key(CA_KEY) && self.member.contains_key("ca/anchor.pem")
    }
}

/// What [`MEMBERSHIP`] holds.
pub(super) fn membership_file(membership: &str, secret: &str) -> String {
    format!("{membership} {secret}")
}

/// What the data of a Secret means. Keys that are none of ours are left out.
pub(super) fn unpack(data: &BTreeMap<String, ByteString>) -> Kept {
    let mut kept = Kept::default();
    for (key, value) in data {
        let (files, name) = match key.strip_prefix(PENDING) {
            Some(name) => (&mut kept.pending, name),
            None => (&mut kept.member, key.as_str()),
        };
        if let Some(path) = path_of(name) {
            files.insert(path, value.0.clone());
        }
    }
    kept
}

/// The path of a key.
fn path_of(key: &str) -> Option<String> {
    if [AGENT_FILE, ASKED, LEAVING, MEMBERSHIP].contains(&key) {
        return Some(key.to_owned());
    }
    let (directory, file) = key.split_once('.')?;
    let plain = !file.is_empty() && !file.starts_with('.') && !file.contains('/');
    (DIRECTORIES.contains(&directory) && plain).then(|| format!("{directory}/{file}"))
}

/// The key of a path.
pub(super) fn key_of(path: &str) -> String {
    path.replace('/', ".")
}

/// The changes that make a Secret's data `wanted`, as a merge patch of `data`: `None` takes a key out.
///
/// The CA key and anchor stay whatever happens, and another CA key is no change but an error.
///
/// # Errors
/// [`OtherCa`].
pub(super) fn changes(
    found: &BTreeMap<String, ByteString>,
    wanted: &Kept,
) -> Result<BTreeMap<String, Option<ByteString>>, OtherCa> {
    let pending = wanted.pending.iter().map(|(path, bytes)| (format!("{PENDING}{}", key_of(path)), bytes));
    let member = wanted.member.iter().map(|(path, bytes)| (key_of(path), bytes));
    let wanted: BTreeMap<String, &Vec<u8>> = member.chain(pending).collect();
    let ca_key = key_of(CA_KEY);
    if let (Some(found), Some(wanted)) = (found.get(&ca_key), wanted.get(&ca_key))
        && found.0 != **wanted
    {
        return Err(OtherCa);
    }
    let stays = |key: &str| key.starts_with("ca.");
    let gone = found.keys().filter(|key| !wanted.contains_key(*key) && !stays(key) && ours(key));
    let mut changes: BTreeMap<String, Option<ByteString>> = gone.map(|key| (key.clone(), None)).collect();
    for (key, bytes) in wanted {
        if found.get(&key).is_none_or(|found| found.0 != *bytes) {
            changes.insert(key, Some(ByteString(bytes.clone())));
        }
    }
    Ok(changes)
}

/// Whether a key of the Secret is one that this module writes.
fn ours(key: &str) -> bool {
    path_of(key.strip_prefix(PENDING).unwrap_or(key)).is_some()
}

/// The Secret holds another CA key than the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the Secret holds another CA key than this agent's data directory; the one in the Secret is the cluster's: delete the \
     agent's volume (without one: its pod), or, to give the cluster a new CA on purpose, the Secret's keys ca.key.pem and \
     ca.anchor.pem; where the Secret is the wrong one, put the right one back"
)]
pub struct OtherCa;

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Files {
        names.iter().map(|name| ((*name).to_owned(), format!("of {name}").into_bytes())).collect()
    }

    fn apply(data: &mut BTreeMap<String, ByteString>, changes: BTreeMap<String, Option<ByteString>>) {
        for (key, value) in changes {
            match value {
                Some(value) => data.insert(key, value),
                None => data.remove(&key),
            };
        }
    }

    const MEMBER: [&str; 7] = [
        "agent.yaml",
        "bundles/east.mesh.example.pem",
        "ca/anchor.pem",
        "ca/key.pem",
        "ca/lineage.pem",
        "identity/cert.pem",
        "identity/key.pem",
    ];

    /// What is packed is unpacked, a foreign key is left alone, and a join in between is kept apart.
    ///
    /// Mutations seen to fail: `path_of` that splits at the last `.`; `ours` always true.
    #[test]
    fn a_member_lies_in_a_secret() {
        let mut data: BTreeMap<String, ByteString> = [("of.another".to_owned(), ByteString(b"x".to_vec()))].into();
        let pending = Kept { member: Files::new(), pending: files(&["asked", "ca/key.pem", "identity/key.pem"]) };
        let asked = changes(&data, &pending).unwrap();
        apply(&mut data, asked);
        assert_eq!(unpack(&data), pending);
        let member = Kept { member: files(&MEMBER), pending: Files::new() };
        let given = changes(&data, &member).unwrap();
        apply(&mut data, given);
        assert_eq!(unpack(&data), member);
        assert!(member.is_member() && data.contains_key("of.another"));
        assert!(data.contains_key("bundles.east.mesh.example.pem"), "{data:?}");
        assert_eq!(changes(&data, &member).unwrap(), BTreeMap::new());
    }

    /// Leaving keeps the CA, and no other one takes its place.
    ///
    /// Mutations seen to fail: `stays` always false; the comparison of the CA keys left out.
    #[test]
    fn a_ca_key_is_never_replaced() {
        let mut data = BTreeMap::new();
        let member = changes(&data, &Kept { member: files(&MEMBER), pending: Files::new() }).unwrap();
        apply(&mut data, member);
        let left = changes(&data, &Kept::default()).unwrap();
        apply(&mut data, left);
        let kept = unpack(&data);
        assert_eq!(kept.member, files(&["ca/anchor.pem", "ca/key.pem", "ca/lineage.pem"]));
        assert!(kept.has_ca() && !kept.is_member());
        let mut other = files(&MEMBER);
        other.insert(CA_KEY.to_owned(), b"another".to_vec());
        assert_eq!(changes(&data, &Kept { member: other, pending: Files::new() }), Err(OtherCa));
    }

    /// What is remembered of a Membership counts in the Secret that it was written into, and nowhere else.
    ///
    /// Mutations seen to fail: `of == secret` answered `true`; `MEMBERSHIP` left out of `path_of`.
    #[test]
    fn a_secret_that_was_copied_remembers_no_membership() {
        let data = [("membership".to_owned(), ByteString(membership_file("m-1", "s-1").into_bytes()))].into();
        let kept = unpack(&data);
        assert_eq!((kept.membership("s-1"), kept.membership("s-2")), (Some("m-1"), None));
        assert_eq!(Kept::default().membership("s-1"), None);
        assert_eq!(
            changes(&data, &Kept::default()).unwrap(),
            [("membership".to_owned(), None)].into(),
            "it goes with the rest"
        );
    }
}
