//! Patterns of paths, segment by segment. The most specific one that matches wins: at each segment the literal before
//! the parameter, the parameter before the rest.

use std::collections::BTreeMap;

/// A place in the patterns, and everything that can follow it.
///
/// A segment may have to be tried as a literal, then as a parameter, so a look-up may come back; but it sees no place
/// twice, and costs at most as many steps as there are places.
#[derive(Debug)]
pub(super) struct Trie<T> {
    literals: BTreeMap<Box<str>, Self>,
    parameter: Option<Box<Self>>,
    /// Of the pattern whose `{*rest}` begins here.
    rest: Option<T>,
    /// Of the pattern that ends here.
    here: Option<T>,
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self { literals: BTreeMap::new(), parameter: None, rest: None, here: None }
    }
}

impl<T> Trie<T> {
    /// Adds a pattern: `/exact`, `/with/{param}`, `/rest/{*rest}`. Of two of the same shape the first one stays.
    pub fn insert(&mut self, pattern: &str, value: T) {
        let mut place = self;
        for segment in pattern.strip_prefix('/').unwrap_or(pattern).split('/') {
            if segment.starts_with("{*") {
                place.rest.get_or_insert(value);
                return;
            }
            place = match segment.starts_with('{') {
                true => place.parameter.get_or_insert_default(),
                false => place.literals.entry(segment.into()).or_default(),
            };
        }
        place.here.get_or_insert(value);
    }

    /// What belongs to a path. A parameter is never empty; `/rest/{*rest}` takes `/rest/`, and not `/rest`.
    pub fn find(&self, path: &str) -> Option<&T> {
        self.at(Some(path.strip_prefix('/')?))
    }

    /// `left`: what follows the last slash; `None` at the end of the path.
    fn at(&self, left: Option<&str>) -> Option<&T> {
        let Some(left) = left else { return self.here.as_ref() };
        let (segment, after) = match left.split_once('/') {
            Some((segment, after)) => (segment, Some(after)),
            None => (left, None),
        };
        let literal = || self.literals.get(segment)?.at(after);
        let parameter = || self.parameter.as_deref().filter(|_| !segment.is_empty())?.at(after);
        literal().or_else(parameter).or(self.rest.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pattern of up to three segments made of these.
    fn patterns() -> Vec<String> {
        let mut all = vec![String::new()];
        let mut grown = all.clone();
        for _ in 0..3 {
            let open = grown.iter().filter(|path| !path.ends_with(['/', '*']) && !path.contains("{*"));
            let longer =
                open.flat_map(|path| ["a", "ab", "{}", "{*}", ""].map(|last| format!("{path}/{last}")));
            grown = longer.collect();
            all.extend(grown.iter().cloned());
        }
        all.retain(|path| !path.is_empty());
        all
    }

    /// The rank of a pattern for a path, the lowest first; `None` where it does not match. The definition, read aloud.
    fn rank(pattern: &str, path: &str) -> Option<Vec<u8>> {
        let (mut wanted, mut given) = (pattern.split('/').skip(1), path.split('/').skip(1));
        let mut rank = Vec::new();
        loop {
            match (wanted.next(), given.next()) {
                (None, None) => return Some(rank),
                (Some("{*}"), Some(_)) => {
                    rank.push(2);
                    return Some(rank);
                }
                (Some("{}"), Some(segment)) if !segment.is_empty() => rank.push(1),
                (Some(literal), Some(segment)) if literal == segment => rank.push(0),
                _ => return None,
            }
        }
    }

    #[test]
    fn the_most_specific_of_any_two_patterns_is_found_in_whatever_order_they_came() {
        let patterns = patterns();
        let paths: Vec<String> = patterns
            .iter()
            .map(|it| it.replace("{*}", "x/a").replace("{}", "b"))
            .chain(patterns.clone())
            .collect();
        for one in &patterns {
            for other in &patterns {
                let mut trie = Trie::default();
                trie.insert(one, one);
                trie.insert(other, other);
                for path in &paths {
                    let ranked = [one, other].into_iter().filter_map(|it| Some((rank(it, path)?, it)));
                    let expected = ranked.min().map(|(_, pattern)| pattern);
                    assert_eq!(trie.find(path).copied(), expected, "{one} {other} {path}");
                }
            }
        }
    }

    #[test]
    fn of_two_patterns_of_one_shape_the_first_stays() {
        let mut trie = Trie::default();
        trie.insert("/a/{x}", 1);
        trie.insert("/a/{y}", 2);
        trie.insert("/b/{*x}", 3);
        trie.insert("/b/{*y}", 4);
        assert_eq!((trie.find("/a/q"), trie.find("/b/q/r")), (Some(&1), Some(&3)));
        assert_eq!((trie.find("a/q"), trie.find(""), trie.find("/b")), (None, None, None));
    }
}
