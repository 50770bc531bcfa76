//! Edge. `meshfed inject`: what the webhook would make of the pods of a file.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use meshfed_cluster_agent::inject::{InjectConfig, TextError, inject_text};
use meshfed_model::names::Namespace;
use meshfed_runtime::files;
use meshfed_runtime::telemetry::chain;

use crate::exit::{Failure, Outcome};
use crate::output::{print, remark};

/// Largest file that is read.
const FILE_MAX: usize = 16 * 1024 * 1024;
/// Largest configuration.
const CONFIG_MAX: usize = 64 * 1024;

/// Arguments of `meshfed inject`.
#[derive(clap::Args)]
pub struct InjectArgs {
    /// YAML or JSON with pods, or kinds that have templates of pods; - is stdin
    #[arg(short, long, value_name = "FILE|-")]
    filename: String,
    /// What is injected: the file that the agent has as --injection-config
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image", "release_namespace"])]
    config: Option<PathBuf>,
    /// The image, without --config
    #[arg(long, value_name = "IMAGE", default_value = concat!("localhost/meshfed:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// The namespace of the agent, without --config
    #[arg(long, value_name = "NS", default_value = "meshfed-system")]
    release_namespace: Namespace,
}

fn config(args: &InjectArgs) -> Result<InjectConfig, Failure> {
    let Some(path) = &args.config else {
        return Ok(InjectConfig::new(args.release_namespace.clone(), args.image.clone()));
    };
    let shown = path.display();
    let text =
        files::read_text(path, CONFIG_MAX).map_err(|e| Failure::bad_input(format!("--config: {}", chain(&e))))?;
    InjectConfig::read(&text).map_err(|e| Failure::bad_input(format!("--config {shown}: {e}")))
}

fn read(name: &str) -> Result<String, Failure> {
    if name != "-" {
        return files::read_text(Path::new(name), FILE_MAX)
            .map_err(|e| Failure::bad_input(format!("-f: {}", chain(&e))));
    }
    let mut text = String::new();
    let limit = FILE_MAX as u64 + 1;
    let read = std::io::stdin().take(limit).read_to_string(&mut text);
    let read = read.map_err(|e| Failure::bad_input(format!("stdin: {e}")))?;
    if read > FILE_MAX {
        return Err(Failure::bad_input(format!("stdin: has more than {FILE_MAX} bytes")));
    }
    Ok(text)
}

/// `FILE:LINE: WORD: TEXT`, a line each.
fn lines(name: &str, word: &str, all: &[TextError]) -> String {
    all.iter().fold(String::new(), |mut text, error| {
        // Writing into a String does not fail.
        let _written =
            write!(text, "{}{name}:{}: {word}{}", if text.is_empty() { "" } else { "\n" }, error.line, error.message);
        text
    })
}

/// Prints the injected text.
pub fn run(args: &InjectArgs) -> Outcome {
    let config = config(args)?;
    let text = read(&args.filename)?;
    let name = if args.filename == "-" { "stdin" } else { &args.filename };
    let done = inject_text(&text, &config).map_err(|errors| Failure::bad_input(lines(name, "", &errors)))?;
    for note in &done.notes {
        remark(&lines(name, "note: ", std::slice::from_ref(note)));
    }
    print(&done.text);
    Ok(0)
}
