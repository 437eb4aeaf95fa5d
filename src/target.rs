//! The one canonicaliser: raw target and Host in; the path that is routed, judged and forwarded out, or "ambiguous".

/// What is done with a path that two parsers could read differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ambiguous {
    /// 400.
    Reject,
    /// Resolved once, here; the upstream receives the resolved form.
    Normalize,
}
