//! Edge. The verbs, one file each.

mod bootstrap;
mod check;
mod clusters;
mod crds;
mod credential;
mod demo;
mod dns;
mod endpoints;
mod inject;
mod join;
mod join_kube;
mod later;
mod leave;
mod plan;
mod proxy;
mod reactor;
mod services;
mod status;
mod token;
mod trust;
mod version;

use std::future::Future;
use std::process::ExitCode;

use meshfed_runtime::drain::Signals;

use crate::exit::{self, Failure, Outcome};

/// meshfed joins many clusters into one service mesh, without a flat network and without copied credentials.
///
/// A federator keeps the registry and certifies who is a member; an agent in each cluster configures its proxies;
/// east-west gateways carry traffic between networks. `meshfed demo` shows all of it on this machine.
///
/// Verbs that ask the federator take its credentials from --config, else from the environment variable MESHFED_CONFIG:
/// the file admin.yaml in the federator's data directory. A hub on Kubernetes is asked by --context, the cluster that it is in.
#[derive(clap::Parser)]
#[command(name = "meshfed", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 fine, 1 failed or not ready, 64 wrong usage or not in this version, \
65 bad file, input or address, 79 findings.")]
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
    /// Run a cluster's agent: it offers what the cluster exports, and configures the cluster's proxies
    Agent(meshfed_cluster_agent::AgentArgs),
    /// Run the data plane of one workload: sidecar or gateway; `init` and `clean` lead its connections there
    Proxy(Box<proxy::ProxyVerb>),
    /// Make, list and revoke join tokens
    Token(token::TokenArgs),
    /// Print the CustomResourceDefinitions of meshfed's own kinds
    Crds(crds::CrdsArgs),
    /// Renew the credentials of the federator's HTTP API
    Credential(credential::CredentialArgs),
    /// Join a cluster to the fleet: makes the data directory that its agent runs with
    Join(join::JoinArgs),
    /// Leave the fleet: traffic goes elsewhere first, then the cluster is no member
    Leave(leave::LeaveArgs),
    /// Check an installation on Kubernetes, a member's or a hub's, or before there is one (--pre): exit 0 when nothing is
    /// amiss, 79 when something is
    Check(check::CheckArgs),
    /// Print what a cluster's own DNS needs for imported names
    Dns(dns::DnsArgs),
    /// Show whether the fleet is ready, and what it waits for: exit 0 ready, 1 not
    Status(status::StatusArgs),
    /// List the member clusters, or show one
    Clusters(clusters::ClustersArgs),
    /// List the services that clusters export, or show one
    Services(services::ServicesArgs),
    /// Show the addresses that a client is handed for a service, and its share of requests for each
    Endpoints(endpoints::EndpointsArgs),
    /// Show the fleet's trust: root, bundles, and who holds them
    Trust(trust::TrustArgs),
    /// Inject the sidecar into the pods of a file, as the webhook does, and print it
    Inject(inject::InjectArgs),
    /// Print the bootstrap file of another data plane than the bundled proxy
    Bootstrap(bootstrap::BootstrapArgs),
    /// Print the version of this program
    Version(version::VersionArgs),
    /// The sample application of the demo
    #[command(hide = true)]
    Reactor(reactor::ReactorArgs),
    #[command(flatten)]
    Later(later::Later),
}

/// Runs a verb to its exit code; `signals` are those that are listened for already.
pub fn run(cli: Cli, signals: Option<Signals>) -> ExitCode {
    if cli.die_with_parent
        && let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
    {
        return exit::finish(Err(Failure::failed(format!("--die-with-parent: {error}"))));
    }
    match cli.verb {
        Verb::Federator(args) => meshfed_federator::run(args, signals),
        Verb::Agent(args) => meshfed_cluster_agent::run(args, signals),
        Verb::Proxy(verb) => proxy::run(*verb, signals),
        Verb::Demo(args) => exit::finish(block_on(demo::run(args, signals))),
        Verb::Token(args) => exit::finish(block_on(token::run(args))),
        Verb::Crds(args) => exit::finish(crds::run(&args)),
        Verb::Credential(args) => exit::finish(credential::run(&args)),
        Verb::Join(args) => exit::finish(block_on(join::run(args))),
        Verb::Leave(args) => exit::finish(block_on(leave::run(args))),
        Verb::Check(args) => exit::finish(block_on(check::run(args))),
        Verb::Dns(args) => exit::finish(block_on(dns::run(args))),
        Verb::Status(args) => exit::finish(block_on(status::run(args))),
        Verb::Clusters(args) => exit::finish(block_on(clusters::run(args))),
        Verb::Services(args) => exit::finish(block_on(services::run(args))),
        Verb::Endpoints(args) => exit::finish(block_on(endpoints::run(args))),
        Verb::Trust(args) => exit::finish(block_on(trust::run(args))),
        Verb::Inject(args) => exit::finish(inject::run(&args)),
        Verb::Bootstrap(args) => exit::finish(bootstrap::run(&args)),
        Verb::Version(args) => exit::finish(version::run(&args)),
        Verb::Reactor(args) => exit::finish(block_on(reactor::run(args, signals))),
        Verb::Later(verb) => exit::finish(later::run(&verb)),
    }
}

/// What is wrong with a daemon's configuration beside flags that cannot be parsed, a line each.
pub fn configuration_errors(cli: Cli) -> Vec<String> {
    meshfed_cli::flags::lines(match cli.verb {
        Verb::Federator(args) => meshfed_federator::configure(args).err(),
        Verb::Agent(args) => meshfed_cluster_agent::configure(args).err(),
        Verb::Proxy(verb) => verb.args.as_ref().and_then(|args| meshfed_proxy::configure(args).err()),
        Verb::Demo(_)
        | Verb::Token(_)
        | Verb::Crds(_)
        | Verb::Credential(_)
        | Verb::Join(_)
        | Verb::Leave(_)
        | Verb::Check(_)
        | Verb::Dns(_)
        | Verb::Status(_)
        | Verb::Clusters(_)
        | Verb::Services(_)
        | Verb::Endpoints(_)
        | Verb::Trust(_)
        | Verb::Inject(_)
        | Verb::Bootstrap(_)
        | Verb::Version(_)
        | Verb::Reactor(_)
        | Verb::Later(_) => None,
    })
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

    /// Examples are pasted into a shell: no line of one is wrapped on a terminal of 80 columns.
    ///
    /// Mutation seen to fail: a longer comment behind the example of `join --kube -o yaml`.
    #[test]
    fn lines_of_examples_are_whole() {
        fn walk(command: &clap::Command, seen: &mut usize) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines().filter(|line| line.starts_with("  ")) {
                assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
                *seen += 1;
            }
            command.get_subcommands().for_each(|command| walk(command, seen));
        }
        let mut seen = 0;
        walk(&super::Cli::command(), &mut seen);
        assert!(seen > 5, "{seen} lines");
    }

    /// Mutation seen to fail: the reactor has a flag `--version` of its own.
    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
