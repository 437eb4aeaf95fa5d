//! The commands as they are typed: what they print, and with what they end.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::support::gateway::{BINARY, Gateway};
use crate::support::issuer::Issuer;
use crate::support::origin::Origin;
use crate::support::{eventually, free_port, leaks};

struct Scene {
    gateway: Gateway,
    _origin: Origin,
    issuer: Issuer,
}

fn scene(algorithm: Algorithm) -> Scene {
    let (origin, issuer) = (Origin::start(), Issuer::new(algorithm));
    Scene { gateway: Gateway::guarding(&issuer, &origin).start(), _origin: origin, issuer }
}

impl Scene {
    /// A command in the gateway's directory, with nothing added.
    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(BINARY)
            .args(arguments)
            .current_dir(self.gateway.directory())
            .env_remove("PORTCULLIS_ADMIN")
            .env_remove("PORTCULLIS_ADMIN_TOKEN")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.gateway.cli(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|it| panic!("{it}: {output:?}"))
    }

    fn reason(&self, token: &str) -> Option<String> {
        let response = self.gateway.get("/x", Some(token));
        (response.status != 200).then(|| response.reason())
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

fn one_line(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    assert!(text.starts_with("portcullis: "), "{text}");
    text
}

#[test]
fn users_tokens_and_sessions_are_governed_from_the_command_line() {
    let scene = scene(Algorithm::ES256);
    let token = scene.issuer.token("alice", |claims| claims["sid"] = json!("s-1"));
    assert_eq!(scene.reason(&token), None);
    for (command, reason) in [
        (&["user", "ban", "alice", "--reason", "spam"][..], Some("user_banned")),
        (&["user", "deactivate", "alice", "--until", "2199-01-01T00:00:00Z"], Some("user_deactivated")),
        (&["user", "delete", "alice"], Some("user_deleted")),
        (&["user", "activate", "alice"], None),
        (&["user", "security-action", "alice"], Some("user_security_action")),
    ] {
        let answer = scene.json(command);
        assert!(answer["version"].is_i64() && answer["redis"] == "none", "{command:?}: {answer}");
        assert_eq!(scene.reason(&token).as_deref(), reason, "{command:?}");
    }
    let status = scene.json(&["user", "status", "alice"]);
    assert_eq!(status["sessions"][0]["sid"], "s-1", "{status}");
    assert_eq!(status["sessions"][0]["revoked"], "user_security_action", "{status}");
    assert_eq!(scene.json(&["session", "list", "alice"])["sessions"][0]["sid"], "s-1");

    let there = scene.issuer.token("erin", |claims| claims["sid"] = json!("s-2"));
    scene.json(&["session", "revoke", "s-2"]);
    assert_eq!(scene.reason(&there).as_deref(), Some("session_revoked"));
    let other = scene.issuer.good("bob");
    scene.json(&["token", "revoke", &other]);
    assert_eq!(scene.reason(&other).as_deref(), Some("token_revoked"));
    scene.json(&["user", "logout", "carol"]);
    assert_eq!(scene.reason(&scene.issuer.good("carol")).as_deref(), Some("issued_before_cutoff"));
    assert!(scene.json(&["stats"]).is_object() && scene.json(&["prune"]).is_object());

    let words = scene.gateway.cli(&["user", "status", "alice"]);
    assert!(String::from_utf8(words.stdout).unwrap().contains("sid: s-1"));
}

#[test]
fn what_is_not_so_ends_with_1_and_trouble_with_2() {
    let scene = scene(Algorithm::ES256);
    let refused = scene.gateway.cli(&["user", "ban", "alice", "--realm", "nowhere"]);
    assert_eq!((code(&refused), one_line(&refused).contains("realm")), (1, true));
    let refused = scene.gateway.cli(&["user", "ban", "alice", "--until", "soon"]);
    assert_eq!((code(&refused), one_line(&refused).contains("until")), (1, true));
    let admin = format!("http://{}", scene.gateway.admin_addr());
    std::fs::write(scene.gateway.directory().join("wrong.token"), "a-wrong-control-token").unwrap();
    let wrong = scene.run(&["stats", "--admin", &admin, "--admin-token-file", "wrong.token"], "");
    assert_eq!((code(&wrong), one_line(&wrong).contains("control token")), (2, true));
    let missing = scene.run(&["stats", "--admin", &admin, "--admin-token-file", "none"], "");
    assert_eq!(code(&missing), 2);
    let unnamed = scene.run(&["stats", "--admin", &admin], "");
    assert_eq!((code(&unnamed), one_line(&unnamed).contains("wants a control token")), (2, true));
    let nobody = scene.run(&["stats", "--admin", &format!("http://127.0.0.1:{}", free_port())], "");
    assert_eq!((code(&nobody), one_line(&nobody).contains("no answer from")), (2, true));
    for usage in [&["fly"][..], &["user", "ban"], &["stats", "extra"], &["token", "issue", "--sub", "7"]] {
        assert_eq!(code(&scene.run(usage, "")), 2, "{usage:?}");
    }
    assert_eq!(code(&scene.run(&["token", "inspect", "nonsense"], "")), 1);
    assert_eq!(code(&scene.run(&["--version"], "")), 0);
}

#[test]
fn the_configuration_names_the_gateway_before_or_behind_the_command() {
    let scene = scene(Algorithm::ES256);
    let toml = std::fs::read_to_string(scene.gateway.directory().join("gateway.toml")).unwrap();
    let admin = format!("[admin]\nlisten = \"{}\"", scene.gateway.admin_addr());
    let toml = toml.replace("[admin]\nlisten = \"127.0.0.1:0\"", &admin);
    std::fs::write(scene.gateway.directory().join("client.toml"), &toml).unwrap();
    for arguments in [
        &["-c", "client.toml", "prune"][..],
        &["prune", "-c", "client.toml"],
        &["--config", "client.toml", "user", "ban", "mallory"],
        &["user", "ban", "mallory", "--config", "client.toml", "--json"],
        &["-c", "client.toml", "stats"],
        &["-c", "client.toml", "stats", "--admin", &format!("http://{}/", scene.gateway.admin_addr())],
        &["-c", "client.toml", "health"],
        &["health", "-c", "client.toml", "--json"],
        &["-c", "client.toml", "check"],
        &["-c", "client.toml", "migrate"],
    ] {
        let output = scene.run(arguments, "");
        assert_eq!(code(&output), 0, "{arguments:?}: {output:?}");
    }
    assert_eq!(scene.reason(&scene.issuer.good("mallory")).as_deref(), Some("user_banned"));
    let port = scene.run(&["-c", "gateway.toml", "prune"], "");
    assert_eq!((code(&port), one_line(&port).contains("port 0")), (2, true));

    let down = toml.replace(&admin, &format!("[admin]\nlisten = \"127.0.0.1:{}\"", free_port()));
    std::fs::write(scene.gateway.directory().join("down.toml"), down).unwrap();
    assert_eq!(code(&scene.run(&["-c", "down.toml", "health"], "")), 1, "Docker reserves 2");
}

#[test]
fn a_configuration_with_a_shared_secret_signs_its_own_development_tokens() {
    let scene = scene(Algorithm::HS256);
    let output = scene.run(&["token", "issue", "--sub", "alice"], "");
    assert_eq!(code(&output), 0, "{output:?}");
    let token = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    leaks::token(&token);
    assert_eq!(scene.reason(&token), None);
    let other = scene.run(&["token", "issue", "--sub", "alice", "--alg", "HS512"], "");
    assert_eq!((code(&other), one_line(&other).contains("HS256")), (2, true));
}

#[test]
fn an_issued_token_is_accepted_and_inspected_and_revoked() {
    for algorithm in [Algorithm::HS512, Algorithm::RS256] {
        let scene = scene(algorithm);
        let (key, alg) = (scene.issuer.key_file().display().to_string(), format!("{algorithm:?}"));
        let private = format!("{}/tests/keys/test-only-rsa.pem", env!("CARGO_MANIFEST_DIR"));
        let by = match algorithm {
            Algorithm::RS256 => ["--key-file", &private],
            _ => ["--secret-file", &key],
        };
        let rest = ["--alg", &alg, "--kid", &scene.issuer.kid, "--ttl", "5m", "--claim", "sid=s-1"];
        let arguments =
            [&["-c", "gateway.toml", "token", "issue", "--sub", "alice"][..], &by, &rest].concat();
        let output = scene.run(&arguments, "");
        assert_eq!(code(&output), 0, "{output:?}");
        let token = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        leaks::token(&token);
        assert_eq!(scene.reason(&token), None, "{algorithm:?}");

        let shown = scene.run(&["token", "inspect", "-", "--json"], &token);
        assert_eq!(code(&shown), 0);
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        assert_eq!(
            (shown["claims"]["sub"].as_str(), shown["expired"].as_bool()),
            (Some("alice"), Some(false))
        );
        assert_eq!(
            (shown["header"]["alg"].as_str(), shown["verified"].as_bool()),
            (Some(alg.as_str()), Some(false))
        );
        eventually("the log names a token as `inspect` does", || {
            let log = scene.gateway.log_lines();
            log.into_iter()
                .find(|line| line["token"].is_string() && line["token"] == shown["fingerprint"])
                .ok_or(())
        });

        let mixed = match algorithm {
            Algorithm::RS256 => ["--secret-file", &private],
            _ => ["--key-file", &private],
        };
        let mixed = [&["token", "issue", "--sub", "alice", "--alg", &alg][..], &mixed].concat();
        assert_eq!(code(&scene.run(&mixed, "")), 2, "an HMAC secret and a private key are never mixed");
    }
}

#[test]
fn check_tells_every_problem_with_its_place_and_prints_what_is_in_effect() {
    let root = env!("CARGO_MANIFEST_DIR");
    let check = |arguments: &[&str]| {
        Command::new(BINARY).arg("check").args(arguments).current_dir(root).output().unwrap()
    };
    let fine = check(&[]);
    assert_eq!((code(&fine), String::from_utf8(fine.stdout).unwrap()), (0, "gateway.toml: fine\n".into()));
    let printed = check(&["--print"]);
    let directory = tempfile::tempdir().unwrap();
    let again = directory.path().join("again.toml");
    std::fs::write(&again, &printed.stdout).unwrap();
    let text = String::from_utf8(printed.stdout).unwrap();
    for shown in [
        "header_timeout",
        "on_outage = \"deny\"",
        "presets = [\"native\"]",
        "retries = 1",
        "# native.user: user,",
        "FROM portcullis_sessions",
    ] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    let twice = check(&["--print", "-c", again.to_str().unwrap()]);
    assert_eq!(
        (code(&twice), String::from_utf8(twice.stdout).unwrap()),
        (0, text),
        "what is shown is a configuration"
    );

    let bad = directory.path().join("bad.toml");
    std::fs::write(
        &bad,
        "[server]\nlisen = [\"127.0.0.1:0\"]\ndrain = \"5 bananas\"\n[[routes]]\npath = \"x\"\n",
    )
    .unwrap();
    let refused = check(&["-c", bad.to_str().unwrap()]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    for place in ["bad.toml:2:1: ", "bad.toml:3:9: ", "bad.toml:5:8: ", "did you mean `listen`"] {
        assert!(said.contains(place), "{place}: {said}");
    }
    let machine = check(&["--json", "-c", bad.to_str().unwrap()]);
    let document: Value = serde_json::from_slice(&machine.stdout).unwrap();
    assert!(document["problems"].as_array().unwrap().iter().any(|it| it["line"] == 2 && it["column"] == 1));
    assert_eq!(code(&check(&["-c", "/nonexistent/gateway.toml"])), 2);
}
