//! The facts in files that no compiler reads: the container's, the scripts', the binary's.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use crate::support::gateway::{self, BINARY, Gateway};
use crate::support::issuer::Issuer;
use crate::support::origin::Origin;
use crate::support::pki::Authority;
use crate::support::{eventually, unique};

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|it| panic!("{name}: {it}"))
}

/// The instructions of a Dockerfile, continued lines joined.
fn instructions(dockerfile: &str) -> Vec<(String, String)> {
    let joined = dockerfile.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once(' '))
        .map(|(word, rest)| (word.to_owned(), rest.trim().to_owned()))
        .collect()
}

#[test]
fn the_container_runs_and_checks_the_binary_that_is_built() {
    let all = instructions(&read("Dockerfile"));
    let last_stage = all.iter().rposition(|(word, _)| word == "FROM").unwrap();
    let (build, run) = all.split_at(last_stage);
    assert!(build.iter().any(|(_, rest)| rest.contains("cargo build --release --locked")), "{build:?}");
    // Cargo builds nothing where a file is missing that a manifest names.
    let context = read(".dockerignore");
    for needed in ["Cargo.toml", "Cargo.lock", "src", "benches", "fuzz"] {
        let copied =
            build.iter().any(|(word, rest)| word == "COPY" && rest.split(' ').any(|it| it == needed));
        assert!(copied && context.contains(&format!("\n!{needed}")), "{needed} is not copied");
    }
    let value = |word: &str| {
        let found = run.iter().find(|(it, _)| it == word);
        found.unwrap_or_else(|| panic!("no {word} in the last stage")).1.clone()
    };
    let binary = format!("/usr/local/bin/{}", env!("CARGO_PKG_NAME"));
    assert!(value("COPY").ends_with(&binary) || run.iter().any(|(_, it)| it.ends_with(&binary)));
    assert!(value("ENTRYPOINT").contains(&format!("[\"{binary}\"]")));
    let health = value("HEALTHCHECK");
    assert!(health.contains(&format!("CMD [\"{binary}\", \"health\"")), "{health}");
    assert_ne!(value("USER"), "root");
    assert_eq!(value("STOPSIGNAL"), "SIGTERM");
}

#[test]
fn every_subcommand_that_files_name_exists() {
    let help = Command::new(BINARY).arg("--help").output().unwrap();
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for subcommand in ["health", "demo", "run", "check"] {
        let listed = help.lines().any(|line| line.split_whitespace().next() == Some(subcommand));
        assert!(listed, "`{subcommand}` is not in:\n{help}");
    }
    assert!(read("scripts/demo").contains("-- demo"));
    assert!(read("Dockerfile").contains("\"health\""));
}

#[test]
fn the_scripts_are_shell_that_parses() {
    for script in ["scripts/setup", "scripts/demo", "scripts/test", "scripts/fuzz", "fuzz/rustc", ".ci/run"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
        assert!(Command::new("sh").arg("-n").arg(&path).status().unwrap().success(), "{script}");
        use std::os::unix::fs::PermissionsExt;
        assert!(fs::metadata(&path).unwrap().permissions().mode() & 0o111 != 0, "{script} is not executable");
    }
}

#[test]
fn every_fuzz_target_is_built_and_begins_with_inputs_of_its_own() {
    let (manifest, root) = (read("fuzz/Cargo.toml"), Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz"));
    let targets = fs::read_dir(root.join("fuzz_targets")).unwrap().map(|it| it.unwrap().path());
    let names: Vec<String> =
        targets.map(|it| it.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    for wanted in ["target", "token", "config"] {
        assert!(names.iter().any(|name| name == wanted), "{names:?}");
    }
    for name in names {
        assert!(
            manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"")),
            "{name}"
        );
        assert!(fs::read_dir(root.join("corpus").join(&name)).unwrap().next().is_some(), "{name}");
    }
    assert!(read(".ci/run").contains("step fuzz env FUZZ_SEED=1 FUZZ_RUNS="), "and is run for a while");
}

/// The contents of a page's code blocks of one language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fenced = page.split("\n```").skip(1).step_by(2);
    fenced.filter_map(|it| Some(it.strip_prefix(language)?.strip_prefix('\n')?.to_owned())).collect()
}

/// What stands behind the program's name in a page, as far as it is words: the subcommand.
fn commands(page: &str) -> Vec<Vec<&str>> {
    let after = page.match_indices("portcullis ").filter(|(at, _)| {
        let before = page.get(..*at).and_then(|it| it.chars().next_back());
        matches!(before, Some('`' | ' ' | '\n'))
    });
    let word = |it: &&str| !it.is_empty() && it.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    let lines = after.map(|(at, name)| page[at + name.len()..].split(['\n', '`']).next().unwrap_or_default());
    lines
        .map(|line| line.split(' ').take_while(word).take_while(|it| !it.starts_with('-')).take(2).collect())
        .collect()
}

#[test]
fn pages_and_scripts_ask_for_the_rust_that_the_manifest_asks_for() {
    let version = env!("CARGO_PKG_RUST_VERSION");
    for file in ["README.md", "scripts/setup"] {
        assert!(read(file).contains(&format!("{version} or newer")), "{file} does not ask for {version}");
    }
}

#[test]
fn the_readmes_configuration_is_accepted() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("admin.token"), unique("")).unwrap();
    let file = directory.path().join("gateway.toml");
    let toml = blocks(&read("README.md"), "toml");
    assert_eq!(toml.len(), 7, "a whole file, and listeners, an upstream, a rule and routes to add to it");
    let authority = Authority::new();
    authority.server(&["api.example.com"]).write(directory.path(), "api");
    authority.server(&["*.example.org"]).write(directory.path(), "wildcard");
    fs::write(directory.path().join("ca.pem"), &authority.pem).unwrap();
    let routes = blocks(&read("docs/configuration.md"), "toml").join("\n");
    assert!(routes.contains("track = "), "the routes of a login, a refresh and a logout");
    let with_sessions = format!("\n[ledger]\npresets = [\"native\", \"token-blacklist\"]\n{routes}");
    for text in [toml[0].clone(), toml.join("\n"), toml[0].clone() + &with_sessions] {
        fs::write(&file, text).unwrap();
        let output = Command::new(BINARY).arg("check").arg("-c").arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn every_command_that_pages_show_exists() {
    let pages = [
        "README.md",
        "docs/configuration.md",
        "docs/control-api.md",
        "docs/operations.md",
        "examples/token-blacklist/README.md",
        "examples/invalid-users/README.md",
        "examples/native/README.md",
        "examples/forward-auth/README.md",
        "examples/docker-compose/README.md",
    ];
    let mut checked = 0;
    for page in pages {
        let text = read(page);
        let shown = blocks(&text, "console").concat() + &blocks(&text, "sh").concat();
        for command in commands(&shown) {
            let help = Command::new(BINARY).args(&command).arg("--help").output().unwrap();
            assert!(help.status.success(), "{page}: portcullis {}", command.join(" "));
            checked += 1;
        }
    }
    assert!(checked > 15, "only {checked} were found");
}

/// Ended with the test, whatever becomes of it.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}

#[test]
fn the_demos_lines_can_be_pasted_all_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let said = directory.path().join("said");
    let stdout = fs::File::create(&said).unwrap();
    let demo = Command::new(BINARY).arg("demo").env("TMPDIR", directory.path()).stdout(stdout).spawn();
    let _demo = Demo(demo.unwrap());
    let tour = eventually("the tour is printed", || {
        let text = fs::read_to_string(&said).unwrap();
        if text.contains("Ctrl-C ends it") { Ok(text) } else { Err(text) }
    });
    let is_pasted = |line: &&str| line.starts_with("curl ") || line.starts_with("# ");
    let pasted = tour.lines().filter(is_pasted).collect::<Vec<_>>().join("\n");
    let output = Command::new("sh").args(["-c", &pasted]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let statuses: Vec<&str> = text.lines().filter_map(|it| it.strip_prefix("HTTP/1.1 ")?.get(..3)).collect();
    let promised = ["200", "200", "403", "200", "200", "200", "401", "200", "200", "200", "401"];
    assert_eq!(statuses, promised, "{text}");
    assert!(text.contains("\"ready\"") && text.contains("reason=\"user_banned\""), "{text}");
}

#[test]
fn a_token_that_gets_out_is_caught_when_the_gateway_stops() {
    let origin = Origin::start();
    let issuer = Issuer::new(jsonwebtoken::Algorithm::HS256);
    let running = Gateway::guarding(&issuer, &origin).start();
    let token = issuer.good("alice");
    assert_eq!(running.get("/x", Some(&token)).status, 200);
    gateway::plant(&running, "leaked.txt", &format!("token={token}"));
    let found = gateway::stop_and_tell(running);
    assert!(!found.is_empty() && found.iter().all(|it| it.contains("leaked.txt")), "{found:?}");
}
