//! Edge. `meshfed clusters [NAME]`.

use serde_json::Value;

use crate::client::{Client, ServerArgs, encode};
use crate::exit::Outcome;
use crate::output::{Column, OutputArgs, age, column, items, names, show, text, wide};

/// Arguments of `meshfed clusters`.
#[derive(clap::Args)]
pub struct ClustersArgs {
    /// Show this cluster alone
    name: Option<String>,
    /// Those whose labels match, say env=prod,!legacy
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "name")]
    selector: Option<String>,
    /// A habit of kubectl; clusters are of no namespace
    #[arg(short = 'A', long, hide = true)]
    _all_namespaces: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

const COLUMNS: &[Column] = &[
    column("NAME", |c| text(c, &["name"])),
    column("STATE", |c| text(c, &["state"])),
    column("FRESHNESS", |c| text(c, &["freshness"])),
    column("REGION", |c| text(c, &["regions"])),
    column("NETWORKS", |c| names(c, "networks", "name")),
    column("GATEWAYS", gateways),
    column("SERVICES", |c| text(c, &["services", "exported"])),
    column("ENDPOINTS", |c| format!("{}/{}", text(c, &["endpoints", "ready"]), text(c, &["endpoints", "total"]))),
    column("AGE", |c| age(&text(c, &["joinedAt"]))),
    wide("TRUST-DOMAIN", |c| text(c, &["trustDomain"])),
    wide("CONNECTION", |c| text(c, &["connection"])),
    wide("ERRORS", |c| c.pointer("/source/errors").and_then(Value::as_array).map_or(0, Vec::len).to_string()),
    wide("LAST-SEEN", |c| age(&text(c, &["lastSeenAt"]))),
];

fn gateways(cluster: &Value) -> String {
    let all = cluster.get("gateways").and_then(Value::as_array).cloned().unwrap_or_default();
    let ready = all.iter().filter(|g| g.get("ready").and_then(Value::as_bool) == Some(true)).count();
    format!("{ready}/{}", all.len())
}

/// Lists the member clusters, or shows one.
pub async fn run(args: ClustersArgs) -> Outcome {
    let client = Client::open(&args.server).await?;
    if let Some(name) = &args.name {
        let answer = client.get(&format!("clusters/{}", encode(name))).await?.ok()?;
        show(args.output.output, &answer, |body| vec![body.clone()], COLUMNS)?;
    } else {
        let selected = args.selector.as_deref().map(|s| format!("?labelSelector={}", encode(s))).unwrap_or_default();
        let answer = client.list(&format!("clusters{selected}"), args.output.output).await?;
        show(args.output.output, &answer, items, COLUMNS)?;
    }
    Ok(0)
}
