//! Dashboards and alerts use only metrics that exist.

use std::collections::BTreeSet;

use prometheus::Registry;

use super::Metrics;
use super::metrics::RouteMetrics;

/// Families of the modules above this one, which register their own.
const OF_OTHERS: [&str; 7] = [
    "portcullis_lookups_total",
    "portcullis_mode",
    "portcullis_mode_transitions_total",
    "portcullis_store_up",
    "portcullis_jwks_refreshes_total",
    "portcullis_signature_verifications_total",
    "portcullis_outbox_pending",
];

const DASHBOARD: &str = include_str!("../../dashboards/portcullis.json");
const ALERTS: &str = include_str!("../../dashboards/alerts.yml");
const REFERENCE: &str = include_str!("../../docs/metrics.md");

fn own() -> BTreeSet<String> {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).expect("registered");
    RouteMetrics::new(&metrics, &["api".into()], &[]);
    registry.gather().iter().map(|family| family.name().to_owned()).collect()
}

fn known() -> BTreeSet<String> {
    own().into_iter().chain(OF_OTHERS.map(str::to_owned)).collect()
}

/// Everything in `text` that is named like a metric, without the suffixes of a histogram's series.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let metrics = words.filter(|word| word.starts_with("portcullis_"));
    let family = |name: &str| {
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        histogram.unwrap_or(name).to_owned()
    };
    metrics.map(family).collect()
}

/// Every string under a key of this name, however deep.
fn strings(value: &serde_json::Value, key: &str) -> Vec<String> {
    match value {
        serde_json::Value::Object(map) => map
            .iter()
            .flat_map(|(name, inner)| match inner.as_str() {
                Some(text) if name == key => vec![text.to_owned()],
                _ => strings(inner, key),
            })
            .collect(),
        serde_json::Value::Array(list) => list.iter().flat_map(|inner| strings(inner, key)).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn the_dashboard_uses_only_metrics_that_exist() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let queries = [strings(&dashboard, "expr"), strings(&dashboard, "query")].concat();
    assert!(queries.len() > 15, "{queries:?}");
    let unknown: Vec<_> = named(&queries.join(" ")).difference(&known()).cloned().collect();
    assert_eq!(unknown, Vec::<String>::new());
}

#[test]
fn the_alerts_use_only_metrics_that_exist_and_say_what_they_mean() {
    let alerts: serde_json::Value = serde_yaml::from_str(ALERTS).expect("YAML");
    let rules = alerts["groups"][0]["rules"].as_array().expect("rules");
    for rule in rules {
        let expression = rule["expr"].as_str().expect("an expression");
        let metrics = named(expression);
        assert!(!metrics.is_empty() && metrics.is_subset(&known()), "{expression}");
        assert!(rule["annotations"]["description"].is_string(), "{rule}");
    }
}

#[test]
fn the_reference_names_every_metric_and_no_other() {
    assert_eq!(named(REFERENCE), known());
}
