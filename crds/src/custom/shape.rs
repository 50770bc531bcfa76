//! Pure. Pieces of schema that several kinds share: every text, list and map has a largest size (CR1 of the security
//! requirements), so that no object makes the API server's rules cost more than they may.

use schemars::{Schema, SchemaGenerator, json_schema};

/// A DNS label.
pub(super) const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// A DNS subdomain.
pub(super) const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A name in which `*` stands for any run of characters.
pub(super) const PATTERN: &str = "^[-a-z0-9*]+$";
/// Hours, minutes and seconds in this order, each at most once.
pub(super) const DURATION: &str = "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$";

/// Labels: at most 64 pairs, keys as Kubernetes has them (317 characters: a prefix, `/` and a name), values of 63.
pub(super) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 63},
        "x-kubernetes-validations": [{
            "rule": "self.all(key, size(key) <= 317)",
            "message": "a key has at most 317 characters"
        }]
    })
}
