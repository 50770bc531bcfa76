//! Edge. Webhook and `meshfed-trust`, where the flags ask for them.

use std::net::TcpListener;
use std::sync::Arc;

use meshfed_runtime::drain::Watch;
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::tasks::TaskGroup;
use tokio::sync::watch;

use crate::config::AgentArgs;
use crate::inject::InjectConfig;
use crate::trust_map::TrustMap;
use crate::webhook::{self, WebhookConfig};

/// Starts what `--injection-config` and `--webhook-listen` name. `anchors` are this cluster's, PEM; `None`: it has not
/// joined.
pub(super) fn start(
    tasks: &mut TaskGroup,
    args: &AgentArgs,
    inject: Arc<InjectConfig>,
    listeners: Vec<TcpListener>,
    client: &kube::Client,
    anchors: watch::Receiver<Option<Arc<str>>>,
    metrics: &Metrics,
    drain: &Watch,
) {
    let trust = TrustMap::new(client.clone(), anchors);
    tasks.spawn("trust-map", trust.clone().keep(Arc::clone(&inject), drain.clone()));
    if !listeners.is_empty() {
        let settings = WebhookConfig {
            inject,
            configuration: args.webhook_configuration.clone(),
            certificate_ttl: args.webhook_certificate_ttl,
        };
        webhook::start(tasks, listeners, settings, client.clone(), trust, metrics, drain);
    }
}
