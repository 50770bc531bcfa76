//! Pure. Why a join, a plan or a renewal is refused, and what the caller is told of it.

use meshfed_runtime::steady::ClockJump;
use tonic::{Code, Status};

use super::token::TokenRefusal;
use crate::store::StoreError;
use crate::trust::TrustError;

/// The one sentence for every token that does not work (JT5, `contracts.md` 1.4).
pub const TOKEN_SENTENCE: &str = "join refused: the token is not valid for this federator \
                                  (unknown, used, expired, revoked or made for another cluster)";
/// The one sentence for every renewal that does not work.
pub const RENEW_SENTENCE: &str = "renewal refused: this cluster is no member, or the proof does not hold; \
                                  see the federator's log, and join again with a new token";

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Anything, by somebody who asks too often.
    Attempt,
    /// What a join would do.
    Plan,
    /// A join, or what is asked just before it.
    Join,
    /// A number to sign.
    Challenge,
    /// Another certificate of an agent.
    Renewal,
    /// To leave.
    Leave,
}

impl Act {
    /// The word for logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attempt => "attempt",
            Self::Plan => "plan",
            Self::Join => "join",
            Self::Challenge => "challenge",
            Self::Renewal => "renewal",
            Self::Leave => "leave",
        }
    }
}

/// Why.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The token does not work. The caller hears [`TOKEN_SENTENCE`] only.
    #[error("the token does not work: {}", .0.as_str())]
    Token(TokenRefusal),
    /// Too many attempts.
    #[error("too many attempts from this address; wait a second and try again")]
    Limited,
    /// One cluster renews too often.
    #[error("too many renewals of this cluster; wait a minute and try again")]
    Flooded,
    /// The wall clock jumped: nothing is issued.
    #[error("the federator's clock jumped")]
    Clock(#[from] ClockJump),
    /// The holder of a valid token sent something wrong.
    #[error("join refused: {field}: {reason}")]
    Invalid {
        /// Which part.
        field: &'static str,
        /// Why, and what to do.
        reason: String,
    },
    /// A live cluster has that name.
    #[error(
        "join refused: cluster '{cluster}' is a member already; let it leave first (on Kubernetes: meshfed leave --kube), or \
         choose another name; without Kubernetes, join --replace takes its place by a token that may"
    )]
    Exists {
        /// Which.
        cluster: String,
    },
    /// A network of that name means other addresses elsewhere.
    #[error("join refused: {clash}; {}", super::plan::CLASH_REMEDY)]
    Clash {
        /// Which, and where.
        clash: String,
    },
    /// Not without the root key.
    #[error(
        "join refused: the root key of this fleet is offline; start the federator with --root-key FILE to let clusters join"
    )]
    RootOffline,
    /// A renewal that does not hold; `reason` is for the log only.
    #[error("the renewal does not hold: {reason}")]
    Renewal {
        /// Why.
        reason: &'static str,
    },
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// Issuing failed.
    #[error("issuing failed")]
    Trust(#[from] TrustError),
}

impl Refusal {
    /// Whether somebody is to look at it at once: somebody wanted to join with a token that others have used, so its secret is in
    /// two hands (JT3). A plan of its holder, say of whoever joined by it and asks again, is no such thing.
    #[must_use]
    pub const fn is_alarm(&self, act: Act) -> bool {
        matches!((self, act), (Self::Token(TokenRefusal::Used), Act::Join))
    }
    /// A stable word for the metric: what kind of end a join had.
    #[must_use]
    pub const fn result(&self, act: Act) -> &'static str {
        match self {
            Self::Token(_) if self.is_alarm(act) => "reused",
            Self::Token(_) | Self::Exists { .. } | Self::Clash { .. } | Self::RootOffline | Self::Renewal { .. } => {
                "refused"
            }
            Self::Limited | Self::Flooded => "limited",
            Self::Invalid { .. } => "invalid",
            Self::Store(_) | Self::Trust(_) | Self::Clock(_) => "failed",
        }
    }
    /// What the caller hears: never more than it may know.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Token(_) => Status::new(Code::Unauthenticated, TOKEN_SENTENCE),
            Self::Limited | Self::Flooded => Status::new(Code::ResourceExhausted, self.to_string()),
            Self::Invalid { .. } => Status::new(Code::InvalidArgument, self.to_string()),
            Self::Exists { .. } => Status::new(Code::AlreadyExists, self.to_string()),
            Self::Clash { .. } | Self::RootOffline => Status::new(Code::FailedPrecondition, self.to_string()),
            Self::Renewal { .. } => Status::new(Code::PermissionDenied, RENEW_SENTENCE),
            Self::Store(_) | Self::Trust(_) | Self::Clock(_) => {
                Status::new(Code::Unavailable, "the federator cannot do this now; try again, and see its log")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever joins with a used token has its secret; whoever asks what it would do may be the one who used it.
    ///
    /// Mutation seen to fail: `is_alarm` blind to the act.
    #[test]
    fn a_plan_with_a_used_token_is_no_alarm() {
        let used = Refusal::Token(TokenRefusal::Used);
        assert_eq!((used.is_alarm(Act::Join), used.result(Act::Join)), (true, "reused"));
        assert_eq!((used.is_alarm(Act::Plan), used.result(Act::Plan)), (false, "refused"));
        let expired = Refusal::Token(TokenRefusal::Expired);
        assert_eq!((expired.is_alarm(Act::Join), expired.result(Act::Join)), (false, "refused"));
    }
}
