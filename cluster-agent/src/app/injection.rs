//! Edge. Webhook and `meshfed-trust`, where the flags ask for them.

use std::net::TcpListener;
use std::sync::Arc;

use meshfed_runtime::drain::Watch;
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::tasks::TaskGroup;
use tokio::sync::watch;

use crate::config::Config;
use crate::trust_map::TrustMap;
use crate::webhook::{self, WebhookConfig};

/// Starts what `--injection-config` and `--webhook-listen` name. Gives what tells other anchors.
pub(super) fn start(
    tasks: &mut TaskGroup,
    config: &Config,
    listeners: Vec<TcpListener>,
    client: &kube::Client,
    anchors: Arc<str>,
    metrics: &Metrics,
    drain: &Watch,
) -> Option<watch::Sender<Option<Arc<str>>>> {
    let inject = Arc::clone(config.inject.as_ref()?);
    let (told, anchors) = watch::channel(Some(anchors));
    let trust = TrustMap::new(client.clone(), anchors);
    tasks.spawn("trust-map", trust.clone().keep(Arc::clone(&inject), drain.clone()));
    if !listeners.is_empty() {
        let settings = WebhookConfig {
            inject,
            configuration: config.args.webhook_configuration.clone(),
            certificate_ttl: config.args.webhook_certificate_ttl,
        };
        webhook::start(tasks, listeners, settings, client.clone(), trust, metrics, drain);
    }
    Some(told)
}
