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

    /// Mutation (not tried yet): `all(other)` replaced by `any(other)`.
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

    /// Runs every file of `MESHFED_VECTORS` in the shared form; without it the repository's own cases.
    ///
    /// A file of the other form is excluded by name; a directory that has no file of ours fails.
    ///
    /// Mutation (not tried yet): files that cannot be read are passed over.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the variable is this test's interface")]
    fn all_files_of_a_directory() {
        let Ok(directory) = std::env::var("MESHFED_VECTORS") else {
            let failures = judge_all(&own_cases());
            assert!(failures.is_empty(), "{}", failures.join("\n"));
            return;
        };
        // Tests run in their package's folder; a relative path is meant from the workspace's.
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files: Vec<_> = fs::read_dir(root.join(&directory))
            .unwrap_or_else(|e| panic!("MESHFED_VECTORS={directory}: {e}"))
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "json"))
            .collect();
        files.sort();
        assert!(!files.is_empty(), "MESHFED_VECTORS={directory} holds no *.json");
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
        assert!(judged_files > 0, "MESHFED_VECTORS={directory} holds no file in the form of split-horizon.json");
        assert!(failures.is_empty(), "{} failures in {count} cases:\n{}", failures.len(), failures.join("\n"));
    }
}

mod properties;
