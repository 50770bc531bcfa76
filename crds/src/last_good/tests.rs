use super::*;

fn service(name: &str, port: u16) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n---\n")
}

fn content(path: &str, text: impl Into<String>) -> FileChange {
    FileChange::Content { path: path.into(), bytes: text.into().into_bytes() }
}

fn standing(state: &LastGood) -> Vec<String> {
    let mut all = Vec::new();
    for object in state.objects() {
        if let crate::Body::Service(s) = &object.body {
            all.push(format!("{}={}@{}", s.name.name(), s.ports[0].port.port, object.origin.file));
        }
    }
    all
}

fn codes(state: &LastGood) -> Vec<&'static str> {
    state.errors().iter().map(|e| e.code.as_str()).collect()
}

/// Mutation seen to fail: `Err(error) => self.keep(path, error)` replaced by a removal.
#[test]
fn a_file_that_does_not_parse_keeps_its_objects() {
    let mut state = LastGood::new(Scope::Cluster, None);
    state.apply(vec![content("a.yaml", service("a", 1)), content("b.yaml", service("b", 1))]);
    let changes = state.apply(vec![content("a.yaml", "a: [1\nb: }"), content("b.yaml", service("b", 2))]);
    assert_eq!(changes.len(), 1);
    assert_eq!(standing(&state), ["a=1@a.yaml", "b=2@b.yaml"]);
    assert_eq!(codes(&state), ["MF2001"]);
    assert_eq!(state.errors()[0].file.as_deref(), Some("a.yaml"));
    state.apply(vec![content("a.yaml", service("a", 3))]);
    assert_eq!(standing(&state), ["a=3@a.yaml", "b=2@b.yaml"]);
    assert!(codes(&state).is_empty());
}

/// Mutation seen to fail: `?` on a missing object in `settle` replaced by the removal of the standing one.
#[test]
fn an_invalid_object_keeps_its_own_last_good_version() {
    let mut state = LastGood::new(Scope::Cluster, None);
    state.apply(vec![content("a.yaml", service("a", 1) + &service("b", 1))]);
    let changes = state.apply(vec![content("a.yaml", service("a", 2) + &service("b", 0))]);
    assert_eq!(changes.len(), 1);
    assert_eq!(standing(&state), ["a=2@a.yaml", "b=1@a.yaml"]);
    assert_eq!(codes(&state), ["MF2004"]);
    // Over a restart, too.
    let mut again = LastGood::new(Scope::Cluster, None);
    let given = state.given_by("a.yaml").unwrap().iter().map(|o| Object::clone(o)).collect();
    again.restore(&"a.yaml".into(), given);
    again.apply(vec![content("a.yaml", service("a", 2) + &service("b", 0))]);
    assert_eq!(standing(&again), ["a=2@a.yaml", "b=1@a.yaml"]);
    // An object that is named no more is gone, an invalid one that never was good is not there.
    state.apply(vec![content("a.yaml", service("a", 2) + &service("c", 0))]);
    assert_eq!(standing(&state), ["a=2@a.yaml"]);
}

/// Mutation seen to fail: `if found.nameless` replaced by `if false`.
#[test]
fn what_a_nameless_object_was_stays() {
    let mut state = LastGood::new(Scope::Cluster, None);
    state.apply(vec![content("a.yaml", service("a", 1) + &service("b", 1))]);
    let nameless = "apiVersion: v1\nkind: Service\nmetadata: {nmae: b}\nspec: {ports: [{port: 9}]}\n";
    state.apply(vec![content("a.yaml", service("a", 2) + nameless)]);
    assert_eq!(standing(&state), ["a=2@a.yaml", "b=1@a.yaml"]);
    state.apply(vec![content("a.yaml", service("a", 2))]);
    assert_eq!(standing(&state), ["a=2@a.yaml"]);
}

/// Mutation seen to fail: `paths.first()` replaced by `last()` in `settle`.
#[test]
fn the_first_path_wins_and_the_second_is_an_error_naming_both() {
    let mut state = LastGood::new(Scope::Cluster, None);
    state.apply(vec![content("b.yaml", service("x", 2))]);
    assert_eq!(state.apply(vec![content("c.yaml", service("x", 3))]).len(), 0);
    assert_eq!(state.apply(vec![content("a/z.yaml", service("x", 1))]).len(), 1);
    assert_eq!(standing(&state), ["x=1@a/z.yaml"]);
    let errors = state.errors();
    assert_eq!(errors.len(), 2);
    assert_eq!((errors[0].file.as_deref(), errors[0].line, errors[0].code), (Some("b.yaml"), Some(1), Code::Duplicate));
    assert!(errors[0].message.contains("a/z.yaml:1") && errors[0].message.contains("b.yaml"), "{}", errors[0]);
    // A duplicate never takes the place of an invalid first one that has a last good version.
    state.apply(vec![content("a/z.yaml", service("x", 0))]);
    assert_eq!(standing(&state), ["x=1@a/z.yaml"]);
    state.apply(vec![FileChange::Removed { path: "a/z.yaml".into() }]);
    assert_eq!(standing(&state), ["x=2@b.yaml"]);
    state.apply(vec![FileChange::Removed { path: "b.yaml".into() }, FileChange::Removed { path: "c.yaml".into() }]);
    assert!(state.is_empty() && state.errors().is_empty());
    // In one file: the first one.
    state.apply(vec![content("d.yaml", service("y", 1) + &service("y", 2))]);
    assert_eq!(standing(&state), ["y=1@d.yaml"]);
    assert_eq!((codes(&state), state.errors()[0].line), (vec!["MF2005"], Some(6)));
}

#[test]
fn an_object_that_moves_to_another_file_is_one_change() {
    let mut state = LastGood::new(Scope::Cluster, None);
    state.apply(vec![content("a.yaml", service("x", 1))]);
    let changes = state.apply(vec![FileChange::Removed { path: "a.yaml".into() }, content("b.yaml", service("x", 1))]);
    assert!(matches!(changes.as_slice(), [Change::Put(o)] if &*o.origin.file == "b.yaml"), "{changes:?}");
}

#[test]
fn equal_content_is_no_change_and_a_moved_line_is_one() {
    let mut state = LastGood::new(Scope::Cluster, None);
    state.apply(vec![content("a.yaml", service("x", 1))]);
    assert!(state.apply(vec![content("a.yaml", service("x", 1))]).is_empty());
    assert_eq!(state.apply(vec![content("a.yaml", format!("# comment\n{}", service("x", 1)))]).len(), 1);
}
