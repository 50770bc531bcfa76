//! Pure. What a member that cannot be kept, brought back or joined means for its Membership: a word, and what to do.

use meshfed_runtime::telemetry::chain;

use super::IDENTITY_SECRET;
use super::judge::Phase;
use super::keeper::KeeperError;
use crate::enroll::EnrollError;

/// Whether it is the API server, and not the Secret.
pub(super) fn is_away(error: &KeeperError) -> bool {
    match error {
        KeeperError::Api { cause, .. } => !matches!(&**cause, kube::Error::Api(status) if status.code == 403),
        KeeperError::Missing(_)
        | KeeperError::Contended(_)
        | KeeperError::OtherCa(_)
        | KeeperError::Damaged { .. }
        | KeeperError::TooLarge(_)
        | KeeperError::Approval(_)
        | KeeperError::File(_)
        | KeeperError::Io(..) => false,
    }
}

/// What it means for a running agent that its files are not kept: it has them all, and the next pod has not.
pub(super) fn unkept(error: &KeeperError, namespace: &str) -> (&'static str, String) {
    let goes_on = "this agent goes on with what it holds, and a pod that takes its place would not have it";
    match error {
        KeeperError::Missing(secret) => (
            "IdentityUnavailable",
            format!(
                "Secret {secret} is not there; {goes_on}. Make it again, empty, and this agent fills it: \
                 kubectl -n {namespace} create secret generic {secret} (or upgrade the release)"
            ),
        ),
        KeeperError::Damaged { secret, key, .. } => (
            "IdentityDamaged",
            format!(
                "{error}; {goes_on}. Take the key out, and this agent writes it anew: kubectl -n {namespace} patch secret \
                 {secret} --type json -p '[{{\"op\":\"remove\",\"path\":\"/data/{key}\"}}]'"
            ),
        ),
        KeeperError::OtherCa(_) => ("IdentityUnavailable", format!("{error}; until then {goes_on}")),
        KeeperError::Api { .. }
        | KeeperError::Contended(_)
        | KeeperError::TooLarge(_)
        | KeeperError::Approval(_)
        | KeeperError::File(_)
        | KeeperError::Io(..) => ("IdentityNotKept", format!("{}; {goes_on}", chain(error))),
    }
}

/// What it means for an agent that starts that the member cannot be brought back. It is tried again in any case: what is
/// put back is taken.
pub(super) fn unrestored(error: &KeeperError, namespace: &str) -> Phase {
    match error {
        KeeperError::Damaged { secret, .. } => Phase::Refused {
            reason: "IdentityDamaged",
            message: format!(
                "{error}; bring it back from a backup, and this agent goes on by itself. Without one the cluster needs \
                 another identity: kubectl -n {namespace} delete secret {secret}, have the chart make it anew (helm \
                 upgrade), and join with a new token; the other clusters then have to approve its new anchor"
            ),
        },
        KeeperError::OtherCa(_) => Phase::Refused { reason: "IdentityUnavailable", message: chain(error) },
        KeeperError::Missing(_)
        | KeeperError::Api { .. }
        | KeeperError::Contended(_)
        | KeeperError::TooLarge(_)
        | KeeperError::Approval(_)
        | KeeperError::File(_)
        | KeeperError::Io(..) => Phase::Waiting { reason: "IdentityUnavailable", message: chain(error) },
    }
}

/// Whether the hub has answered, and not with a membership: the keys of that join are of no use any more. While it has not,
/// and where this side failed on its answer, they may be bound already, and another attempt with them gets the same answer.
pub(super) const fn is_answered(error: &EnrollError) -> bool {
    match error {
        EnrollError::Refused | EnrollError::Denied(_) | EnrollError::Untrusted { .. } => true,
        EnrollError::Unreachable { .. } | EnrollError::AnotherCluster { .. } | EnrollError::Directory { .. } => false,
    }
}

/// What a failed join means for the Membership.
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
    /// Mutation seen to fail: `IdentityOfAnother` a reason to wait.
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
    /// Mutations seen to fail: `Directory` moved to the errors that are an answer.
    #[test]
    fn keys_that_may_be_bound_are_kept() {
        let directory = EnrollError::Directory { path: "E".into(), problem: "no space left".to_owned() };
        let unreachable = EnrollError::Unreachable { target: "hub:15600".to_owned(), cause: "refused".to_owned() };
        assert!(!is_answered(&directory) && !is_answered(&unreachable));
        assert!(is_answered(&EnrollError::Refused) && is_answered(&EnrollError::Denied(String::new())));
    }
}
