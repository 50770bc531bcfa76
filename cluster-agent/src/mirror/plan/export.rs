//! Pure. The conditions of a ServiceExport: Valid, Ready, Conflict (MCS API v1beta1).

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use meshfed_model::import::Import;

use super::{Context, Said, Seen, Write, condition, meta};
use crate::mirror::facts::{ExportFacts, ExportState};
use crate::mirror::objects::{EXPORT_CONDITIONS, ServiceExport, ServiceExportStatus};

pub(super) fn plan(
    export: &ExportFacts,
    import: Option<&Import>,
    seen: &Seen,
    context: &Context,
    import_is_foreign: bool,
) -> Vec<Write> {
    let Some(there) = &seen.export else { return Vec::new() };
    let before = there.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let conditions = said(export, import, import_is_foreign)
        .map(|said| condition(before, &context.now, there.metadata.generation, said));
    let mut writes = Vec::new();
    if !export.unserved.is_empty() && export.state == ExportState::Offered {
        writes.push(Write::Warn(format!(
            "{} of the Service {} no endpoints in other clusters: only TCP is served in this version",
            export.unserved.join(", "),
            if export.unserved.len() == 1 { "has" } else { "have" }
        )));
    }
    let ours = before.iter().filter(|c| EXPORT_CONDITIONS.contains(&c.type_.as_str())).collect::<Vec<&Condition>>();
    let same = ours.len() == conditions.len() && conditions.iter().all(|c| ours.contains(&c));
    if !same {
        let status = Some(ServiceExportStatus { conditions: conditions.to_vec() });
        writes.push(Write::ExportStatus(Box::new(ServiceExport { metadata: meta::identity(&there.metadata), status })));
    }
    writes
}

fn said(export: &ExportFacts, import: Option<&Import>, import_is_foreign: bool) -> [Said; 3] {
    let say = |r#type, status, reason: &'static str, message: &str| {
        (r#type, status, Cow::Borrowed(reason), message.to_owned())
    };
    let valid = match &export.state {
        ExportState::NoService => {
            say("Valid", false, "NoService", "there is no Service of this name in this namespace; create it")
        }
        ExportState::InvalidService(why) => {
            let message = format!("the Service of this name is there and not taken: {why}");
            say("Valid", false, "InvalidService", &message)
        }
        ExportState::External => {
            let message = "a Service of type ExternalName has no endpoints; export one of another type";
            say("Valid", false, "InvalidServiceType", message)
        }
        ExportState::Invalid(why) => say("Valid", false, "Invalid", why),
        ExportState::Offered | ExportState::Refused(_) => {
            let all = std::iter::once("the Service is there and can be exported");
            let all = all.chain(export.remarks.iter().map(String::as_str));
            say("Valid", true, "Valid", &all.collect::<Vec<_>>().join(". "))
        }
    };
    let ready = match &export.state {
        ExportState::NoService => say("Ready", false, "Pending", "waits for the Service"),
        ExportState::InvalidService(_) => say("Ready", false, "Failed", "the Service is not taken; see Valid"),
        ExportState::External => say("Ready", false, "Failed", "the Service cannot be exported"),
        ExportState::Refused(why) => say("Ready", false, "Failed", why),
        ExportState::Invalid(_) => say("Ready", false, "Failed", "this ServiceExport is not in force; see Valid"),
        ExportState::Offered if import_is_foreign => {
            let message = "exported; the ServiceImport of this name in this cluster is not ours and stays as it is: \
                           delete it, and it is made anew";
            say("Ready", true, "Exported", message)
        }
        ExportState::Offered => say("Ready", true, "Exported", &exported(export)),
    };
    let conflict = match import.and_then(|import| import.conflict.as_ref()) {
        // Several reasons are joined as the MCS API says.
        Some(conflict) => ("Conflict", true, Cow::Owned(conflict.reasons()), conflict.message()),
        None => say("Conflict", false, "NoConflicts", "all exports of this name say the same"),
    };
    [valid, ready, conflict]
}

/// What is said of a ServiceExport whose name no Service can have, if it is not said yet.
pub(super) fn misnamed(there: &ServiceExport, now: &Time) -> Option<ServiceExport> {
    let message = "no Service can have this name: at most 63 lower-case letters, digits and '-', beginning with a letter; \
                   delete this ServiceExport, and make one that has the name of its Service";
    nothing(there, now, ("InvalidName", message), ("Failed", "this ServiceExport is not in force; see Valid"))
}

/// What is said of a ServiceExport that is being deleted, if it is not said yet.
pub(super) fn ending(there: &ServiceExport, now: &Time) -> Option<ServiceExport> {
    let message = "it is being deleted and exports nothing any more; it goes when whoever has put a finalizer on it has taken \
                   that away: see metadata.finalizers";
    nothing(there, now, ("Terminating", message), ("Terminating", message))
}

/// The status of one by which nothing is exported, with why it is not valid and not ready; none: that is said already.
fn nothing(
    there: &ServiceExport,
    now: &Time,
    valid: (&'static str, &str),
    ready: (&'static str, &str),
) -> Option<ServiceExport> {
    let before = there.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let no =
        |r#type, (reason, message): (&'static str, &str)| (r#type, false, Cow::Borrowed(reason), message.to_owned());
    let said = [no("Valid", valid), no("Ready", ready), no("Conflict", ("NoConflicts", "nothing is exported by it"))];
    let conditions = said.map(|said| condition(before, now, there.metadata.generation, said));
    let same = conditions.iter().all(|c| before.contains(c));
    (!same).then(|| ServiceExport {
        metadata: meta::identity(&there.metadata),
        status: Some(ServiceExportStatus { conditions: conditions.to_vec() }),
    })
}

fn exported(export: &ExportFacts) -> String {
    let said = exported_workloads(export);
    match &export.unreachable {
        Some(why) => format!("{said}; no other network reaches it: {why}"),
        None => said,
    }
}

fn exported_workloads(export: &ExportFacts) -> String {
    match (export.workloads, export.plain) {
        (0, _) => "exported; no workload is behind the Service".to_owned(),
        (_, 0) => "exported".to_owned(),
        (all, plain) => {
            let (have, are) = if plain == 1 { ("has", "is") } else { ("have", "are") };
            format!("exported; {plain} of {all} workloads behind the Service {have} no sidecar and {are} not offered")
        }
    }
}
