//! Edge. `meshfed-proxy`: the data plane alone, for images that ship nothing else (D10).

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The meshfed data plane: sidecar or gateway.
#[derive(clap::Parser)]
#[command(name = "meshfed-proxy", version)]
struct Cli {
    #[command(flatten)]
    proxy: meshfed_proxy::ProxyArgs,
}

#[expect(clippy::print_stderr, reason = "the one place where wrong usage is reported")]
fn main() -> std::process::ExitCode {
    // Before anything else: whoever started this may end it at once.
    let signals = meshfed_runtime::drain::Signals::early().ok();
    meshfed_runtime::tls::install_provider();
    match Cli::try_parse() {
        Ok(cli) => meshfed_proxy::run(cli.proxy, signals),
        Err(error) if error.use_stderr() => {
            let shown = error.render();
            let rest = |cli: Cli| meshfed_cli::flags::lines(meshfed_proxy::configure(&cli.proxy).err());
            match meshfed_cli::flags::all_errors(std::env::args_os().collect(), error, rest) {
                Some(lines) => lines.iter().for_each(|line| eprintln!("{line}")),
                None => eprint!("{shown}"),
            }
            std::process::ExitCode::from(64)
        }
        Err(help) => {
            let _closed_pipe = help.print();
            std::process::ExitCode::SUCCESS
        }
    }
}
