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

/// Production lines of a function, from its `fn` to its closing brace.
const FUNCTION_LINES: usize = 70;
/// Functions that are longer, with their length when they were noticed: they may only shrink.
const FUNCTION_RATCHET: &[(&str, &str, usize)] = &[];

/// Rooms of a crate that use each other in a circle: none may be added, and who breaks one takes it out of the list.
const CIRCLES: &[(&str, &[&str])] =
    &[("model", &["failover", "horizon"]), ("cluster-agent", &["core", "status", "workload", "xds"])];

/// Our crates, by folder.
const CRATES: &[&str] = &["model", "api", "crds", "runtime", "ca", "federator", "cluster-agent", "proxy", "cli", "e2e"];

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
    let mut pending: Vec<PathBuf> = CRATES.iter().map(|c| workspace().join(c).join("src")).collect();
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

/// The rooms of a crate: the modules that its roots declare.
fn rooms(folder: &str) -> BTreeSet<String> {
    let roots = ["lib.rs", "main.rs"].map(|root| workspace().join(folder).join("src").join(root));
    let texts = roots.iter().filter_map(|root| std::fs::read_to_string(root).ok());
    texts
        .flat_map(|text| {
            let names = text.lines().filter_map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let at = words.iter().position(|w| *w == "mod").filter(|at| *at <= 1)?;
                words.get(at + 1)?.strip_suffix(';').map(str::to_owned)
            });
            names.collect::<Vec<_>>()
        })
        .filter(|name| name != "tests")
        .collect()
}

/// The room that a file belongs to; none for a crate's root.
fn room_of(path: &Path, folder: &str, rooms: &BTreeSet<String>) -> Option<String> {
    let inside = path.strip_prefix(workspace().join(folder).join("src")).ok()?;
    let first = inside.components().next()?.as_os_str().to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    rooms.contains(name).then(|| name.to_owned())
}

/// What follows each `crate::` of a text: a name, or the first names of a group in braces.
fn named_from_the_root(text: &str) -> BTreeSet<String> {
    let code: String = text.lines().map(|l| l.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let word = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.insert(word(rest));
            continue;
        };
        let (mut depth, mut item) = (0, String::new());
        for c in group.chars() {
            match c {
                '}' if depth == 0 => break,
                ',' if depth == 0 => {
                    names.insert(word(item.trim()));
                    item.clear();
                    continue;
                }
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            item.push(c);
        }
        names.insert(word(item.trim()));
    }
    names
}

/// Which rooms each room of a crate uses.
fn uses(folder: &str) -> BTreeMap<String, BTreeSet<String>> {
    let rooms = rooms(folder);
    let mut uses: BTreeMap<String, BTreeSet<String>> = rooms.iter().map(|r| (r.clone(), BTreeSet::new())).collect();
    for path in sources().into_iter().filter(|p| !is_test_file(p)) {
        let Some(room) = room_of(&path, folder, &rooms) else { continue };
        let text = std::fs::read_to_string(&path).unwrap();
        let named = named_from_the_root(production(&text));
        uses.get_mut(&room).unwrap().extend(named.into_iter().filter(|n| *n != room && rooms.contains(n)));
    }
    uses
}

/// All rooms that are reached from one.
fn reached(uses: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let (mut seen, mut pending) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(room) = pending.pop() {
        pending.extend(uses[&room].iter().filter(|next| seen.insert((*next).clone())).cloned());
    }
    seen
}

/// Rooms form no circle, and `app`, which wires them, is used by none.
///
/// Mutation seen to fail: `use crate::session;` written into `federator/src/catalog/mod.rs`.
#[test]
fn rooms_use_each_other_in_one_direction() {
    let mut wrong = Vec::new();
    let mut edges = 0;
    for folder in CRATES {
        let uses = uses(folder);
        edges += uses.values().map(BTreeSet::len).sum::<usize>();
        for (room, used) in &uses {
            if used.contains("app") {
                wrong.push(format!("{folder}/{room} uses app, which only wires"));
            }
        }
        let reach: BTreeMap<&String, BTreeSet<String>> = uses.keys().map(|r| (r, reached(&uses, r))).collect();
        let circles: BTreeSet<Vec<&String>> = uses
            .keys()
            .map(|room| uses.keys().filter(|o| reach[room].contains(*o) && reach[o].contains(room)).collect())
            .filter(|circle: &Vec<&String>| circle.len() > 1)
            .collect();
        let allowed = |circle: &[&String]| {
            CIRCLES.iter().any(|(of, names)| of == folder && circle.iter().all(|room| names.contains(&room.as_str())))
        };
        for circle in circles.iter().filter(|c| !allowed(c)) {
            let shown: Vec<String> = circle
                .iter()
                .map(|room| {
                    let to: Vec<&String> = uses[*room].iter().filter(|u| circle.contains(u)).collect();
                    format!("{room} uses {to:?}")
                })
                .collect();
            wrong.push(format!("{folder}: a circle of rooms: {}", shown.join("; ")));
        }
    }
    assert!(edges > 100, "the uses were not found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Name and length of the functions of a text that rustfmt has formatted: the closing brace stands under the first word.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let words: Vec<&str> = code.split_whitespace().collect();
        let Some(place) = words.iter().position(|w| *w == "fn").filter(|place| *place <= 4) else { continue };
        let before = ["pub", "const", "async", "unsafe", "extern", "default"];
        if !words[..place].iter().all(|w| before.iter().any(|b| w.starts_with(b))) || code.starts_with("//") {
            continue;
        }
        let name: String =
            words.get(place + 1).map_or("", |w| w).chars().take_while(|c| *c != '(' && *c != '<').collect();
        let indent = &line[..line.len() - code.len()];
        // On one line, or the brace under it, or a declaration whose last line closes its parameters.
        let ends = |(i, l): (usize, &&str)| {
            (i == 0 && l.ends_with([';', '}']))
                || *l == format!("{indent}}}")
                || (l.starts_with(&format!("{indent})")) && l.ends_with(';'))
        };
        let end = lines[at..].iter().enumerate().position(ends);
        found.push((name, end.map_or(1, |end| end + 1)));
    }
    found
}

/// Mutation seen to fail: `FUNCTION_LINES` set to 40.
#[test]
fn functions_stay_short() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for path in sources().into_iter().filter(|p| !is_test_file(p)) {
        let text = std::fs::read_to_string(&path).unwrap();
        let file = name(&path);
        for (function, lines) in functions(production(&text)) {
            count += 1;
            let known = FUNCTION_RATCHET.iter().find(|(of, named, _)| *of == file && *named == function);
            let limit = known.map_or(FUNCTION_LINES, |(_, _, lines)| *lines);
            if lines > limit {
                wrong.push(format!("{file}: fn {function} has {lines} lines, {limit} allowed"));
            }
        }
    }
    assert!(count > 1000, "the functions were not found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The map shows every room: `docs/ARCHITECTURE.md` has a row per crate, and it names all rooms in backticks.
///
/// Mutation seen to fail: `fanout` taken out of the federator's row.
#[test]
fn the_map_names_every_room() {
    let text = std::fs::read_to_string(workspace().join("docs/ARCHITECTURE.md")).unwrap();
    let mut wrong = Vec::new();
    for folder in CRATES {
        let row: String = text.lines().filter(|l| l.starts_with(&format!("| `{folder}/` |"))).collect();
        let named = |room: &String| row.contains(&format!("`{room}`")) || row.contains(&format!("`{room}::"));
        wrong.extend(rooms(folder).iter().filter(|r| !named(r)).map(|r| format!("{folder}/{r}")));
    }
    assert!(wrong.is_empty(), "docs/ARCHITECTURE.md does not name: {}", wrong.join(", "));
}

/// The workspace refuses `unsafe`; a lint of the workspace cannot be forbidden for all crates but one, so this says
/// where the exception is: the benchmark's counting allocator.
///
/// Mutation seen to fail: the exception's path changed.
#[test]
fn unsafe_code_is_in_one_place() {
    let found: Vec<String> = sources()
        .iter()
        .filter(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            let words = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "(unsafe_code"];
            words.iter().any(|word| text.contains(word))
        })
        .map(|path| name(path))
        .collect();
    assert_eq!(found, ["e2e/src/bin/change-cost.rs"]);
}

/// Rooms that give conditions their reasons.
const JUDGES: &[&str] = &["cluster-agent/src/membership", "federator/src/clusters", "crds/src/custom/verdict.rs"];
/// Names there that are no reasons of conditions: kinds, and an event about an object that is nobody's.
const NO_REASONS: &[&str] = &["FailoverPolicy", "NotOfThisRelease", "PartialObjectMetadata"];

/// What somebody reads in a condition is looked up in the reference of kinds: each reason is there.
///
/// Mutation seen to fail: the row of `IdentityOfAnother` taken out of `crds/src/custom/reference.rs`, and the page written anew.
#[test]
fn the_reference_has_every_reason() {
    let page = std::fs::read_to_string(workspace().join("docs/reference/kinds.md")).unwrap();
    let mut missing = BTreeSet::new();
    let mut count = 0;
    for path in sources().iter().filter(|path| JUDGES.iter().any(|judge| name(path).starts_with(judge))) {
        let text = std::fs::read_to_string(path).unwrap();
        for word in production(&text).split('"').filter(|word| is_reason(word) && !NO_REASONS.contains(word)) {
            count += 1;
            if !page.contains(&format!("`{word}`")) {
                missing.insert(format!("{word} of {}", name(path)));
            }
        }
    }
    assert!(count > 30, "the reasons were not found");
    assert!(missing.is_empty(), "not in crds/src/custom/reference.rs: {missing:?}");
}

/// Two words or more, as conditions write them: `HubUnreachable`.
fn is_reason(word: &str) -> bool {
    let capitals = word.chars().filter(char::is_ascii_uppercase).count();
    word.starts_with(|c: char| c.is_ascii_uppercase())
        && capitals > 1
        && word.chars().all(|c| c.is_ascii_alphabetic())
        && word.chars().any(|c| c.is_ascii_lowercase())
}
