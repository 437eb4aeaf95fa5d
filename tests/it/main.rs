//! One binary for every integration test: real sockets, real Redis, real databases, the real gateway.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says that something failed by panicking, in its helpers as in its body"
)]

mod support;

mod attacks_answers;
mod attacks_common;
mod attacks_credential;
mod attacks_framing;
mod attacks_headers;
mod attacks_http2;
mod attacks_path;
mod attacks_wire;
mod browser;
mod browser_cors;
mod browser_streams;
mod chaos;
mod chores;
mod cli;
mod clients;
mod clients_bodies;
mod clients_common;
mod clients_curl;
mod clients_grpc;
mod clients_websocket;
mod coherent;
mod control;
mod cors;
mod dashboards;
mod demo;
mod drain;
mod examples;
mod exchange;
mod feed_copies;
mod feed_lists;
mod feed_redis;
mod feed_tables;
mod forward_auth;
mod forward_auth_attacks;
mod forward_auth_peers;
mod forward_auth_stage;
mod http2;
mod http2_bodies;
mod http2_limits;
mod identity;
mod jwks;
mod late_database;
mod layers;
mod ledger_changes;
mod ledger_cluster;
mod ledger_cluster_coherent;
mod ledger_cluster_keys;
mod ledger_common;
mod ledger_database;
mod ledger_flags;
mod ledger_layouts;
mod ledger_outages;
mod ledger_pending;
mod ledger_recovery;
mod ledger_rules;
mod ledger_sentinel;
mod ledger_sessions;
mod ledger_starts;
mod ledger_tls;
mod ledger_unlike;
mod ledger_users;
mod limits_connections;
mod limits_floods;
mod limits_slow;
mod living;
mod observers;
mod observers_http2;
mod observers_logins;
mod packaging;
mod rate_limits;
mod rate_limits_shared;
mod refresh;
mod refresh_body;
mod reload;
mod route_modes;
mod route_replies;
mod route_rewrites;
mod routes;
mod seeing;
mod service_manager;
mod streams;
mod streams_common;
mod streams_kinds;
mod streams_reload;
mod streams_stores;
mod support_selftest;
mod tls;
mod tls_certificates;
mod tls_clients;
mod tokens;
mod upgrade;
mod upstream_health;
mod upstream_protocols;
mod upstreams;
