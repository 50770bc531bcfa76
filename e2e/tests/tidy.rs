//! The rules that no compiler keeps: who may depend on whom, what a pure room may say, how long a file may be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use meshfed_e2e::binary::workspace;
use serde_json::Value;

/// Who may use whom among our crates (design 3). `cli` and `e2e` may use everything.
const DIRECTION: &[(&str, &[&str])] = &[
    ("meshfed-model", &[]),
    ("meshfed-api", &["meshfed-model"]),
    ("meshfed-crds", &["meshfed-model"]),
    ("meshfed-runtime", &["meshfed-api", "meshfed-model"]),
    ("meshfed-ca", &["meshfed-runtime", "meshfed-api", "meshfed-model"]),
    ("meshfed-federator", &["meshfed-ca", "meshfed-crds", "meshfed-runtime", "meshfed-api", "meshfed-model"]),
    ("meshfed-cluster-agent", &["meshfed-ca", "meshfed-crds", "meshfed-runtime", "meshfed-api", "meshfed-model"]),
    ("meshfed-proxy", &["meshfed-runtime", "meshfed-api", "meshfed-model"]),
];

/// Wanted production lines of a file.
const FILE_LINES: usize = 600;
/// Files that are longer, with their length when they were noticed: they may only shrink.
const RATCHET: &[(&str, usize)] = &[];

/// What a pure room never says.
const IMPURE: &[&str] = &[
    ".await",
    "async fn",
    "tokio::",
    "std::fs",
    "std::net::Tcp",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
    "clock::",
    "Mutex",
    "RwLock",
    "std::env",
];

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending: Vec<PathBuf> =
        ["model", "api", "crds", "runtime", "ca", "federator", "cluster-agent", "proxy", "cli", "e2e"]
            .iter()
            .map(|c| workspace().join(c).join("src"))
            .collect();
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(found.len() > 50, "the sources were not found");
    found
}

fn name(path: &Path) -> String {
    path.strip_prefix(workspace()).unwrap().display().to_string()
}

/// Production lines: up to the tests that end a file.
fn production(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

fn is_test_file(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n == "tests.rs") || path.components().any(|c| c.as_os_str() == "tests")
}

/// Mutation seen to fail: `meshfed-ca.workspace = true` added to `proxy/Cargo.toml`.
#[test]
fn crates_depend_downwards_only() {
    let output = Command::new(option_env!("CARGO").unwrap_or("cargo"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        DIRECTION.iter().map(|(name, uses)| (*name, uses.iter().copied().collect())).collect();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let package_name = package["name"].as_str().unwrap();
        let Some(allowed) = allowed.get(package_name) else {
            assert!(["meshfed-cli", "meshfed-e2e"].contains(&package_name), "{package_name} has no place in design 3");
            continue;
        };
        seen.insert(package_name.to_owned());
        for dependency in package["dependencies"].as_array().unwrap() {
            let dependency_name = dependency["name"].as_str().unwrap();
            let for_tests = dependency["kind"].as_str() == Some("dev");
            if dependency_name.starts_with("meshfed-") && !for_tests {
                assert!(allowed.contains(dependency_name), "{package_name} must not use {dependency_name}");
            }
        }
    }
    assert_eq!(seen.len(), DIRECTION.len());
}

/// Mutation seen to fail: `.await` written into `model/src/horizon.rs`.
#[test]
fn rooms_say_whether_they_are_pure_and_keep_it() {
    let mut wrong = Vec::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        if is_test_file(&path) {
            continue;
        }
        let first = text.lines().next().unwrap_or_default();
        let is_room = first.starts_with("//! Pure") || first.starts_with("//! Edge");
        let is_root = path.file_name().is_some_and(|n| n == "lib.rs");
        if !is_room && !is_root {
            wrong.push(format!("{}: the first line is neither '//! Pure.' nor '//! Edge.'", name(&path)));
        }
        if !first.starts_with("//! Pure.") {
            continue;
        }
        for (number, line) in production(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in IMPURE {
                let found = code.match_indices(word).any(|(at, _)| {
                    // `.await` is a word of its own, `.awaited` is a field.
                    !code[at + word.len()..].starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
                        || word.ends_with(':')
                });
                if found {
                    wrong.push(format!("{}:{}: a pure room says '{word}'", name(&path), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Mutation seen to fail: `FILE_LINES` set to 200.
#[test]
fn files_stay_short() {
    let limits: BTreeMap<&str, usize> = RATCHET.iter().copied().collect();
    let mut wrong = Vec::new();
    for path in sources().into_iter().filter(|p| !is_test_file(p)) {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = production(&text).lines().count();
        let limit = limits.get(name(&path).as_str()).copied().unwrap_or(FILE_LINES);
        if lines > limit {
            wrong.push(format!("{}: {lines} lines, {limit} allowed", name(&path)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The one reader of the clock, the one spawner, no second crypto provider.
///
/// Mutation seen to fail: `tokio::spawn` written into `cli/src/client.rs`.
#[test]
fn there_is_one_of_each() {
    let mut wrong = Vec::new();
    for path in sources().into_iter().filter(|p| !is_test_file(p)) {
        let file = name(&path);
        if file.starts_with("runtime/") || file.starts_with("e2e/") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for (number, line) in production(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in ["tokio::spawn(", "Instant::now()", "SystemTime::now()", "unbounded_channel", "env::var"] {
                let tokio_clock = code.contains("tokio::time::Instant::now()");
                if code.contains(word) && !tokio_clock {
                    wrong.push(format!("{file}:{}: {word}", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let lock = std::fs::read_to_string(workspace().join("Cargo.lock")).unwrap();
    for banned in ["openssl-sys", "native-tls"] {
        assert!(!lock.contains(&format!("name = \"{banned}\"")), "{banned} is in Cargo.lock");
    }
    let tree = Command::new(option_env!("CARGO").unwrap_or("cargo"))
        .args(["tree", "--workspace", "--offline", "--invert", "ring", "--edges", "normal,build"])
        .current_dir(workspace())
        .output()
        .unwrap();
    let tree = String::from_utf8_lossy(&tree.stdout).into_owned();
    assert!(!tree.contains("meshfed"), "ring is a second crypto provider:\n{tree}");
}
