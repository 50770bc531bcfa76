//! Pure. Conditions, as Kubernetes' API conventions and kstatus want them: `Ready` is there from the first write on,
//! `Reconciling` and `Stalled` only while they are true.

use k8s_openapi::jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::in_one_line;

/// The longest message of a condition, in characters (metav1.Condition has 32,768; a status holds several).
const MESSAGE_MAX: usize = 4096;

/// What a condition says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody can tell yet.
    Unknown,
}

/// One condition of an object (metav1.Condition, with limits).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about, say `Ready`.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Z][A-Za-z0-9]*$"))]
    pub type_: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// The generation of the spec that it was judged for.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub observed_generation: i64,
    /// When `status` last changed (RFC 3339, UTC).
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// Why, in one word.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Z][A-Za-z0-9]*$"))]
    pub reason: String,
    /// Why, in a sentence, and what to do.
    #[serde(default)]
    #[schemars(length(max = 4096))]
    pub message: String,
}

/// Whether two lists of conditions say the same: the times of transitions alone are no reason for a write.
#[must_use]
pub fn say_the_same(one: &[Condition], other: &[Condition]) -> bool {
    let timeless = |c: &Condition| Condition { last_transition_time: String::new(), ..c.clone() };
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| timeless(a) == timeless(b))
}

/// The conditions of one object for one generation of its spec.
///
/// Made from what stood before, so that the time of a transition moves only with the status.
#[derive(Debug, Clone)]
pub struct Conditions {
    before: Vec<Condition>,
    now: Vec<Condition>,
    generation: i64,
    time: String,
}

impl Conditions {
    /// Begins with what stood `before`; `time` is that of new transitions.
    #[must_use]
    pub fn new(before: &[Condition], generation: i64, time: Timestamp) -> Self {
        // Kubernetes has whole seconds.
        let time = time.round(jiff_second()).map_or_else(|_| time.to_string(), |t| t.to_string());
        Self { before: before.to_vec(), now: Vec::new(), generation, time }
    }

    /// Says it of one type; the last word counts.
    pub fn set(&mut self, type_: &str, status: ConditionStatus, reason: &str, message: impl Into<String>) -> &mut Self {
        let mut message = in_one_line(&message.into());
        if let Some((at, _)) = message.char_indices().nth(MESSAGE_MAX) {
            message.truncate(at);
        }
        let since = self.before.iter().find(|c| c.type_ == type_ && c.status == status);
        let condition = Condition {
            type_: type_.to_owned(),
            status,
            observed_generation: self.generation,
            last_transition_time: since.map_or_else(|| self.time.clone(), |c| c.last_transition_time.clone()),
            reason: reason.to_owned(),
            message,
        };
        self.now.retain(|c| c.type_ != type_);
        self.now.push(condition);
        self
    }

    /// It holds.
    pub fn yes(&mut self, type_: &str, reason: &str, message: impl Into<String>) -> &mut Self {
        self.set(type_, ConditionStatus::True, reason, message)
    }

    /// It does not.
    pub fn no(&mut self, type_: &str, reason: &str, message: impl Into<String>) -> &mut Self {
        self.set(type_, ConditionStatus::False, reason, message)
    }

    /// Nobody can tell yet.
    pub fn unknown(&mut self, type_: &str, reason: &str, message: impl Into<String>) -> &mut Self {
        self.set(type_, ConditionStatus::Unknown, reason, message)
    }

    /// Says nothing of it.
    pub fn leave_out(&mut self, type_: &str) -> &mut Self {
        self.now.retain(|c| c.type_ != type_);
        self
    }

    /// What the object's status is to hold, by type: the order never makes a write.
    #[must_use]
    pub fn finish(mut self) -> Vec<Condition> {
        self.now.sort_by(|a, b| a.type_.cmp(&b.type_));
        self.now
    }
}

const fn jiff_second() -> k8s_openapi::jiff::Unit {
    k8s_openapi::jiff::Unit::Second
}

/// The status of an object that is only judged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// The generation that was judged.
    #[serde(default)]
    pub observed_generation: i64,
    /// What is true of it.
    #[serde(default)]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
