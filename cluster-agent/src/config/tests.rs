use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: AgentArgs,
}

fn load(line: &[&str]) -> Problems {
    let args = Line::parse_from(std::iter::once("agent").chain(line.iter().copied())).args;
    Config::load(args).expect_err("problems")
}

/// Mutation seen to fail: the first problem returns.
#[test]
fn all_problems_are_told_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("east");
    std::fs::create_dir_all(dir.join("ca")).unwrap();
    let deep = format!("/tmp/{}", "x".repeat(110));
    let problems =
        load(&["--data-dir", dir.to_str().unwrap(), "--source", "consul:x", "--svid-ttl", "9s", "--run-dir", &deep]);
    let text = problems.to_string();
    assert_eq!(problems.exit_code(), 64);
    for part in [
        "--source:0:0: error[MF0103]: 'consul:x' is not in this version",
        "--svid-ttl:0:0: error[MF0113]: 9s is not between 10s and 24h",
        "--run-dir",
        "agent.yaml",
        "meshfed join",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// Mutation seen to fail: only `xds.sock` is measured.
#[test]
fn the_longer_socket_needs_room_too() {
    let told = |length: usize| {
        let mut problems = Problems::new();
        check_sockets(Path::new(&format!("/{}", "x".repeat(length - 1))), &mut problems);
        problems.to_string()
    };
    assert_eq!(told(UNIX_PATH_MAX - "/workload.sock".len()), "");
    let text = told(UNIX_PATH_MAX - "/xds.sock".len());
    assert!(text.contains("/workload.sock has 112 bytes") && text.contains("--run-dir"), "{text}");
    assert!(!text.contains("xds.sock"), "{text}");
}

/// Mutation seen to fail: a missing file counts as a flag's fault; the check for a directory of nobody left out.
#[test]
fn an_empty_data_directory_says_join() {
    let directory = tempfile::tempdir().unwrap();
    let source = format!("dir:{}", directory.path().display());
    let problems =
        load(&["--data-dir", directory.path().to_str().unwrap(), "--source", &source, "--dns-listen", "off"]);
    assert_eq!(problems.exit_code(), 65);
    assert!(problems.to_string().contains("meshfed join https://FEDERATOR:15600"), "{problems}");
    assert_eq!(problems.as_slice().len(), 1, "one cause is one line: {problems}");
    // A member that lost some of its files hears of each.
    std::fs::create_dir(directory.path().join("ca")).unwrap();
    std::fs::write(directory.path().join("ca/key.pem"), "").unwrap();
    let problems = load(&["--data-dir", directory.path().to_str().unwrap(), "--source", &source]);
    for part in ["agent.yaml", "identity/cert.pem", "identity/key.pem", "ca/anchor.pem", "bundles"] {
        assert!(problems.to_string().contains(part), "{part}: {problems}");
    }
}

/// Mutation seen to fail: the admin port is on `--bind` also where that is not loopback.
#[test]
fn the_admin_port_stays_on_loopback() {
    let at = |line: &[&str]| {
        let line = ["agent", "--data-dir", "E", "--source", "dir:."].iter().chain(line).copied();
        let (xds, admin) = listeners(&Line::parse_from(line).args, &mut Problems::default());
        (xds[0].to_string(), admin[0].to_string())
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(at(&[]), pair("0.0.0.0:15012", "127.0.0.1:15014"));
    assert_eq!(at(&["--bind", "127.1.0.1"]), pair("127.1.0.1:15012", "127.1.0.1:15014"));
    assert_eq!(at(&["--bind", "10.0.0.1"]), pair("10.0.0.1:15012", "127.0.0.1:15014"));
    assert_eq!(at(&["--bind", "::1"]), pair("[::1]:15012", "[::1]:15014"));
    assert_eq!(at(&["--xds-listen", "off", "--admin-listen", "127.0.0.1:0"]), pair("off", "127.0.0.1:0"));
}

/// `--bind` takes what every `--*-listen` takes as host (`contracts.md` 1.5), and says which one does not resolve.
///
/// Mutations seen to fail: `host.parse::<IpAddr>()` alone in `hosts`; the filter for loopback addresses left out.
#[test]
fn a_host_may_be_a_name() {
    let listeners_of = |host: &str| {
        let args = Line::parse_from(["agent", "--data-dir", "x", "--source", "dir:x", "--bind", host]).args;
        let mut problems = Problems::new();
        let (xds, admin) = listeners(&args, &mut problems);
        (xds.iter().map(ToString::to_string).collect::<Vec<_>>(), admin, problems)
    };
    let (xds, admin, problems) = listeners_of("localhost");
    assert!(problems.is_empty() && xds.contains(&"127.0.0.1:15012".to_owned()), "{xds:?} {problems}");
    assert_eq!(admin.len(), xds.len(), "all of them are loopback addresses");
    assert_eq!(listeners_of("[::1]").0, ["[::1]:15012"]);
    let (xds, admin, _) = listeners_of("192.0.2.1");
    assert_eq!((xds, admin[0].to_string()), (vec!["192.0.2.1:15012".to_owned()], "127.0.0.1:15014".to_owned()));
    let (_, _, problems) = listeners_of("nohost.invalid");
    let text = problems.to_string();
    assert_eq!(problems.exit_code(), 65);
    assert!(text.starts_with("--bind:0:0: error[MF0114]: 'nohost.invalid' does not resolve"), "{text}");
    assert!(text.contains("write an address of this host"), "{text}");
}
