//! Edge. The binary under test: built once per test run, so that `cargo test` alone is enough on a clean checkout.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The workspace's root.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e lies in the workspace")
}

/// Where cargo puts what this test run builds.
#[must_use]
pub fn target_dir() -> PathBuf {
    // target/debug/deps/TEST → target/debug
    let test = std::env::current_exe().expect("a test is a file");
    test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps").to_owned()
}

/// The `meshfed` binary of the profile of this test run; `MESHFED_BIN` names another one (benchmarks).
#[expect(clippy::disallowed_methods, reason = "the benchmarks' runner says what to measure")]
pub fn meshfed() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(binary) = std::env::var_os("MESHFED_BIN") {
            return binary.into();
        }
        let profile_dir = target_dir();
        let mut build = Command::new(option_env!("CARGO").unwrap_or("cargo"));
        // --workspace, so that features resolve as in `cargo test --workspace` and nothing is compiled twice.
        build.args(["build", "--workspace", "--bins", "--quiet"]).current_dir(workspace());
        if profile_dir.ends_with("release") {
            build.arg("--release");
        }
        build.arg("--target-dir").arg(profile_dir.parent().expect("target/PROFILE"));
        let status = build.status().expect("cargo runs");
        assert!(status.success(), "the binary under test does not build");
        profile_dir.join("meshfed")
    })
}
