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

/// What both need.
pub(super) struct Injection<'a> {
    /// The namespace of this release.
    pub(super) release: String,
    /// `--injection-config`; without it there is `meshfed-trust` in the release namespace alone, for its gateways.
    pub(super) inject: Option<Arc<InjectConfig>>,
    /// The flags.
    pub(super) args: &'a AgentArgs,
    /// Those of `--webhook-listen`, bound.
    pub(super) listeners: Vec<TcpListener>,
    /// The API server.
    pub(super) client: kube::Client,
}

impl Injection<'_> {
    /// Starts what the flags name. `anchors` are this cluster's, PEM; `None`: it has not joined, and pods to be injected
    /// are refused.
    pub(super) fn start(
        self,
        tasks: &mut TaskGroup,
        anchors: watch::Receiver<Option<Arc<str>>>,
        metrics: &Metrics,
        drain: &Watch,
    ) {
        let Self { release, inject, args, listeners, client } = self;
        let trust = TrustMap::new(client.clone(), anchors);
        tasks.spawn("trust-map", trust.clone().keep(release, inject.clone(), drain.clone()));
        if let Some(inject) = inject.filter(|_| !listeners.is_empty()) {
            let settings = WebhookConfig {
                inject,
                configuration: args.webhook_configuration.clone(),
                certificate_ttl: args.webhook_certificate_ttl,
            };
            webhook::start(tasks, listeners, settings, client, trust, metrics, drain);
        }
    }
}
