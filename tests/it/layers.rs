//! The law of imports: `src/lib.rs` lists the modules in the order a request meets them, and each uses only those
//! above it. And one more: only `verify` makes claims of a token.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// `pub mod x;`, in order.
fn modules(lib: &str) -> Vec<String> {
    let names = lib.lines().filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';'));
    names.map(str::to_owned).collect()
}

/// The text of comments and strings as spaces, so that only code speaks; line breaks stay.
fn code_only(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            rest[1..].find('\'').map_or(rest.len(), |at| at + 2)
        } else if let Some(hashes) = raw_string(rest) {
            let end = format!("\"{}", "#".repeat(hashes));
            let open = hashes + 2;
            rest[open..].find(&end).map_or(rest.len(), |at| open + at + end.len())
        } else if first == '"' {
            string_end(rest)
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.extend(rest[..skipped].chars().map(|it| if it == '\n' { '\n' } else { ' ' }));
        rest = &rest[skipped..];
    }
    code
}

/// How many `#` stand between `r` and the quote, where a raw string begins here.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

fn string_end(rest: &str) -> usize {
    let mut escaped = false;
    for (at, char) in rest.char_indices().skip(1) {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Every module named after `crate::`, with its line: single paths, and the heads of `crate::{a::b, c}`.
fn uses(source: &str) -> Vec<(usize, String)> {
    let code = code_only(source);
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate") {
        let word_before = code[..at].ends_with(|it: char| it.is_alphanumeric() || it == '_' || it == '$');
        let Some(path) = code[at + 5..].trim_start().strip_prefix("::").filter(|_| !word_before) else {
            continue;
        };
        let line = code[..at].matches('\n').count() + 1;
        let path = path.trim_start();
        let heads = match path.strip_prefix('{') {
            None => vec![path],
            Some(group) => group_heads(group),
        };
        found.extend(heads.into_iter().map(|head| (line, identifier(head))));
    }
    found
}

fn identifier(text: &str) -> String {
    text.trim_start().chars().take_while(|it| it.is_alphanumeric() || *it == '_' || *it == '*').collect()
}

/// The beginnings of the parts of `{a::{b, c}, d}` after its first brace.
fn group_heads(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut heads) = (0_usize, 0, Vec::new());
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth == 0 => {
                heads.push(&group[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    heads.retain(|head| !head.trim().is_empty());
    heads
}

/// What is against the law in a file (named by its path under `src`).
fn violations(modules: &[String], file: &str, source: &str) -> Vec<String> {
    let module = file.split('/').next().unwrap().trim_end_matches(".rs");
    let Some(place) = modules.iter().position(|it| it == module) else {
        return vec![format!("{file}: `{module}` is not listed in lib.rs")];
    };
    let mut wrong = Vec::new();
    for (line, used) in uses(source) {
        match modules.iter().position(|it| *it == used) {
            Some(above) if above <= place => {}
            Some(_) => wrong.push(format!("{file}:{line}: `{module}` uses `{used}`, which stands below it")),
            None => wrong.push(format!("{file}:{line}: `{used}` is not listed in lib.rs")),
        }
    }
    let is_test = file.ends_with("tests.rs") || file.contains("/tests/");
    if module != "verify"
        && !is_test
        && code_only(source).contains("Claims::verified(")
        && file != "claims.rs"
    {
        wrong.push(format!("{file}: only `verify` makes claims of a token"));
    }
    wrong
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
    files
}

/// The picture in ARCHITECTURE.md: a word for the layer, its modules, what is said of them, two spaces apart.
#[test]
fn the_documented_order_is_the_order_of_lib_rs() {
    let read = |path: PathBuf| fs::read_to_string(path).unwrap();
    let page = read(root().with_file_name("ARCHITECTURE.md"));
    let picture = page.split("\n```").nth(1).unwrap();
    let modules_of =
        |line: &str| line.split("  ").filter(|it| !it.is_empty()).nth(1).unwrap_or_default().to_owned();
    let drawn: Vec<String> = picture
        .lines()
        .flat_map(|line| modules_of(line).split(' ').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let drawn: Vec<_> = drawn.into_iter().filter(|it| !it.is_empty()).collect();
    assert_eq!(drawn, modules(&read(root().join("lib.rs"))));
}

#[test]
fn modules_use_only_modules_above_them() {
    let lib = fs::read_to_string(root().join("lib.rs")).unwrap();
    let modules = modules(&lib);
    assert!(modules.len() > 10, "{modules:?}");
    let mut wrong = Vec::new();
    for path in files(&root()) {
        let file = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        if file != "lib.rs" && file != "main.rs" {
            wrong.extend(violations(&modules, &file, &fs::read_to_string(&path).unwrap()));
        }
    }
    for module in &modules {
        let there =
            root().join(format!("{module}.rs")).exists() || root().join(module).join("mod.rs").exists();
        assert!(there, "lib.rs lists `{module}`, which does not exist");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_planted_violation_is_caught() {
    let modules: Vec<String> = ["claims", "verify", "gate", "proxy"].map(str::to_owned).to_vec();
    let caught = |file: &str, source: &str| violations(&modules, file, source);
    for upward in [
        "use crate::proxy::Door;",
        "fn f() { crate :: proxy::serve() }",
        "use crate::{\n    claims::{Claims, Subject},\n    proxy::{Door},\n};",
        "pub(crate) use crate::proxy;",
        "mod tests { use crate::proxy::Door; }",
        "const Q: char = '\"'; use crate::proxy::Door;",
    ] {
        let found = caught("gate.rs", upward);
        assert!(found.len() == 1 && found[0].contains("`gate` uses `proxy`"), "{upward}: {found:?}");
    }
    for lawful in [
        "use crate::{claims::Claims, verify::{self, Keys}};",
        "use crate::gate::Judge;",
        "// use crate::proxy::Door\n/* crate::proxy */ fn f() { let _ = \"crate::proxy\"; let _ = r#\"crate::proxy\"#; }",
        "pub(crate) fn f() {}",
    ] {
        assert_eq!(caught("gate.rs", lawful), Vec::<String>::new(), "{lawful}");
    }
    assert!(caught("gate/deep/er.rs", "use crate::proxy::X;")[0].starts_with("gate/deep/er.rs:1"));
    assert!(caught("gate.rs", "use crate::nowhere::X;")[0].contains("not listed"));
    assert!(caught("stray.rs", "")[0].contains("not listed"));
    assert!(caught("gate.rs", "let claims = Claims::verified(parts);")[0].contains("only `verify`"));
    assert!(caught("verify/mod.rs", "Claims::verified(parts)").is_empty());
}
