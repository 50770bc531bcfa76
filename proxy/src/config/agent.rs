//! Pure. Where the agent is, and what the proxy proves who it is with there.

use std::fmt;
use std::path::PathBuf;

use meshfed_model::names::Namespace;
use meshfed_runtime::config::Problems;

use super::{CODE_FLAG, ProxyArgs};

/// The namespace of a release where nobody says.
const RELEASE_NAMESPACE: &str = "meshfed-system";
/// Longest path of a Unix socket.
const UNIX_PATH_MAX: usize = 107;

/// The agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentAddress {
    /// On this host: the kernel says who we are.
    Unix(PathBuf),
    /// Over TCP: the pod's token says who we are.
    Tcp(TcpAgent),
}

/// An agent over TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpAgent {
    /// `HOST:PORT`.
    pub target: String,
    /// The pod's projected service-account token.
    pub token_file: PathBuf,
    /// The anchors of the own cluster's trust domain, PEM.
    pub trust_file: PathBuf,
    /// The namespace of the agent's service account, by which it is known.
    pub namespace: Namespace,
}

impl fmt::Display for AgentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(tcp) => write!(f, "{}", tcp.target),
        }
    }
}

/// Of the flags; a problem for each that does not fit.
pub(super) fn agent(args: &ProxyArgs, problems: &mut Problems) -> Option<AgentAddress> {
    let files = [("--token-file", &args.token_file), ("--trust-file", &args.trust_file)];
    let Some(path) = args.agent.strip_prefix("unix:") else {
        return tcp(args, problems).map(AgentAddress::Tcp);
    };
    for (flag, _given) in files.into_iter().filter(|(_, file)| file.is_some()) {
        problems.flag(CODE_FLAG, flag, "is for an agent at HOST:PORT; on a Unix socket the kernel says who we are");
    }
    match path.len() {
        0 => problems.flag(CODE_FLAG, "--agent", "names no path; use unix:PATH, the agent's run/xds.sock"),
        1..=UNIX_PATH_MAX => return Some(AgentAddress::Unix(path.into())),
        bytes => problems.flag(
            CODE_FLAG,
            "--agent",
            format!(
                "the path has {bytes} bytes, a Unix socket's may have 107; start the agent with a shorter --run-dir"
            ),
        ),
    }
    None
}

fn tcp(args: &ProxyArgs, problems: &mut Problems) -> Option<TcpAgent> {
    let before = problems.as_slice().len();
    let parts = args.agent.rsplit_once(':');
    let is_target = parts.is_some_and(|(host, port)| {
        let plain = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':' | b'[' | b']'));
        !host.is_empty() && plain && port.parse::<u16>().is_ok_and(|p| p != 0)
    });
    if !is_target {
        let text = format!(
            "'{}' is neither unix:PATH nor HOST:PORT, for example meshfed-agent.meshfed-system.svc:15012",
            args.agent
        );
        problems.flag(CODE_FLAG, "--agent", text);
        // What else it needs depends on which of the two was meant.
        return None;
    }
    let mut needed = |flag: &str, file: &Option<PathBuf>, what: &str| {
        if file.is_none() {
            problems.flag(CODE_FLAG, flag, format!("is needed for an agent at HOST:PORT: {what}"));
        }
        file.clone()
    };
    let token_file = needed("--token-file", &args.token_file, "the pod's projected token with audience meshfed");
    let trust_file = needed("--trust-file", &args.trust_file, "anchors.pem of ConfigMap meshfed-trust");
    if problems.as_slice().len() > before {
        return None;
    }
    let named = args.agent_namespace.clone().or_else(|| namespace_of(parts?.0));
    let namespace = match named {
        Some(namespace) => namespace,
        None => Namespace::new(RELEASE_NAMESPACE).ok()?,
    };
    Some(TcpAgent { target: args.agent.clone(), token_file: token_file?, trust_file: trust_file?, namespace })
}

/// The namespace of a Service's DNS name: `SERVICE.NS.svc`, with the cluster's domain after it or not.
fn namespace_of(host: &str) -> Option<Namespace> {
    let mut labels = host.split('.');
    let (_service, namespace) = (labels.next()?, labels.next()?);
    (labels.next() == Some("svc")).then(|| Namespace::new(namespace).ok())?
}
