//! Pure. What may be taken of a change, resource by resource (SY2, INV-5, INV-6).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use meshfed_api::border::{Class, Part, Refusal, Subject};
use meshfed_api::stream::{Delta, Upsert};
use meshfed_model::allowed;
use meshfed_model::names::ClusterName;
use meshfed_model::offer::{OfferKey, Tombstone};

use super::gateway_at;
use super::origin::{Counts, Origin};

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
pub(super) fn judge(origin: &Origin, gateways: &BTreeMap<(IpAddr, u16), ClusterName>, mut change: Part) -> Judged {
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
        kept.iter().for_each(|key| counts.keep(key));
    }
    let mut waiting = Vec::new();
    for upsert in upserts {
        let held = origin.history.get(&upsert.key).is_some();
        let taken = gateway_at(&upsert.key).and_then(|at| gateways.get(&at)).filter(|o| **o != origin.member.cluster);
        match verdict(origin, &change.delta, &upsert, &mut counts) {
            Ok(()) => match taken {
                None => change.delta.upserts.push(upsert),
                Some(owner) => {
                    let message =
                        format!("cluster '{owner}' offers this gateway address already; use another address or port");
                    let subject = Subject::Key(upsert.key.clone());
                    change.refuse(subject, Class::AlreadyExists, "GatewayAddressTaken", message);
                    waiting.push(upsert);
                }
            },
            Err((class, code, message)) => {
                if held && complete {
                    // Within its own count: the new version of it was not counted.
                    counts.keep(&upsert.key);
                    kept.insert(upsert.key.clone());
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
    counts.admit(&upsert.key, counted).map_err(|(code, message)| (Class::ResourceExhausted, code, message))
}
