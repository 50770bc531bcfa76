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

fn main() -> std::process::ExitCode {
    meshfed_runtime::tls::install_provider();
    match Cli::try_parse() {
        Ok(cli) => meshfed_proxy::run(cli.proxy),
        Err(error) => {
            let _ignored = error.print();
            let code = if error.use_stderr() { 64 } else { 0 };
            std::process::ExitCode::from(code)
        }
    }
}
