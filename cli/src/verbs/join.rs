//! Edge. `meshfed join`.

use std::path::{Path, PathBuf};

use meshfed_ca::token::Token;
use meshfed_cluster_agent::enroll::{self, AgentFile, EnrollError};
use serde_json::{Value, json};

use super::join_kube::{self, KubeArgs};
use super::plan;
use crate::exit::{Failure, Outcome};
use crate::output::{Format, OutputArgs, print, remark};

/// The longest token file, in bytes.
const TOKEN_LIMIT: u64 = 4096;

/// Arguments of `meshfed join`.
///
/// The federator is known by the token: nothing is sent to a server that does not hold the key the token names.
#[derive(clap::Args)]
#[command(after_help = "Example:
  HUB=https://hub.example:15600
  meshfed join $HUB --token-file west.token --kube --context west --plan
  meshfed join $HUB --token-file west.token --kube --context west
  meshfed join $HUB --kube -o yaml > membership.yaml    # no token in it

Without Kubernetes:
  meshfed join $HUB --token-file east.token --data-dir east
  meshfed agent --data-dir east --source dir:objects

Again as the same cluster changes nothing and exits 0.")]
pub struct JoinArgs {
    /// A federator, where its --grpc-listen takes agents
    #[arg(value_name = "https://HOST:15600")]
    federator: String,
    /// A file that holds the token; '-' reads stdin [default: the token in MESHFED_TOKEN]
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// The token itself; a file is safer: other users of this machine see arguments
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// The variable alone: a flag beside it wins, where two flags are an error
    #[arg(long, env = "MESHFED_TOKEN", hide = true, hide_env_values = true)]
    environment_token: Option<String>,
    /// The directory to make: keys, certificates and settings of the cluster's agent; it appears on success only
    #[arg(long, value_name = "DIR", conflicts_with = "kube")]
    pub data_dir: Option<PathBuf>,
    /// The objects that the cluster's agent will read, so that --plan can name what would merge; else not looked at.
    /// With --kube they are read from its API server
    #[arg(long, value_name = "dir:PATH", conflicts_with = "kube")]
    pub source: Option<String>,
    /// Say what a join would do, change nothing and keep the token unused: exit 0 when nothing blocks, 79 when
    /// something does
    #[arg(long)]
    plan: bool,
    /// Take the place of a live cluster of this name; the token must allow it (token create --replace)
    #[arg(long, conflicts_with = "kube")]
    pub replace: bool,
    /// With --replace: keep the CA key and anchor of this earlier data directory of the cluster. Without them the
    /// cluster gets a new anchor, and each importing cluster must approve it: meshfed trust approve
    #[arg(long, value_name = "DIR", requires = "replace")]
    pub ca_from: Option<PathBuf>,
    #[command(flatten)]
    pub kube: KubeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Joins, or plans to.
pub async fn run(args: JoinArgs) -> Outcome {
    let federator = authority(&args.federator)?;
    if args.data_dir.is_none() && !args.kube.kube {
        return Err(Failure::usage("say what joins: --kube a Kubernetes cluster, --data-dir DIR a cluster without it"));
    }
    if args.kube.kube && !args.plan && args.output.output == Format::Yaml {
        if args.token.is_some() || args.token_file.is_some() {
            remark("note: the token is no part of what is printed, and was not looked at");
        }
        return join_kube::objects(&federator, &args.kube);
    }
    // A text that is no token cannot be known to any federator: the same sentence.
    let text = read_token(&args)?;
    let token = text.trim().parse::<Token>().map_err(|_no_token| {
        if !text.trim().starts_with("mf1.") {
            remark(
                "note: this is no token; one begins with mf1. and is made by 'meshfed token create'; nobody was asked",
            );
        }
        failure(&EnrollError::Refused)
    })?;
    if args.plan {
        return plan::run(&federator, &token, &args).await;
    }
    let Some(data_dir) = args.data_dir.clone() else {
        return join_kube::run(&federator, &token, &text, &args.kube, args.output.output).await;
    };
    let (replace, ca_from) = (args.replace, args.ca_from.clone());
    let options = enroll::Options { federator, token, data_dir, replace, ca_from };
    let joined = enroll::join(options).await.map_err(|error| failure(&error))?;
    if let Some(sha256) = joined.new_anchor.filter(|_| args.replace) {
        remark(&new_anchor(joined.member.trust_domain.as_str(), &sha256));
    }
    show(args.output.output, &joined.member)?;
    Ok(0)
}

/// What others have to do after a cluster was replaced with another CA key.
pub fn new_anchor(trust_domain: &str, sha256: &str) -> String {
    format!(
        "note: {trust_domain} has a new anchor. Every cluster that knew the earlier one refuses this one's workloads \
         until its people approve it, there: meshfed trust approve {trust_domain} --sha256 {sha256} --data-dir E"
    )
}

/// `HOST:PORT` of `https://HOST:PORT`.
fn authority(url: &str) -> Result<String, Failure> {
    let form = || Failure::usage(format!("'{url}' is no federator: write https://HOST:15600"));
    let authority = url.strip_prefix("https://").ok_or_else(form)?.trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':').ok_or_else(form)?;
    let port: u16 = port.parse().map_err(|_no_port| form())?;
    if host.is_empty() || port == 0 || host.contains('/') {
        return Err(form());
    }
    Ok(authority.to_owned())
}

/// The token's text: of the flag that was given, else of the environment, which is for whoever gives none.
fn read_token(args: &JoinArgs) -> Result<String, Failure> {
    use std::io::Read as _;
    let mut text = String::new();
    match (&args.token_file, args.token.as_ref().or(args.environment_token.as_ref())) {
        (Some(path), _) if path == Path::new("-") => {
            let read = std::io::stdin().take(TOKEN_LIMIT).read_to_string(&mut text);
            read.map_err(|error| Failure::bad_input(format!("the token on stdin: {error}")))?;
        }
        (Some(path), _) => {
            let file = std::fs::File::open(path)
                .map_err(|error| Failure::bad_input(format!("--token-file {}: {error}", path.display())))?;
            let read = file.take(TOKEN_LIMIT).read_to_string(&mut text);
            read.map_err(|error| Failure::bad_input(format!("--token-file {}: {error}", path.display())))?;
        }
        (None, Some(token)) if !token.is_empty() => text.clone_from(token),
        (None, _) => {
            return Err(Failure::usage(
                "no token: name its file with --token-file, or set MESHFED_TOKEN; 'meshfed token create' makes one",
            ));
        }
    }
    if let Some(path) = args.token_file.as_ref().filter(|_| text.trim().is_empty()) {
        let what = if path == Path::new("-") { "stdin".to_owned() } else { path.display().to_string() };
        return Err(Failure::bad_input(format!(
            "--token-file: {what} is empty; the 'meshfed token create' that was to fill it has probably failed: see \
             what it said, and make a token again"
        )));
    }
    Ok(text)
}

/// The failure of an enrollment, with its exit code.
pub fn failure(error: &EnrollError) -> Failure {
    match error {
        EnrollError::Directory { .. } | EnrollError::AnotherCluster { .. } => Failure::bad_input(error.to_string()),
        EnrollError::Refused
        | EnrollError::Denied(_)
        | EnrollError::Unreachable { .. }
        | EnrollError::Untrusted { .. } => Failure::failed(error.to_string()),
    }
}

fn show(format: Format, member: &AgentFile) -> Result<(), Failure> {
    let networks: Vec<String> = member.networks.iter().map(|n| n.name.to_string()).collect();
    let body: Value = json!({
        "cluster": member.cluster, "trustDomain": member.trust_domain, "fleet": member.fleet,
        "networks": member.networks, "regions": member.regions, "zones": member.zones,
    });
    match format {
        Format::Table | Format::Wide => print(&format!(
            "joined cluster={} trustDomain={} networks={}\n",
            member.cluster,
            member.trust_domain,
            networks.join(",")
        )),
        Format::Json => print(&format!("{body}\n")),
        Format::Yaml => print(&serde_saphyr::to_string(&body).map_err(|error| Failure::failed(error.to_string()))?),
    }
    Ok(())
}

/// The arguments of a command line, for the tests of what is decided by them.
#[cfg(test)]
pub fn parsed(flags: &[&str]) -> JoinArgs {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: JoinArgs,
    }
    let words = ["join", "https://hub.example:15600"].iter().chain(flags);
    <Line as clap::Parser>::parse_from(words).args
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: JoinArgs,
    }

    fn parse(more: &[&str]) -> Result<JoinArgs, clap::Error> {
        let words = ["join", "https://hub.example:15600", "--data-dir", "east"].iter().chain(more);
        Line::try_parse_from(words).map(|line| line.args)
    }

    /// A flag is never ignored in silence; the environment is for whoever gives none.
    ///
    /// Mutations seen to fail: `conflicts_with` left out; the environment asked before the flags.
    #[test]
    fn one_token_is_named_once() {
        let Err(error) = parse(&["--token", "x", "--token-file", "f"]) else { panic!("both were taken") };
        assert_eq!(error.kind(), clap::error::ErrorKind::ArgumentConflict);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t");
        std::fs::write(&file, "of the file\n").unwrap();
        let token = |more: &[&str]| {
            let environment_token = Some("of the environment".to_owned());
            read_token(&JoinArgs { environment_token, ..parse(more).unwrap() }).unwrap()
        };
        assert_eq!(token(&["--token-file", file.to_str().unwrap()]), "of the file\n");
        assert_eq!(token(&["--token", "of the flag"]), "of the flag");
        assert_eq!(token(&[]), "of the environment");
    }

    /// No hub is needed to see that a file is empty.
    ///
    /// Mutation seen to fail: the filter in `read_token` left out.
    #[test]
    fn an_empty_token_file_is_told_here() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("east.token");
        for empty in ["", "\n"] {
            std::fs::write(&file, empty).unwrap();
            let failure = read_token(&parse(&["--token-file", file.to_str().unwrap()]).unwrap()).unwrap_err();
            assert_eq!(failure.code, crate::exit::BAD_INPUT);
            let text = failure.message;
            assert!(text.contains("east.token is empty") && text.contains("meshfed token create"), "{text}");
        }
    }
}
