//! curl, over HTTP/1.1 and HTTP/2, behind nginx and behind Portcullis.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::Command;

use aws_lc_rs::digest::{SHA256, digest};
use jsonwebtoken::Algorithm;

use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::nginx::Nginx;
use crate::support::origin::Seen;
use crate::support::pki::{Authority, Shelf};
use crate::support::scripted::{Scripted, Talk};

struct Scene {
    service: Scripted,
    nginx: Nginx,
    gateway: Gateway,
    token: String,
    shelf: Shelf,
}

const FILE: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

fn service(talk: &mut Talk, seen: &Seen) -> bool {
    match seen.target().as_str() {
        "/file" => match seen.values("range").first().map(String::as_str) {
            Some("bytes=10-15") => {
                talk.say("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 10-15/36\r\nContent-Length: 6\r\n\r\nabcdef")
            }
            _ => talk.say("HTTP/1.1 200 OK\r\nAccept-Ranges: bytes\r\nContent-Length: 36\r\n\r\n") && talk.say(FILE),
        },
        "/head" => talk.say("HTTP/1.1 200 OK\r\nContent-Length: 36\r\n\r\n"),
        "/zipped" => {
            // `hello hello hello` by gzip; what a client unpacks must be what was packed.
            let zipped = [
                0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 0x57, 0xc8, 0x40, 0x27, 0, 0x3a, 0xd1,
                0xc4, 0x31, 17, 0, 0, 0,
            ];
            let head = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nVary: Accept-Encoding\r\n";
            talk.say(format!("{head}Content-Length: {}\r\n\r\n", zipped.len())) && talk.say(zipped)
        }
        "/old" => talk.say_last("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nto the end"),
        "/broken" => talk.say_last("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"),
        "/cookies" => talk.say("HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2; Path=/\r\nContent-Length: 0\r\n\r\n"),
        "/refused" => {
            talk.say("HTTP/1.1 413 Too much\r\nContent-Length: 6\r\n\r\nenough");
            talk.body(seen).is_some()
        }
        _ => {
            let Some(body) = talk.body(seen) else { return false };
            let mut said = format!("{} {} bytes", seen.line().replace(" HTTP/1.1", ""), body.len());
            digest(&SHA256, &body).as_ref().iter().for_each(|byte| write!(said, "{byte:02x}").unwrap());
            talk.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{said}", said.len()))
        }
    }
}

impl Scene {
    fn new() -> Self {
        let issuer = Issuer::new(Algorithm::ES256);
        let service = Scripted::start(service);
        let nginx = Nginx::before(service.addr(), None);
        let (authority, shelf) = (Authority::new(), Shelf::new());
        shelf.put("local", &authority.server(&["localhost"]));
        let gateway = Setup::new()
            .server("h2c = true\nlimits = { body_bytes = \"100MiB\" }")
            .section(&shelf.listener(&[shelf.entry("local", &["localhost"])], ""))
            .issuer(&issuer)
            .section(&service.config_toml("app", ""))
            .route("path = \"/{*rest}\"\nupstream = \"app\"")
            .start();
        Self { service, nginx, gateway, token: issuer.good("alice"), shelf }
    }

    /// The outcome of one command: how curl ended, what it says of the exchange, what it printed.
    fn curl(&self, base: &str, arguments: &[&str], path: &str) -> String {
        let bearer = format!("Authorization: Bearer {}", self.token);
        let output = Command::new("curl")
            .args(["-sS", "-k", "--max-time", "60", "-H", &bearer])
            .args([
                "-w",
                "\n%{http_code} over %{http_version}, %{size_download} down, %{num_connects} connections",
            ])
            .args(arguments)
            .arg(format!("{base}{path}"))
            .output()
            .unwrap();
        // How much was seen before the end is a matter of chance, and HTTP/2 has a code of its own for it.
        if output.status.code().is_some_and(|code| [18, 92].contains(&code)) {
            return "broken off".to_owned();
        }
        format!("{}: {}", output.status, String::from_utf8_lossy(&output.stdout))
    }
}

fn plain(address: SocketAddr) -> String {
    format!("http://{address}")
}

#[test]
fn curl_gets_the_same_by_every_protocol() {
    let scene = Scene::new();
    let large = scene.shelf.path().join("large");
    let bytes: Vec<u8> =
        (0..4_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&large, &bytes).unwrap();
    let large = large.display().to_string();
    let cases: &[(&[&str], &str)] = &[
        (&[], "/file"),
        (&["--range", "10-15"], "/file"),
        (&["-I", "-o", "/dev/null"], "/head"),
        (&["--compressed"], "/zipped"),
        (&["-X", "PROPFIND"], "/any"),
        (&["-X", "DELETE"], "/any?a=%2F&&b=+"),
        (&["-d", "a=1&b=%C3%BC"], "/form"),
        (&["--data-binary", "@Cargo.toml"], "/form"),
        (&["-T", &large], "/upload"),
        (&["-T", &large, "-H", "Transfer-Encoding: chunked"], "/upload"),
        (&["-T", &large, "-H", "Expect:"], "/upload"),
        (&["-c", "-"], "/cookies"),
        (&[], "/old"),
        (&[], "/broken"),
    ];
    let secure = format!("https://localhost:{}", scene.gateway.tls_addr().port());
    let upgraded: &[(&str, &str)] = &[
        ("--http1.1", &plain(scene.gateway.addr())),
        ("--http2-prior-knowledge", &plain(scene.gateway.addr())),
        ("--http2", &secure),
        ("--http1.1", &secure),
    ];
    for (arguments, path) in cases {
        let theirs = |version: &'static str, base: SocketAddr| {
            scene.curl(&plain(base), &[&[version], *arguments].concat(), path)
        };
        let expected = [
            theirs("--http1.1", scene.nginx.addr()),
            theirs("--http2-prior-knowledge", scene.nginx.http2_addr()),
        ];
        for (version, base) in upgraded {
            let ours = scene.curl(base, &[&[*version], *arguments].concat(), path);
            let expected = &expected[usize::from(version.starts_with("--http2"))];
            // What curl prints of cookies names the host.
            let [ours, expected] = [&ours, expected].map(|it| it.replace("localhost", "127.0.0.1"));
            assert_eq!(ours, expected, "{version} {arguments:?} {base}{path}");
        }
    }
    // An upload that the service has had enough of; over HTTP/2 nginx 1.22 loses the answer.
    for (version, base) in upgraded {
        let ours = scene.curl(base, &[*version, "-T", &large, "-H", "Expect:"], "/refused");
        assert!(ours.starts_with("exit status: 0: enough\n413 "), "{version} {base}: {ours}");
    }
    drop(scene.service);
}
