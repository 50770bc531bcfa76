//! Pure. The kinds of the MCS API (`multicluster.x-k8s.io/v1beta1`), as far as they are read and written here.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::SessionAffinityConfig;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::Resource;
use kube::core::NamespaceResourceScope;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

/// A kind of `multicluster.x-k8s.io/v1beta1`. Written by hand and not derived: an object without `spec` is a valid one, and
/// one object that cannot be read would keep all others from being listed.
macro_rules! mcs_kind {
    ($kind:ident, $plural:literal) => {
        impl Resource for $kind {
            type DynamicType = ();
            type Scope = NamespaceResourceScope;
            fn kind((): &()) -> Cow<'_, str> {
                stringify!($kind).into()
            }
            fn group((): &()) -> Cow<'_, str> {
                "multicluster.x-k8s.io".into()
            }
            fn version((): &()) -> Cow<'_, str> {
                "v1beta1".into()
            }
            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

/// What cannot be read reads as nothing, and is written anew where it is ours. A schema lets more through than its types can
/// hold (`format: date-time` takes `+99:99` for a zone, `format: int32` a greater number), also in what others write.
fn lossy<'de, D: Deserializer<'de>, T: Default + DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    Ok(serde_json::from_value(serde_json::Value::deserialize(deserializer)?).unwrap_or_default())
}

/// The items of a list that can be read.
fn readable<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let items: Vec<serde_json::Value> = lossy(deserializer)?;
    Ok(items.into_iter().filter_map(|item| serde_json::from_value(item).ok()).collect())
}

mcs_kind!(ServiceImport, "serviceimports");
mcs_kind!(ServiceExport, "serviceexports");

/// A service as this cluster imports it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceImport {
    /// Its metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What it is.
    #[serde(default, deserialize_with = "lossy")]
    pub spec: ServiceImportSpec,
    /// How it is; written apart from the rest.
    #[serde(default, skip_serializing, deserialize_with = "lossy")]
    pub status: Option<ServiceImportStatus>,
}

/// An export. Its spec is its owner's, and is neither read nor written here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceExport {
    /// Its metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// How it is; written apart from the rest.
    #[serde(default, skip_serializing, deserialize_with = "lossy")]
    pub status: Option<ServiceExportStatus>,
}

impl ServiceExport {
    /// Leaves what is read of it: whoever may write exports in a namespace of his own must not fill the memory of the agent
    /// of all.
    pub fn slim(&mut self) {
        let meta = std::mem::take(&mut self.metadata);
        let (name, namespace, uid) = (meta.name, meta.namespace, meta.uid);
        let ObjectMeta { generation, resource_version, deletion_timestamp, .. } = meta;
        self.metadata = ObjectMeta {
            name,
            namespace,
            uid,
            generation,
            resource_version,
            deletion_timestamp,
            ..ObjectMeta::default()
        };
        if let Some(status) = &mut self.status {
            status.conditions.retain(|c| EXPORT_CONDITIONS.contains(&c.type_.as_str()));
        }
    }
}

/// The conditions of a ServiceExport that are ours to write.
pub const EXPORT_CONDITIONS: [&str; 3] = ["Valid", "Ready", "Conflict"];

/// `ServiceImport.spec`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceImportSpec {
    /// The ports.
    #[serde(default)]
    pub ports: Vec<ImportedPort>,
    /// The addresses; none while there are none, and of a headless one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// `ClusterSetIP` or `Headless`.
    #[serde(default)]
    pub r#type: String,
    /// `None` or `ClientIP`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub session_affinity: String,
    /// For how long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity_config: Option<SessionAffinityConfig>,
    /// The families of the addresses, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_families: Vec<String>,
    /// `Cluster` or `Local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<String>,
    /// As the oldest export says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<String>,
}

/// One port of a ServiceImport.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportedPort {
    /// The name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// `appProtocol` as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// The number.
    pub port: i32,
}

/// `ServiceImport.status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceImportStatus {
    /// Who exports it.
    #[serde(default)]
    pub clusters: Vec<ClusterStatus>,
    /// `Ready`.
    #[serde(default, deserialize_with = "readable")]
    pub conditions: Vec<Condition>,
}

/// One exporter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Its name.
    pub cluster: String,
}

/// `ServiceExport.status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceExportStatus {
    /// `Valid`, `Ready`, `Conflict`.
    #[serde(default, deserialize_with = "readable")]
    pub conditions: Vec<Condition>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the schema lets through is read: an object without spec, without status, with a status that holds nothing.
    ///
    /// Mutation seen to fail: `#[serde(default)]` of `spec` left out.
    #[test]
    fn a_bare_object_is_read() {
        for text in [r#"{"metadata":{"name":"b"}}"#, r#"{"metadata":{"name":"b"},"status":{},"more":1}"#] {
            let import: ServiceImport = serde_json::from_str(text).unwrap();
            let export: ServiceExport = serde_json::from_str(text).unwrap();
            assert_eq!((import.metadata.name.as_deref(), export.metadata.name.as_deref()), (Some("b"), Some("b")));
        }
    }

    /// What a schema lets through and a type cannot hold costs itself alone: a condition the condition, a part the part, and
    /// never the list of all.
    ///
    /// Mutations seen to fail: `deserialize_with` left out of `conditions`; of `status`; of `spec`.
    #[test]
    fn what_cannot_be_read_costs_itself_alone() {
        let condition = |type_: &str, time: &str| {
            format!(r#"{{"type":"{type_}","status":"True","reason":"X","message":"","lastTransitionTime":"{time}"}}"#)
        };
        let (odd, good) = (condition("Foo", "2026-11-29T10:00:00+99:99"), condition("Ready", "2026-11-29T10:00:00Z"));
        let text = format!(r#"{{"metadata":{{"name":"b"}},"status":{{"conditions":[{odd},{good}]}}}}"#);
        let export: ServiceExport = serde_json::from_str(&text).unwrap();
        let types: Vec<_> = export.status.unwrap().conditions.into_iter().map(|c| c.type_).collect();
        assert_eq!(types, ["Ready"]);
        for part in [r#""status":{"conditions":null}"#, r#""status":{"clusters":[1]}"#, r#""status":null"#] {
            let text = format!(r#"{{"metadata":{{"name":"b"}},{part}}}"#);
            let _import: ServiceImport = serde_json::from_str(&text).unwrap();
            let _export: ServiceExport = serde_json::from_str(&text).unwrap();
        }
        let port = r#"{"metadata":{"name":"b"},"spec":{"type":"Headless","ports":[{"port":99999999999}]}}"#;
        let import: ServiceImport = serde_json::from_str(port).unwrap();
        assert_eq!(import.spec, ServiceImportSpec::default());
    }
}
