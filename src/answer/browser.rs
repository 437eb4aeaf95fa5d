//! Denials for people: a page instead of a document, or the way to the login.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, StatusCode};

use super::Asked;
use crate::route::Login;
use crate::route::reply::escape;

/// Where a browser is sent to log in. `None` for whatever is not somebody going to a page: a form would be lost, and a
/// script would follow the redirect and take the login page for its answer.
pub(super) fn login(login: &Login, asked: &Asked<'_>) -> Option<HeaderValue> {
    let Asked { method, headers, target, .. } = asked;
    if !matches!(**method, Method::GET | Method::HEAD) || !is_navigation(headers) || !prefers_html(headers) {
        return None;
    }
    let path = |target: &str| target.split(['?', '#']).next().unwrap_or_default().to_owned();
    // The login page itself must not be behind the login.
    if path(target) == path(&login.to) {
        return None;
    }
    let mut location = login.to.to_string();
    // A path of this host, as judged: it begins with one slash.
    if let Some(name) = &login.return_to {
        let fragment = location.find('#').map(|at| location.split_off(at)).unwrap_or_default();
        location.push(if location.contains('?') { '&' } else { '?' });
        location.push_str(name);
        location.push('=');
        escape(target, &mut location);
        location.push_str(&fragment);
    }
    HeaderValue::from_str(&location).ok()
}

/// Whether somebody goes to a page, by what browsers say of it (Fetch Metadata); older ones do not say, and scripts of old
/// said who they were.
fn is_navigation(headers: &HeaderMap) -> bool {
    match headers.get("sec-fetch-mode") {
        Some(mode) => mode == "navigate",
        None => !headers.contains_key("x-requested-with"),
    }
}

/// Nothing of the request stands in it but the id, which is ours or was found harmless: there is nothing to escape.
pub(super) fn page(status: StatusCode, detail: &str, request_id: &str) -> Bytes {
    let title = status.canonical_reason().unwrap_or("Denied");
    Bytes::from(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><h1>{title}</h1><p>{detail}</p><p><small>{request_id}</small></p></html>\n"
    ))
}

/// Whether `Accept` (RFC 9110 section 12.5.1) prefers HTML to JSON. Who accepts both alike, and does not name HTML, is a
/// program: browsers name it.
pub(super) fn prefers_html(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let ranges: Vec<(String, f32)> = lines.flat_map(|line| line.split(',')).filter_map(range).collect();
    // The nearest range counts: the type itself, else its kind, else `*/*`.
    let weight = |types: &[&str]| {
        let kind = |name: &&str| name.split_once('/').map(|(kind, _)| format!("{kind}/*"));
        let exact = types.iter().map(|name| (*name).to_owned()).collect();
        let levels: [Vec<String>; 3] =
            [exact, types.iter().filter_map(kind).collect(), vec!["*/*".to_owned()]];
        let of = |level: &Vec<String>| {
            let of_range =
                ranges.iter().filter(|(range, _)| level.contains(range)).map(|(_, weight)| *weight);
            of_range.reduce(f32::max)
        };
        levels.iter().find_map(of).unwrap_or(0.0)
    };
    let html = weight(&HTML);
    let json = weight(&["application/json", "application/problem+json"]);
    let named = ranges.iter().any(|(range, weight)| *weight > 0.0 && HTML.contains(&range.as_str()));
    html > json || html > 0.0 && html >= json && named
}

const HTML: [&str; 2] = ["text/html", "application/xhtml+xml"];

/// One range and its weight; a weight that is none is no range.
fn range(text: &str) -> Option<(String, f32)> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next()?.to_ascii_lowercase();
    let quality = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    let weight = match quality {
        None => 1.0,
        Some(text) => {
            let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            text.parse::<f32>().ok().filter(|weight| plain && (0.0..=1.0).contains(weight))?
        }
    };
    Some((name, weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    const BROWSER: (&str, &str) =
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8");

    #[test]
    fn browsers_prefer_html_and_programs_do_not() {
        for html in [
            BROWSER.1,
            "text/html",
            "text/*",
            "TEXT/HTML; Q=0.5, application/json; q=0.4",
            "text/html, application/json",
            "application/json;q=0.1, */*",
            "application/json;q=0, text/html;q=0.001",
            "application/json, application/json;q=0.2, text/html",
        ] {
            assert!(prefers_html(&headers(&[("accept", html)])), "{html}");
        }
        for other in [
            "*/*",
            "application/json",
            "application/json, text/html;q=0.5",
            "text/html;q=0",
            "text/html;q=0, */*",
            "text/html;q=nan",
            "text/html;q=-1",
            "text/html;q=1e9",
            "text/html;q=0.5, */*;q=0.6",
            "application/*, text/*",
            "",
        ] {
            assert!(!prefers_html(&headers(&[("accept", other)])), "{other}");
        }
        assert!(!prefers_html(&headers(&[])));
        let two = headers(&[("accept", "application/json;q=0.5")]).into_iter().chain(headers(&[BROWSER]));
        let mut lines = HeaderMap::new();
        for (name, value) in two {
            lines.append(name.unwrap(), value);
        }
        assert!(prefers_html(&lines), "two lines are one list");
    }

    #[test]
    fn who_goes_to_a_page_is_sent_to_log_in_and_told_the_way_back() {
        let sent = |to: &str, return_to: Option<&str>, method: &Method, target: &str, fields: &[_]| {
            let page = Login { to: to.into(), return_to: return_to.map(Into::into) };
            let asked = Asked { method, headers: &headers(fields), target, request_id: "" };
            login(&page, &asked).map(|location| location.to_str().unwrap().to_owned())
        };
        let get = &Method::GET;
        assert_eq!(sent("/login", None, get, "/a?b", &[BROWSER]).as_deref(), Some("/login"));
        let back = Some("next");
        assert_eq!(
            sent("/login", back, get, "/a/b?c=d&e=%0d#f", &[BROWSER]).as_deref(),
            Some("/login?next=%2Fa%2Fb%3Fc%3Dd%26e%3D%250d%23f")
        );
        assert_eq!(
            sent(
                "https://id.example/in?app=1#top",
                back,
                get,
                "/a",
                &[BROWSER, ("sec-fetch-mode", "navigate")]
            )
            .as_deref(),
            Some("https://id.example/in?app=1&next=%2Fa#top")
        );
        for fields in [
            &[("accept", "*/*")][..],
            &[BROWSER, ("sec-fetch-mode", "cors")],
            &[BROWSER, ("x-requested-with", "XMLHttpRequest")],
        ] {
            assert_eq!(sent("/login", back, get, "/a", fields), None, "{fields:?}");
        }
        assert_eq!(sent("/login", back, &Method::POST, "/a", &[BROWSER]), None);
        assert_eq!(sent("/login?x", back, get, "/login?next=/", &[BROWSER]), None, "no loop");
    }
}
