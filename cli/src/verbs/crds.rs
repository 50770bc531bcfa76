//! Edge. `meshfed crds`: the CustomResourceDefinitions of our own kinds.

use std::path::PathBuf;

use meshfed_crds::custom::{GROUP, definitions, reference, yaml};

use crate::exit::{Failure, Outcome};
use crate::output::print;

/// Print the CustomResourceDefinitions of meshfed's own kinds.
///
/// They are those of the chart meshfed-crds: `meshfed crds | kubectl apply --server-side -f -` installs or upgrades them
/// without Helm, and no object is lost. The MCS and Istio kinds that meshfed reads are not among them: the chart has them
/// behind its values `mcs` and `istio`.
#[derive(clap::Args)]
pub struct CrdsArgs {
    /// Write a file for each kind into this directory instead
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the reference of the kinds instead, as Markdown: every field with its type, default, limits and meaning, and
    /// the conditions with their reasons
    #[arg(long, conflicts_with = "out")]
    reference: bool,
}

/// Prints or writes them.
pub fn run(args: &CrdsArgs) -> Outcome {
    let failed = |e: String| Failure::failed(e);
    if args.reference {
        print(&reference().map_err(|e| failed(e.to_string()))?);
        return Ok(0);
    }
    for definition in definitions().map_err(|e| failed(e.to_string()))? {
        let text = yaml(&definition).map_err(|e| failed(e.to_string()))?;
        match &args.out {
            None => print(&format!("---\n{text}")),
            Some(dir) => {
                let path = dir.join(format!("{GROUP}_{}.yaml", definition.plural));
                std::fs::write(&path, text)
                    .map_err(|e| Failure::bad_input(format!("{}: cannot be written: {e}", path.display())))?;
            }
        }
    }
    Ok(0)
}
