//! The judgment.
