//! Edge. `meshfed credential reset`: new credentials of the HTTP API.

use std::path::PathBuf;

use meshfed_federator::http::{CredentialError, reset};
use meshfed_runtime::telemetry::chain;

use crate::exit::{Failure, Outcome};
use crate::output::print;

/// Arguments of `meshfed credential`.
#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub struct CredentialArgs {
    #[command(subcommand)]
    verb: CredentialVerb,
}

#[derive(clap::Subcommand)]
enum CredentialVerb {
    /// Make the API's token, CA and admin.yaml anew; a running federator takes them up within a second
    Reset(ResetArgs),
}

/// Arguments of `meshfed credential reset`.
#[derive(clap::Args)]
struct ResetArgs {
    /// The federator's data directory
    #[arg(long, value_name = "D")]
    data_dir: PathBuf,
}

/// Renews, and names the files to hand out again.
pub fn run(args: &CredentialArgs) -> Outcome {
    let CredentialVerb::Reset(args) = &args.verb;
    let renewed = reset(&args.data_dir).map_err(|error| match error {
        CredentialError::NoFederator(_) => Failure::bad_input(format!("--data-dir: {error}")),
        CredentialError::File(_)
        | CredentialError::Damaged { .. }
        | CredentialError::Lock(_)
        | CredentialError::Name(_)
        | CredentialError::Randomness
        | CredentialError::Key(_)
        | CredentialError::Certificate(_)
        | CredentialError::Tls(_) => Failure::failed(chain(&error)),
    })?;
    let files: Vec<String> = renewed.files.iter().map(|file| file.display().to_string()).collect();
    print(&format!("renewed {}\n", files.join(" ")));
    Ok(0)
}
