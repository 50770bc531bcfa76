//! Edge. The verbs, one file each.

mod bootstrap;
mod clusters;
mod demo;
mod endpoints;
mod join;
mod later;
mod plan;
mod reactor;
mod services;
mod status;
mod token;
mod trust;
mod version;

use std::future::Future;
use std::process::ExitCode;

use crate::exit::{self, Failure, Outcome};

/// meshfed joins many clusters into one service mesh, without a flat network and without copied credentials.
///
/// `meshfed demo` shows it on this machine. Verbs that ask the federator take its credentials from --config, else from
/// the environment variable MESHFED_CONFIG: the file admin.yaml in the federator's data directory.
#[derive(clap::Parser)]
#[command(name = "meshfed", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// End with the process that started this one (the demo's children)
    #[arg(long, hide = true)]
    die_with_parent: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Run a small fleet on this machine, with a sample application
    Demo(demo::DemoArgs),
    /// Run the federator: the global registry and the root CA
    Federator(meshfed_federator::FederatorArgs),
    /// Run a cluster's agent
    Agent(meshfed_cluster_agent::AgentArgs),
    /// Run the data plane of one workload: sidecar or gateway
    Proxy(meshfed_proxy::ProxyArgs),
    /// Make, list and revoke join tokens
    Token(token::TokenArgs),
    /// Make this directory a member of the fleet
    Join(join::JoinArgs),
    /// Whether the fleet is up, and what it waits for
    Status(status::StatusArgs),
    /// The member clusters
    Clusters(clusters::ClustersArgs),
    /// The services of the fleet
    Services(services::ServicesArgs),
    /// What a client is handed for a service
    Endpoints(endpoints::EndpointsArgs),
    /// The fleet's trust
    Trust(trust::TrustArgs),
    /// Print the bootstrap of a foreign data plane
    Bootstrap(bootstrap::BootstrapArgs),
    /// The version of this program
    Version(version::VersionArgs),
    /// The sample application of the demo
    #[command(hide = true)]
    Reactor(reactor::ReactorArgs),
    #[command(flatten)]
    Later(later::Later),
}

/// Runs a verb to its exit code.
pub fn run(cli: Cli) -> ExitCode {
    if cli.die_with_parent
        && let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
    {
        return exit::finish(Err(Failure::failed(format!("--die-with-parent: {error}"))));
    }
    match cli.verb {
        Verb::Federator(args) => meshfed_federator::run(args),
        Verb::Agent(args) => meshfed_cluster_agent::run(args),
        Verb::Proxy(args) => meshfed_proxy::run(args),
        Verb::Demo(args) => exit::finish(block_on(demo::run(args))),
        Verb::Token(args) => exit::finish(block_on(token::run(args))),
        Verb::Join(args) => exit::finish(block_on(join::run(args))),
        Verb::Status(args) => exit::finish(block_on(status::run(args))),
        Verb::Clusters(args) => exit::finish(block_on(clusters::run(args))),
        Verb::Services(args) => exit::finish(block_on(services::run(args))),
        Verb::Endpoints(args) => exit::finish(block_on(endpoints::run(args))),
        Verb::Trust(args) => exit::finish(block_on(trust::run(args))),
        Verb::Bootstrap(args) => exit::finish(bootstrap::run(&args)),
        Verb::Version(args) => exit::finish(version::run(&args)),
        Verb::Reactor(args) => exit::finish(block_on(reactor::run(args))),
        Verb::Later(verb) => exit::finish(later::run(&verb)),
    }
}

fn block_on(verb: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("no runtime: {error}")))?;
    runtime.block_on(verb)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    /// Mutation seen to fail: the reactor has a flag `--version` of its own.
    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
