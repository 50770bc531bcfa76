//! Edge. `meshfed proxy`: the data plane, and the rules that lead a workload's connections to it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use meshfed_model::network::Cidr;
use meshfed_proxy::capture::{nft, resolvers, rules};
use meshfed_runtime::drain::Signals;

use crate::exit::{self, Failure, Outcome};
use crate::output::{print, remark};

/// Arguments of `meshfed proxy`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ProxyVerb {
    #[command(subcommand)]
    capture: Option<CaptureVerb>,
    /// The data plane's own.
    #[command(flatten)]
    pub args: Option<meshfed_proxy::ProxyArgs>,
}

#[derive(clap::Subcommand)]
enum CaptureVerb {
    /// Lead the connections of this network namespace to its proxy (`proxy --capture redirect`), by nftables
    ///
    /// Needs root with CAP_NET_ADMIN, and the program nft. Run again, it replaces its own rules by those of the flags, in one
    /// transaction. The rules stay when the proxy ends: connections are refused then, and none goes past it in plaintext.
    Init(InitArgs),
    /// Take the rules of `proxy init` away, all of them
    Clean(CleanArgs),
}

#[derive(clap::Args)]
struct InitArgs {
    /// Print the rules and change nothing; needs neither root nor nft
    #[arg(long)]
    dry_run: bool,
    /// The uid that the proxy runs with, whose connections are its own
    #[arg(long, value_name = "UID", default_value_t = rules::PROXY_UID)]
    proxy_uid: u32,
    /// Where the proxy takes outbound connections
    #[arg(long, value_name = "PORT", default_value_t = rules::OUTBOUND_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    outbound_port: u16,
    /// Where the proxy takes inbound connections
    #[arg(long, value_name = "PORT", default_value_t = rules::INBOUND_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    inbound_port: u16,
    /// Where the proxy takes DNS queries to the first resolver (to the second one port higher, and so on), or `off`
    #[arg(long, value_name = "PORT|off", default_value_t = DnsPort::default())]
    dns_port: DnsPort,
    /// The file that names the resolvers
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    /// Ports of the workload that are not captured, say 22,9090; several times
    #[arg(long, value_name = "PORT,…", value_delimiter = ',')]
    exclude_inbound_ports: Vec<u16>,
    /// Ports of others to which connections are not captured; several times
    #[arg(long, value_name = "PORT,…", value_delimiter = ',')]
    exclude_outbound_ports: Vec<u16>,
    /// Addresses to which connections are not captured, say 192.0.2.0/24,2001:db8::/32; several times
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',')]
    exclude_outbound_cidrs: Vec<Cidr>,
}

#[derive(clap::Args)]
struct CleanArgs {
    /// Print what would be done and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// `--dns-port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DnsPort(Option<u16>);

impl Default for DnsPort {
    fn default() -> Self {
        Self(Some(rules::DNS_PORT))
    }
}
impl std::fmt::Display for DnsPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(port) => write!(f, "{port}"),
            None => f.write_str("off"),
        }
    }
}
impl std::str::FromStr for DnsPort {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        // The resolvers after the first one have the ports after it.
        let last = u16::MAX - u16::try_from(resolvers::RESOLVERS_MAX).unwrap_or(0);
        match text {
            "off" => Ok(Self(None)),
            _ => match text.parse() {
                Ok(port @ 1..) if port <= last => Ok(Self(Some(port))),
                Ok(_) | Err(_) => Err(format!("'{text}' is neither off nor a port from 1 to {last}")),
            },
        }
    }
}

/// Runs the data plane, or changes the rules.
pub fn run(verb: ProxyVerb, signals: Option<Signals>) -> ExitCode {
    match (verb.capture, verb.args) {
        (Some(CaptureVerb::Init(args)), _) => exit::finish(init(&args)),
        (Some(CaptureVerb::Clean(args)), _) => exit::finish(carry_out(&rules::remove(), args.dry_run)),
        (None, Some(args)) => meshfed_proxy::run(args, signals),
        (None, None) => exit::finish(Err(Failure::usage("--agent and --workload are required; see --help"))),
    }
}

fn init(args: &InitArgs) -> Outcome {
    let resolvers = match args.dns_port.0 {
        Some(_) => read(&args.resolv_conf)?.resolvers,
        None => Vec::new(),
    };
    let dns = args.dns_port.0.into_iter().flat_map(|first| (first..).take(resolvers.len().max(1)));
    let own: Vec<u16> = [args.outbound_port, args.inbound_port].into_iter().chain(dns).collect();
    if own.iter().collect::<BTreeSet<_>>().len() != own.len() {
        return Err(Failure::usage(format!(
            "--outbound-port, --inbound-port and --dns-port need ports of their own, and these are {own:?}; DNS takes one \
             port per resolver"
        )));
    }
    let options = rules::CaptureOptions {
        proxy_uid: args.proxy_uid,
        outbound_port: args.outbound_port,
        inbound_port: args.inbound_port,
        dns_port: args.dns_port.0,
        resolvers,
        exclude_inbound_ports: args.exclude_inbound_ports.iter().copied().collect(),
        exclude_outbound_ports: args.exclude_outbound_ports.iter().copied().collect(),
        exclude_outbound_cidrs: args.exclude_outbound_cidrs.iter().cloned().collect(),
    };
    let done = carry_out(&rules::install(&options), args.dry_run)?;
    if !args.dry_run {
        remark(&format!("table inet {} stands: {options}", rules::TABLE));
    }
    Ok(done)
}

fn read(file: &Path) -> Result<resolvers::ResolvConf, Failure> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(resolvers::parse(&text)),
        Err(error) => Err(Failure::bad_input(format!(
            "--resolv-conf {}: {error}; name another file, or do without DNS by --dns-port off",
            file.display()
        ))),
    }
}

fn carry_out(transaction: &str, dry_run: bool) -> Outcome {
    if dry_run {
        print(transaction);
    } else {
        nft::run(transaction).map_err(|error| Failure::failed(meshfed_runtime::telemetry::chain(&error)))?;
    }
    Ok(0)
}
