//! What the parameters of a pattern stand for in a path that it matches.

/// A parameter of a pattern, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    /// `{name}`: one segment, never empty. Counted from 0.
    Segment(usize),
    /// `{*name}`: everything from this segment on; may be empty.
    Rest(usize),
}

impl Capture {
    /// The parameter of this name.
    pub fn find(pattern: &str, name: &str) -> Option<Self> {
        pattern.split('/').skip(1).enumerate().find_map(|(at, segment)| {
            let inside = segment.strip_prefix('{')?.strip_suffix('}')?;
            match inside.strip_prefix('*') {
                Some(rest) => (rest == name).then_some(Self::Rest(at)),
                None => (inside == name).then_some(Self::Segment(at)),
            }
        })
    }

    /// What it stands for in a path that the pattern matches.
    pub fn of<'a>(&self, path: &'a str) -> Option<&'a str> {
        let from = |at: usize| {
            let (slash, _) = path.match_indices('/').nth(at)?;
            path.get(slash + 1..)
        };
        match *self {
            Self::Segment(at) => from(at)?.split('/').next(),
            Self::Rest(at) => from(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_by_their_place() {
        let pattern = "/a/{one}/b/{*rest}";
        let of = |name: &str, path| Capture::find(pattern, name).and_then(|capture| capture.of(path));
        assert_eq!(of("one", "/a/x%20/b/c/d"), Some("x%20"));
        assert_eq!(of("rest", "/a/x/b/c/d"), Some("c/d"));
        assert_eq!(of("rest", "/a/x/b/"), Some(""));
        assert_eq!(Capture::find(pattern, "two"), None);
        assert_eq!(Capture::find("/{*rest}", "*rest"), None);
        assert_eq!(Capture::Segment(3).of("/a"), None);
    }
}
