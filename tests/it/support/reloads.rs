//! Reloads as the operator orders them, waited for by the gateway's own count.

use super::eventually;
use super::gateway::Gateway;

pub const APPLIED: &str = "portcullis_reloads_total{outcome=\"applied\"}";
pub const REFUSED: &str = "portcullis_reloads_total{outcome=\"refused\"}";

/// Waits until the series has come to `count`.
pub fn counted(gateway: &Gateway, series: &str, count: f64) {
    eventually(series, || match gateway.metric(series) {
        Some(seen) if seen >= count => Ok(()),
        seen => Err((seen, gateway.log())),
    });
}

/// Puts a new configuration in force.
pub fn reload(gateway: &Gateway, toml: &str) {
    let before = gateway.metric(APPLIED).unwrap();
    gateway.rewrite_config(toml);
    gateway.signal("HUP");
    counted(gateway, APPLIED, before + 1.0);
}
