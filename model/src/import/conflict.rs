//! Pure. In what the exports of one name contradict each other.

use std::collections::BTreeSet;

use crate::names::ClusterName;
use crate::offer::ServiceOffer;
use crate::service::SessionAffinity;

/// What exports can contradict each other in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConflictField {
    /// The sets of ports are not the same.
    Ports,
    /// One is headless, another one is not.
    Type,
    /// One keeps its clients on an endpoint, another one does not.
    SessionAffinity,
    /// They do so for different times.
    SessionAffinityConfig,
    /// `internalTrafficPolicy`.
    InternalTrafficPolicy,
    /// `trafficDistribution`.
    TrafficDistribution,
    /// `exportedLabels`.
    Labels,
    /// `exportedAnnotations`.
    Annotations,
    /// One lacks a family of the import's addresses: clients of that family reach only some of the backends.
    IpFamily,
}

impl ConflictField {
    /// All of them, in the order in which they are named.
    pub const ALL: [Self; 9] = [
        Self::Ports,
        Self::Type,
        Self::SessionAffinity,
        Self::SessionAffinityConfig,
        Self::InternalTrafficPolicy,
        Self::TrafficDistribution,
        Self::Labels,
        Self::Annotations,
        Self::IpFamily,
    ];

    /// The field as JSON has it (`contracts.md` part 3, `conflict.fields`).
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ports => "ports",
            Self::Type => "type",
            Self::SessionAffinity => "sessionAffinity",
            Self::SessionAffinityConfig => "sessionAffinityConfig",
            Self::InternalTrafficPolicy => "internalTrafficPolicy",
            Self::TrafficDistribution => "trafficDistribution",
            Self::Labels => "labels",
            Self::Annotations => "annotations",
            Self::IpFamily => "ipFamilies",
        }
    }

    /// The reason of condition `Conflict` of a ServiceExport (MCS API v1beta1).
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Ports => "PortConflict",
            Self::Type => "TypeConflict",
            Self::SessionAffinity => "SessionAffinityConflict",
            Self::SessionAffinityConfig => "SessionAffinityConfigConflict",
            Self::InternalTrafficPolicy => "InternalTrafficPolicyConflict",
            Self::TrafficDistribution => "TrafficDistributionConflict",
            Self::Labels => "LabelsConflict",
            Self::Annotations => "AnnotationsConflict",
            Self::IpFamily => "IPFamilyConflict",
        }
    }

    /// Whether an export says otherwise than the oldest one.
    fn differs(self, oldest: &ServiceOffer, other: &ServiceOffer) -> bool {
        let (a, b) = (&oldest.traits, &other.traits);
        match self {
            Self::Ports => ports_of(oldest) != ports_of(other),
            Self::Type => oldest.service_type != other.service_type,
            Self::SessionAffinity => kind_of(a.session_affinity) != kind_of(b.session_affinity),
            Self::SessionAffinityConfig => {
                kind_of(a.session_affinity) == kind_of(b.session_affinity) && a.session_affinity != b.session_affinity
            }
            Self::InternalTrafficPolicy => a.internal_traffic_policy != b.internal_traffic_policy,
            Self::TrafficDistribution => a.traffic_distribution != b.traffic_distribution,
            Self::Labels => oldest.exported.labels != other.exported.labels,
            Self::Annotations => oldest.exported.annotations != other.exported.annotations,
            Self::IpFamily => {
                !b.ip_families.is_empty() && a.ip_families.iter().any(|family| !b.ip_families.contains(family))
            }
        }
    }
}

const fn kind_of(affinity: SessionAffinity) -> bool {
    matches!(affinity, SessionAffinity::ClientIP { .. })
}

/// What is shown is compared: `appProtocol: http` says no more than the name `http` does.
fn ports_of(offer: &ServiceOffer) -> BTreeSet<(u16, &str, &str, &str)> {
    offer.ports.iter().map(|p| (p.port, p.name.as_str(), p.protocol.as_str(), p.shown_app_protocol())).collect()
}

/// A contradiction between exports of one name. It concerns all of them alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Whose words count: the cluster of the oldest export.
    pub winner: ClusterName,
    /// How many exports there are.
    pub exports: usize,
    /// What is contradicted, with the number of exports that say otherwise than the oldest one.
    pub fields: Vec<(ConflictField, usize)>,
}

impl Conflict {
    /// The reasons of condition `Conflict`, with commas between (MCS API v1beta1).
    #[must_use]
    pub fn reasons(&self) -> String {
        self.fields.iter().map(|(field, _)| field.reason()).collect::<Vec<_>>().join(",")
    }
    /// In words: how many say otherwise in what, and who wins.
    #[must_use]
    pub fn message(&self) -> String {
        let all = self.exports;
        let said = self.fields.iter().map(|(field, count)| {
            format!("{count} of {all} exporters {} otherwise about {}", says(*count), field.as_str())
        });
        let said = said.collect::<Vec<_>>().join(", ");
        format!("{said}; cluster '{}' exported it first and wins", self.winner)
    }
}

const fn says(count: usize) -> &'static str {
    if count == 1 { "says" } else { "say" }
}

/// Compares exports with the oldest one, which comes first.
pub(super) fn find(exports: &[(&ClusterName, &ServiceOffer)]) -> Option<Conflict> {
    let ((winner, oldest), others) = exports.split_first()?;
    let count = |field: ConflictField| others.iter().filter(|(_, other)| field.differs(oldest, other)).count();
    let fields: Vec<(ConflictField, usize)> =
        ConflictField::ALL.into_iter().map(|field| (field, count(field))).filter(|(_, count)| *count > 0).collect();
    let conflict = Conflict { winner: (*winner).clone(), exports: exports.len(), fields };
    (!conflict.fields.is_empty()).then_some(conflict)
}
