//! Edge. `meshfed demo`: arguments, and the choice between the tour and the check.

use std::path::PathBuf;

use meshfed_runtime::drain::Signals;
use meshfed_runtime::listen::ListenFlag;

use crate::demo;
use crate::exit::{Failure, Outcome};

/// Where the demo's clusters live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// What this machine can do: loopback addresses, in this version
    Auto,
    /// A network namespace per cluster (not in this version)
    Netns,
    /// Loopback addresses, a range per cluster
    Loopback,
}

/// Arguments of `meshfed demo`.
#[derive(clap::Args)]
pub struct DemoArgs {
    /// Walk the fleet step by step, print a line for each, and exit 0 or 1
    #[arg(long)]
    check: bool,
    /// Keep the fleet's files in this directory [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// What separates the clusters
    #[arg(long, value_enum, default_value = "auto")]
    mode: Mode,
    /// Where the sample application answers, with port 0 on a free port
    #[arg(long, default_value = "127.0.0.1:15700", value_name = "HOST:PORT")]
    listen: ListenFlag,
}

/// Runs the demo until it is over, or told to end.
pub async fn run(args: DemoArgs, signals: Option<Signals>) -> Outcome {
    if args.mode == Mode::Netns {
        return Err(Failure::usage("'--mode netns' is not in this version; use --mode loopback"));
    }
    if args.listen == ListenFlag::Off {
        return Err(Failure::usage("'--listen off': the demo asks its sample application there; write HOST:PORT"));
    }
    let options = demo::Options { dir: args.dir, listen: args.listen };
    let stop = signals.map_or_else(Signals::listen, Ok).map_err(anyhow::Error::from)?;
    if args.check { demo::check(options, stop).await } else { demo::tour(options, stop).await }
}
