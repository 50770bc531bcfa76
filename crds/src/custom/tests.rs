use std::path::PathBuf;

use super::*;

fn written(plural: &str) -> PathBuf {
    let file = format!("../helm/meshfed-crds/templates/{GROUP}_{plural}.yaml");
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file)
}

/// The chart holds what this code says. To write it anew: `meshfed crds --out helm/meshfed-crds/templates`.
///
/// Mutation seen to fail: any text of a field's description changed.
#[test]
fn the_charts_definitions_are_those_of_the_code() {
    for definition in definitions().unwrap() {
        let path = written(&definition.plural);
        let expected = yaml(&definition).unwrap();
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == expected, "{} is stale: meshfed crds --out helm/meshfed-crds/templates", path.display());
    }
}
