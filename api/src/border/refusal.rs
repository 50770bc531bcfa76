//! Pure. Resources that were refused by name while the rest was taken.

use meshfed_model::offer::OfferKey;

use super::common::{TEXT_MAX, text};
use super::error::{InvalidMessage, Within};
use crate::proto::federation as pb;

/// The longest part of a name that is no name and is shown, in bytes.
const SAID_MAX: usize = 256;

/// What a refusal is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A resource with a key of its own.
    Key(OfferKey),
    /// A resource whose key is none, as its sender names it.
    Said {
        /// `Service`, `Group`, `Endpoint` or `Gateway`; empty where no key was there.
        kind: String,
        /// The namespace; empty for gateways.
        namespace: String,
        /// The name, with port and address where it has them.
        name: String,
    },
}

impl Subject {
    /// The key, where it is one.
    #[must_use]
    pub const fn key(&self) -> Option<&OfferKey> {
        match self {
            Self::Key(key) => Some(key),
            Self::Said { .. } => None,
        }
    }

    /// The name of what a message calls its key: cut to size and without control characters, because it goes into logs.
    #[must_use]
    pub fn said(key: Option<&pb::ResourceKey>) -> Self {
        use pb::resource_key::Key;
        let of = |service: Option<&pb::ServiceKey>| {
            service.map_or_else(Default::default, |s| (shown(&s.namespace), shown(&s.name)))
        };
        let (kind, namespace, name) = match key.and_then(|k| k.key.as_ref()) {
            None => ("", String::new(), String::new()),
            Some(Key::Service(s)) => ("Service", shown(&s.namespace), shown(&s.name)),
            Some(Key::Group(g)) => {
                let (namespace, name) = of(g.service.as_ref());
                ("Group", namespace, format!("{name}:{} on {}", g.port, shown(&g.network)))
            }
            Some(Key::Endpoint(e)) => {
                let (namespace, name) = of(e.service.as_ref());
                let at = address(&e.address);
                ("Endpoint", namespace, format!("{name}:{} at {at} port {}", e.port, e.target_port))
            }
            Some(Key::Gateway(g)) => {
                ("Gateway", String::new(), format!("{} port {} of {}", address(&g.address), g.port, shown(&g.network)))
            }
        };
        Self::Said { kind: kind.to_owned(), namespace, name }
    }
}

/// Kind, namespace and name on one line.
impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key(OfferKey::Service(s)) => write!(f, "Service {s}"),
            Self::Key(OfferKey::Group(g)) => write!(f, "Group {}:{} on {}", g.service, g.port, g.network),
            Self::Key(OfferKey::Endpoint(e)) => {
                write!(f, "Endpoint {}:{} at {} port {}", e.service, e.port, e.address, e.target_port)
            }
            Self::Key(OfferKey::Gateway(g)) => write!(f, "Gateway {} port {} of {}", g.address, g.port, g.network),
            Self::Said { kind, .. } if kind.is_empty() => f.write_str("a resource without key"),
            Self::Said { kind, namespace, name } if namespace.is_empty() => write!(f, "{kind} {name}"),
            Self::Said { kind, namespace, name } => write!(f, "{kind} {namespace}/{name}"),
        }
    }
}

fn shown(said: &str) -> String {
    said.chars().filter(|c| !c.is_control()).take(SAID_MAX / 4).collect()
}

fn address(bytes: &[u8]) -> String {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        std::net::Ipv4Addr::from(v4).to_string()
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        std::net::Ipv6Addr::from(v6).to_string()
    } else {
        format!("an address of {} bytes", bytes.len())
    }
}

/// The kind of reason, as gRPC names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The resource is wrong in itself.
    InvalidArgument,
    /// Another has it already.
    AlreadyExists,
    /// The cluster's token does not allow it.
    PermissionDenied,
    /// It is too large, or one too many.
    ResourceExhausted,
}

impl Class {
    /// The number of the gRPC status.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::InvalidArgument => 3,
            Self::AlreadyExists => 6,
            Self::PermissionDenied => 7,
            Self::ResourceExhausted => 8,
        }
    }
    /// The name of the gRPC status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
        }
    }
    /// Of a number; one that this version does not know says only that something is wrong.
    const fn of(code: u32) -> Self {
        match code {
            6 => Self::AlreadyExists,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            _ => Self::InvalidArgument,
        }
    }
}

/// A resource that was refused while the rest was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which one.
    pub subject: Subject,
    /// The kind of reason.
    pub class: Class,
    /// A stable code, say `AddressNotAllowed`.
    pub code: String,
    /// What is wrong and how to fix it.
    pub message: String,
}

impl Refusal {
    /// Of a resource with a key.
    #[must_use]
    pub fn of(key: OfferKey, class: Class, code: &str, message: impl Into<String>) -> Self {
        Self { subject: Subject::Key(key), class, code: code.to_owned(), message: message.into() }
    }
}

impl TryFrom<pb::Refusal> for Refusal {
    type Error = InvalidMessage;
    fn try_from(r: pb::Refusal) -> Result<Self, InvalidMessage> {
        let subject = match (r.key, r.said) {
            (Some(key), _) => Subject::Key(OfferKey::try_from(key).within("key")?),
            (None, Some(said)) => Subject::Said {
                kind: text(said.kind, SAID_MAX, "said.kind")?,
                namespace: text(said.namespace, SAID_MAX, "said.namespace")?,
                name: text(said.name, 4 * SAID_MAX, "said.name")?,
            },
            (None, None) => return Err(InvalidMessage::new("key", "is missing")),
        };
        Ok(Self {
            subject,
            class: Class::of(r.status),
            code: text(r.code, TEXT_MAX, "code")?,
            message: text(r.message, TEXT_MAX, "message")?,
        })
    }
}
impl From<&Refusal> for pb::Refusal {
    fn from(r: &Refusal) -> Self {
        let (key, said) = match &r.subject {
            Subject::Key(key) => (Some(key.into()), None),
            Subject::Said { kind, namespace, name } => {
                let said = pb::SaidKey { kind: kind.clone(), namespace: namespace.clone(), name: name.clone() };
                (None, Some(said))
            }
        };
        // What is told has to be readable at the other end.
        let cut: String = r.message.chars().filter(|c| !c.is_control()).collect();
        let message = if cut.len() <= TEXT_MAX { cut } else { cut.chars().take(TEXT_MAX / 4).collect() };
        Self { key, code: r.code.clone(), message, said, status: r.class.code() }
    }
}
