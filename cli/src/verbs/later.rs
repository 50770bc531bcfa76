//! Pure. Verbs of the contracts that this version does not have: they say so, and nothing else.

use crate::exit::{Failure, Outcome};

macro_rules! later {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Verbs that come with their issues.
        #[derive(clap::Subcommand)]
        pub enum Later {
            $($(#[$doc])* #[command(disable_help_flag = true)] $name(Rest),)*
        }
        impl Later {
            fn rest(&self) -> &[String] {
                match self { $(Self::$name(rest) => &rest.rest,)* }
            }
            const fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($name),)* }
            }
        }
    };
}

later!(
    /// Why a request goes where it goes (not in this version)
    Explain,
    /// What has happened in the fleet (not in this version)
    Events,
    /// Failover policies (not in this version)
    Failover,
    /// Drain, pin and evict clusters (not in this version)
    Cluster,
    /// Drain regions (not in this version)
    Region,
    /// Find mistakes in objects (not in this version)
    Analyze,
    /// Validate files (not in this version)
    Validate,
    /// Look into a proxy (not in this version)
    ProxyConfig,
    /// Convert Istio objects (not in this version)
    Convert,
    /// Install on Kubernetes (not in this version)
    Install,
    /// Shell completion (not in this version)
    Completion,
);

/// Whatever follows the verb.
#[derive(clap::Args)]
pub struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<String>,
}

/// Says that the verb is not in this version: exit 64.
pub fn run(verb: &Later) -> Outcome {
    let kebab = verb.name().chars().enumerate().fold(String::new(), |mut out, (i, c)| {
        if c.is_ascii_uppercase() && i > 0 {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
        out
    });
    // `cluster drain`, `failover get`: what was asked for, not only its first word.
    let rest = verb.rest().first().filter(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
    let sub = rest.filter(|word| !word.starts_with('-')).map(|word| format!(" {word}")).unwrap_or_default();
    Err(Failure::later(&format!("meshfed {kebab}{sub}")))
}
