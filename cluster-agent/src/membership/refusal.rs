//! Pure. What a join that failed means for the Membership, and for the keys that it was asked with.

use super::IDENTITY_SECRET;
use super::judge::Phase;
use crate::enroll::EnrollError;

/// Whether the hub has answered, and not with a membership: the keys of that join are of no use any more. While it has not,
/// and where this side failed on its answer, they may be bound already, and another attempt with them gets the same answer.
#[must_use]
pub(super) const fn is_answered(error: &EnrollError) -> bool {
    match error {
        EnrollError::Refused | EnrollError::Denied(_) | EnrollError::Untrusted { .. } => true,
        EnrollError::Unreachable { .. } | EnrollError::AnotherCluster { .. } | EnrollError::Directory { .. } => false,
    }
}

/// What a failed join means for the Membership.
#[must_use]
pub(super) fn phase_of(error: &EnrollError) -> Phase {
    let message = error.to_string();
    match error {
        EnrollError::Refused => Phase::Refused { reason: "TokenRefused", message },
        EnrollError::Denied(_) => Phase::Refused { reason: "JoinDenied", message },
        EnrollError::Untrusted { .. } => Phase::Refused { reason: "HubNotTrusted", message },
        EnrollError::Unreachable { .. } => Phase::Waiting { reason: "HubUnreachable", message },
        EnrollError::AnotherCluster { wanted, .. } => Phase::Refused {
            reason: "IdentityOfAnother",
            message: format!(
                "Secret {IDENTITY_SECRET} keeps the CA key of this cluster under another name, and the token is for \
                 {wanted}: put a token for the name that it had into the Secret; to give that identity up for good, delete \
                 Secret {IDENTITY_SECRET} and have the chart make it anew (helm upgrade)"
            ),
        },
        EnrollError::Directory { .. } => Phase::Waiting { reason: "DataDirectory", message },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token for another name than the one under which the CA key was made is somebody's to mend, in words of Kubernetes.
    ///
    /// Mutation not tried yet: `IdentityOfAnother` a reason to wait.
    #[test]
    fn a_token_for_another_name_is_refused_with_what_to_do() {
        let wanted = "east.mesh.example".parse().unwrap();
        let phase = phase_of(&EnrollError::AnotherCluster { path: "member.ca/ca/anchor.pem".into(), wanted });
        assert!(
            matches!(&phase, Phase::Refused { reason: "IdentityOfAnother", message }
                if message.contains("token for the name that it had") && !message.contains("anchor.pem")),
            "{phase:?}"
        );
    }

    /// A full disk after the hub's answer costs no token.
    ///
    /// Mutations not tried yet: `Directory` moved to the errors that are an answer.
    #[test]
    fn keys_that_may_be_bound_are_kept() {
        let directory = EnrollError::Directory { path: "E".into(), problem: "no space left".to_owned() };
        let unreachable = EnrollError::Unreachable { target: "hub:15600".to_owned(), cause: "refused".to_owned() };
        assert!(!is_answered(&directory) && !is_answered(&unreachable));
        assert!(is_answered(&EnrollError::Refused) && is_answered(&EnrollError::Denied(String::new())));
    }
}
