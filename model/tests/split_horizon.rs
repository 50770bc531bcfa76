//! The split-horizon vectors, and properties that hold for whatever is handed in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod case;

/// `cargo test vectors` finds these.
mod vectors {
    use std::fs;
    use std::path::Path;

    use meshfed_model::horizon::assign;

    use crate::case::{Case, own, shared};

    fn own_cases() -> Vec<Case> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/split-horizon.json");
        own(&fs::read_to_string(path).unwrap()).unwrap()
    }

    fn judge_all(cases: &[Case]) -> Vec<String> {
        cases.iter().filter_map(|c| c.judge().err().map(|e| format!("{}: {e}", c.id))).collect()
    }

    /// Mutation seen to fail: `failover::slot` matches zones without their region; the gateways of a family that the
    /// client lacks kept.
    #[test]
    fn all_cases_of_the_repository() {
        let cases = own_cases();
        assert_eq!(cases.len(), 120);
        let failures = judge_all(&cases);
        assert!(failures.is_empty(), "{} of 120 fail:\n{}", failures.len(), failures.join("\n"));
    }

    /// Shares are exact, not only near. Mutation seen to fail: `scale` left out of `failover::loads`.
    #[test]
    fn shares_are_exact_fractions() {
        for case in own_cases() {
            let assignment = assign(&case.client, &case.spec, &case.candidates);
            for item in &assignment.items {
                let want = &case.items[&(item.address, item.port)].share;
                assert_eq!(item.share.to_string(), *want, "{} {}", case.id, item.address);
            }
        }
    }

    /// An agent knows groups, the hub endpoints. Mutation seen to fail: a group's `total` replaced by its `ready`.
    #[test]
    fn groups_give_the_same_as_their_endpoints() {
        for case in own_cases() {
            let groups = case.grouped();
            let (a, b) = (&case.candidates, &groups);
            assert_eq!(assign(&case.client, &case.spec, a), assign(&case.client, &case.spec, b), "{}", case.id);
        }
    }

    /// Whether a file is of the other form that vectors have: `kind`, `input` and `expect` of a function instead of a
    /// topology and its client. Only a file that is so from end to end: everything else is judged, or fails.
    fn is_of_another_form(json: &str) -> bool {
        #[derive(serde::Deserialize)]
        struct File {
            cases: Vec<serde_json::Map<String, serde_json::Value>>,
        }
        let other = |case: &serde_json::Map<String, serde_json::Value>| {
            case.contains_key("kind") && case.contains_key("input") && !case.contains_key("client")
        };
        serde_json::from_str(json).is_ok_and(|file: File| !file.cases.is_empty() && file.cases.iter().all(other))
    }

    /// Mutation seen to fail: `all(other)` replaced by `any(other)`.
    #[test]
    fn only_a_whole_file_is_of_another_form() {
        assert!(is_of_another_form(r#"{"cases": [{"id": "a", "kind": "weights", "input": {}, "expect": []}]}"#));
        for file in [
            r#"{"cases": [{"kind": "weights", "input": {}}, {"id": "b", "client": {}}]}"#,
            r#"{"cases": [{"kind": "weights", "input": {}, "client": {}}]}"#,
            r#"{"cases": [{"id": "b"}]}"#,
            r#"{"cases": []}"#,
            r#"{}"#,
            "nothing",
        ] {
            assert!(!is_of_another_form(file), "{file}");
        }
    }

    /// Judges every `*.json` of a directory that is of the shared form. A file of the other form is excluded by name; a
    /// directory that has no file of ours fails.
    #[expect(clippy::print_stderr, reason = "whoever names a directory is told what of it was not judged")]
    fn judge_files(directory: &Path) -> Result<(), String> {
        let place = directory.display();
        let entries = fs::read_dir(directory).map_err(|e| format!("{place}: {e}"))?;
        let mut files: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "json"))
            .collect();
        files.sort();
        let mut failures = Vec::new();
        let (mut count, mut judged_files) = (0, 0);
        for file in files {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            let text = fs::read_to_string(&file).map_err(|e| e.to_string());
            if text.as_ref().is_ok_and(|t| is_of_another_form(t)) {
                eprintln!("{name}: excluded: its cases are of another form than split-horizon.json");
                continue;
            }
            judged_files += 1;
            match text.and_then(|t| shared(&t)) {
                Err(e) => failures.push(format!("{name}: {e}")),
                Ok(cases) if cases.is_empty() => failures.push(format!("{name}: holds no case")),
                Ok(cases) => {
                    count += cases.len();
                    for (id, case) in cases {
                        let judged = case.and_then(|c| c.judge());
                        failures.extend(judged.err().map(|e| format!("{name}: {id}: {e}")));
                    }
                }
            }
        }
        if judged_files == 0 {
            return Err(format!("{place} holds no *.json in the form of split-horizon.json"));
        }
        if failures.is_empty() {
            return Ok(());
        }
        Err(format!("{} failures in {count} cases:\n{}", failures.len(), failures.join("\n")))
    }

    /// Runs every file of `MESHFED_VECTORS` in the shared form; without it there is nothing to do here. How files are
    /// judged is what the next test tests.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the variable is this test's interface")]
    fn all_files_of_a_directory() {
        let Ok(directory) = std::env::var("MESHFED_VECTORS") else { return };
        // Tests run in their package's folder; a relative path is meant from the workspace's.
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        if let Err(failures) = judge_files(&root.join(directory)) {
            panic!("MESHFED_VECTORS: {failures}");
        }
    }

    /// Mutations seen to fail: a file that cannot be read is passed over (`Err(_) => {}`); so is one without a case;
    /// `judged_files` is not looked at.
    #[test]
    fn a_directory_that_is_not_judged_whole_fails() {
        let other = r#"{"cases": [{"id": "a", "kind": "weights", "input": {}}]}"#;
        let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vectors");
        for (name, content, want) in [
            ("bytes", &b"\xff"[..], "f.json: "),
            ("form", b"{}", "f.json: "),
            ("empty", br#"{"cases": []}"#, "f.json: "),
            ("other", other.as_bytes(), "holds no *.json in the form"),
        ] {
            let directory = base.join(name);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("f.json"), content).unwrap();
            let failures = judge_files(&directory).expect_err(name);
            assert!(failures.contains(want), "{name}: {failures}");
        }
        assert!(judge_files(&base).is_err(), "no *.json at all");
        assert!(judge_files(&base.join("nowhere")).is_err());
    }
}

mod properties;
