//! Pure. What the agent injects: the file of `--injection-config`, which `meshfed inject --config` takes, too.

use std::collections::BTreeSet;

use meshfed_model::names::Namespace;
use serde::Deserialize;
use serde_json::Value;

use super::annotations::check_resources;

/// Which namespaces are injected that say nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Selection {
    /// None.
    #[default]
    Labelled,
    /// All but `kube-*`, the release's and those of `excludedNamespaces`.
    All,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InjectConfigError {
    /// Not of its form.
    #[error("{}", .0.without_snippet().to_string().trim_start_matches("error: "))]
    Form(Box<serde_saphyr::Error>),
    /// A field's value.
    #[error("{field}: {reason}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// `imagePullPolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum PullPolicy {
    /// Ask the registry each time.
    Always,
    /// Unless the node has it.
    #[default]
    IfNotPresent,
    /// The node has it.
    Never,
}

impl PullPolicy {
    /// As in a container.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// The proxies that are injected.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyConfig {
    /// `requests` and `limits`, as in a container; null: the defaults.
    #[serde(default)]
    pub resources: Option<Value>,
    /// `--log-level` [default: info].
    #[serde(default)]
    pub log_level: Option<String>,
    /// `--log-format` [default: text].
    #[serde(default)]
    pub log_format: Option<String>,
}

/// What is injected, and where.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InjectConfig {
    /// The namespace of the agent.
    pub release_namespace: Namespace,
    /// The agent's own image: proxy and agent are of one version.
    pub image: String,
    /// The agent's own.
    #[serde(default)]
    pub image_pull_policy: PullPolicy,
    /// Namespaces that say nothing.
    #[serde(default)]
    pub default: Selection,
    /// With `all`: namespaces that are left alone, such as the hub's.
    #[serde(default)]
    pub excluded_namespaces: BTreeSet<String>,
    /// `HOST:PORT` of the agent; null: `meshfed-agent.RELEASE_NAMESPACE.svc:15012`.
    #[serde(default)]
    pub agent: Option<String>,
    /// The proxies.
    #[serde(default)]
    pub proxy: ProxyConfig,
}

impl InjectConfig {
    /// With the defaults of everything else.
    #[must_use]
    pub fn new(release_namespace: Namespace, image: String) -> Self {
        Self {
            release_namespace,
            image,
            image_pull_policy: PullPolicy::default(),
            default: Selection::default(),
            excluded_namespaces: BTreeSet::new(),
            agent: None,
            proxy: ProxyConfig::default(),
        }
    }
    /// Reads YAML.
    ///
    /// # Errors
    /// [`InjectConfigError`].
    pub fn read(text: &str) -> Result<Self, InjectConfigError> {
        let config: Self = serde_saphyr::from_str(text).map_err(|e| InjectConfigError::Form(Box::new(e)))?;
        if config.image.trim().is_empty() {
            let reason = "is empty; write the image of the agent, say localhost/meshfed:0.1.0".to_owned();
            return Err(InjectConfigError::Field { field: "image", reason });
        }
        if let Some(resources) = &config.proxy.resources {
            check_resources(resources)
                .map_err(|reason| InjectConfigError::Field { field: "proxy.resources", reason })?;
        }
        Ok(config)
    }
    /// Where proxies find the agent.
    #[must_use]
    pub fn agent_target(&self) -> String {
        self.agent.clone().unwrap_or_else(|| format!("meshfed-agent.{}.svc:15012", self.release_namespace))
    }
}
