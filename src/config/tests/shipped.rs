//! The files that people read are held to what the parser knows.

use proptest::prelude::*;

use super::*;

const SHIPPED: &str = include_str!("../../../gateway.toml");
const DOCUMENTED: &str = include_str!("../../../docs/configuration.md");

/// The shipped file with every example enabled.
fn everything_enabled() -> String {
    fn enabled(line: &str) -> Option<&str> {
        let example = line.strip_prefix("# ")?;
        let key = example.split(" = ").next().filter(|key| *key != example);
        let plain = |key: &str| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        (example.starts_with('[') || key.is_some_and(plain)).then_some(example)
    }
    SHIPPED.lines().map(|line| enabled(line).unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

fn shipped(text: &str) -> Checked {
    let directory = tempfile::tempdir().expect("directory");
    std::fs::write(directory.path().join("admin.token"), "0123456789abcdef").expect("file");
    let (certificate, key) = super::tls::pair(&["api.example.com"]);
    for (name, content) in [("api.crt", &certificate), ("api.key", &key), ("clients.pem", &certificate)] {
        std::fs::write(directory.path().join(name), content).expect("file");
    }
    Config::parse(text, "gateway.toml", directory.path(), &environment)
        .unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn the_shipped_file_is_a_working_default_and_so_are_its_examples() {
    let default = shipped(SHIPPED);
    assert!(default.warnings.list().is_empty(), "{}", default.warnings);
    assert!(default.config.ledger.redis.is_none());
    assert_eq!(default.config.ledger.database.url, "sqlite://portcullis.db");
    assert_eq!(&*default.config.routes[0].path, "/{*rest}");

    let everything = shipped(&everything_enabled()).config;
    assert_eq!(
        (everything.issuers.len(), everything.ledger.presets.len(), everything.routes.len()),
        (1, 6, 3)
    );
    // The values of the examples are the defaults, as the comments say.
    let mut server = everything.server;
    assert_eq!(server.tls.len(), 1);
    server.tls.clear();
    assert!(server.upgrade_socket.take().is_some_and(|path| path.ends_with("upgrade.sock")));
    assert_eq!(server, default.config.server);
    assert!(
        everything.log.level == default.config.log.level
            && everything.log.sample == default.config.log.sample
    );
    assert!(everything.identity == default.config.identity && everything.places == default.config.places);
}

#[test]
fn every_key_is_documented_and_shown_and_nothing_else_is() {
    let mut known = shipped(&everything_enabled()).known;
    known.extend(with(ISSUER).unwrap_or_else(|problems| panic!("{problems}")).known);
    known.extend(
        parse(&format!("{ROUTE}[[upstreams]]\nname = \"app\"\nservers = [{{ address = \"a:1\" }}]"))
            .unwrap_or_else(|problems| panic!("{problems}"))
            .known,
    );
    let documented: BTreeSet<&str> = DOCUMENTED
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(|cell| cell.split(", ").filter_map(|key| key.strip_prefix('`')?.strip_suffix('`')))
        .filter(|key| key.contains('.') && !key.contains(' '))
        .collect();
    for key in &known {
        let form = key.strip_prefix("deny_if.");
        let is_table = || documented.iter().any(|other| other.starts_with(&format!("{key}.")));
        let is_known = match form {
            Some(form) => DOCUMENTED.contains(&format!("{form} = ")),
            None => documented.contains(key.as_str()) || is_table() || !key.contains('.'),
        };
        assert!(is_known, "`{key}` is not in docs/configuration.md");
        let word = key.rsplit('.').next().unwrap_or_default();
        assert!(form.is_some() || SHIPPED.contains(word), "`{key}` is not in gateway.toml");
    }
    for key in documented {
        assert!(known.contains(key), "`{key}` is documented and does not exist");
    }
}

proptest! {
    #[test]
    fn arbitrary_text_is_refused_or_read_and_never_panics(text in ".{0,200}") {
        let _ = parse(&text).map_err(|problems| problems.to_string());
    }

    /// Near enough to a configuration to reach far into it.
    #[test]
    fn a_damaged_file_is_refused_or_read_and_never_panics(at in any::<prop::sample::Index>(), len in 0usize..40, put in ".{0,8}") {
        let text = everything_enabled();
        let boundary = |at: usize| (at..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        let start = boundary(at.index(text.len()));
        let end = boundary((start + len).min(text.len()));
        let damaged = format!("{}{put}{}", &text[..start], &text[end..]);
        let _ = parse(&damaged).map_err(|problems| problems.to_string());
    }
}
