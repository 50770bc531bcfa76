//! Edge. Warning events on Memberships of other namespaces than the release's: this agent may write no status there, and who
//! made one in the wrong place waits for nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::events::{Event as Remark, EventType, Recorder, Reporter};
use kube::runtime::watcher::watcher;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use meshfed_crds::api_server::{Steady, custom_watch_config};
use meshfed_crds::custom::Membership;
use meshfed_runtime::clock;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::rate::{Bucket, Rate};
use meshfed_runtime::telemetry::chain;
use tokio::sync::watch;

use super::CONTROLLER;

/// Events per second, and at once.
const EVENTS: Rate = Rate { per_second: 1.0, burst: 10.0 };
/// How long a full bucket is waited for before it is asked again.
const REFILL: Duration = Duration::from_millis(200);
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// Memberships that are told of while this agent runs.
const TOLD_MAX: usize = 1000;
/// Why.
const REASON: &str = "NotOfThisRelease";

/// Warns of each once, while this agent `leads`, until the drain.
///
/// # Errors
/// None: the API server may be away for as long as it likes.
pub async fn tell(
    client: Client,
    release: String,
    instance: String,
    mut leads: watch::Receiver<bool>,
    drain: Watch,
) -> Result<(), std::convert::Infallible> {
    let instance = Some(instance).filter(|name| !name.is_empty());
    let reporter = Reporter { controller: CONTROLLER.to_owned(), instance };
    let recorder = Recorder::new(client.clone(), reporter);
    let telling = async {
        loop {
            // Who leads no more leaves it to the one that does, and begins anew.
            if leads.wait_for(|leads| *leads).await.is_err() {
                std::future::pending::<()>().await;
            }
            let mut follows = leads.clone();
            tokio::select! {
                () = follow(&client, &recorder, &release) => {}
                Ok(_follows) = follows.wait_for(|leads| !*leads) => {}
            }
        }
    };
    tokio::select! {
        () = telling => {}
        () = drain.signaled() => {}
    }
    Ok(())
}

async fn follow(client: &Client, recorder: &Recorder, release: &str) {
    let api: Api<Membership> = Api::all(client.clone());
    let others = custom_watch_config().fields(&format!("metadata.namespace!={release}"));
    let mut found = std::pin::pin!(watcher(api, others).backoff(Steady::default()).applied_objects());
    let (mut told, mut bucket) = (BTreeSet::new(), Bucket::default());
    // That the kind is missing, or the API server away, the agent says elsewhere.
    while let Some(found) = found.next().await {
        let Ok(membership) = found else { continue };
        let Some(uid) = membership.uid() else { continue };
        if told.len() >= TOLD_MAX || !told.insert(uid) {
            continue;
        }
        while !bucket.take(EVENTS, clock::instant()) {
            tokio::time::sleep(REFILL).await;
        }
        while let Err(error) = recorder.publish(&remark(&membership, release), &membership.object_ref(&())).await {
            tracing::warn!(error = %chain(&error), "an event on a Membership was not written");
            // The API server does not want it: its namespace ends, or it has gone meanwhile.
            if matches!(&error, kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn remark(membership: &Membership, release: &str) -> Remark {
    let namespace = membership.namespace().unwrap_or_default();
    let name = membership.name_any();
    Remark {
        type_: EventType::Warning,
        reason: REASON.to_owned(),
        note: Some(format!(
            "the agent of this cluster reads Memberships of its own namespace {release} alone, and nothing comes of this \
             one: make it there, and delete it here (kubectl -n {namespace} delete membership {name})"
        )),
        action: "Read".to_owned(),
        secondary: None,
    }
}
