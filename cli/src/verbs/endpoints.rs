//! Edge. `meshfed endpoints SERVICE[:PORT] --from CLUSTER`.

use std::str::FromStr;

use serde_json::Value;

use crate::client::{Client, ServerArgs, encode};
use crate::exit::{Failure, Outcome};
use crate::output::{Column, Format, OutputArgs, column, remark, show, text, wide};

/// A service as written: `NS/NAME` or a host name, with optional `:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The port, if named.
    pub port: Option<u16>,
}

impl FromStr for Target {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let (service, port) = match s.rsplit_once(':') {
            None => (s, None),
            Some((service, port)) => (
                service,
                Some(port.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(|| format!("'{port}' is no port"))?),
            ),
        };
        let form = || format!("'{s}' is neither NAMESPACE/NAME[:PORT] nor NAME.NAMESPACE.svc.DOMAIN[:PORT]");
        let (namespace, name) = if let Some((namespace, name)) = service.split_once('/') {
            (namespace, name)
        } else {
            let mut labels = service.split('.');
            let (Some(name), Some(namespace), Some("svc")) = (labels.next(), labels.next(), labels.next()) else {
                return Err(form());
            };
            // The own cluster's names are each cluster's own: what is shown here is what all share.
            if labels.eq(["cluster", "local"]) {
                return Err(format!(
                    "'{s}' is a name of each cluster's own endpoints; what clusters share is {name}.{namespace}.svc.clusterset.local"
                ));
            }
            (namespace, name)
        };
        meshfed_model::names::ServiceName::new(namespace, name).map_err(|error| error.to_string())?;
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned(), port })
    }
}

impl Target {
    /// Reads what was written; a name alone is of the namespace that was named beside it, and of no other.
    ///
    /// # Errors
    /// In words: no form that is known, or two namespaces.
    pub fn read(text: &str, namespace: Option<&str>) -> Result<Self, String> {
        let Some(wanted) = namespace else { return text.parse() };
        let target: Self =
            if text.contains(['/', '.']) { text.parse()? } else { format!("{wanted}/{text}").parse()? };
        if target.namespace != wanted {
            return Err(format!("'{text}' is not of namespace {wanted}; name it once"));
        }
        Ok(target)
    }
}

/// Arguments of `meshfed endpoints`.
#[derive(clap::Args)]
#[command(after_help = "Example:
  meshfed endpoints shop/b:8080 --from west
  meshfed endpoints b.shop.svc.clusterset.local:8080 --from west/shop/a -o wide")]
pub struct EndpointsArgs {
    /// NAMESPACE/NAME, a host name, or with -n a NAME, with optional :PORT [default: the service's only port]
    service: String,
    /// The namespace of a NAME
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The cluster whose clients ask, or one client of it, by ServiceAccount and the name of its pod or WorkloadEntry
    /// [default: the only cluster]
    #[arg(long, value_name = "CLUSTER[/NS/SA[/NAME]]")]
    from: Option<String>,
    /// One client of the cluster [default: any, on the network and in the zone that its token names first]
    #[arg(long, value_name = "NS/SA[/NAME]")]
    client: Option<String>,
    /// Where the client runs [default: the client's, else the token's first region and zone]
    #[arg(long, value_name = "REGION[/ZONE[/SUBZONE]]")]
    locality: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

const COLUMNS: &[Column] = &[
    column("ADDRESS", |e| text(e, &["address"])),
    column("PORT", |e| text(e, &["port"])),
    column("CLUSTER", |e| text(e, &["cluster"])),
    column("NETWORK", |e| text(e, &["network"])),
    column("LOCALITY", |e| text(e, &["locality"])),
    column("TIER", |e| text(e, &["tier"])),
    column("SHARE", |e| e.get("share").and_then(Value::as_f64).map(|s| format!("{s:.4}")).unwrap_or_default()),
    column("STATE", |e| text(e, &["state"])),
    column("VIA", |e| text(e, &["via"])),
    wide("WEIGHT", |e| text(e, &["weight"])),
    wide("REPRESENTS", |e| {
        if e.get("represents").is_none_or(Value::is_null) {
            return String::new();
        }
        format!("{}/{}", text(e, &["represents", "ready"]), text(e, &["represents", "total"]))
    }),
    wide("SNI", |e| text(e, &["sni"])),
    wide("IDENTITIES", |e| text(e, &["identities"])),
];

/// Shows what a client of a cluster is handed for a service port.
pub async fn run(args: EndpointsArgs) -> Outcome {
    let target = Target::read(&args.service, args.namespace.as_deref()).map_err(Failure::usage)?;
    let client = Client::open(&args.server).await?;
    let service = format!("services/{}/{}", encode(&target.namespace), encode(&target.name));
    let (from, workload) =
        match args.from.as_deref().map(|from| from.split_once('/').map_or((from, None), |(c, w)| (c, Some(w)))) {
            Some((cluster, workload)) => (cluster.to_owned(), workload.map(str::to_owned)),
            None => (only_cluster(&client).await?, None),
        };
    if workload.is_some() && args.client.is_some() {
        return Err(Failure::usage("--from and --client name a client each: leave one of them out"));
    }
    let workload = workload.or(args.client);
    let port = match target.port {
        Some(port) => port,
        None => only_port(&client, &service).await?,
    };
    let mut path = format!("{service}/endpoints?from={}&port={port}", encode(&from));
    for (key, value) in [("client", &workload), ("locality", &args.locality)] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", encode(value)));
        }
    }
    let answer = client.get(&path).await?.ok()?;
    show(args.output.output, &answer, crate::output::items, COLUMNS)?;
    if matches!(args.output.output, Format::Table | Format::Wide) {
        let body = answer.json()?;
        // Only an empty answer needs to say what the exporters have.
        let exported = if has_nothing(&body) { client.get(&service).await?.ok()?.json()? } else { Value::Null };
        for line in remarks(&body, &exported) {
            remark(&line);
        }
    }
    Ok(0)
}

fn has_nothing(body: &Value) -> bool {
    let dropped = body.get("dropped").and_then(Value::as_array).is_some_and(|d| !d.is_empty());
    !dropped && crate::output::items(body).is_empty()
}

/// Each exporter of a service with the ready and listed endpoints of one port.
fn exporters(service: &Value, port: &str) -> Vec<String> {
    let list = |of: &Value, key: &str| of.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let count = |group: &Value, key: &str| group.get(key).and_then(Value::as_u64).unwrap_or_default();
    let told = |export: &Value| {
        let of_port = |g: &&Value| text(g, &["port"]) == port && text(g, &["subset"]) == "_";
        let groups = list(export, "groups");
        let sum = |key| groups.iter().filter(of_port).map(|g| count(g, key)).fold(0, u64::saturating_add);
        format!("{}, {} of {} ready", text(export, &["cluster"]), sum("ready"), sum("total"))
    };
    list(service, "exports").iter().map(told).collect()
}

/// What the table leaves out: which endpoints this client cannot be handed, and why there may be none. `exported`: the
/// service as its exporters show it.
fn remarks(body: &Value, exported: &Value) -> Vec<String> {
    let mut lines: Vec<String> = body
        .get("dropped")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|d| {
            let [cluster, network, ready, reason] =
                ["cluster", "network", "ready", "reason"].map(|key| text(d, &[key]));
            let policy = text(body, &["policy"]);
            let why = if reason == "NotSelected" {
                format!(" (no tier of the failover policy {policy} selects them)")
            } else {
                String::new()
            };
            format!("not usable: {ready} ready in {cluster} ({network}): {reason}{why}")
        })
        .collect();
    if has_nothing(body) {
        let (service, port, from) = (text(body, &["service"]), text(body, &["port"]), text(body, &["from", "cluster"]));
        let by = exporters(exported, &port);
        let by = if by.is_empty() { "nobody exports it".to_owned() } else { format!("exported by {}", by.join("; ")) };
        lines.push(format!("no endpoint of {service}:{port} can be handed to clients in {from}: {by}"));
    }
    lines
}

async fn only_cluster(client: &Client) -> Result<String, Failure> {
    let body = client.get("clusters").await?.ok()?.json()?;
    let names: Vec<String> = crate::output::items(&body).iter().map(|c| text(c, &["name"])).collect();
    match names.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Failure::failed("no cluster has joined this fleet, so nobody is handed anything")),
        _ => Err(Failure::usage(format!("say whose view: --from {}", names.join("|")))),
    }
}

async fn only_port(client: &Client, service: &str) -> Result<u16, Failure> {
    let body = client.get(service).await?.ok()?.json()?;
    let ports: Vec<u16> = body
        .get("ports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|p| p.get("port").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok()))
        .collect();
    match ports.as_slice() {
        [only] => Ok(*only),
        [] => Err(Failure::failed("the service has no port")),
        many => Err(Failure::usage(format!("say which port: {many:?}, as NAMESPACE/NAME:PORT"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Mutations seen to fail: `exporters` counts all ports; all subsets.
    #[test]
    fn an_empty_answer_says_what_the_exporters_have() {
        let body = json!({"service": "shop/b", "port": 8080, "from": {"cluster": "west"}, "items": [], "dropped": []});
        let group =
            |port, subset, ready, total| json!({"port": port, "subset": subset, "ready": ready, "total": total});
        let groups = [group(8080, "_", 0, 1), group(8080, "_", 0, 2), group(8080, "v1", 0, 1), group(81, "_", 1, 1)];
        let exported = json!({"exports": [{"cluster": "east", "groups": groups}]});
        let none = "no endpoint of shop/b:8080 can be handed to clients in west: ";
        assert_eq!(remarks(&body, &exported), [format!("{none}exported by east, 0 of 3 ready")]);
        assert_eq!(remarks(&body, &json!({"exports": []})), [format!("{none}nobody exports it")]);
    }

    /// Mutation seen to fail: the third label is not compared with `svc`.
    #[test]
    fn a_service_is_written_in_two_ways() {
        let b = Target { namespace: "shop".into(), name: "b".into(), port: Some(8080) };
        assert_eq!("shop/b:8080".parse::<Target>().unwrap(), b);
        assert_eq!("b.shop.svc.clusterset.local:8080".parse::<Target>().unwrap(), b);
        for (text, namespace, wanted) in [
            ("b", Some("shop"), Some(("shop", None))),
            ("b:8080", Some("shop"), Some(("shop", Some(8080)))),
            ("shop/b", Some("shop"), Some(("shop", None))),
            ("shop/b", Some("other"), None),
            ("b", None, None),
        ] {
            let read = Target::read(text, namespace).ok();
            assert_eq!(read.as_ref().map(|t| (&*t.namespace, t.port)), wanted, "{text} {namespace:?}");
        }
        for bad in [
            "b",
            "b.shop",
            "b.shop.svc.cluster.local:8080",
            "b.shop.pod.x",
            "shop/b:0",
            "shop/b:x",
            "Shop/b",
            "/b",
            "shop/",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
