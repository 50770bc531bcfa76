//! Pure but for printing. `meshfed version`.

use crate::exit::{Failure, Outcome};
use crate::output::{Format, OutputArgs, print};

/// Arguments of `meshfed version`.
#[derive(clap::Args)]
pub struct VersionArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// Prints the version of this program.
pub fn run(args: &VersionArgs) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    let body = serde_json::json!({ "client": { "version": version } });
    match args.output.output {
        Format::Table | Format::Wide => print(&format!("meshfed {version}\n")),
        Format::Json => print(&format!("{body}\n")),
        Format::Yaml => print(&serde_saphyr::to_string(&body).map_err(|e| Failure::failed(e.to_string()))?),
    }
    Ok(0)
}
