//! Where things stand: keys in the text, and the files beside it.

use super::*;

#[test]
fn the_line_of_a_key_is_found_wherever_it_may_stand() {
    let text = "# a comment\n[server]\nthreads = 2\nlimits = { headers = 7,\n connections = 9 }\n[[server.tls]]\n\
                listen = \"x\"\n[log]\nformat = \"text\"\n";
    let line = |key| line_of(text, key);
    assert_eq!((line("server.threads"), line("server.limits.connections")), (Some(3), Some(5)));
    assert_eq!((line("server.tls.listen"), line("log.format")), (Some(7), Some(9)));
    assert_eq!(
        (line("server.drain"), line("redis.url"), line_of("[[[", "server.threads")),
        (None, None, None)
    );
}

#[test]
fn every_file_that_is_read_is_named_whether_it_is_good_or_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gateway.toml");
    let toml = |token: &str| format!("[admin]\ntoken_file = \"{token}\"\n{UPSTREAM}{ROUTE}");
    std::fs::write(folder.path().join("admin.token"), "0123456789abcdef0123456789abcdef").expect("written");
    std::fs::write(&file, toml("admin.token")).expect("written");
    let named =
        |files: Files| files.into_iter().map(|(path, stamp)| (path, stamp.is_some())).collect::<Vec<_>>();
    let good = Config::check(&file).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(named(good.files), [(file.clone(), true), (folder.path().join("admin.token"), true)]);
    std::fs::write(&file, toml("none.token")).expect("written");
    let bad = Config::check(&file).err().expect("refused");
    assert_eq!(named(bad.files), [(file.clone(), true), (folder.path().join("none.token"), false)]);
    std::fs::remove_file(&file).expect("removed");
    assert_eq!(named(Config::check(&file).err().expect("refused").files), [(file, false)]);
}
