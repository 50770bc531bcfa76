//! The fleet source on a real directory.

use super::*;

const NOBODY: &str = "apiVersion: federation.meshfed.io/v1alpha1\nkind: ExportPolicy\nmetadata: {name: p, namespace: shop}\nspec: {services: [{namespace: shop, name: b}], to: {}}\n";
const DEFAULT: &str = "apiVersion: federation.meshfed.io/v1alpha1\nkind: FailoverPolicy\nmetadata: {name: d}\nspec:\n  tiers:\n  - {name: all, select: [{relative: any}]}\n";

const MESH: &str = "apiVersion: federation.meshfed.io/v1alpha1\nkind: Mesh\nmetadata: {name: default}\nspec: {outboundTrafficPolicy: REGISTRY_ONLY}\n";

fn settle(source: &mut FleetSource) -> bool {
    // A change is read at the second look at the latest.
    source.look_again().unwrap() | source.look_again().unwrap()
}

/// Mutations seen to fail: `keep` left out (the restart forgets); `last_good.apply` given only parsed files; `Body::Mesh`
/// passed over in `policies`.
#[test]
fn policies_follow_the_directory_and_outlive_broken_files() {
    let dir = tempfile::tempdir().unwrap();
    let (root, data) = (dir.path().join("fleet"), dir.path().join("D"));
    std::fs::create_dir_all(&root).unwrap();
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(root.join("a.yaml"), NOBODY).unwrap();
    let mut source = FleetSource::open(Place::Directory(root.clone()), &data).unwrap();
    let metrics = Metrics::new();
    source.count_in(&metrics);
    let counted = || metrics.encode().contains("meshfed_source_errors{code=");
    let first = source.policies(1);
    assert_eq!((first.export.len(), first.failover.len()), (1, 0), "{:?}", source.faults());
    assert!(!counted());
    std::fs::write(root.join("b.yaml"), DEFAULT).unwrap();
    assert!(settle(&mut source));
    assert_eq!(source.policies(2).failover.len(), 1, "{:?}", source.faults());
    assert_eq!(source.policies(2).failover[0].target, PolicyTarget::Default);
    // The fleet's settings are told beside its policies.
    std::fs::write(root.join("mesh.yaml"), MESH).unwrap();
    assert!(settle(&mut source));
    assert_eq!(source.policies(2).settings.outbound, Some(meshfed_model::policy::OutboundPolicy::RegistryOnly));
    // Broken now: what it forbade stays forbidden, also over a restart.
    std::fs::write(root.join("a.yaml"), "kind: [").unwrap();
    assert!(!settle(&mut source));
    assert_eq!(source.policies(3).export, first.export);
    assert!(!source.faults().lock().unwrap().is_empty() && counted());
    drop(source);
    let mut source = FleetSource::open(Place::Directory(root.clone()), &data).unwrap();
    assert_eq!(source.policies(4).export, first.export);
    assert!(!source.faults().lock().unwrap().is_empty());
    std::fs::remove_file(root.join("a.yaml")).unwrap();
    assert!(settle(&mut source));
    assert!(source.policies(5).export.is_empty());
    // A directory that is gone is a fault, not the end of all policies.
    std::fs::rename(&root, dir.path().join("away")).unwrap();
    assert!(!settle(&mut source));
    assert_eq!(source.policies(6).failover.len(), 1);
}
