//! Pure. What metrics call a workload, beside its identity: the terms and rules are those of Istio's standard metrics.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest name of a workload, as of any object.
const NAME_MAX: usize = 253;
/// Longest value of a label.
const VALUE_MAX: usize = 63;
/// Fields of the text form.
const FIELDS: usize = 5;
/// The revision of a workload whose labels name none.
const LATEST: &str = "latest";

/// Labels that name the canonical service, the first that is there.
const SERVICE_LABELS: [&str; 3] = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
/// Labels that name the canonical revision, the first that is there.
const REVISION_LABELS: [&str; 3] = ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"];

/// What metrics call a workload. An empty text: not known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WorkloadMetadata {
    /// Its name: that of what owns the pod (a Deployment, a CronJob), or its service account where no pod is.
    pub workload: Arc<str>,
    /// The canonical service.
    pub service: Arc<str>,
    /// The canonical revision.
    pub revision: Arc<str>,
    /// Label `app`.
    pub app: Arc<str>,
    /// Label `version`.
    pub version: Arc<str>,
}

/// What is no text form of [`WorkloadMetadata`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not WORKLOAD;SERVICE;REVISION;APP;VERSION of letters, digits, '-', '_' and '.'")]
pub struct InvalidMetadata;

/// A name or the value of a label, as Kubernetes allows them; anything else is not known.
fn plain(text: &str, limit: usize) -> bool {
    text.len() <= limit && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

impl WorkloadMetadata {
    /// Of a workload of this name with these labels.
    #[must_use]
    pub fn of<'a>(workload: &'a str, label: impl Fn(&str) -> Option<&'a str>) -> Self {
        let known = |text: &'a str, limit| if plain(text, limit) { text } else { "" };
        let value = |key: &str| label(key).map(|v| known(v, VALUE_MAX)).filter(|v| !v.is_empty());
        let first = |keys: &[&str]| keys.iter().find_map(|key| value(key));
        let workload = known(workload, NAME_MAX);
        Self {
            workload: workload.into(),
            service: first(&SERVICE_LABELS).unwrap_or(workload).into(),
            revision: first(&REVISION_LABELS).unwrap_or(LATEST).into(),
            app: value("app").unwrap_or_default().into(),
            version: value("version").unwrap_or_default().into(),
        }
    }
}

impl fmt::Display for WorkloadMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, service, revision, app, version } = self;
        write!(f, "{workload};{service};{revision};{app};{version}")
    }
}

impl FromStr for WorkloadMetadata {
    type Err = InvalidMetadata;

    /// What [`Display`](fmt::Display) writes; further fields, of a later version, are left out.
    fn from_str(text: &str) -> Result<Self, InvalidMetadata> {
        let fields: Vec<&str> = text.split(';').take(FIELDS).collect();
        let [workload, service, revision, app, version] = fields.as_slice() else { return Err(InvalidMetadata) };
        // A canonical service may be the workload's name.
        let limits =
            [(workload, NAME_MAX), (service, NAME_MAX), (revision, VALUE_MAX), (app, VALUE_MAX), (version, VALUE_MAX)];
        if !limits.into_iter().all(|(field, limit)| plain(field, limit)) {
            return Err(InvalidMetadata);
        }
        let [workload, service, revision, app, version] =
            [*workload, *service, *revision, *app, *version].map(Arc::from);
        Ok(Self { workload, service, revision, app, version })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(labels: &[(&str, &'static str)]) -> [String; 4] {
        let found = WorkloadMetadata::of("b-deployment", |key| labels.iter().find(|(k, _)| *k == key).map(|(_, v)| *v));
        assert_eq!(&*found.workload, "b-deployment");
        assert_eq!(found.to_string().parse(), Ok(found.clone()));
        [found.service, found.revision, found.app, found.version].map(|text| text.to_string())
    }

    /// The order in which labels count, what stands where none is there, and values that no API server lets through.
    ///
    /// Mutations seen to fail: `SERVICE_LABELS` or `REVISION_LABELS` in the other order; `unwrap_or(workload)` with the
    /// default; `known` takes what is not plain.
    #[test]
    fn labels_name_service_and_revision_in_istios_order() {
        assert_eq!(of(&[]), ["b-deployment", "latest", "", ""]);
        assert_eq!(of(&[("app", "b"), ("version", "v1")]), ["b", "v1", "b", "v1"]);
        let names =
            [("app", "b"), ("app.kubernetes.io/name", "k"), ("app.kubernetes.io/version", "k1"), ("version", "v1")];
        assert_eq!(of(&names), ["k", "k1", "b", "v1"]);
        let own = [("service.istio.io/canonical-name", "c"), ("service.istio.io/canonical-revision", "c1")];
        assert_eq!(of(&[names.as_slice(), &own].concat()), ["c", "c1", "b", "v1"]);
        assert_eq!(of(&[("app", "a;b"), ("version", "")]), ["b-deployment", "latest", "", ""]);
    }

    /// A text of anybody: five fields of plain letters and of bounded length, or nothing.
    ///
    /// Mutations seen to fail: `plain` does not look at the length; it takes every byte.
    #[test]
    fn only_the_text_form_parses() {
        let long = format!("{};s;r;a;v", "w".repeat(254));
        let long_app = format!("w;s;r;{};v", "a".repeat(64));
        for wrong in ["", "w", "w;s;r;a", "w;s;r;a;v\n", "w;s;r;a;\"v\"", "w;s;r;a;ü", &long, &long_app] {
            assert_eq!(wrong.parse::<WorkloadMetadata>(), Err(InvalidMetadata), "{wrong}");
        }
        assert_eq!("w;s;r;a;v;more".parse::<WorkloadMetadata>().unwrap().to_string(), "w;s;r;a;v");
        assert_eq!(";;;;".parse(), Ok(WorkloadMetadata::default()));
    }
}
