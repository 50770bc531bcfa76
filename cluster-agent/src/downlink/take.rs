//! Edge. What the hub says, checked, saved, and handed to the core actor.

use meshfed_api::border::{Ack, seniority, shared_networks};
use meshfed_api::proto::federation as wire;
use meshfed_api::stream::Delta;
use meshfed_model::bundle::Bundle;
use meshfed_model::identity::TrustDomain;
use meshfed_model::member::Members;
use meshfed_model::names::ClusterName;
use meshfed_model::policy::FleetPolicies;
use meshfed_runtime::clock;
use wire::hub_message::Message;

use super::CoreCommand;
use super::converse::{Answers, Stream};
use super::session::{Link, LinkError};
use crate::view::{RESOURCES_MAX, ViewChange, follows};

/// Services of which the order of exports is kept; a cluster has at most 10,000, and shares few of them with others.
const ORDERED_MAX: usize = 100_000;

impl Link {
    /// Takes one message; `Some`: the session has to end, for this reason.
    #[allow(clippy::needless_pass_by_ref_mut, reason = "a shared reference to it is not Send")]
    pub(super) async fn take(
        &mut self,
        stream: &mut Stream,
        message: wire::HubMessage,
        answers: &mut Answers,
    ) -> Result<Option<String>, LinkError> {
        let taken = match message.message {
            Some(Message::View(delta)) => self.view(stream, delta).await?,
            Some(Message::OriginGone(gone)) => self.origin_gone(stream, &gone.origin).await?,
            Some(Message::Members(members)) => self.members(members).await?,
            Some(Message::Policies(policies)) => self.policies(policies).await?,
            Some(Message::SharedNetworks(networks)) => self.shared_networks(networks).await?,
            Some(Message::Seniority(order)) => self.order(order).await?,
            Some(Message::EndpointsQuery(query)) => {
                self.ask(query, answers).await?;
                Ok(())
            }
            Some(Message::Bundle(update)) => self.bundle(update.bundle.unwrap_or_default()).await?,
            Some(Message::BundleGone(gone)) => self.bundle_gone(&gone.trust_domain).await?,
            Some(Message::OfferAck(ack)) => self.offer_ack(ack),
            Some(Message::CaughtUp(told)) => {
                stream.caught_up = Some(told.interests);
                Ok(())
            }
            Some(Message::Fenced(fenced)) => return Ok(Some(format!("fenced: {}", fenced.reason))),
            Some(Message::Heartbeat(_)) => Ok(()),
            Some(Message::Welcome(_)) | None => Err("a message that was not expected here".to_owned()),
        };
        Ok(taken.err().inspect(|_| self.metrics.refuse("message", "Invalid")))
    }

    async fn view(&mut self, stream: &mut Stream, message: wire::ViewDelta) -> Result<Result<(), String>, LinkError> {
        let (origin, filter, part) = match parse(message) {
            Ok(parsed) => parsed,
            Err(reason) => return Ok(Err(reason)),
        };
        let whole = match stream.staged.take() {
            Some((of, by, first)) if of == origin && by == filter && belongs(&first, &part) => join(first, part),
            // Parts of a change that the hub has given up for a later one.
            Some(_) | None => part,
        };
        if whole.upserts.len() + whole.removals.len() > 2 * RESOURCES_MAX {
            return Ok(Err(format!("{origin}: more than {} changes in one", 2 * RESOURCES_MAX)));
        }
        if whole.more {
            stream.staged = Some((origin, filter, whole));
            return Ok(Ok(()));
        }
        let change = ViewChange { origin, delta: whole, filter };
        if let Err(error) = follows(&change, self.vector.get(&change.origin).map(|(version, _)| *version)) {
            self.metrics.refuse("view", "OutOfStep");
            return Ok(Err(error.to_string()));
        }
        if change.delta.complete {
            self.metrics.complete_views.inc();
        }
        if let Err(error) = self.store.append(&change) {
            // Serving does not depend on the disk. What is saved no longer follows: it is dropped, and a restart
            // knows that it is missing.
            tracing::error!(error = meshfed_runtime::telemetry::chain_of(&error), "the view cannot be saved");
            self.metrics.refuse("view", "NotSaved");
            if let Err(error) = self.store.lose(&change.origin) {
                tracing::error!(
                    error = meshfed_runtime::telemetry::chain_of(&error),
                    "the saved view cannot be dropped"
                );
            }
        }
        self.vector.insert(change.origin.clone(), (change.delta.version, change.filter));
        self.tell(CoreCommand::View(change)).await?;
        Ok(Ok(()))
    }

    async fn origin_gone(&mut self, stream: &mut Stream, origin: &str) -> Result<Result<(), String>, LinkError> {
        let Ok(origin) = ClusterName::new(origin) else { return Ok(Err("the name of an origin".to_owned())) };
        if stream.staged.as_ref().is_some_and(|(of, ..)| *of == origin) {
            stream.staged = None;
        }
        self.forget(&origin)?;
        self.tell(CoreCommand::OriginGone(origin)).await?;
        Ok(Ok(()))
    }

    async fn members(&mut self, message: wire::Members) -> Result<Result<(), String>, LinkError> {
        let members = match Members::try_from(message) {
            Ok(members) => members,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let saved = self.store.save_members(&members);
        self.saved(saved);
        self.tell(CoreCommand::Members(members)).await?;
        Ok(Ok(()))
    }

    async fn policies(&mut self, message: wire::Policies) -> Result<Result<(), String>, LinkError> {
        let policies = match FleetPolicies::try_from(message) {
            Ok(policies) => policies,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let saved = self.store.save_policies(&policies);
        self.saved(saved);
        self.policy_revision = policies.revision;
        self.tell(CoreCommand::Policies(policies)).await?;
        Ok(Ok(()))
    }

    async fn shared_networks(&mut self, message: wire::SharedNetworks) -> Result<Result<(), String>, LinkError> {
        let networks = match shared_networks(message) {
            Ok(networks) => networks,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let saved = self.store.save_shared_networks(&networks);
        self.saved(saved);
        self.tell(CoreCommand::SharedNetworks(networks)).await?;
        Ok(Ok(()))
    }

    async fn order(&mut self, message: wire::Seniority) -> Result<Result<(), String>, LinkError> {
        let told = match seniority(message) {
            Ok(told) => told,
            Err(error) => return Ok(Err(error.to_string())),
        };
        for (service, clusters) in &told {
            if clusters.is_empty() {
                self.order.remove(service);
            } else if self.order.len() < ORDERED_MAX || self.order.contains_key(service) {
                self.order.insert(service.clone(), clusters.clone());
            } else {
                return Ok(Err(format!("the order of more than {ORDERED_MAX} services")));
            }
        }
        let saved = self.store.save_order(&self.order);
        self.saved(saved);
        self.tell(CoreCommand::Order(told)).await?;
        Ok(Ok(()))
    }

    /// Tells the core once a stream that all was told, and of the interest that it has now: before the source was read
    /// nobody knows what that is.
    pub(super) async fn tell_caught_up(&self, stream: &mut Stream) -> Result<(), LinkError> {
        let said = self.interest_known && !self.pending.interest;
        if !stream.caught_up_told && said && stream.caught_up == Some(stream.interests) {
            stream.caught_up_told = true;
            self.tell(CoreCommand::CaughtUp).await?;
        }
        Ok(())
    }

    fn saved(&self, result: Result<(), meshfed_runtime::files::FileError>) {
        if let Err(error) = result {
            self.metrics.refuse("view", "NotSaved");
            tracing::error!(error = meshfed_runtime::telemetry::chain_of(&error), "the view cannot be saved");
        }
    }

    async fn bundle(&mut self, message: wire::Bundle) -> Result<Result<(), String>, LinkError> {
        let bundle = match Bundle::try_from(message) {
            Ok(bundle) => bundle,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let (trust_domain, serial) = (bundle.trust_domain.clone(), bundle.serial);
        match self.bundles.take(&bundle, clock::wall()) {
            Ok(changed) => {
                self.pending.bundle_acks.insert(trust_domain, serial);
                if changed {
                    self.tell(CoreCommand::Bundles(self.bundles.held().clone())).await?;
                }
            }
            Err(error) => self.bundle_refused(&trust_domain, &error),
        }
        self.tell_awaiting();
        Ok(Ok(()))
    }

    async fn bundle_gone(&mut self, trust_domain: &str) -> Result<Result<(), String>, LinkError> {
        let Ok(trust_domain) = TrustDomain::new(trust_domain) else { return Ok(Err("a trust domain".to_owned())) };
        match self.bundles.withdraw(&trust_domain) {
            Ok(true) => self.tell(CoreCommand::Bundles(self.bundles.held().clone())).await?,
            Ok(false) => {}
            Err(error) => self.bundle_refused(&trust_domain, &error),
        }
        self.tell_awaiting();
        Ok(Ok(()))
    }

    fn bundle_refused(&mut self, trust_domain: &TrustDomain, error: &super::bundles::BundleRefused) {
        self.metrics.refuse("bundle", "Refused");
        let error = meshfed_runtime::telemetry::chain_of(error);
        let remedy = self.bundles.awaiting().find(|(of, _)| *of == trust_domain).map(|(_, command)| command);
        let remedy = remedy.unwrap_or_default();
        tracing::error!(%trust_domain, error, remedy, "a trust bundle was refused; the last good one stays");
        self.pending.report = self.report.is_some();
    }

    /// Takes changed anchors that have been approved since they were refused.
    pub(super) async fn take_approved(&mut self) -> Result<(), LinkError> {
        let taken = self.bundles.take_approved(clock::wall());
        if taken.is_empty() {
            return Ok(());
        }
        self.tell_awaiting();
        self.pending.bundle_acks.extend(taken);
        self.pending.report = self.report.is_some();
        self.tell(CoreCommand::Bundles(self.bundles.held().clone())).await
    }

    fn offer_ack(&self, message: wire::Ack) -> Result<(), String> {
        let ack = Ack::try_from(message).map_err(|e| e.to_string())?;
        for refusal in &ack.refused {
            self.metrics.refuse("offer", &refusal.code);
            let (resource, class) = (&refusal.subject, refusal.class.as_str());
            let (code, reason) = (&refusal.code, &refusal.message);
            tracing::warn!(%resource, class, code, reason, "the federator refused a resource of our offer");
        }
        Ok(())
    }
}

fn parse(message: wire::ViewDelta) -> Result<(ClusterName, u64, Delta), String> {
    let origin = ClusterName::new(&message.origin).map_err(|e| e.to_string())?;
    let delta = message.delta.ok_or_else(|| format!("{origin}: no delta"))?;
    let delta = Delta::try_from(delta).map_err(|e| format!("{origin}: {e}"))?;
    Ok((origin, message.filter, delta))
}

fn belongs(first: &Delta, next: &Delta) -> bool {
    first.base == next.base && first.version == next.version && first.complete == next.complete
}

fn join(mut first: Delta, next: Delta) -> Delta {
    first.upserts.extend(next.upserts);
    first.removals.extend(next.removals);
    first.more = next.more;
    first
}
