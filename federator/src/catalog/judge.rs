//! Pure. What may be taken of a change, resource by resource (SY2, INV-5, INV-6).

use std::collections::{BTreeMap, BTreeSet};

use meshfed_api::border::{Class, Part, Refusal, Subject};
use meshfed_api::stream::{Delta, Upsert};
use meshfed_model::allowed;
use meshfed_model::offer::{OfferKey, Tombstone};

use super::gateways::Gateways;
use super::origin::{Counts, Origin};
use super::{GATEWAYS_MAX, gateway_at};
use crate::fleet::GatewayAddress;

/// A change, judged.
pub(super) struct Judged {
    /// What may be taken; with `complete`, the last good values of what was refused are in it.
    pub(super) delta: Delta,
    /// What was refused by name.
    pub(super) refused: Vec<Refusal>,
    /// How many were refused, by code.
    pub(super) refused_by_code: BTreeMap<&'static str, u64>,
    /// Gateways that wait for their address.
    pub(super) waiting: Vec<Upsert>,
    /// Refused ones without key that were withdrawn.
    pub(super) forgotten: Vec<Subject>,
}

/// Splits a change into what may be taken, what is refused, and gateways that wait for their address.
pub(super) fn judge(origin: &Origin, gateways: &Gateways, mut change: Part) -> Judged {
    removals(origin, &mut change);
    let complete = change.delta.complete;
    let mut counts = origin.counts(&change.delta);
    let mut kept: BTreeSet<OfferKey> = std::mem::take(&mut change.kept).into_iter().collect();
    let mut upserts = std::mem::take(&mut change.delta.upserts);
    if complete {
        // What is held goes first: what is new finds no room then, and does not take that of the last good.
        upserts.sort_by_key(|u| origin.history.get(&u.key).is_none());
        let named: BTreeSet<&OfferKey> = upserts.iter().map(|u| &u.key).collect();
        kept.retain(|key| !named.contains(key));
        kept.iter().for_each(|key| counts.keep(key, origin.bytes(key)));
    }
    let mut waiting = Vec::new();
    let mut claims = Claims::new(origin, gateways);
    for upsert in upserts {
        let held = origin.history.get(&upsert.key).is_some();
        match verdict(origin, &change.delta, &upsert, &mut counts) {
            Ok(()) => match gateway_at(&upsert.key).map_or(Ok(()), |at| claims.claim(at)) {
                Ok(()) => change.delta.upserts.push(upsert),
                Err((class, code, message)) => {
                    change.refuse(Subject::Key(upsert.key.clone()), class, code, message);
                    if code == TAKEN {
                        waiting.push(upsert);
                    }
                }
            },
            Err((class, code, message)) => {
                let bytes = origin.bytes(&upsert.key);
                if held && complete {
                    // Within its own count: the new version of it was not counted.
                    counts.keep(&upsert.key, bytes);
                    kept.insert(upsert.key.clone());
                } else if held {
                    counts.keep_bytes(bytes);
                }
                change.refuse(Subject::Key(upsert.key), class, code, message);
            }
        }
    }
    if complete {
        let epoch = change.delta.version.epoch;
        change.delta.upserts.extend(kept.iter().filter_map(|key| origin.last_good(key, epoch)));
    }
    let Part { delta, refused, refused_by_code, forgotten, .. } = change;
    Judged { delta, refused, refused_by_code, waiting, forgotten }
}

/// The code of an address that another cluster has.
const TAKEN: &str = "GatewayAddressTaken";

/// What a change asks for gateway addresses.
struct Claims<'a> {
    origin: &'a Origin,
    owners: &'a Gateways,
    /// Addresses that the cluster has.
    held: usize,
    /// Addresses that the change adds to them.
    new: BTreeSet<GatewayAddress>,
}

impl<'a> Claims<'a> {
    fn new(origin: &'a Origin, owners: &'a Gateways) -> Self {
        Self { origin, owners, held: owners.of(&origin.member.cluster).count(), new: BTreeSet::new() }
    }

    fn claim(&mut self, at: GatewayAddress) -> Result<(), (Class, &'static str, String)> {
        match self.owners.owner(&at) {
            Some(owner) if *owner == self.origin.member.cluster => Ok(()),
            Some(owner) => {
                let message = format!("cluster '{owner}' has this gateway address; use another address or port");
                Err((Class::AlreadyExists, TAKEN, message))
            }
            None if self.held + self.new.len() >= GATEWAYS_MAX && !self.new.contains(&at) => {
                let message = format!(
                    "the cluster has {GATEWAYS_MAX} gateway addresses, which is the limit; one that it offers no more \
                     is kept for it for 30 s"
                );
                Err((Class::ResourceExhausted, "QuotaExceeded", message))
            }
            None => {
                self.new.insert(at);
                Ok(())
            }
        }
    }
}

/// No removal is refused: at worst one is told to those who can see the resource now.
fn removals(origin: &Origin, change: &mut Part) {
    let revision = change.delta.version.revision;
    for removal in &mut change.delta.removals {
        removal.revision = removal.revision.min(revision);
    }
    let held = std::mem::take(&mut change.withdrawn).into_iter().filter(|key| origin.history.get(key).is_some());
    for key in held {
        let audience = origin.audience(&key);
        change.delta.removals.push(Tombstone { key, revision, audience });
    }
}

fn verdict(
    origin: &Origin,
    delta: &Delta,
    upsert: &Upsert,
    counts: &mut Counts,
) -> Result<(), (Class, &'static str, String)> {
    let same_epoch = delta.version.epoch == origin.history.version().epoch;
    let from = origin.history.revision(&upsert.key).filter(|_| same_epoch).unwrap_or_default();
    let to = delta.version.revision;
    if upsert.revision < from || upsert.revision > to {
        let message = format!("its revision {} lies outside {from} to {to}", upsert.revision);
        return Err((Class::InvalidArgument, "RevisionNotAllowed", message));
    }
    allowed::check(&origin.member, &origin.zones, &upsert.key, &upsert.value)
        .map_err(|e| (Class::PermissionDenied, e.code(), e.to_string()))?;
    let counted = origin.history.get(&upsert.key).is_some() && !delta.complete;
    counts
        .admit(&upsert.key, &upsert.value, counted)
        .map_err(|(code, message)| (Class::ResourceExhausted, code, message))
}
