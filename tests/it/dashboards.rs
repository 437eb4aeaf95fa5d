//! Dashboards, alerts and the reference of metrics are held to what a running gateway really shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use jsonwebtoken::Algorithm;
use serde_json::Value;

use crate::support::gateway::Setup;
use crate::support::issuer::{Issuer, JwksServer};
use crate::support::origin::Origin;
use crate::support::pki::{Authority, Shelf};
use crate::support::redis::Redis;

/// The names of families, each with the labels its series have.
type Families = BTreeMap<String, BTreeSet<String>>;

/// Everything a gateway shows before its first request, with every store, a remote key set and a certificate.
fn shown() -> Families {
    let (origin, redis, issuer) = (Origin::start(), Redis::start(), Issuer::new(Algorithm::ES256));
    let keys = JwksServer::serving(&issuer.jwks());
    let shelf = Shelf::new();
    shelf.put("a", &Authority::new().server(&["a.test"]));
    let gateway = Setup::new()
        .section(&issuer.config_with(&format!("jwks_url = \"{}\"", keys.url())))
        .section(&redis.config_toml())
        .upstream("app", &origin)
        .section(&shelf.listener(&[shelf.entry("a", &["a.test"])], ""))
        .route(
            "name = \"all\"\npath = \"/{*rest}\"\nupstream = \"app\"\n\
                on_response = [{ revoke = \"token\" }]",
        )
        .start();
    let text = gateway.metrics();
    let of_type = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let mut families: Families = of_type.map(|name| (name.to_owned(), BTreeSet::new())).collect();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        for (name, labels) in selectors(line) {
            // `le` is the histogram's own.
            let labels = labels.into_iter().filter(|it| it != "le");
            families.get_mut(&name).unwrap_or_else(|| panic!("no TYPE: {line}")).extend(labels);
        }
    }
    families
}

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Everything in `text` that is named like a metric, without the suffix of a histogram's series, and the labels in the braces
/// behind it.
fn selectors(text: &str) -> Vec<(String, BTreeSet<String>)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("portcullis_") {
        rest = &rest[at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|it| name.strip_suffix(it));
        let braces = behind.strip_prefix('{').and_then(|it| it.split_once('}'));
        // A matcher is a name, an operator and a quoted value; `",` ends it.
        let matchers = braces.map_or("", |(inside, _)| inside).split("\",");
        let labels = matchers
            .filter_map(|it| it.split(['=', '!']).next())
            .map(|it| it.trim_matches([' ', ',']).to_owned());
        found.push((histogram.unwrap_or(name).to_owned(), labels.filter(|it| !it.is_empty()).collect()));
        rest = behind;
    }
    found
}

/// Every string under a key of this name, however deep.
fn strings(value: &Value, key: &str) -> Vec<String> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(name, inner)| match inner.as_str() {
                Some(text) if name == key => vec![text.to_owned()],
                _ => strings(inner, key),
            })
            .collect(),
        Value::Array(list) => list.iter().flat_map(|inner| strings(inner, key)).collect(),
        _ => Vec::new(),
    }
}

/// A query names metrics, and selects by labels, that exist.
fn assert_answerable(query: &str, families: &Families) {
    let selectors = selectors(query);
    assert!(!selectors.is_empty(), "{query} asks for nothing of ours");
    for (name, labels) in selectors {
        let known = families.get(&name).unwrap_or_else(|| panic!("{query}: there is no {name}"));
        // `job` and `instance` are the scraper's.
        let strange: Vec<_> =
            labels.difference(known).filter(|it| *it != "job" && *it != "instance").collect();
        assert!(strange.is_empty(), "{query}: {name} has no label {strange:?}");
    }
}

/// The rows of the reference: `| `name` | `label`, `label` | …`.
fn documented() -> Families {
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    let reference = read("docs/metrics.md");
    let rows = reference.lines().filter(|line| line.starts_with("| `portcullis_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        (quoted(cells[1]).pop_first().unwrap(), quoted(cells[2]))
    })
    .collect()
}

#[test]
fn dashboards_alerts_and_the_reference_know_the_metrics_that_exist_and_no_others() {
    let families = shown();
    let ours: Families = families.into_iter().filter(|(name, _)| name.starts_with("portcullis_")).collect();
    assert_eq!(documented(), ours, "left: docs/metrics.md, right: /metrics");

    let dashboard: Value = serde_json::from_str(&read("dashboards/portcullis.json")).unwrap();
    let queries = [strings(&dashboard, "expr"), strings(&dashboard, "query")].concat();
    let queries: Vec<_> = queries.into_iter().filter(|it| it != "prometheus").collect();
    assert!(queries.len() > 15, "{queries:?}");
    queries.iter().for_each(|query| assert_answerable(query, &ours));

    let alerts: Value = serde_yaml::from_str(&read("dashboards/alerts.yml")).unwrap();
    for rule in alerts["groups"][0]["rules"].as_array().unwrap() {
        assert_answerable(rule["expr"].as_str().unwrap(), &ours);
        assert!(rule["annotations"]["description"].is_string(), "{rule}");
    }
}
