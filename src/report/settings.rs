//! `[log]`, resolved.

use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// A level or `RUST_LOG`-style directives; the environment's `RUST_LOG` wins.
    pub level: String,
    pub format: Format,
    pub access: AccessLog,
    /// Of passed requests, this share (0.0–1.0) is logged; denials always are.
    pub sample: f64,
    /// Else audit lines go to the log.
    pub audit_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    All,
    Denied,
    Off,
}
