//! What a route makes of a path on its way to the service, and of places named in the answer on their way back.
//!
//! A path is rewritten segment by segment: what comes out is canonical because what goes in is, and nothing that the
//! canonicaliser refuses can be put together out of parts (CVE-2026-48020, CVE-2026-40912).

use std::borrow::Cow;

use http::HeaderValue;

use super::capture::Capture;
use crate::target;
use crate::template::{self, Part};

/// `rewrite`, resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewrite {
    pub path: PathRewrite,
    /// What the service gets for Host; `None`: the client's.
    pub host: Option<HeaderValue>,
    /// Whether `Location` and the paths of cookies are given back what was taken from the path.
    pub restore: bool,
}

/// What becomes of the path.
#[derive(Clone, Debug, PartialEq)]
pub enum PathRewrite {
    Keep,
    /// `strip` is replaced by `add`. Each begins with a slash and does not end with one, or is empty; every path of the
    /// route begins with `strip`.
    Prefix {
        strip: Box<str>,
        add: Box<str>,
    },
    Replace(Replacement),
}

/// A path with parameters of the route's own in the place of whole segments.
#[derive(Clone, Debug, PartialEq)]
pub struct Replacement(Box<[Part<Capture>]>);

impl Replacement {
    /// Parses a replacement for the paths of a route whose path is `pattern`.
    pub fn parse(text: &str, pattern: &str) -> Result<Self, String> {
        let capture = |name: &str| {
            Capture::find(pattern, name).ok_or_else(|| {
                format!("the route's `path` has no parameter `{{{name}}}`, and nothing else can stand here")
            })
        };
        let parts = template::parts(text, capture).map_err(|error| error.to_string())?;
        for (at, part) in parts.iter().enumerate() {
            let before = at.checked_sub(1).and_then(|at| parts.get(at));
            let after = parts.get(at + 1);
            let begins = matches!(before, Some(Part::Literal(text)) if text.ends_with('/'));
            let ends = match after {
                None => true,
                Some(Part::Literal(text)) => text.starts_with('/'),
                Some(Part::Field(_)) => false,
            };
            match part {
                Part::Field(_) if !begins || !ends => {
                    return Err("a parameter stands for a whole segment, as in `/v2/{id}/posts`".to_owned());
                }
                // It may be empty, and may end with a slash: either would make an empty segment.
                Part::Field(Capture::Rest(_)) if after.is_some() => {
                    return Err("what the rest of a path stands for stands at the end only".to_owned());
                }
                _ => {}
            }
        }
        let sample = Self(parts);
        match target::is_canonical(&sample.apply("/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x")) {
            true => Ok(sample),
            false => {
                Err("expected a path in its one form, such as \"/v2/{rest}\": no query, no dot segments, \
                          no empty segments, escapes in capitals"
                    .to_owned())
            }
        }
    }

    fn apply(&self, path: &str) -> String {
        let mut made = String::with_capacity(path.len() + 16);
        for part in &self.0 {
            made.push_str(match part {
                Part::Literal(literal) => literal,
                Part::Field(capture) => capture.of(path).unwrap_or_default(),
            });
        }
        made
    }
}

impl Rewrite {
    /// What the service gets in the place of a path that the route matches.
    pub fn apply<'a>(&self, path: &'a str) -> Cow<'a, str> {
        match &self.path {
            PathRewrite::Keep => Cow::Borrowed(path),
            PathRewrite::Prefix { strip, add } => match below(path, strip) {
                // `/v2` alone, not `/v2/`, where all of the path was the prefix.
                Some("") if !add.is_empty() => Cow::Owned(add.to_string()),
                Some("") => Cow::Borrowed("/"),
                Some(rest) if add.is_empty() => Cow::Borrowed(rest),
                Some(rest) => Cow::Owned([add, rest].concat()),
                None => Cow::Borrowed(path),
            },
            PathRewrite::Replace(replacement) => Cow::Owned(replacement.apply(path)),
        }
    }

    /// What `X-Forwarded-Prefix` tells the service: what was taken off.
    pub fn stripped(&self) -> Option<&str> {
        match &self.path {
            PathRewrite::Prefix { strip, .. } if !strip.is_empty() => Some(strip),
            _ => None,
        }
    }

    /// The path by which clients know what the service calls `path`. `None`: they know it by none.
    fn restored<'a>(&self, path: &'a str) -> Option<Cow<'a, str>> {
        match &self.path {
            PathRewrite::Keep => Some(Cow::Borrowed(path)),
            PathRewrite::Prefix { strip, add } => Some(Cow::Owned([strip, below(path, add)?].concat())),
            PathRewrite::Replace(_) => None,
        }
    }

    /// `Location` as clients have to hear it; `None`: as it is. `host` is the one that the client asks. What names the
    /// service by the host that it was given becomes local; what names any other is left alone.
    pub fn location(&self, location: &str, host: Option<&[u8]>) -> Option<String> {
        let (named, local) = match location.split_once("://") {
            _ if location.starts_with('/') => ("", location),
            Some(("http" | "https", rest)) => {
                let start = location.len() - rest.len();
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                location.split_at_checked(start + end)?
            }
            _ => return None,
        };
        // `//host/path` names a host.
        if local.starts_with("//") {
            return None;
        }
        let authority = named.split_once("://").map_or("", |(_, authority)| authority).as_bytes();
        let is = |host: Option<&[u8]>| host.is_some_and(|host| host.eq_ignore_ascii_case(authority));
        let before = match authority {
            [] => "",
            _ if is(self.host.as_ref().map(HeaderValue::as_bytes)) => "",
            _ if is(host) => named,
            _ => return None,
        };
        let (path, after) = local.split_at_checked(local.find(['?', '#']).unwrap_or(local.len()))?;
        let path = self.restored(path)?;
        let root = if before.is_empty() && path.is_empty() { "/" } else { "" };
        // Without the prefix before it, a path that begins with two of these names a host, and anybody can have chosen that
        // one: `/v2//evil.example` stays on this host, `//evil.example` does not. Browsers read a backslash as a slash.
        if before.is_empty()
            && path.starts_with('/')
            && path.get(1..).is_some_and(|it| it.starts_with(['/', '\\']))
        {
            return None;
        }
        Some([before, root, &path, after].concat()).filter(|heard| heard != location)
    }

    /// `Set-Cookie` with the path by which clients send it back (RFC 6265 section 5.2.4), and without a domain that is not
    /// theirs; `None`: as it is.
    pub fn cookie(&self, cookie: &str) -> Option<String> {
        let host = self.host.as_ref().and_then(|host| target::host(host.as_bytes()));
        let mut parts: Vec<Cow<'_, str>> = Vec::new();
        for (at, part) in cookie.split(';').enumerate() {
            let (name, value) = part.split_once('=').map_or((part, ""), |(name, value)| (name, value));
            let (name, value) = (name.trim(), value.trim());
            if at > 0
                && name.eq_ignore_ascii_case("domain")
                && host.as_deref() == Some(value.trim_start_matches('.'))
            {
                continue;
            }
            let path = (at > 0 && name.eq_ignore_ascii_case("path")).then(|| self.restored(value)).flatten();
            // One that is the same already is left as it is written.
            let path = path.filter(|path| **path != *value);
            // An empty one would stand for wherever the cookie was set (RFC 6265 section 5.2.4).
            let path = path.map(|path| if path.is_empty() { Cow::Borrowed("/") } else { path });
            parts.push(path.map_or(Cow::Borrowed(part), |path| Cow::Owned(format!(" Path={path}"))));
        }
        Some(parts.join(";")).filter(|heard| heard != cookie)
    }
}

/// What follows a prefix that ends where a segment does.
fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(strip: &str, add: &str) -> Rewrite {
        let path = PathRewrite::Prefix { strip: strip.into(), add: add.into() };
        Rewrite { path, host: None, restore: true }
    }

    fn replace(text: &str, pattern: &str) -> Rewrite {
        let path = PathRewrite::Replace(Replacement::parse(text, pattern).expect("a replacement"));
        Rewrite { path, host: None, restore: false }
    }

    #[test]
    fn a_prefix_is_taken_off_and_put_on_where_segments_end() {
        for (strip, add, path, sent) in [
            ("/api", "", "/api/x", "/x"),
            ("/api", "", "/api/", "/"),
            ("/api", "", "/api", "/"),
            ("/api", "", "/apix", "/apix"),
            ("/api", "/v2", "/api/x/", "/v2/x/"),
            ("/api", "/v2", "/api", "/v2"),
            ("", "/v2", "/x", "/v2/x"),
            ("", "/v2", "/", "/v2/"),
            ("/a/b", "", "/a/b/a/b/c", "/a/b/c"),
        ] {
            assert_eq!(prefix(strip, add).apply(path), sent, "{strip} {add} {path}");
        }
    }

    #[test]
    fn a_path_is_put_together_of_whole_segments() {
        let moved = replace("/v2/{id}/of/{rest}", "/u/{id}/{*rest}");
        assert_eq!(moved.apply("/u/7/a%20b/c"), "/v2/7/of/a%20b/c");
        assert_eq!(moved.apply("/u/7/"), "/v2/7/of/");
        assert_eq!(replace("/one", "/u/{id}").apply("/u/7"), "/one");
        for (text, message) in [
            ("/a{id}", "whole segment"),
            ("/{id}a", "whole segment"),
            ("/{id}{rest}", "whole segment"),
            ("{rest}", "whole segment"),
            ("/{rest}/a", "at the end only"),
            ("/{other}", "no parameter `{other}`"),
            ("/{sub}", "no parameter `{sub}`"),
            ("/a/../b", "one form"),
            ("/a//b", "one form"),
            ("/a?b={id}", "whole segment"),
            ("/a?b", "one form"),
            ("/a;b", "one form"),
            ("/a%2fb", "one form"),
            ("a", "one form"),
            ("", "one form"),
        ] {
            let told = Replacement::parse(text, "/u/{id}/{*rest}").expect_err(text);
            assert!(told.contains(message), "{text}: {told}");
        }
    }

    #[test]
    fn places_named_by_the_service_get_their_prefix_back() {
        let back = Rewrite { host: Some(HeaderValue::from_static("app:80")), ..prefix("/api", "/v2") };
        let host = Some(&b"h.example"[..]);
        for (said, heard) in [
            ("/v2/x?a=/v2/b#c", Some("/api/x?a=/v2/b#c")),
            ("/v2", Some("/api")),
            ("/v2?x", Some("/api?x")),
            ("/v2x", None),
            ("/elsewhere", None),
            ("//evil/v2/x", None),
            ("x", None),
            ("https://H.example/v2/x", Some("https://H.example/api/x")),
            ("http://app:80/v2/x", Some("/api/x")),
            ("https://other.example/v2/x", None),
            ("https://h.example//v2/x", None),
            ("ftp://h.example/v2/x", None),
        ] {
            assert_eq!(back.location(said, host).as_deref(), heard, "{said}");
        }
        let added = prefix("", "/v2");
        assert_eq!(added.location("/v2/x", host).as_deref(), Some("/x"));
        assert_eq!(added.cookie("sid=1; Path=/v2; Secure").as_deref(), Some("sid=1; Path=/; Secure"));
        for elsewhere in ["/v2//evil.example/x", "/v2/\\evil.example", "/v2//"] {
            assert_eq!(added.location(elsewhere, host), None, "{elsewhere} would lead to another host");
        }
        let strip = prefix("/api", "");
        assert_eq!(strip.location("/", host).as_deref(), Some("/api/"));
        assert_eq!(strip.location("//evil", host), None);
        assert_eq!(strip.location("https://h.example", host).as_deref(), Some("https://h.example/api"));
        let named = Rewrite { path: PathRewrite::Keep, ..back };
        assert_eq!(named.location("http://app:80", host).as_deref(), Some("/"));
        assert_eq!(named.location("/x", host), None);
        assert_eq!(named.cookie("a=b; Domain=app; Path=/").as_deref(), Some("a=b; Path=/"));
        for (said, heard) in [
            ("sid=1; Path=/; HttpOnly", Some("sid=1; Path=/api/; HttpOnly")),
            ("sid=1;path=/x ;Secure", Some("sid=1; Path=/api/x;Secure")),
            ("path=/x; HttpOnly", None),
            ("sid=1", None),
        ] {
            assert_eq!(strip.cookie(said).as_deref(), heard, "{said}");
        }
    }

    proptest! {
        /// Whatever a client asks for: what is sent is as canonical as what was judged.
        #[test]
        fn no_rewriting_makes_a_path_that_would_have_been_refused(raw in "(/[a-z%2.;]{0,4}){0,6}/?") {
            let paths = ["/u/7/", "/u/.a/..."].map(str::to_owned).into_iter().chain([format!("/u/7{raw}")]);
            for path in paths.filter(|path| target::is_canonical(path)) {
                for rewrite in [
                    prefix("/u", ""), prefix("/u/7", ""), prefix("/u", "/v2/x"), prefix("", "/v2"),
                    replace("/v2/{id}/{rest}", "/u/{id}/{*rest}"), replace("/{rest}", "/u/{id}/{*rest}"),
                ] {
                    let sent = rewrite.apply(&path);
                    prop_assert!(target::is_canonical(&sent), "{path} became {sent}");
                }
            }
        }
    }
}
