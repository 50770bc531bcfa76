//! Edge. `meshfed services [NAMESPACE/NAME]`.

use serde_json::Value;

use super::endpoints::Target;
use crate::client::{Client, ServerArgs, encode};
use crate::exit::Outcome;
use crate::output::{Column, OutputArgs, column, items, show, text, wide};

/// Arguments of `meshfed services`.
#[derive(clap::Args)]
pub struct ServicesArgs {
    /// Show this service alone: NAMESPACE/NAME or its host name
    service: Option<Target>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

const COLUMNS: &[Column] = &[
    column("NAMESPACE", |s| text(s, &["namespace"])),
    column("NAME", |s| text(s, &["name"])),
    column("PORTS", ports),
    column("CLUSTERS", |s| text(s, &["clusters"])),
    column("READY", |s| text(s, &["endpoints", "ready"])),
    column("TOTAL", |s| text(s, &["endpoints", "total"])),
    column("CONFLICT", |s| text(s, &["conflict", "message"])),
    wide("TYPE", |s| text(s, &["type"])),
    wide("HOSTS", |s| text(s, &["hosts"])),
    wide("FAILOVER", |s| text(s, &["failover", "policy"])),
];

fn ports(service: &Value) -> String {
    let all = service.get("ports").and_then(Value::as_array).cloned().unwrap_or_default();
    all.iter().map(|p| format!("{}/{}", text(p, &["port"]), text(p, &["appProtocol"]))).collect::<Vec<_>>().join(",")
}

/// Lists the services, or shows one.
pub async fn run(args: ServicesArgs) -> Outcome {
    let client = Client::new(&args.server)?;
    if let Some(Target { namespace, name, .. }) = &args.service {
        let answer = client.get(&format!("services/{}/{}", encode(namespace), encode(name))).await?.ok()?;
        show(args.output.output, &answer, |body| vec![body.clone()], COLUMNS)?;
    } else {
        let answer = client.list("services", args.output.output).await?;
        show(args.output.output, &answer, items, COLUMNS)?;
    }
    Ok(0)
}
