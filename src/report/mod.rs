//! A fact told once.

pub mod settings;
