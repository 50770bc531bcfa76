//! Edge. `meshfed trust status`; rotation and foreign domains come with their issue.

use serde_json::Value;

use crate::client::{Client, ServerArgs};
use crate::exit::{Failure, Outcome};
use crate::output::{Column, OutputArgs, column, show, text, wide};

/// Arguments of `meshfed trust`.
#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub struct TrustArgs {
    #[command(subcommand)]
    verb: TrustVerb,
}

#[derive(clap::Subcommand)]
enum TrustVerb {
    /// Show the bundles, and which clusters hold their current serial
    Status(StatusArgs),
    /// Rotate an anchor (not in this version)
    Rotate(Rest),
    /// Add a trust domain (not in this version)
    Add(Rest),
    /// Remove a trust domain (not in this version)
    Remove(Rest),
    /// Approve a changed anchor (not in this version)
    Approve(Rest),
}

#[derive(clap::Args)]
struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<String>,
}

#[derive(clap::Args)]
struct StatusArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

const COLUMNS: &[Column] = &[
    column("TRUST-DOMAIN", |b| text(b, &["trustDomain"])),
    column("OWNER", |b| text(b, &["owner"])),
    column("SERIAL", |b| text(b, &["serial"])),
    column("ANCHORS", |b| b.get("anchors").and_then(Value::as_array).map_or(0, Vec::len).to_string()),
    column("NOT-AFTER", |b| text(b, &["notAfter"])),
    column("ACKED", acked),
    wide("SPKI-SHA256", |b| b.pointer("/anchors/0/spkiSha256").and_then(Value::as_str).unwrap_or_default().to_owned()),
];

fn acked(bundle: &Value) -> String {
    let serial = bundle.get("serial").cloned().unwrap_or_default();
    let acks = bundle.get("acks").and_then(Value::as_array).cloned().unwrap_or_default();
    let acked = acks.iter().filter(|a| a.get("serial") == Some(&serial)).count();
    format!("{acked}/{}", acks.len())
}

/// Shows the fleet's trust.
pub async fn run(args: TrustArgs) -> Outcome {
    let status = match args.verb {
        TrustVerb::Status(status) => status,
        TrustVerb::Rotate(_) => return Err(Failure::later("meshfed trust rotate")),
        TrustVerb::Add(_) => return Err(Failure::later("meshfed trust add")),
        TrustVerb::Remove(_) => return Err(Failure::later("meshfed trust remove")),
        TrustVerb::Approve(_) => return Err(Failure::later("meshfed trust approve")),
    };
    let answer = Client::new(&status.server)?.get("trust").await?.ok()?;
    let rows = |body: &Value| {
        let mut bundles = body.get("bundles").and_then(Value::as_array).cloned().unwrap_or_default();
        for bundle in &mut bundles {
            let not_after = bundle.pointer("/anchors/0/notAfter").cloned().unwrap_or_default();
            if let Some(map) = bundle.as_object_mut() {
                map.insert("notAfter".to_owned(), not_after);
            }
        }
        bundles
    };
    show(status.output.output, &answer, rows, COLUMNS)?;
    Ok(0)
}
