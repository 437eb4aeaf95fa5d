//! Verified tokens remembered: bounded in number and size, keyed by the whole token.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::token::Token;

/// Remembers `V` for each verified token; the least useful go when it is full. Only what
/// [`super::Verifiers::verify`] returned belongs in here, and each hit is judged again by
/// [`super::Verifiers::still_holds`].
///
/// Tokens are hashed with a seed of this process and compared whole, so two tokens are never taken for one another;
/// a look-up allocates nothing.
pub struct TokenCache<V> {
    tokens: Cache<Arc<str>, Arc<V>, BySize>,
}

/// A usual token counts as one, and a longer one as the number of usual ones that take its place: what is kept of a
/// token grows with its length.
#[derive(Clone)]
struct BySize;

/// Bytes of a usual token.
const USUAL: usize = 2048;

impl<V> Weighter<Arc<str>, Arc<V>> for BySize {
    fn weight(&self, token: &Arc<str>, _: &Arc<V>) -> u64 {
        u64::try_from(token.len().div_ceil(USUAL).max(1)).unwrap_or(u64::MAX)
    }
}

impl<V> TokenCache<V> {
    /// For `capacity` tokens of up to 2 KiB.
    pub fn new(capacity: usize) -> Self {
        let weight = u64::try_from(capacity).unwrap_or(u64::MAX);
        Self { tokens: Cache::with_weighter(capacity, weight, BySize) }
    }

    /// What is known of `token`.
    pub fn get(&self, token: &Token<'_>) -> Option<Arc<V>> {
        self.tokens.get(token.compact())
    }

    /// Remembers `value` for `token`, and hands back what is now shared.
    pub fn insert(&self, token: Arc<str>, value: V) -> Arc<V> {
        let value = Arc::new(value);
        self.tokens.insert(token, value.clone());
        value
    }

    /// Forgets `token`.
    pub fn remove(&self, token: &Token<'_>) -> Option<Arc<V>> {
        self.tokens.remove(token.compact()).map(|(_, value)| value)
    }

    /// Forgets every token of which `keep` says no.
    pub fn retain(&self, keep: impl Fn(&V) -> bool) {
        self.tokens.retain(|_, value| keep(value));
    }

    /// How many tokens are known.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Everything known, token by token, in no order; what comes and goes meanwhile may or may not be seen.
    pub fn iter(&self) -> impl Iterator<Item = (Arc<str>, Arc<V>)> + '_ {
        self.tokens.iter()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.tokens.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_again_by_its_whole_text_only() {
        let cache = TokenCache::new(100);
        cache.insert("a.b.c".into(), 1);
        cache.insert("a.b.d".into(), 2);
        assert_eq!(cache.get(&Token::new("a.b.c")).as_deref(), Some(&1));
        assert_eq!(cache.get(&Token::new("a.b.")), None);
        assert_eq!(cache.iter().map(|(_, value)| *value).sum::<i32>(), 3);
        assert_eq!(cache.remove(&Token::new("a.b.c")).as_deref(), Some(&1));
        assert_eq!((cache.get(&Token::new("a.b.c")), cache.len()), (None, 1));
        cache.retain(|value| *value != 2);
        assert!(cache.is_empty());
    }

    #[test]
    fn it_never_holds_more_than_it_was_made_for() {
        let cache = TokenCache::new(64);
        for n in 0..10_000 {
            cache.insert(format!("h.{n}.s").into(), n);
        }
        assert!(cache.len() <= 64, "{}", cache.len());
        cache.clear();
        assert_eq!(cache.len(), 0);
        let long = "x".repeat(16 * 1024);
        for n in 0..1000 {
            cache.insert(format!("{long}.{n}.s").into(), n);
        }
        assert!(cache.len() <= 8, "{} long ones", cache.len());
    }
}
