//! Edge. `meshfed`: one binary, a verb per file, a subcommand per role.

#![expect(unreachable_pub, reason = "a binary: what is pub is for its own rooms")]

mod answer;
mod client;
mod demo;
mod exit;
mod output;
mod place;
mod verbs;

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // Before anything else: whoever started a daemon may end it at once.
    let signals = exit::drains().then(|| meshfed_runtime::drain::Signals::early().ok()).flatten();
    meshfed_runtime::tls::install_provider();
    match verbs::Cli::try_parse() {
        Ok(cli) => verbs::run(cli, signals),
        Err(error) => exit::usage(error, verbs::configuration_errors),
    }
}
