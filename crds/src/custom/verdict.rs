//! Pure. What the status of a policy or of a mesh's settings says (`contracts-kubernetes.md` 5.2): `Accepted`,
//! `ResolvedRefs`, `Programmed` and `Ready`; `Reconciling` and `Stalled` only while they are true.
//!
//! A name that nobody has leaves an object `Ready`: it holds as it is written, and what it names may come later
//! (`docs/decisions/0015`). `ResolvedRefs` tells it, and so does `Ready`, by another reason and with the names.

use k8s_openapi::jiff::Timestamp;

use super::condition::{Conditions, PolicyStatus};
use crate::error::{Code, ObjectError};

/// How many faults one message names.
const NAMED_MAX: usize = 16;

/// Whether what an object says is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// It is.
    InForce,
    /// Not yet.
    Pending,
    /// An earlier version of it is.
    Earlier,
    /// Nothing of it is.
    Nothing,
}

/// What was found about one generation of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The faults of reading it; one that is an error refuses it.
    pub faults: Vec<ObjectError>,
    /// Whether it is in force.
    pub force: Force,
    /// What it names and nobody has; none: nobody can tell yet.
    pub dangling: Option<Vec<ObjectError>>,
    /// Why it is without effect although it is taken, in words; none: it has one.
    pub not_served: Option<String>,
}

impl Verdict {
    /// Of an object that was just seen, when nothing else is known.
    #[must_use]
    pub const fn unknown() -> Self {
        Self { faults: Vec::new(), force: Force::Pending, dangling: None, not_served: None }
    }
}

/// One fault: where, what, and what to do.
fn words(fault: &ObjectError) -> String {
    let field = fault.field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
    let remedy = fault.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
    format!("{field}{}{remedy}", fault.message)
}

fn all_words<'a>(faults: impl Iterator<Item = &'a ObjectError>) -> String {
    let mut all: Vec<String> = faults.map(words).collect();
    let more = all.len().saturating_sub(NAMED_MAX);
    all.truncate(NAMED_MAX);
    if more > 0 {
        all.push(format!("and {more} more"));
    }
    all.join(". ")
}

/// The status of a generation, from what stood before.
#[must_use]
pub fn policy_status(before: &PolicyStatus, generation: i64, verdict: &Verdict, now: Timestamp) -> PolicyStatus {
    let mut conditions = Conditions::new(&before.conditions, generation, now);
    let errors: Vec<&ObjectError> = verdict.faults.iter().filter(|fault| fault.is_error()).collect();
    if errors.is_empty() {
        taken(&mut conditions, verdict);
    } else {
        refused(&mut conditions, &errors, verdict.force);
    }
    PolicyStatus { observed_generation: generation, conditions: conditions.finish() }
}

fn refused(conditions: &mut Conditions, errors: &[&ObjectError], force: Force) {
    let has = |code| errors.iter().any(|fault| fault.code == code);
    let reason = match () {
        () if has(Code::NamespaceNotAllowed) => "NamespaceNotAllowed",
        () if has(Code::Conflict) => "Conflict",
        () => "Invalid",
    };
    let message = all_words(errors.iter().copied());
    let stands = match force {
        Force::Earlier => "its last good version stays in force",
        Force::InForce | Force::Pending | Force::Nothing => "nothing of it is in force",
    };
    conditions
        .no("Accepted", reason, message.clone())
        .unknown("ResolvedRefs", reason, "names are looked at once it is accepted")
        .no("Programmed", reason, stands)
        .no("Ready", reason, format!("{message}. {stands}"))
        .yes("Stalled", reason, message);
}

fn taken(conditions: &mut Conditions, verdict: &Verdict) {
    let remarks = all_words(verdict.faults.iter());
    let accepted = if remarks.is_empty() { "it is valid".to_owned() } else { format!("it is valid. {remarks}") };
    conditions.yes("Accepted", "Accepted", accepted);
    match &verdict.dangling {
        None => conditions.unknown("ResolvedRefs", "Pending", "what there is to name is not known yet"),
        Some(names) if names.is_empty() => conditions.yes("ResolvedRefs", "ResolvedRefs", "all that it names is there"),
        Some(names) => conditions.no("ResolvedRefs", "NotFound", all_words(names.iter())),
    };
    if let Some(why) = &verdict.not_served {
        let reason = "NotInThisVersion";
        conditions.no("Programmed", reason, why).no("Ready", reason, why).yes("Stalled", reason, why);
        return;
    }
    match verdict.force {
        Force::InForce => {
            conditions.yes("Programmed", "Programmed", "it is in force");
            match verdict.dangling.as_deref() {
                None | Some([]) => conditions.yes("Ready", "Ready", "it is in force"),
                Some(names) => {
                    let message = format!("it is in force, and names what nobody has: {}", all_words(names.iter()));
                    conditions.yes("Ready", "UnresolvedRefs", message)
                }
            };
        }
        Force::Pending | Force::Earlier | Force::Nothing => {
            let message = "it is not in force yet";
            conditions.unknown("Programmed", "Pending", message).unknown("Ready", "Pending", message).yes(
                "Reconciling",
                "Pending",
                message,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::condition::ConditionStatus;
    use super::*;

    fn says(verdict: &Verdict) -> Vec<(String, ConditionStatus, String)> {
        let status = policy_status(&PolicyStatus::default(), 3, verdict, Timestamp::UNIX_EPOCH);
        assert!(status.observed_generation == 3 && status.conditions.iter().all(|c| c.observed_generation == 3));
        status.conditions.into_iter().map(|c| (c.type_, c.status, c.reason)).collect()
    }
    fn says_so(verdict: &Verdict, wanted: &[(&str, ConditionStatus, &str)]) {
        let wanted: Vec<_> = wanted.iter().map(|(t, s, r)| ((*t).to_owned(), *s, (*r).to_owned())).collect();
        assert_eq!(says(verdict), wanted);
    }

    /// What somebody named with control characters steers no terminal.
    ///
    /// Mutation seen to fail: `in_one_line` left out of `Conditions::set`.
    #[test]
    fn a_message_is_one_line() {
        let dangling = Some(vec![ObjectError::new(Code::UnknownName, "no cluster a\u{9b}\nb")]);
        let verdict = Verdict { force: Force::InForce, dangling, ..Verdict::unknown() };
        let status = policy_status(&PolicyStatus::default(), 1, &verdict, Timestamp::UNIX_EPOCH);
        let told: Vec<&str> = status.conditions.iter().map(|c| c.message.as_str()).collect();
        assert!(told.iter().any(|m| m.contains("a\\u{9b}\\nb")), "{told:?}");
        assert!(!told.iter().any(|m| m.contains(char::is_control)), "{told:?}");
    }

    /// Each state has its conditions, and `Reconciling` and `Stalled` stand only while they are true.
    ///
    /// Mutations seen to fail: `is_error` not asked; `NamespaceNotAllowed` told as `Invalid`; names that nobody has passed
    /// over; `Some([])` of `Ready` answered for all.
    #[test]
    fn a_status_says_what_was_found() {
        use ConditionStatus::{False, True, Unknown};
        let pending = [
            ("Accepted", True, "Accepted"),
            ("Programmed", Unknown, "Pending"),
            ("Ready", Unknown, "Pending"),
            ("Reconciling", True, "Pending"),
            ("ResolvedRefs", Unknown, "Pending"),
        ];
        says_so(&Verdict::unknown(), &pending);
        let remark = ObjectError::new(Code::UnusedField, "x");
        let good = Verdict {
            faults: vec![remark],
            force: Force::InForce,
            dangling: Some(vec![ObjectError::new(Code::UnknownName, "no cluster wset").field("spec.to.clusters")]),
            not_served: None,
        };
        let found = [
            ("Accepted", True, "Accepted"),
            ("Programmed", True, "Programmed"),
            ("Ready", True, "UnresolvedRefs"),
            ("ResolvedRefs", False, "NotFound"),
        ];
        says_so(&good, &found);
        let whole = Verdict { dangling: Some(Vec::new()), ..good.clone() };
        assert!(says(&whole).contains(&("Ready".to_owned(), True, "Ready".to_owned())));
        let said = policy_status(&PolicyStatus::default(), 3, &good, Timestamp::UNIX_EPOCH);
        let ready = said.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
        assert!(ready.message.contains("names what nobody has: spec.to.clusters: no cluster wset"), "{ready:?}");
        let refused =
            |code| Verdict { faults: vec![ObjectError::new(code, "y")], force: Force::Earlier, ..good.clone() };
        for (code, reason) in [
            (Code::InvalidValue, "Invalid"),
            (Code::NamespaceNotAllowed, "NamespaceNotAllowed"),
            (Code::Conflict, "Conflict"),
        ] {
            let wanted = [
                ("Accepted", False, reason),
                ("Programmed", False, reason),
                ("Ready", False, reason),
                ("ResolvedRefs", Unknown, reason),
                ("Stalled", True, reason),
            ];
            says_so(&refused(code), &wanted);
        }
        let kept = Verdict { not_served: Some("later".to_owned()), ..good };
        assert!(says(&kept).contains(&("Stalled".to_owned(), True, "NotInThisVersion".to_owned())));
    }

    /// A message says where, what and what to do, and is bounded.
    ///
    /// Mutation seen to fail: `truncate` left out.
    #[test]
    fn a_message_names_field_fault_and_remedy() {
        let fault = ObjectError::new(Code::InvalidValue, "is 0").field("spec.tiers[0]").remedy("write 1");
        assert_eq!(all_words([&fault].into_iter()), "spec.tiers[0]: is 0; write 1");
        let many = all_words(std::iter::repeat_n(&fault, 40));
        assert!(many.ends_with("and 24 more") && many.matches("write 1").count() == 16, "{many}");
    }
}
