//! The control door.

pub mod settings;
