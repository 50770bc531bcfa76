//! The image archive, taken apart: what an engine and containerd find in it, and what must not be there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::Path;
use std::process::Command;

use meshfed_e2e::binary::{meshfed, workspace};
use meshfed_e2e::process::run;
use serde_json::{Value, json};

fn pack(archive: &Path) -> Vec<u8> {
    let mut pack = Command::new(workspace().join("image/build.sh"));
    let _silent = run(pack.arg(meshfed()).arg(archive)).ok("image/build.sh");
    std::fs::read(archive).unwrap()
}

fn unpack(archive: &Path, folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let _silent = run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(folder)).ok("tar -x");
}

/// The blob that a descriptor names, whose digest and size are true.
fn blob(layout: &Path, descriptor: &Value) -> std::path::PathBuf {
    let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let path = layout.join("blobs/sha256").join(digest);
    assert_eq!(path.metadata().unwrap().len(), descriptor["size"].as_u64().unwrap());
    assert!(run(Command::new("sha256sum").arg(&path)).ok("sha256sum").starts_with(digest));
    path
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Packed twice it is the same, byte for byte, whatever the time; it is an OCI layout and what `docker load` takes at
/// once; one layer, no shell, nothing that anybody else than root may write.
///
/// Mutation seen to fail: `--mtime=@0` taken out of `image/archive.sh`.
#[test]
fn the_archive_is_reproducible_and_both_forms_name_one_image() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("one.tar");
    let bytes = pack(&archive);
    let other = dir.path().join("other/second.tar");
    assert!(bytes == pack(&other), "the same binary gave two archives");

    let layout = dir.path().join("layout");
    unpack(&archive, &layout);
    assert_eq!(read(&layout.join("oci-layout")), json!({ "imageLayoutVersion": "1.0.0" }));
    let reference = format!("localhost/meshfed:{}", env!("CARGO_PKG_VERSION"));
    let index = read(&layout.join("index.json"));
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], reference.as_str());
    let manifest = read(&blob(&layout, &index["manifests"][0]));
    let config_path = blob(&layout, &manifest["config"]);
    let layer = blob(&layout, &manifest["layers"][0]);
    let relative = |path: &Path| path.strip_prefix(&layout).unwrap().display().to_string();
    assert_eq!(
        read(&layout.join("manifest.json")),
        json!([{ "Config": relative(&config_path), "RepoTags": [reference], "Layers": [relative(&layer)] }])
    );
    let config = read(&config_path);
    assert_eq!(config["config"]["Entrypoint"], json!(["/meshfed"]));
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["rootfs"]["diff_ids"], json!([manifest["layers"][0]["digest"]]));

    let listing = run(Command::new("tar").arg("-tvf").arg(&layer)).ok("tar -t");
    for line in listing.lines() {
        let mode = line.split(' ').next().unwrap();
        assert!(mode.len() == 10 && !mode[4..].contains('w') && !mode.contains('s'), "{line}");
        assert!(!["sh", "bash", "dash", "busybox"].iter().any(|s| line.ends_with(&format!("/{s}"))), "{line}");
    }
}

/// With nothing but its own files around it, as another user, the binary runs, and so does the nft that `proxy init` uses.
///
/// Mutation seen to fail: `; libraries "$nft"` taken out of `image/root.sh`.
#[test]
fn the_files_of_the_image_are_enough() {
    let dir = tempfile::tempdir().unwrap();
    let (archive, layout, root) = (dir.path().join("one.tar"), dir.path().join("layout"), dir.path().join("root"));
    let _bytes = pack(&archive);
    unpack(&archive, &layout);
    let manifest = read(&layout.join("manifest.json"));
    unpack(&layout.join(manifest[0]["Layers"][0].as_str().unwrap()), &root);
    // A temporary directory is its owner's alone.
    let _opened = run(Command::new("chmod").arg("755").arg(dir.path())).ok("chmod");
    let inside = |command: &[&str]| {
        run(Command::new("chroot").arg("--userspec=123456:123456").arg(&root).args(command)).ok(&command.join(" "))
    };
    assert_eq!(inside(&["/meshfed", "version"]), format!("meshfed {}\n", env!("CARGO_PKG_VERSION")));
    assert!(inside(&["/usr/sbin/nft", "--version"]).starts_with("nftables v"));
}
