//! Portcullis: a reverse proxy that makes JWT authentication revocable for services that already run.
//!
//! The modules stand in the order in which a request meets them, and each may use only those above it.
//! `tests/it/layers.rs` holds the crate to that. Read [`gate`] first: it is the whole judgment on one screen.

// The ground: memory, and what goes on beside the requests.
pub mod allocator;
pub mod tasks;
// The words: no I/O, no async.
pub mod cause;
pub mod time;
pub mod claims;
pub mod token;
pub mod template;
pub mod target;
// The knowledge: knows neither denial nor HTTP answers.
pub mod verify;
pub mod ledger;
pub mod rate;
// The judgment.
pub mod upstream;
pub mod route;
pub mod identity;
pub mod verdict;
pub mod gate;
// What is said of it.
pub mod answer;
pub mod report;
// The doors.
pub mod tls;
pub mod proxy;
pub mod admin;
// The assembly.
pub mod config;
pub mod app;
pub mod cli;
