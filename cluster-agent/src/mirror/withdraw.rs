//! Edge. A cluster that has left its fleet shows nothing of it: imports, their Services and slices go, and exports say that
//! nobody has them.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, ListParams};
use kube::{Client, Resource};
use meshfed_model::names::ServiceName;
use meshfed_runtime::clock;
use meshfed_runtime::telemetry::chain;

use super::apply::Writer;
use super::facts::{ExportFacts, ExportState, Facts};
use super::names::derived_service;
use super::objects::{ServiceExport, ServiceImport};
use super::plan::{Context, Seen, plan};
use super::run::{our_services, our_slices};
use super::store::{Objects, Owned};

/// Objects of one page of a list.
const PAGE: u32 = 500;
/// The pause before what was not written is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// What an export of such a cluster says.
const LEFT: &str = "this cluster has left its fleet, so nobody has this export; join again (meshfed join --kube), or \
                    delete the ServiceExport";

/// Takes away what the mirror made in a cluster that has left. It goes on until all of it is gone; `instance` is the pod that
/// writes.
pub async fn withdraw(client: Client, instance: Option<String>) {
    let writer = Writer::new(client.clone(), instance);
    loop {
        match Standing::list(&client).await {
            Ok(standing) => {
                let left = standing.withdraw(&writer).await;
                if left == 0 {
                    return;
                }
                tracing::warn!(left, "not all that this cluster showed of its fleet is gone; it is tried again");
            }
            Err(error) => {
                tracing::warn!(
                    error = %chain(&error),
                    "what this cluster shows of the fleet that it has left cannot be listed; it is tried again"
                );
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What stands of the fleet.
struct Standing {
    imports: Objects<ServiceImport>,
    exports: Objects<ServiceExport>,
    services: Objects<Service>,
    slices: Objects<EndpointSlice>,
}

impl Standing {
    async fn list(client: &Client) -> Result<Self, kube::Error> {
        Ok(Self {
            imports: listed(client, None).await?,
            exports: listed(client, None).await?,
            services: listed(client, Some(our_services())).await?,
            slices: listed(client, Some(our_slices())).await?,
        })
    }

    /// Writes what there is to write; gives of how many names something was not.
    async fn withdraw(&self, writer: &Writer) -> usize {
        let mut names: BTreeSet<&ServiceName> = self.imports.owners().chain(self.exports.owners()).collect();
        names.extend(self.services.owners().chain(self.slices.owners()));
        let mut left = 0;
        for name in names {
            let seen = Seen {
                import: self.imports.one(name, name.name()).cloned(),
                service: self.services.one(name, &derived_service(name)).cloned(),
                slices: self.slices.of(name),
                export: self.exports.one(name, name.name()).filter(|export| says_ready(export)).cloned(),
            };
            let export = ExportFacts::only(ExportState::Refused(LEFT.to_owned()));
            let facts = Facts { export: Some(export), ..Facts::default() };
            let context = Context {
                now: Time(clock::timestamp()),
                obstacle: None,
                unsupported: BTreeSet::new(),
                address_taken: false,
            };
            let mut failed = false;
            for write in plan(name, &facts, &seen, &context) {
                if let Err(error) = writer.write(name, &write, None).await {
                    tracing::warn!(%name, %error, "what this cluster showed of its fleet was not taken away");
                    failed = true;
                }
            }
            left += usize::from(failed);
        }
        left
    }
}

/// Whether an export says that others have it. One that was never offered says rightly why.
fn says_ready(export: &ServiceExport) -> bool {
    let conditions = export.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// All objects of a kind; none where there is no such kind.
async fn listed<K>(client: &Client, labels: Option<String>) -> Result<Objects<K>, kube::Error>
where
    K: Owned + Resource<DynamicType = ()> + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let api = Api::<K>::all(client.clone());
    let mut params = ListParams::default().limit(PAGE);
    params.label_selector = labels;
    let mut all = Objects::default();
    loop {
        let page = match api.list(&params).await {
            Ok(page) => page,
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(all),
            Err(error) => return Err(error),
        };
        for object in page.items {
            all.put(object);
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(all),
        }
    }
}
