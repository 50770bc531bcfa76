use std::os::unix::fs::symlink;

use super::*;

fn names(changes: &[FileChange]) -> Vec<String> {
    let name = |c: &FileChange| match c {
        FileChange::Content { path, bytes } => format!("{path}={}", String::from_utf8_lossy(bytes)),
        FileChange::Unreadable { path, .. } => format!("!{path}"),
        FileChange::Removed { path } => format!("-{path}"),
        FileChange::Object { path, .. } => panic!("{path} is of an API server"),
    };
    changes.iter().map(name).collect()
}

fn walk(walker: &mut Walker) -> Vec<String> {
    names(&walker.walk(true, |_, _| false).changes)
}

/// A pipe whose other end nobody opens must not hold the walk up.
///
/// Mutation seen to fail: `is_file` not asked.
#[test]
fn what_is_no_file_any_more_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.yaml");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let error = read_limited(&path).unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::InvalidInput, "it is no regular file"));
}

/// Mutation seen to fail: `walk.changes.push` of what is gone left out.
#[test]
fn files_are_found_in_byte_order_and_hidden_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for path in ["b.yaml", "a/z.yml", "a.json", "a/.x.yaml", ".h/y.yaml", "note.txt", "a/b/c.yaml"] {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), "1").unwrap();
    }
    let mut walker = Walker::new(root.to_path_buf(), []);
    assert_eq!(walk(&mut walker), ["a.json=1", "a/b/c.yaml=1", "a/z.yml=1", "b.yaml=1"]);
    assert!(walk(&mut walker).is_empty());
    fs::write(root.join("b.yaml"), "22").unwrap();
    fs::remove_file(root.join("a.json")).unwrap();
    assert_eq!(walk(&mut walker), ["b.yaml=22", "-a.json"]);
    assert!(walker.read_one(&"b.yaml".into()).is_none());
    fs::write(root.join("b.yaml"), "333").unwrap();
    assert_eq!(names(&[walker.read_one(&"b.yaml".into()).unwrap()]), ["b.yaml=333"]);
}

/// Mutation seen to fail: `target.starts_with(&self.root)` answered `true`.
#[test]
fn links_are_followed_inside_only_and_a_swap_is_one_change() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("o.yaml"), "out").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for (version, text) in [("..v1", "1"), ("..v2", "2")] {
        fs::create_dir(root.join(version)).unwrap();
        for name in ["a.yaml", "b.yaml"] {
            fs::write(root.join(version).join(name), text).unwrap();
        }
    }
    symlink("..v1", root.join("..data")).unwrap();
    symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
    symlink("..data/b.yaml", root.join("b.yaml")).unwrap();
    symlink("a.yaml", root.join("c.yaml")).unwrap();
    symlink(outside.path().join("o.yaml"), root.join("o.yaml")).unwrap();
    symlink(".", root.join("loop")).unwrap();
    symlink("/nowhere", root.join("d.yaml")).unwrap();
    let mut walker = Walker::new(root.to_path_buf(), []);
    assert_eq!(walk(&mut walker), ["a.yaml=1", "b.yaml=1"]);
    let codes: Vec<_> = walker.errors().iter().map(|e| (e.code, e.file.as_deref())).collect();
    assert_eq!(codes, [(Code::Unreadable, Some("d.yaml")), (Code::Skipped, Some("o.yaml"))]);
    symlink("..v2", root.join("..tmp")).unwrap();
    fs::rename(root.join("..tmp"), root.join("..data")).unwrap();
    assert_eq!(walk(&mut walker), ["a.yaml=2", "b.yaml=2"]);
    // A link that leads nowhere is a fault, not a removal.
    fs::remove_file(root.join("..data")).unwrap();
    assert!(walk(&mut walker).is_empty());
    assert_eq!(walker.errors().iter().filter(|e| e.code == Code::Unreadable).count(), 4);
}

/// Mutation seen to fail: `blocked.push(String::new())` left out where PATH is not there.
#[test]
fn a_path_that_is_not_there_removes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("source");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a.yaml"), "1").unwrap();
    let mut walker = Walker::new(root.clone(), ["old.yaml".into()]);
    assert_eq!(walk(&mut walker), ["a.yaml=1", "-old.yaml"]);
    fs::rename(&root, dir.path().join("away")).unwrap();
    assert!(walk(&mut walker).is_empty());
    assert_eq!(walker.errors()[0].code, Code::Unreadable);
    fs::rename(dir.path().join("away"), &root).unwrap();
    assert!(walk(&mut walker).is_empty() && walker.errors().is_empty());
}

#[test]
fn removals_and_writes_can_be_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), "1").unwrap();
    let mut walker = Walker::new(dir.path().to_path_buf(), []);
    walk(&mut walker);
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    fs::write(dir.path().join("b.yaml"), "1").unwrap();
    let first = walker.walk(false, |_, _| true);
    assert!(first.changes.is_empty());
    assert_eq!(first.unsettled.len(), 2);
    assert_eq!(walk(&mut walker), ["b.yaml=1", "-a.yaml"]);
}
