//! Finding the route: a trie of paths for every group of hosts and every method.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;

use super::trie::Trie;
use super::{Access, Route};

/// All routes. The exact host wins over the wildcard with more labels, that over the one with fewer, that over none;
/// within a host the literal segment wins over the parameter, that over the rest; then the named method over any.
#[derive(Debug, Default)]
pub struct RouteTable {
    exact: HashMap<Box<str>, Methods>,
    /// By what follows `*`, beginning with a dot.
    wildcard: HashMap<Box<str>, Methods>,
    any: Methods,
    /// Whether any route finds its token in the body.
    bodies: bool,
}

/// The routes of one group of hosts. A trie for each method, so that a less specific path may serve a method which
/// the most specific one does not.
#[derive(Debug, Default)]
struct Methods {
    named: Vec<(Method, Trie<Arc<Route>>)>,
    other: Trie<Arc<Route>>,
}

impl RouteTable {
    /// Sorts the routes in. Two routes for the same host, path and method are the configuration's business; here the
    /// first one stays.
    pub fn new(routes: &[Arc<Route>]) -> Self {
        let mut grouped: HashMap<Option<&str>, Vec<&Arc<Route>>> = HashMap::new();
        for route in routes {
            if route.settings.hosts.is_empty() {
                grouped.entry(None).or_default().push(route);
            }
            for host in &route.settings.hosts {
                grouped.entry(Some(host)).or_default().push(route);
            }
        }
        let looks_into_body = |route: &Arc<Route>| match &route.settings.access {
            Access::Refresh(refresh) => !refresh.bodies.is_empty(),
            Access::Open | Access::Guarded(_) => false,
        };
        let mut table = Self { bodies: routes.iter().any(looks_into_body), ..Self::default() };
        for (host, routes) in grouped {
            let methods = Methods::new(&routes);
            match host {
                None => table.any = methods,
                Some(host) => match host.strip_prefix('*') {
                    Some(suffix) => drop(table.wildcard.insert(suffix.into(), methods)),
                    None => drop(table.exact.insert(host.into(), methods)),
                },
            }
        }
        table
    }

    /// Whether there is a route that finds its token in the body; where there is none, nobody need look for it.
    pub fn reads_bodies(&self) -> bool {
        self.bodies
    }

    /// The most specific route for a canonical host and path.
    pub fn find(&self, host: &str, path: &str, method: &Method) -> Option<&Arc<Route>> {
        if !self.exact.is_empty()
            && let Some(route) = self.exact.get(host).and_then(|methods| methods.find(path, method))
        {
            return Some(route);
        }
        if !self.wildcard.is_empty() {
            for (dot, _) in host.match_indices('.').filter(|(dot, _)| *dot > 0) {
                let suffix = host.get(dot..).unwrap_or_default();
                if let Some(route) = self.wildcard.get(suffix).and_then(|methods| methods.find(path, method))
                {
                    return Some(route);
                }
            }
        }
        self.any.find(path, method)
    }
}

impl Methods {
    fn new(routes: &[&Arc<Route>]) -> Self {
        let mut methods = Self::default();
        for route in routes {
            for method in &route.settings.methods {
                if !methods.named.iter().any(|(named, _)| named == method) {
                    methods.named.push((method.clone(), Trie::default()));
                }
            }
        }
        for (method, trie) in &mut methods.named {
            // Of two with one path the first in stays: the named method wins over any.
            fill(trie, routes, |route| route.settings.methods.contains(method));
            fill(trie, routes, |route| route.settings.methods.is_empty());
        }
        fill(&mut methods.other, routes, |route| route.settings.methods.is_empty());
        methods
    }

    fn find(&self, path: &str, method: &Method) -> Option<&Arc<Route>> {
        let named = self.named.iter().find(|(named, _)| named == method);
        named.map_or(&self.other, |(_, trie)| trie).find(path)
    }
}

fn fill(trie: &mut Trie<Arc<Route>>, routes: &[&Arc<Route>], wanted: impl Fn(&Route) -> bool) {
    for route in routes.iter().filter(|route| wanted(route)) {
        trie.insert(&route.settings.path, Arc::clone(route));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ClientCertificate, RouteSettings};
    use super::*;
    use crate::rate::Limits;
    use crate::upstream::{Upstream, UpstreamMetrics, UpstreamSettings};

    /// Name, hosts, path and methods.
    type Written<'a> = (&'a str, &'a [&'a str], &'a str, &'a [Method]);

    fn table(routes: &[Written]) -> RouteTable {
        let settings = UpstreamSettings::plain(&["127.0.0.1"]);
        let patience = settings.timeouts.patience.clone();
        let metrics = UpstreamMetrics::register(&prometheus::Registry::new()).unwrap();
        let upstream = Arc::new(Upstream::new(settings, &metrics));
        let route = |(index, (name, hosts, path, methods)): (usize, &Written)| {
            let settings = RouteSettings {
                name: (*name).into(),
                hosts: hosts.iter().map(|host| (*host).into()).collect(),
                path: (*path).into(),
                methods: methods.to_vec(),
                upstream: Some("app".into()),
                access: Access::Open,
                client_certificate: ClientCertificate::Optional,
                html: false,
                redirect: None,
                timeouts: patience.clone(),
                rate_limits: Vec::new(),
                observers: Vec::new(),
            };
            let (upstream, limits) = (Some(Arc::clone(&upstream)), Limits::default());
            Arc::new(Route { settings, index, upstream, limits })
        };
        RouteTable::new(&routes.iter().enumerate().map(route).collect::<Vec<_>>())
    }

    fn name<'a>(table: &'a RouteTable, host: &str, path: &str, method: Method) -> Option<&'a str> {
        table.find(host, path, &method).map(|route| &*route.settings.name)
    }

    #[test]
    fn the_most_specific_path_wins_whatever_the_order() {
        let routes: &[Written] = &[
            ("rest", &[], "/{*rest}", &[]),
            ("users", &[], "/api/users/{id}", &[]),
            ("me", &[], "/api/users/me", &[]),
            ("api", &[], "/api/{*rest}", &[]),
        ];
        for table in [table(routes), table(&routes.iter().rev().copied().collect::<Vec<_>>())] {
            for (path, expected) in [
                ("/", "rest"),
                ("/x", "rest"),
                ("/api", "rest"),
                ("/api/", "api"),
                ("/api/x/y", "api"),
                ("/api/users/7", "users"),
                ("/api/users/me", "me"),
                ("/api/users/7/posts", "api"),
                ("/apix", "rest"),
            ] {
                assert_eq!(name(&table, "h", path, Method::GET), Some(expected), "{path}");
            }
        }
    }

    #[test]
    fn a_method_the_most_specific_path_lacks_falls_to_the_next() {
        let table = table(&[
            ("read", &[], "/a", &[Method::GET, Method::HEAD]),
            ("any", &[], "/a", &[]),
            ("rest", &[], "/{*rest}", &[Method::DELETE]),
        ]);
        assert_eq!(name(&table, "h", "/a", Method::GET), Some("read"));
        assert_eq!(name(&table, "h", "/a", Method::POST), Some("any"));
        assert_eq!(name(&table, "h", "/b", Method::DELETE), Some("rest"));
        assert_eq!(name(&table, "h", "/b", Method::GET), None);
    }

    #[test]
    fn hosts_are_exact_or_have_more_labels_than_their_wildcard() {
        let table = table(&[
            ("api", &["api.example.com"], "/{*rest}", &[]),
            ("deep", &["*.eu.example.com"], "/{*rest}", &[]),
            ("wild", &["*.example.com"], "/{*rest}", &[]),
            ("other", &[], "/open", &[]),
        ]);
        for (host, expected) in [
            ("api.example.com", Some("api")),
            ("x.example.com", Some("wild")),
            ("a.eu.example.com", Some("deep")),
            ("eu.example.com", Some("wild")),
            ("example.com", None),
            ("api.example.com.evil.org", None),
            ("evilexample.com", None),
            (".example.com", None),
        ] {
            assert_eq!(name(&table, host, "/x", Method::GET), expected, "{host}");
        }
        assert_eq!(name(&table, "", "/open", Method::GET), Some("other"));
    }
}
