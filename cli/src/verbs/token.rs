//! Edge. `meshfed token create|list|revoke`.

use http::Method;
use serde_json::{Value, json};

use crate::client::{Client, ServerArgs, encode};
use crate::exit::{Failure, Outcome};
use crate::output::{Column, Format, OutputArgs, column, items, print, seconds, show, text};

/// Arguments of `meshfed token`.
#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub struct TokenArgs {
    #[command(subcommand)]
    verb: TokenVerb,
}

#[derive(clap::Subcommand)]
enum TokenVerb {
    /// Make a single-use token with which one cluster may join
    Create(CreateArgs),
    /// List tokens; secrets are never shown again
    List(ListArgs),
    /// Revoke an unused token
    Revoke(RevokeArgs),
}

#[derive(clap::Args)]
#[command(
    override_usage = "meshfed token create --cluster <NAME> --network <NET[=CIDR,…]>... --region <R>... [OPTIONS]",
    after_help = "The token goes to stdout, and nothing else (with -o json or yaml the API's whole answer). Example:
  meshfed token create --cluster east --network net-east=10.1.0.0/16 --region eu --zone eu-1 > east.token"
)]
struct CreateArgs {
    /// The cluster that may join
    #[arg(long, value_name = "NAME", required_unless_present = "workload")]
    cluster: Option<String>,
    /// A network of the cluster and the address ranges its endpoints may have, several times; the first network is the
    /// default of its endpoints. Without ranges, loopback, link-local, multicast and metadata addresses are refused
    #[arg(long = "network", value_name = "NET[=CIDR,…]", value_parser = network, required_unless_present = "workload")]
    networks: Vec<Value>,
    /// A region the cluster may claim, several times
    #[arg(long = "region", value_name = "R", required_unless_present = "workload")]
    regions: Vec<String>,
    /// A zone the cluster may claim, several times
    #[arg(long = "zone", value_name = "Z")]
    zones: Vec<String>,
    /// A range its gateway addresses may lie in, several times [default: the network's ranges]
    #[arg(long = "gateway-cidr", value_name = "CIDR")]
    gateway_cidrs: Vec<String>,
    /// How long the token is valid: 1s to 24h, say 15m or 1h30m
    #[arg(long, default_value = "15m", value_name = "DURATION")]
    ttl: String,
    /// The cluster may take the place of a live cluster of its name, with join --replace
    #[arg(long)]
    replace: bool,
    /// A token for one workload of a VM (not in this version)
    #[arg(long, value_name = "NS/SA")]
    workload: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(clap::Args)]
struct ListArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(clap::Args)]
struct RevokeArgs {
    /// The token's id: the ten characters after 'mf1.'
    id: String,
    #[command(flatten)]
    server: ServerArgs,
}

fn network(written: &str) -> Result<Value, String> {
    let (name, cidrs) = written.split_once('=').map_or((written, ""), |(name, cidrs)| (name, cidrs));
    meshfed_model::names::NetworkName::new(name).map_err(|error| error.to_string())?;
    if written.ends_with('=') {
        return Err(format!("'{written}' names no range after '='"));
    }
    let cidrs: Vec<&str> = cidrs.split(',').filter(|c| !c.is_empty()).collect();
    Ok(json!({ "name": name, "cidrs": cidrs }))
}

const COLUMNS: &[Column] = &[
    column("ID", |t| text(t, &["id"])),
    column("CLUSTER", |t| text(t, &["cluster"])),
    column("STATE", |t| text(t, &["state"])),
    column("EXPIRES", |t| seconds(&text(t, &["expiresAt"]))),
];

/// Makes, lists and revokes tokens.
pub async fn run(args: TokenArgs) -> Outcome {
    match args.verb {
        TokenVerb::Create(args) => create(args).await,
        TokenVerb::List(args) => {
            let answer = Client::new(&args.server)?.list("tokens", args.output.output).await?;
            show(args.output.output, &answer, items, COLUMNS)?;
            Ok(0)
        }
        TokenVerb::Revoke(args) => {
            let path = format!("tokens/{}", encode(&args.id));
            Client::new(&args.server)?.call(Method::DELETE, &path, None).await?.ok()?;
            Ok(0)
        }
    }
}

async fn create(args: CreateArgs) -> Outcome {
    if args.workload.is_some() {
        return Err(Failure::later("meshfed token create --workload"));
    }
    let body = json!({
        "cluster": args.cluster, "networks": args.networks, "regions": args.regions, "zones": args.zones,
        "gatewayCidrs": args.gateway_cidrs, "ttl": args.ttl, "replace": args.replace,
    });
    let answer = Client::new(&args.server)?.call(Method::POST, "tokens", Some(&body)).await?.ok()?;
    match args.output.output {
        Format::Table | Format::Wide => print(&format!("{}\n", text(&answer.json()?, &["token"]))),
        Format::Json | Format::Yaml => show(args.output.output, &answer, items, COLUMNS)?,
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: the check for a trailing `=` left out.
    #[test]
    fn networks_are_name_and_ranges() {
        assert_eq!(network("net-east").unwrap(), json!({"name": "net-east", "cidrs": []}));
        assert_eq!(
            network("n=10.0.0.0/8,fd00::/8").unwrap(),
            json!({"name": "n", "cidrs": ["10.0.0.0/8", "fd00::/8"]})
        );
        for bad in ["", "=10.0.0.0/8", "n=", "N"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }
}
