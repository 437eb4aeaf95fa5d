//! Errors for an operator's eyes: what happened, and every cause beneath it.

use std::error::Error;
use std::fmt;

/// An error and its causes on one line, from the outside in.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        std::iter::successors(self.0.source(), |&cause| cause.source())
            .try_for_each(|cause| write!(f, ": {cause}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outside")]
    struct Outside(#[source] std::io::Error);

    #[test]
    fn every_cause_is_told_from_the_outside_in() {
        let error = Outside(std::io::Error::other("inside"));
        assert_eq!(Chain(&error).to_string(), "outside: inside");
    }
}
