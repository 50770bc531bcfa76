//! Edge. Warning events on objects that have no conditions of ours: a Service that is taken for no gateway, or not taken at
//! all, a PeerAuthentication without effect. Who wrote one sees it with `kubectl describe`; the log of the agent is not his
//! to read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _};
use meshfed_crds::api_server::statuses::Watched;
use meshfed_crds::{Kind, ObjectError};
use meshfed_runtime::clock;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::rate::{Bucket, Rate};
use meshfed_runtime::telemetry::chain;
use tokio::sync::watch;

use super::names::CONTROLLER;

/// Events per second, and at once: less than what statuses have, so that nobody waits for them.
const EVENTS: Rate = Rate { per_second: 5.0, burst: 20.0 };
/// How long a full bucket is waited for before it is asked again.
const REFILL: Duration = Duration::from_millis(200);
/// How long the API server has for one request.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// Faults that are told of at a time: whoever makes more of them knows by then.
const TOLD_MAX: usize = 1000;
/// The longest note of an event, in bytes (Kubernetes: 1,024).
const NOTE_MAX: usize = 1000;

/// Publishes each fault once while it stands, until the drain.
///
/// # Errors
/// None: the API server may be away for as long as it likes.
pub async fn tell(
    client: Client,
    instance: Option<String>,
    mut faults: watch::Receiver<Arc<[ObjectError]>>,
    mut leads: watch::Receiver<bool>,
    drain: Watch,
) -> Result<(), std::convert::Infallible> {
    let reporter = Reporter { controller: CONTROLLER.to_owned(), instance };
    let mut teller = Teller {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        bucket: Bucket::default(),
        told: BTreeSet::new(),
    };
    let telling = async {
        loop {
            let now = Arc::clone(&faults.borrow_and_update());
            let failed = *leads.borrow_and_update() && !teller.tell(&now).await;
            let retry = async { if failed { tokio::time::sleep(PAUSE).await } else { std::future::pending().await } };
            let ended = tokio::select! {
                changed = faults.changed() => changed.is_err(),
                // Nobody changes it where there is one agent alone.
                Ok(()) = leads.changed() => false,
                () = retry => false,
            };
            if ended {
                // The core has ended, and so does the agent.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = telling => {}
        () = drain.signaled() => {}
    }
    Ok(())
}

struct Teller {
    client: Client,
    recorder: Recorder,
    bucket: Bucket,
    told: BTreeSet<ObjectError>,
}

impl Teller {
    /// Tells what is new. False: something is to be tried again.
    async fn tell(&mut self, faults: &[ObjectError]) -> bool {
        // One that was mended and comes again is told again.
        self.told.retain(|fault| faults.contains(fault));
        let mut all = true;
        for fault in faults {
            if self.told.len() >= TOLD_MAX {
                break;
            }
            if self.told.contains(fault) {
                continue;
            }
            while !self.bucket.take(EVENTS, clock::instant()) {
                tokio::time::sleep(REFILL).await;
            }
            match tokio::time::timeout(PATIENCE, self.publish(fault)).await {
                Ok(Ok(())) => {
                    self.told.insert(fault.clone());
                }
                Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
                    // Its namespace ends, or the object has gone meanwhile: nothing is to be told there any more.
                    tracing::warn!(error = status.message, "an event on an object was not written");
                    self.told.insert(fault.clone());
                }
                Ok(Err(error)) => {
                    tracing::warn!(error = chain(&error), "an event on an object was not written; it is tried again");
                    all = false;
                }
                Err(_elapsed) => all = false,
            }
        }
        all
    }

    async fn publish(&self, fault: &ObjectError) -> kube::Result<()> {
        let Some((resource, name)) = resource_of(fault) else { return Ok(()) };
        let namespace = fault.namespace.as_deref().unwrap_or_default();
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        // An event is found by the uid of what it is about.
        let Some(there) = api.get_metadata_opt(name).await? else { return Ok(()) };
        let mut about = there.object_ref(&resource);
        (about.namespace, about.name) = (fault.namespace.clone(), Some(name.to_owned()));
        let event = Event {
            type_: EventType::Warning,
            // The names of codes are words in the form of reasons.
            reason: format!("{:?}", fault.code),
            note: Some(note(fault)),
            action: "Read".to_owned(),
            secondary: None,
        };
        self.recorder.publish(&event, &about).await
    }
}

fn resource_of(fault: &ObjectError) -> Option<(ApiResource, &str)> {
    let kind = Kind::ALL.into_iter().find(|kind| Some(kind.as_str()) == fault.kind.as_deref())?;
    Some((Watched::of(kind, None).resource, fault.name.as_deref()?))
}

fn note(fault: &ObjectError) -> String {
    let field = fault.field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
    let remedy = fault.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
    let note = format!("{field}{}{remedy}", fault.message);
    if note.len() <= NOTE_MAX {
        return note;
    }
    note.chars().take(NOTE_MAX / 4).chain("…".chars()).collect()
}
