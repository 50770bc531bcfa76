//! Pure but for printing. `meshfed bootstrap envoy`.

use std::net::{IpAddr, SocketAddr};

use meshfed_cluster_agent::bootstrap::{EnvoyFlags, envoy_bootstrap};
use meshfed_model::names::WorkloadRef;

use crate::exit::{Failure, Outcome};
use crate::output::print;

/// Arguments of `meshfed bootstrap`.
#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub struct BootstrapArgs {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(clap::Subcommand)]
enum Kind {
    /// Print the bootstrap of a stock Envoy as client-side sidecar, as YAML
    Envoy(Box<EnvoyArgs>),
    /// For proxyless gRPC (not in this version)
    Grpc(Rest),
}

#[derive(clap::Args)]
struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<String>,
}

#[derive(clap::Args)]
struct EnvoyArgs {
    /// The agent's socket: unix:E/run/xds.sock
    #[arg(long, value_name = "unix:PATH")]
    agent: String,
    /// The workload whose sidecar Envoy is
    #[arg(long, value_name = "NS/SA[/NAME]")]
    workload: WorkloadRef,
    /// Hosts of its listeners [default: the WorkloadEntry's addresses]
    #[arg(long, value_name = "HOST")]
    bind: Vec<IpAddr>,
    /// Where it takes outbound HTTP [default: 15001 on its hosts]
    #[arg(long, value_name = "HOST:PORT")]
    outbound_listen: Vec<SocketAddr>,
    /// A plain TCP listener for one service, say 127.0.0.1:9000=db.shop.svc.clusterset.local:5432, several times
    #[arg(long, value_name = "LISTEN=HOST:PORT", value_parser = outbound)]
    outbound: Vec<(String, String)>,
    /// Envoy's own admin port [default: a free one on 127.0.0.1]
    #[arg(long, value_name = "HOST:PORT")]
    admin_listen: Option<SocketAddr>,
    /// Envoy in front of the workload (not in this version)
    #[arg(long, value_name = "PORT=HOST:PORT", hide = true)]
    inbound: Vec<String>,
    #[arg(long, value_name = "HOST:PORT", hide = true)]
    inbound_listen: Vec<String>,
}

fn outbound(text: &str) -> Result<(String, String), String> {
    let (listen, target) = text.split_once('=').ok_or_else(|| format!("'{text}' is not LISTEN=HOST:PORT"))?;
    listen.parse::<SocketAddr>().map_err(|_no_address| format!("'{listen}' is no address with a port"))?;
    Ok((listen.to_owned(), target.to_owned()))
}

/// Prints the bootstrap.
pub fn run(args: &BootstrapArgs) -> Outcome {
    let args = match &args.kind {
        Kind::Envoy(args) => args,
        Kind::Grpc(_) => return Err(Failure::later("meshfed bootstrap grpc")),
    };
    if !args.inbound.is_empty() || !args.inbound_listen.is_empty() {
        return Err(Failure::later("meshfed bootstrap envoy --inbound"));
    }
    let socket = args
        .agent
        .strip_prefix("unix:")
        .ok_or_else(|| Failure::usage(format!("--agent {}: only unix:PATH is in this version", args.agent)))?;
    // Envoy resolves a relative path from its own directory, which need not be ours.
    let socket =
        std::path::absolute(socket).map_err(|error| Failure::bad_input(format!("--agent {}: {error}", args.agent)))?;
    let flags = EnvoyFlags {
        admin: args.admin_listen,
        bind: args.bind.clone(),
        outbound_listen: args.outbound_listen.clone(),
        outbound: args.outbound.clone(),
    };
    let bootstrap = envoy_bootstrap(&socket.display().to_string(), &args.workload, &flags);
    print(&serde_saphyr::to_string(&bootstrap).map_err(|error| Failure::failed(error.to_string()))?);
    Ok(0)
}
