//! Patterns of paths, segment by segment: a literal wins over a parameter, that over the rest, from left to right; and
//! where the better one leads nowhere, the next one is tried. Parameters' names mean nothing here.

use std::collections::BTreeMap;

/// What patterns lead to. `/api/{*rest}` serves `/api/` too, where nothing of its own does, but not `/api`.
#[derive(Debug)]
pub(super) struct Trie<T> {
    literals: BTreeMap<Box<str>, Trie<T>>,
    parameter: Option<Box<Trie<T>>>,
    rest: Option<T>,
    end: Option<T>,
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self { literals: BTreeMap::new(), parameter: None, rest: None, end: None }
    }
}

impl<T> Trie<T> {
    /// Adds a pattern (the configuration has read it). Of two equal ones the first stays.
    pub(super) fn insert(&mut self, pattern: &str, value: T) {
        let mut node = self;
        for segment in pattern.split('/').skip(1) {
            if segment.starts_with("{*") {
                node.rest.get_or_insert(value);
                return;
            }
            node = if segment.starts_with('{') {
                node.parameter.get_or_insert_default()
            } else {
                node.literals.entry(segment.into()).or_default()
            };
        }
        node.end.get_or_insert(value);
    }

    /// What the most specific pattern leads to. Visits each node at most once, whatever the path.
    pub(super) fn find(&self, path: &str) -> Option<&T> {
        self.below(path.strip_prefix('/'))
    }

    fn below(&self, path: Option<&str>) -> Option<&T> {
        let Some(path) = path else { return self.end.as_ref() };
        let (segment, deeper) = match path.split_once('/') {
            Some((segment, deeper)) => (segment, Some(deeper)),
            None => (path, None),
        };
        let literal = self.literals.get(segment);
        let parameter = self.parameter.as_ref().filter(|_| !segment.is_empty());
        literal
            .and_then(|node| node.below(deeper))
            .or_else(|| parameter.and_then(|node| node.below(deeper)))
            .or(self.rest.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the trie is to find, said the slow way: literal before parameter before rest, from left to right.
    fn expected<'a>(patterns: &[&'a str], path: &str) -> Option<&'a str> {
        fn rank(pattern: &str, path: &str) -> Option<Vec<u8>> {
            let (mut pattern, mut path) = (pattern.split('/'), path.split('/').peekable());
            let mut ranks = Vec::new();
            loop {
                match (pattern.next(), path.peek()) {
                    (None, None) => return Some(ranks),
                    (Some(rest), Some(_)) if rest.starts_with("{*") => {
                        ranks.push(2);
                        return Some(ranks);
                    }
                    (Some(one), Some(segment)) if one.starts_with('{') && !segment.is_empty() => {
                        ranks.push(1)
                    }
                    (Some(literal), Some(segment)) if literal == *segment => ranks.push(0),
                    _ => return None,
                }
                path.next();
            }
        }
        let ranked = patterns.iter().filter_map(|pattern| Some((rank(pattern, path)?, *pattern)));
        ranked.min().map(|(_, pattern)| pattern)
    }

    #[test]
    fn no_route_ever_vanishes_beside_another() {
        let below = |parents: &[String], names: &[&str]| -> Vec<String> {
            parents
                .iter()
                .flat_map(|parent| names.iter().map(move |name| format!("{parent}/{name}")))
                .collect()
        };
        let (one, two) = (["a", "{x}"], ["a", "b", "{y}"]);
        let first = below(&[String::new()], &one);
        let second = below(&first, &two);
        let third = below(&second, &["a", "{z}"]);
        let plain = [first.clone(), second.clone(), third.clone()].concat();
        let rests = below(&[vec![String::new()], first, second].concat(), &["{*r}"]);
        let patterns: Vec<String> = [plain, rests, vec!["/".to_owned(), "/a/".to_owned()]].concat();
        let paths = ["/", "/a", "/b", "/a/", "/b/", "/a/a", "/a/b", "/b/a", "/b/c", "/c/b", "/a/c", "/a/b/"]
            .iter()
            .chain(&["/a/b/a", "/a/a/c", "/b/b/b", "/c/a/a", "/a/c/a", "/c/c/c", "/a/b/c/d", "/b/a/a/a/"]);
        for i in 0..patterns.len() {
            for j in i + 1..patterns.len() {
                for k in [j + 1, j + 5, j + 11] {
                    let mut chosen = vec![patterns[i].as_str(), patterns[j].as_str()];
                    chosen.extend(patterns.get(k).map(String::as_str));
                    let mut trie = Trie::default();
                    chosen.iter().for_each(|pattern| trie.insert(pattern, *pattern));
                    for path in paths.clone() {
                        assert_eq!(trie.find(path).copied(), expected(&chosen, path), "{chosen:?} {path}");
                    }
                }
            }
        }
    }
}
