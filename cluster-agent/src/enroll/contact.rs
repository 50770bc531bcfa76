//! Edge. The joiner's connection: the federator is known by the pin in the token, before the secret is sent.

use std::sync::Arc;

use meshfed_api::border::Placement;
use meshfed_api::proto::federation as pb;
use meshfed_api::proto::federation::enrollment_client::EnrollmentClient;
use meshfed_ca::token::Token;
use meshfed_runtime::grpc::ConnectError;
use meshfed_runtime::pin::{PinnedFleet, PinnedFleetVerifier};
use meshfed_runtime::telemetry::{chain, words};
use meshfed_runtime::tls::SvidError;
use tonic::Code;
use tonic::transport::Channel;

use super::EnrollError;

/// The largest answer taken, in bytes.
const ANSWER_LIMIT: usize = 4 << 20;
/// The protocol that this joiner speaks.
const PROTOCOL: u32 = 1;

/// A federator that has proved that it holds the fleet's anchor.
pub struct Contact {
    target: String,
    client: EnrollmentClient<Channel>,
    /// What the handshake proved.
    pub fleet: PinnedFleet,
}

impl Contact {
    /// Connects and checks the pin.
    ///
    /// # Errors
    /// [`EnrollError::Refused`] on a wrong pin, [`EnrollError::Unreachable`] else.
    pub async fn open(target: &str, token: &Token) -> Result<Self, EnrollError> {
        let verifier = Arc::new(PinnedFleetVerifier::new(*token.pin()));
        let unreachable = |cause: String| EnrollError::Unreachable { target: target.to_owned(), cause };
        let tls = meshfed_runtime::tls::client_config_with(None, Arc::clone(&verifier) as _, &[b"h2"])
            .map_err(|error| unreachable(error.to_string()))?;
        let channel = match meshfed_runtime::grpc::connect(target, tls).await {
            Ok(channel) => channel,
            Err(error) if error.refusal().is_some_and(SvidError::is_of_the_clock) => {
                // The pin was right: no secret to keep, and another token would not help.
                let why = error.refusal().map(ToString::to_string).unwrap_or_default();
                let problem = format!("{why}; compare the clocks of both machines");
                return Err(EnrollError::Untrusted { target: target.to_owned(), problem });
            }
            Err(error) if error.refusal().is_some() => return Err(EnrollError::Refused),
            Err(ConnectError::Failed { cause, .. }) => return Err(unreachable(cause)),
            Err(error @ ConnectError::Target { .. }) => return Err(unreachable(error.to_string())),
        };
        let fleet = verifier.accepted().ok_or_else(|| unreachable("no handshake took place".to_owned()))?;
        let client = EnrollmentClient::new(channel).max_decoding_message_size(ANSWER_LIMIT);
        Ok(Self { target: target.to_owned(), client, fleet })
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// What joining would do. Does not consume the token.
    ///
    /// # Errors
    /// [`EnrollError`].
    pub async fn plan(
        &mut self,
        token: &Token,
        offers: Vec<pb::PlannedOffer>,
    ) -> Result<(pb::PlanResponse, Placement), EnrollError> {
        self.ask(token, offers, false).await
    }

    /// Where the token would place whoever is about to join with it: a refusal is that of the join.
    pub(super) async fn placement(&mut self, token: &Token) -> Result<Placement, EnrollError> {
        Ok(self.ask(token, Vec::new(), true).await?.1)
    }

    async fn ask(
        &mut self,
        token: &Token,
        offers: Vec<pb::PlannedOffer>,
        joining: bool,
    ) -> Result<(pb::PlanResponse, Placement), EnrollError> {
        let request = pb::PlanRequest {
            token: Some(credential(token)),
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            clock: meshfed_runtime::clock::timestamp().to_string(),
            offers,
            joining,
        };
        let response = self.client.plan(request).await.map_err(|status| self.error(&status))?.into_inner();
        let placement = Placement::try_from(&response).map_err(|error| self.untrusted(&error.to_string()))?;
        self.check(&placement)?;
        Ok((response, placement))
    }

    /// Consumes the token.
    ///
    /// # Errors
    /// [`EnrollError`].
    pub async fn join(&mut self, request: pb::JoinRequest) -> Result<(pb::JoinResponse, Placement), EnrollError> {
        let response = self.client.join(request).await.map_err(|status| self.error(&status))?.into_inner();
        let placement = Placement::try_from(&response).map_err(|error| self.untrusted(&error.to_string()))?;
        self.check(&placement)?;
        Ok((response, placement))
    }

    /// The placement must lie in the fleet that the pin proved.
    fn check(&self, placement: &Placement) -> Result<(), EnrollError> {
        if placement.fleet == self.fleet.trust_domain {
            return Ok(());
        }
        Err(self.untrusted(&format!("it speaks for fleet {} as {}", placement.fleet, self.fleet.trust_domain)))
    }

    pub(super) fn untrusted(&self, problem: &str) -> EnrollError {
        EnrollError::Untrusted { target: self.target.clone(), problem: problem.to_owned() }
    }

    fn error(&self, status: &tonic::Status) -> EnrollError {
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied | Code::NotFound => EnrollError::Refused,
            // None of these says that the join was not taken: a connection that ends in the middle of an answer is
            // `Internal` as often as `Unknown`.
            Code::Unavailable
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Unknown
            | Code::Internal
            | Code::DataLoss => EnrollError::Unreachable { target: self.target.clone(), cause: words(&chain(status)) },
            Code::Ok
            | Code::InvalidArgument
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented => {
                // The federator begins with what its other refusals begin with; the error says it already.
                let message = status.message();
                EnrollError::Denied(words(message.strip_prefix("join refused: ").unwrap_or(message)))
            }
        }
    }
}

/// The token as the wire carries it.
pub(super) fn credential(token: &Token) -> pb::TokenCredential {
    pb::TokenCredential { id: token.id().to_owned(), secret: token.secret_text().to_string() }
}
