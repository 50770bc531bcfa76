//! 1.3, 1.4: tokens, and where credentials are found.

use std::process::Command;

use meshfed_e2e::binary::meshfed;
use meshfed_e2e::fleet::Fleet;
use meshfed_e2e::process::run;
use serde_json::Value;

use super::{is_token, keys};

/// 1.3: stdout is the token and a newline; with `-o json` the API's answer; a revoked token is told as such.
///
/// Mutation seen to fail: `token create` prints `token: ` before the token.
#[test]
fn a_token_is_printed_alone() {
    let fleet = Fleet::start();
    let create = ["token", "create", "--cluster", "east", "--network", "net-east=127.84.0.0/16", "--region", "eu"];
    let plain = fleet.cli(None, &create);
    assert_eq!((plain.code, plain.stderr.as_str()), (0, ""), "{plain:?}");
    assert!(plain.stdout.ends_with('\n') && is_token(plain.stdout.trim_end_matches('\n')), "{plain:?}");
    let json: Value =
        serde_json::from_str(&fleet.cli(None, &[&create[..], &["-o", "json"]].concat()).ok("token")).unwrap();
    assert_eq!(keys(&json), ["cluster", "command", "expiresAt", "id", "token"]);
    let (token, id) = (json["token"].as_str().unwrap(), json["id"].as_str().unwrap());
    assert!(is_token(token) && token.split('.').nth(1) == Some(id), "{json}");
    assert_eq!((&json["command"][0], &json["command"][1]), (&"meshfed".into(), &"join".into()), "{json}");
    let _revoked = fleet.cli(None, &["token", "revoke", id]).ok("revoke");
    let listed: Value = serde_json::from_str(&fleet.cli(None, &["token", "list", "-o", "json"]).ok("list")).unwrap();
    let of = |wanted: &str| listed["items"].as_array().unwrap().iter().find(|t| t["id"] == wanted).cloned().unwrap();
    assert_eq!(of(id)["state"], "revoked");
    assert_eq!(keys(&of(id)), ["cluster", "expiresAt", "id", "state"], "a list shows no secret");
    assert_eq!(of(plain.stdout.split('.').nth(1).unwrap())["state"], "unused");
}

/// 1.3: `--config`, else MESHFED_CONFIG, else XDG; an empty variable is none; `--server` overrides; every failure says
/// which file or server, and what to do.
///
/// Mutation seen to fail: `given` keeps an empty path; the remedy of a foreign certificate left out.
#[test]
fn credentials_are_found_in_their_order() {
    let mut fleet = Fleet::start();
    let good = fleet.path("federator/admin.yaml");
    let xdg = fleet.path("xdg");
    std::fs::create_dir_all(xdg.join("meshfed")).unwrap();
    std::fs::copy(&good, xdg.join("meshfed/config.yaml")).unwrap();
    let config = good.display().to_string();
    let text = std::fs::read_to_string(&good).unwrap();
    let variant = |name: &str, from: &str, to: &str| {
        let path = fleet.path(name);
        let changed: String =
            text.lines().map(|l| if l.starts_with(from) { format!("{to}\n") } else { format!("{l}\n") }).collect();
        std::fs::write(&path, changed).unwrap();
        path.display().to_string()
    };
    let foreign = variant("foreign.yaml", "token:", "token: \"wrong\"");
    let empty_ca = variant("ca.yaml", "certificateAuthorityData:", "certificateAuthorityData: \"\"");
    let none = fleet.path("nowhere").display().to_string();
    let grpc = fleet.grpc();
    let xdg = xdg.display().to_string();
    let ask = |flags: &[&str], env: Option<&str>, xdg: &str| {
        let mut ask = Command::new(meshfed());
        ask.arg("clusters").args(flags).env("XDG_CONFIG_HOME", xdg).env("HOME", &none);
        match env {
            None => ask.env_remove("MESHFED_CONFIG"),
            Some(value) => ask.env("MESHFED_CONFIG", value),
        };
        run(&mut ask)
    };
    for (flags, env, base) in [
        (&["--config", config.as_str()][..], Some(none.as_str()), none.as_str()),
        (&[], Some(config.as_str()), none.as_str()),
        (&[], None, xdg.as_str()),
        (&[], Some(""), xdg.as_str()),
        (
            &[
                "--server",
                &format!("https://localhost:{}", fleet.address("federator", "http").rsplit(':').next().unwrap()),
            ],
            None,
            &xdg,
        ),
    ] {
        let output = ask(flags, env, base);
        // The fleet has no cluster yet.
        assert_eq!((output.code, output.stderr.as_str()), (0, "nothing found\n"), "{flags:?} {env:?}: {output:?}");
    }
    for (flags, env, base, code, words) in [
        (&[][..], None, none.as_str(), 64, &["no credentials", "--config", "MESHFED_CONFIG", "admin.yaml"][..]),
        (&[], Some(none.as_str()), xdg.as_str(), 65, &[&none, "admin.yaml"]),
        (&["--config", &foreign], None, "", 1, &[&foreign, "does not know the token", "admin.yaml"]),
        (&["--config", &empty_ca], None, "", 65, &[&empty_ca, "certificateAuthorityData"]),
        (&["--server", &grpc], None, &xdg, 1, &["cannot be asked", "--http-listen"]),
        (&["--server", "https://127.0.0.1:1"], None, &xdg, 1, &["127.0.0.1:1", "refused", "runs"]),
        (&["--server", "http://127.0.0.1:1"], None, &xdg, 64, &["https://"]),
    ] {
        let output = ask(flags, env, base);
        assert_eq!((output.code, output.stdout.as_str()), (code, ""), "{flags:?}: {output:?}");
        assert!(words.iter().all(|w| output.stderr.contains(w)), "{words:?} not all in {output:?}");
    }
    fleet.federator().assert_alive();
}

/// A join that lacks something says what, before anybody is asked: what joins; and of a text that is no token, that it is
/// none, beside the sentence of all refusals. The objects for git need no token.
///
/// Mutations seen to fail: the remark of `join::run` left out; `join_kube::objects` asked after the token.
#[test]
fn a_join_says_what_it_lacks() {
    let hub = "https://127.0.0.1:1";
    let nothing = super::bare(&["join", hub, "--token", "x"]);
    assert!(nothing.code == 64 && ["--kube", "--data-dir"].iter().all(|w| nothing.stderr.contains(w)), "{nothing:?}");
    let garbage = super::bare(&["join", hub, "--token", "garbage", "--data-dir", "nowhere"]);
    let told = ["this is no token", "mf1.", "join refused: the token is unknown"];
    assert!(garbage.code == 1 && told.iter().all(|w| garbage.stderr.contains(w)), "{garbage:?}");
    let objects = super::bare(&["join", hub, "--kube", "-o", "yaml"]);
    assert!(objects.code == 0 && objects.stdout.contains("kind: Membership"), "{objects:?}");
    assert!(objects.stdout.contains("<the token; "), "a placeholder: {objects:?}");
}
