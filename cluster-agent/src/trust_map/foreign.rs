//! Edge. A ConfigMap of the name `meshfed-trust` that somebody else has made: it stays as it is, and an event on it says what
//! waits for it. Whoever made it can seldom read the agent's log.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _};
use meshfed_runtime::telemetry;

use super::{DEADLINE, TRUST, TrustMap, is_ours};
use crate::mirror::names::CONTROLLER;

/// What writes the events, and counts one that is said again.
pub(super) fn recorder(client: Client) -> Recorder {
    Recorder::new(client, Reporter { controller: CONTROLLER.to_owned(), instance: None })
}

impl TrustMap {
    /// Says so where it is somebody else's that stands in the way.
    pub(super) async fn tell_if_foreign(&self, namespace: &str) {
        match tokio::time::timeout(DEADLINE, self.tell(namespace)).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => {
                tracing::debug!(namespace, reason = telemetry::chain(&error), "trust map: no event was written");
            }
        }
    }

    async fn tell(&self, namespace: &str) -> kube::Result<()> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let Some(found) = api.get_metadata_opt(TRUST).await?.filter(|found| !is_ours(found)) else { return Ok(()) };
        let mut about = found.object_ref(&());
        (about.namespace, about.name) = (Some(namespace.to_owned()), Some(TRUST.to_owned()));
        let event = Event {
            type_: EventType::Warning,
            reason: "NameTaken".to_owned(),
            note: Some(format!(
                "the name {TRUST} is needed for what the sidecars of this namespace trust, and this ConfigMap is not meshfed's: \
                 pods that get a sidecar are refused here until it is deleted or has another name"
            )),
            action: "Apply".to_owned(),
            secondary: None,
        };
        self.recorder.publish(&event, &about).await
    }
}
