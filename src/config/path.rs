//! Path patterns of routes: `/exact`, `/with/{param}`, `/rest/{*rest}`.

/// A pattern that a canonical path can match: requests are made canonical before they are routed, so another
/// pattern would never match, and its route would silently guard nothing.
pub fn pattern(text: &str) -> Result<Box<str>, String> {
    let inside = text.strip_prefix('/').ok_or("a path starts with `/`")?;
    if let Some(odd) = text.chars().find(|c| !c.is_ascii_graphic() || ";\\#?\"<>^`|".contains(*c)) {
        return Err(format!(
            "`{}` cannot stand in a path; requests with it are refused",
            odd.escape_default()
        ));
    }
    let segments: Vec<_> = inside.split('/').collect();
    let last = segments.len() - 1;
    let mut names = Vec::new();
    for (index, segment) in segments.into_iter().enumerate() {
        match segment {
            "" if index < last => return Err("`//` cannot be matched: requests with it are refused".into()),
            "." | ".." => return Err("dot segments cannot be matched: they are resolved or refused".into()),
            _ => {}
        }
        let Some(name) = parameter(segment)? else {
            other_languages(segment)?;
            escapes(segment)?;
            continue;
        };
        let plain = name.strip_prefix('*');
        if plain.is_some() && index < last {
            return Err("`{*…}` stands at the end only".into());
        }
        let name = plain.unwrap_or(name);
        let fits = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !fits {
            return Err("a parameter is named by letters, digits and `_`".into());
        }
        if names.contains(&name) {
            return Err("two parameters have the same name".into());
        }
        names.push(name);
    }
    Ok(text.into())
}

/// The inside of `{…}`, when the whole segment is one.
fn parameter(segment: &str) -> Result<Option<&str>, String> {
    match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        Some(inside) if !inside.contains(['{', '}']) => Ok(Some(inside)),
        _ if segment.contains(['{', '}']) => {
            Err("a parameter is a whole segment, as in `/users/{id}/posts`".into())
        }
        _ => Ok(None),
    }
}

/// What stands for anything in other programs would be itself here: `/admin/*` would guard one odd path, and nothing below
/// `/admin/`. A path that does hold such characters is matched by a parameter.
fn other_languages(segment: &str) -> Result<(), String> {
    if segment.contains('*') {
        return Err(
            "`*` alone stands for nothing: write `{*rest}` for all that follows, `{name}` for one segment"
                .into(),
        );
    }
    if segment.starts_with(':') {
        return Err("a parameter is written `{name}`, not `:name`".into());
    }
    Ok(())
}

/// An escape must be the only spelling of its byte.
fn escapes(segment: &str) -> Result<(), String> {
    for escape in segment.split('%').skip(1) {
        let digits =
            escape.get(..2).filter(|digits| digits.bytes().all(|b| b"0123456789ABCDEF".contains(&b)));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            None => return Err("`%` needs two hexadecimal digits behind it, in capitals".into()),
            Some(b'/' | b'\\' | b';' | b'%' | b'#' | b'?') => {
                return Err("this escape cannot be matched: requests with it are refused".into());
            }
            Some(byte) if byte.is_ascii_control() || !byte.is_ascii() => {
                return Err("control bytes and bytes beyond ASCII cannot be matched: they are refused".into());
            }
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                return Err("this escape stands for a plain character: write that".into());
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The pattern with parameters' names left out: equal shapes match equal paths.
pub fn shape(pattern: &str) -> String {
    let segment = |segment: &str| match segment {
        rest if rest.starts_with("{*") => "{*}".to_owned(),
        one if one.starts_with('{') => "{}".to_owned(),
        plain => plain.to_owned(),
    };
    pattern.split('/').map(segment).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_patterns_are_accepted() {
        for good in
            ["/", "/a", "/a/", "/a/{id}", "/a/{id}/b/{*rest}", "/{*rest}", "/a%20b", "/a-._~!$&'()+,=:@"]
        {
            assert_eq!(pattern(good).as_deref(), Ok(good));
        }
    }

    #[test]
    fn patterns_that_no_canonical_path_can_match_are_refused() {
        for bad in [
            "",
            "a",
            "/admin/*",
            "/admin/**",
            "/files/*.png",
            "/api/(.*)",
            "/users/:id",
            "/a//b",
            "//",
            "/./a",
            "/a/..",
            "/a%2fb",
            "/a%2Fb",
            "/a;b",
            "/a\\b",
            "/a#b",
            "/a?b",
            "/ä",
            "/a b",
            "/a%",
            "/a%4",
            "/%41",
            "/%00",
            "/%5C",
            "/%25",
            "/%C3%A4",
            "/{*rest}/a",
            "/{}",
            "/{*}",
            "/x{id}",
            "/{a}{b}",
            "/{a/b}",
            "/{a}/{a}",
            "/{1}",
            "/}",
        ] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parameters_names_do_not_make_a_different_pattern() {
        assert_eq!(shape("/a/{x}/{*y}"), shape("/a/{b}/{*c}"));
        assert_ne!(shape("/a/{x}"), shape("/a/{*x}"));
    }
}
