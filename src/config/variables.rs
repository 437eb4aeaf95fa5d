//! `${NAME}` and `${NAME:-default}` inside strings.

use super::reader::Environment;

/// Fills in the variables; `$${` stands for `${`. An empty variable counts as unset where there is a default.
pub fn fill(text: &str, environment: Environment<'_>) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, found) = rest.split_at(at);
        let inside = found.get(2..).unwrap_or_default();
        if let Some(before) = before.strip_suffix('$') {
            filled.push_str(before);
            filled.push_str("${");
            rest = inside;
            continue;
        }
        filled.push_str(before);
        let (inside, after) =
            inside.split_once('}').ok_or("`${` without `}` (write `$${` for a plain `${`)")?;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !plain {
            return Err("`${…}` must hold the name of a variable: letters, digits and `_`".into());
        }
        match (environment(name), default) {
            (Some(value), None) => filled.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => filled.push_str(&value),
            (_, Some(default)) => filled.push_str(default),
            (None, None) => {
                return Err(format!("the environment variable `{name}` is not set, and no default is given"));
            }
        }
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<String, String> {
        fill(text, &|name| match name {
            "A" => Some("1".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        })
    }

    #[test]
    fn variables_are_filled_in_and_the_escape_is_not() {
        for (text, expected) in [
            ("x${A}y${A}", "x1y1"),
            ("${B:-two}", "two"),
            ("${EMPTY:-two}", "two"),
            ("${EMPTY}", ""),
            ("$${A} $5 $$", "${A} $5 $$"),
            ("${B:-}", ""),
        ] {
            assert_eq!(filled(text).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn an_unset_variable_an_open_brace_and_a_bad_name_are_refused() {
        for text in ["${B}", "${A", "${}", "${A B}", "${1}"] {
            assert!(filled(text).is_err(), "{text}");
        }
    }
}
