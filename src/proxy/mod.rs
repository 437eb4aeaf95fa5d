//! The proxy door.

pub mod settings;
