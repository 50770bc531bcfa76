//! Edge. `meshfed trust status` and `approve`; rotation and foreign domains come with their issue.

use std::path::PathBuf;

use meshfed_cluster_agent::downlink::approvals::{self, ApproveError, Approved};
use meshfed_model::identity::TrustDomain;
use meshfed_runtime::telemetry::chain;
use serde_json::Value;

use crate::client::{Client, ServerArgs};
use crate::exit::{Failure, Outcome};
use crate::output::{Column, OutputArgs, column, print, show, text, wide};

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
    /// Approve a changed anchor of a cluster whose services this one imports
    Approve(ApproveArgs),
}

#[derive(clap::Args)]
struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<String>,
}

/// Arguments of `meshfed trust approve`.
///
/// An agent does not take a new CA key of a cluster that it knows on the hub's word alone: traffic with it stops until
/// its word comes from an anchor that is held, or from you. Ask the owner of that cluster for the hash, over another way
/// than the fleet; it is what 'meshfed trust status -o wide' shows there, too.
#[derive(clap::Args)]
#[command(after_help = "Example:
  meshfed trust approve west.mesh.example --sha256 3f0c… --data-dir east

A running agent takes the anchor within a second, a stopped one at its start. An approval is used up by it; one that
waits stands in E/state/approved/TRUSTDOMAIN, and removing that file takes it back.")]
struct ApproveArgs {
    /// The trust domain whose anchor changed
    #[arg(value_name = "TRUSTDOMAIN")]
    trust_domain: TrustDomain,
    /// SHA-256 of the new anchor's SubjectPublicKeyInfo: 64 hexadecimal digits
    #[arg(long, value_name = "HEX")]
    sha256: String,
    /// The data directory of this cluster's agent
    #[arg(long, value_name = "E")]
    data_dir: PathBuf,
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

fn approve(args: &ApproveArgs) -> Outcome {
    let ApproveArgs { trust_domain, sha256, data_dir } = args;
    let sha256 = sha256.to_ascii_lowercase();
    let approved = approvals::approve(data_dir, trust_domain, &sha256).map_err(|error| match error {
        ApproveError::Hash(_) => Failure::usage(chain(&error)),
        ApproveError::Other { .. } => Failure::failed(chain(&error)),
        ApproveError::Own(_)
        | ApproveError::Fleet(_)
        | ApproveError::Agent(_)
        | ApproveError::Unknown { .. }
        | ApproveError::Full(_)
        | ApproveError::File(_) => Failure::bad_input(chain(&error)),
    })?;
    print(&match approved {
        Approved::Recorded => format!("approved {trust_domain} {sha256}: the agent takes it within a second\n"),
        Approved::Waits => {
            let file = approvals::file(data_dir, trust_domain);
            format!(
                "approved {trust_domain} {sha256}: nothing was refused yet, it is taken when it comes; until then the \
                 approval stands in {}, and removing that file takes it back\n",
                file.display()
            )
        }
        Approved::Held => format!("{trust_domain} {sha256} is trusted already\n"),
    });
    Ok(0)
}

/// Shows the fleet's trust.
pub async fn run(args: TrustArgs) -> Outcome {
    let status = match args.verb {
        TrustVerb::Status(status) => status,
        TrustVerb::Rotate(_) => return Err(Failure::later("meshfed trust rotate")),
        TrustVerb::Add(_) => return Err(Failure::later("meshfed trust add")),
        TrustVerb::Remove(_) => return Err(Failure::later("meshfed trust remove")),
        TrustVerb::Approve(args) => return approve(&args),
    };
    let answer = Client::open(&status.server).await?.get("trust").await?.ok()?;
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
