//! Edge. `meshfed services [NAMESPACE/NAME]`.

use futures::StreamExt as _;
use serde_json::Value;

use super::endpoints::Target;
use crate::client::{Client, ServerArgs, encode};
use crate::exit::{Failure, Outcome};
use crate::output::{Column, Format, OutputArgs, column, items, print, remark, show, table, text, wide};

/// Arguments of `meshfed services`.
///
/// FAILOVER of -o wide is what the fleet says; a member's own FailoverPolicy is about its own clients alone, and its agent alone
/// knows it. Of one service IN-FORCE has the policy that places its endpoints, by the cluster whose clients ask.
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
    column("CONFLICT", conflict_of),
    wide("TYPE", |s| text(s, &["type"])),
    wide("HOSTS", |s| text(s, &["hosts"])),
    wide("FAILOVER", failover),
];

/// The column of one service that the members' agents are asked for.
const IN_FORCE: Column = wide("IN-FORCE", |s| text(s, &[FOUND]));
/// Where it is put; no field of the API's answer.
const FOUND: &str = "-in-force";
/// Agents that are asked, and at the same time.
const ASKED_MAX: usize = 100;
const ASKED_TOGETHER: usize = 8;

/// What the fleet says, and who says so there. A member's own policy is about its own clients: its agent is asked for it.
fn failover(service: &Value) -> String {
    format!("{} ({})", text(service, &["failover", "policy"]), text(service, &["failover", "source"]))
}

/// What the exports disagree about, and whose word holds; in whole sentences `-o json` says it, and the conditions of the exports.
fn conflict_of(service: &Value) -> String {
    match service.get("conflict") {
        None | Some(Value::Null) => String::new(),
        Some(conflict) => format!("{}: as in {}", text(conflict, &["fields"]), text(conflict, &["winner"])),
    }
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

/// The policy that is in force for the clients of each cluster, as its agent says; `?` where that does not answer.
async fn in_force(client: &Client, namespace: &str, name: &str, service: &Value) -> Result<String, Failure> {
    let Some(port) = asked_port(service) else { return Ok(String::new()) };
    let clusters = client.list("clusters", Format::Table).await?.ok()?.json()?;
    let clusters: Vec<String> = items(&clusters).iter().filter(|c| is_member(c)).map(|c| text(c, &["name"])).collect();
    if clusters.len() > ASKED_MAX {
        remark(&format!(
            "IN-FORCE has the first {ASKED_MAX} of {} clusters; of another one, meshfed endpoints {namespace}/{name} --from \
             CLUSTER -o json says it",
            clusters.len()
        ));
    }
    let service = format!("services/{}/{}", encode(namespace), encode(name));
    let ask = |cluster: &String| {
        let (cluster, path) = (cluster.clone(), format!("{service}/endpoints?from={}&port={port}", encode(cluster)));
        async move {
            let answer = match client.get(&path).await.and_then(crate::answer::Answer::ok) {
                Ok(answer) => answer.json(),
                Err(failure) => Err(failure),
            };
            (cluster, answer.map(|body| text(&body, &["policy"])))
        }
    };
    let asked = clusters.iter().take(ASKED_MAX).map(ask);
    let answers: Vec<_> = futures::stream::iter(asked).buffered(ASKED_TOGETHER).collect().await;
    let one = |(cluster, answer): (String, Result<String, Failure>)| match answer {
        Ok(policy) => format!("{cluster}={policy}"),
        Err(failure) => {
            remark(&format!("what is in force in {cluster} is not known: {}", failure.message));
            format!("{cluster}=?")
        }
    };
    Ok(answers.into_iter().map(one).collect::<Vec<_>>().join(","))
}

/// The first port that has endpoints at all.
fn asked_port(service: &Value) -> Option<u64> {
    let ports = service.get("ports").and_then(Value::as_array)?;
    ports.iter().find(|port| text(port, &["protocol"]) == "TCP")?.get("port")?.as_u64()
}

/// Whether a cluster has an agent that may be asked.
fn is_member(cluster: &Value) -> bool {
    !matches!(&*text(cluster, &["state"]), "left" | "evicted" | "joining")
}

/// Lists the services, or shows one.
pub async fn run(args: ServicesArgs) -> Outcome {
    let client = Client::open(&args.server).await?;
    if let Some(service) = &args.service {
        let Target { namespace, name, .. } =
            Target::read(service, args.namespace.as_deref()).map_err(Failure::usage)?;
        let answer = client.get(&format!("services/{}/{}", encode(&namespace), encode(&name))).await?.ok()?;
        if args.output.output == Format::Wide {
            let mut body = answer.json()?;
            body[FOUND] = in_force(&client, &namespace, &name, &body).await?.into();
            let columns: Vec<&Column> = COLUMNS.iter().chain([&IN_FORCE]).collect();
            print(&table(&columns, &[body]));
            return Ok(0);
        }
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
    /// Mutation seen to fail: `failover` without the source.
    #[test]
    fn failover_is_shown_with_its_source() {
        let service = json!({"failover": {"policy": "default", "source": "builtin"}});
        assert_eq!(failover(&service), "default (builtin)");
    }

    /// A conflict is a cell of a table, not a page.
    ///
    /// Mutation seen to fail: `conflict` with the message.
    #[test]
    fn a_conflict_is_shown_in_few_words() {
        let of = |conflict: Value| conflict_of(&json!({ "conflict": conflict }));
        let told = json!({"winner": "east", "fields": ["ports", "type"], "message": "east exports …"});
        assert_eq!((of(told), of(Value::Null)), ("ports,type: as in east".to_owned(), String::new()));
    }

    /// Nobody hands out endpoints of UDP, and who is no member has no agent.
    ///
    /// Mutations seen to fail: `== "TCP"` of `asked_port` answered `true`; `"left"` left out of `is_member`.
    #[test]
    fn who_is_asked_for_what_is_in_force() {
        let port = |number: u16, protocol: &str| json!({"port": number, "protocol": protocol});
        assert_eq!(asked_port(&json!({"ports": [port(53, "UDP"), port(8080, "TCP")]})), Some(8080));
        assert_eq!(asked_port(&json!({"ports": [port(53, "UDP")]})), None);
        let members = ["active", "draining", "drained", "left", "evicted", "joining"];
        let asked = members.map(|state| is_member(&json!({"state": state})));
        assert_eq!(asked, [true, true, true, false, false, false]);
    }

    /// Mutation seen to fail: `protocol == "TCP"` answered `true`.
    #[test]
    fn a_port_that_is_not_tcp_is_shown_as_what_it_is() {
        let service = json!({"ports": [
            {"name": "dns", "port": 53, "protocol": "UDP", "appProtocol": "tcp"},
            {"name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "http"},
        ]});
        assert_eq!(ports(&service), "53/UDP,8080/http");
    }
}
