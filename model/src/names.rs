//! Pure. Names an operator would say, as types whose constructors check them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// The name has no character.
    #[error("{kind} is empty")]
    Empty {
        /// Which kind of name.
        kind: &'static str,
    },
    /// The name is longer than the kind allows.
    #[error("{kind} '{value}' has {actual} characters, at most {limit} are allowed")]
    TooLong {
        /// Which kind of name.
        kind: &'static str,
        /// The refused text.
        value: String,
        /// The limit in characters.
        limit: usize,
        /// The length found.
        actual: usize,
    },
    /// A character or its place is not allowed.
    #[error("{kind} '{value}' is not made of lower-case letters, digits and '-' (RFC 1123 label)")]
    NotLabel {
        /// Which kind of name.
        kind: &'static str,
        /// The refused text.
        value: String,
    },
    /// The text does not have the expected parts.
    #[error("{kind} '{value}' is not of the form {form}")]
    Form {
        /// Which kind of name.
        kind: &'static str,
        /// The refused text.
        value: String,
        /// The form expected.
        form: &'static str,
    },
}

/// The longest RFC 1123 label, in characters.
pub const LABEL_MAX: usize = 63;

/// Checks an RFC 1123 label of at most [`LABEL_MAX`] characters.
pub fn check_label(kind: &'static str, value: &str) -> Result<(), InvalidName> {
    if value.is_empty() {
        return Err(InvalidName::Empty { kind });
    }
    if value.len() > LABEL_MAX {
        return Err(InvalidName::TooLong { kind, value: value.to_owned(), limit: LABEL_MAX, actual: value.len() });
    }
    if is_label_text(value) { Ok(()) } else { Err(InvalidName::NotLabel { kind, value: value.to_owned() }) }
}

/// The characters of a label, whatever its length.
fn is_label_text(value: &str) -> bool {
    !value.is_empty()
        && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !value.starts_with('-')
        && !value.ends_with('-')
}

macro_rules! label_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Checks and takes the name: an RFC 1123 label.
            ///
            /// # Errors
            /// [`InvalidName`] when the text is no label.
            pub fn new(value: impl AsRef<str>) -> Result<Self, InvalidName> {
                check_label($kind, value.as_ref())?;
                Ok(Self(value.as_ref().into()))
            }
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
            /// The name as text that is shared with it.
            #[must_use]
            pub fn shared(&self) -> std::sync::Arc<str> {
                std::sync::Arc::clone(&self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(s: &str) -> Result<Self, InvalidName> {
                Self::new(s)
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(s: String) -> Result<Self, InvalidName> {
                Self::new(s)
            }
        }
        impl From<$name> for String {
            fn from(n: $name) -> Self {
                n.0.as_ref().to_owned()
            }
        }
    };
}

label_type!(/// A cluster of the fleet.
    ClusterName, "cluster name");
label_type!(/// A network: endpoints of one network reach each other directly.
    NetworkName, "network name");
label_type!(/// A namespace; the same name means the same namespace in all clusters (KEP-1645 sameness).
    Namespace, "namespace");

/// Checks a Kubernetes object name: an RFC 1123 subdomain of at most 253 characters, whose parts may be longer than a
/// label (`IsDNS1123Subdomain` of apimachinery counts the whole alone).
pub fn check_object_name(kind: &'static str, value: &str) -> Result<(), InvalidName> {
    if value.is_empty() {
        return Err(InvalidName::Empty { kind });
    }
    if value.len() > 253 {
        return Err(InvalidName::TooLong { kind, value: value.to_owned(), limit: 253, actual: value.len() });
    }
    if value.split('.').all(is_label_text) {
        Ok(())
    } else {
        Err(InvalidName::NotLabel { kind, value: value.to_owned() })
    }
}

/// A service: `namespace/name`. The name is an RFC 1123 label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName {
    /// The namespace.
    pub namespace: Namespace,
    name: std::sync::Arc<str>,
}

impl ServiceName {
    /// Checks both parts.
    ///
    /// # Errors
    /// [`InvalidName`] naming the part that is no label.
    pub fn new(namespace: impl AsRef<str>, name: impl AsRef<str>) -> Result<Self, InvalidName> {
        check_label("service name", name.as_ref())?;
        Ok(Self { namespace: Namespace::new(namespace)?, name: name.as_ref().into() })
    }
    /// The name inside its namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
    /// The same as text that is shared with it.
    #[must_use]
    pub fn shared_name(&self) -> std::sync::Arc<str> {
        std::sync::Arc::clone(&self.name)
    }
    /// `name.namespace.svc.domain`.
    #[must_use]
    pub fn host(&self, domain: &str) -> String {
        format!("{}.{}.svc.{domain}", self.name, self.namespace)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
impl FromStr for ServiceName {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let (ns, name) = s.split_once('/').ok_or_else(|| InvalidName::Form {
            kind: "service",
            value: s.to_owned(),
            form: "NAMESPACE/NAME",
        })?;
        Self::new(ns, name)
    }
}
impl TryFrom<String> for ServiceName {
    type Error = InvalidName;
    fn try_from(s: String) -> Result<Self, InvalidName> {
        s.parse()
    }
}
impl From<ServiceName> for String {
    fn from(n: ServiceName) -> Self {
        n.to_string()
    }
}

/// The longest subset name (`contracts.md` 1.9), in characters.
pub const SUBSET_MAX: usize = 62;

/// A subset of a service's endpoints; [`SubsetName::ALL`] (shown as `_`) is the subset of all of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SubsetName(std::sync::Arc<str>);

impl SubsetName {
    /// How the subset of all endpoints is written in JSON, CLI and metrics.
    pub const ALL: &'static str = "_";

    /// The subset of all endpoints.
    #[must_use]
    pub fn all() -> Self {
        Self(Self::ALL.into())
    }
    /// Checks a subset name: `_`, or an RFC 1123 label of at most [`SUBSET_MAX`] characters.
    ///
    /// # Errors
    /// [`InvalidName`] when it is neither.
    pub fn new(value: impl AsRef<str>) -> Result<Self, InvalidName> {
        let value = value.as_ref();
        if value == Self::ALL || value.is_empty() {
            return Ok(Self::all());
        }
        check_label("subset name", value)?;
        if value.len() > SUBSET_MAX {
            return Err(InvalidName::TooLong {
                kind: "subset name",
                value: value.to_owned(),
                limit: SUBSET_MAX,
                actual: value.len(),
            });
        }
        Ok(Self(value.into()))
    }
    /// `_` for all endpoints, else the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Empty for all endpoints, else the name: the form used in SNI and xDS names.
    #[must_use]
    pub fn as_wire(&self) -> &str {
        if self.is_all() { "" } else { &self.0 }
    }
    /// Whether this is the subset of all endpoints.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0.as_ref() == Self::ALL
    }
}
impl fmt::Display for SubsetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl TryFrom<String> for SubsetName {
    type Error = InvalidName;
    fn try_from(s: String) -> Result<Self, InvalidName> {
        Self::new(s)
    }
}
impl From<SubsetName> for String {
    fn from(n: SubsetName) -> Self {
        n.0.as_ref().to_owned()
    }
}

/// What `--workload` names: `NAMESPACE/SERVICE_ACCOUNT[/NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkloadRef {
    /// The namespace.
    pub namespace: Namespace,
    /// The service account: with the namespace, the identity.
    pub service_account: String,
    /// The WorkloadEntry or Pod; may be left out when only one has that service account.
    pub name: Option<String>,
}

impl FromStr for WorkloadRef {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let form =
            || InvalidName::Form { kind: "workload", value: s.to_owned(), form: "NAMESPACE/SERVICE_ACCOUNT[/NAME]" };
        let mut parts = s.split('/');
        let (Some(ns), Some(sa), name, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(form());
        };
        check_object_name("service account", sa)?;
        if let Some(n) = name {
            check_object_name("workload name", n)?;
        }
        Ok(Self { namespace: Namespace::new(ns)?, service_account: sa.to_owned(), name: name.map(str::to_owned) })
    }
}
impl fmt::Display for WorkloadRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service_account)?;
        if let Some(n) = &self.name {
            write!(f, "/{n}")?;
        }
        Ok(())
    }
}
impl TryFrom<String> for WorkloadRef {
    type Error = InvalidName;
    fn try_from(s: String) -> Result<Self, InvalidName> {
        s.parse()
    }
}
impl From<WorkloadRef> for String {
    fn from(n: WorkloadRef) -> Self {
        n.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `!value.starts_with('-')` left out of `check_label`.
    #[test]
    fn labels_are_checked() {
        for good in ["a", "net-east", "0", &"x".repeat(63)] {
            assert!(ClusterName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "é", "a/b", "a\0", &"x".repeat(64)] {
            assert!(ClusterName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_workload_has_two_or_three_parts() {
        let w: WorkloadRef = "shop/a".parse().unwrap();
        assert_eq!(w.name, None);
        assert_eq!("shop/a/a-1".parse::<WorkloadRef>().unwrap().to_string(), "shop/a/a-1");
        for bad in ["shop", "shop/", "/a", "shop/a/b/c", "Shop/a"] {
            assert!(bad.parse::<WorkloadRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_subset_of_all_is_empty_on_the_wire() {
        assert_eq!(SubsetName::new("").unwrap().as_str(), "_");
        assert_eq!(SubsetName::all().as_wire(), "");
        assert!(SubsetName::new("v".repeat(63)).is_err());
    }
}
