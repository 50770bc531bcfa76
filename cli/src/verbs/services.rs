//! Edge. `meshfed services [NAMESPACE/NAME]`.

use serde_json::Value;

use super::endpoints::Target;
use crate::client::{Client, ServerArgs, encode};
use crate::exit::{Failure, Outcome};
use crate::output::{Column, OutputArgs, column, items, show, text, wide};

/// Arguments of `meshfed services`.
///
/// FAILOVER of -o wide is what the fleet says; a member's own FailoverPolicy is about its own clients alone, and 'meshfed
/// endpoints SERVICE --from CLUSTER -o json' names the one in force there.
#[derive(clap::Args)]
pub struct ServicesArgs {
    /// Show this service alone: NAMESPACE/NAME, its host name, or with -n its NAME
    #[arg(conflicts_with = "selector")]
    service: Option<String>,
    /// Those of one namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Those of all namespaces, which is the default
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Those whose exported labels match, say tier=front,!legacy
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
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
    wide("FAILOVER", failover),
];

/// What the fleet says, and who says so there. A member's own policy is about its own clients: `endpoints --from` shows it.
fn failover(service: &Value) -> String {
    format!("{} ({})", text(service, &["failover", "policy"]), text(service, &["failover", "source"]))
}

fn ports(service: &Value) -> String {
    let all = service.get("ports").and_then(Value::as_array).cloned().unwrap_or_default();
    all.iter().map(port).collect::<Vec<_>>().join(",")
}

/// Its number, and what is spoken there; what is not TCP has no more to it.
fn port(port: &Value) -> String {
    let protocol = text(port, &["protocol"]);
    let spoken = if protocol == "TCP" { text(port, &["appProtocol"]) } else { protocol };
    format!("{}/{spoken}", text(port, &["port"]))
}

/// Lists the services, or shows one.
pub async fn run(args: ServicesArgs) -> Outcome {
    let client = Client::open(&args.server).await?;
    if let Some(service) = &args.service {
        let Target { namespace, name, .. } =
            Target::read(service, args.namespace.as_deref()).map_err(Failure::usage)?;
        let answer = client.get(&format!("services/{}/{}", encode(&namespace), encode(&name))).await?.ok()?;
        show(args.output.output, &answer, |body| vec![body.clone()], COLUMNS)?;
    } else {
        let asked = [("namespace", &args.namespace), ("labelSelector", &args.selector)];
        let asked = asked.iter().filter_map(|(key, value)| Some(format!("{key}={}", encode(value.as_ref()?))));
        let asked = asked.collect::<Vec<_>>().join("&");
        let path = if asked.is_empty() { "services".to_owned() } else { format!("services?{asked}") };
        let answer = client.list(&path, args.output.output).await?;
        show(args.output.output, &answer, items, COLUMNS)?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Whose policy it is stands beside it: a member's own is none of these.
    ///
    /// Mutation not tried yet: `failover` without the source.
    #[test]
    fn failover_is_shown_with_its_source() {
        let service = json!({"failover": {"policy": "default", "source": "builtin"}});
        assert_eq!(failover(&service), "default (builtin)");
    }

    /// Mutation not tried yet: `protocol == "TCP"` answered `true`.
    #[test]
    fn a_port_that_is_not_tcp_is_shown_as_what_it_is() {
        let service = json!({"ports": [
            {"name": "dns", "port": 53, "protocol": "UDP", "appProtocol": "tcp"},
            {"name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "http"},
        ]});
        assert_eq!(ports(&service), "53/UDP,8080/http");
    }
}
