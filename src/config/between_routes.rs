//! What routes must not share: names, and requests that no order decides about. Ten thousand of them are looked at in one
//! pass.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::Method;

use super::problem::Span;
use crate::route::RouteSettings;

/// The names of routes.
pub struct Names {
    /// Those that some route is given.
    chosen: HashSet<String>,
    taken: HashSet<Arc<str>>,
    /// The last number behind a name that was made.
    numbers: HashMap<String, usize>,
}

impl Names {
    pub fn new<'a>(chosen: impl Iterator<Item = &'a str>) -> Self {
        Self { chosen: chosen.map(str::to_owned).collect(), taken: HashSet::new(), numbers: HashMap::new() }
    }

    /// The name that a route was given; the error is the same, where another one has it.
    pub fn given(&mut self, name: &str) -> Result<Arc<str>, Arc<str>> {
        let name: Arc<str> = name.into();
        if self.taken.insert(Arc::clone(&name)) { Ok(name) } else { Err(name) }
    }

    /// A name made of the path's words; numbered where it is taken.
    pub fn made(&mut self, path: &str) -> Arc<str> {
        let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let name = words.collect::<Vec<_>>().join("-");
        let base = if name.is_empty() { "root".to_owned() } else { name };
        let mut name = base.clone();
        while self.chosen.contains(&name) || self.taken.contains(name.as_str()) {
            let number = self.numbers.entry(base.clone()).or_insert(1);
            *number += 1;
            name = format!("{base}-{number}");
        }
        let name: Arc<str> = name.into();
        self.taken.insert(Arc::clone(&name));
        name
    }
}

/// Requests that a route takes: shape of the path, and host.
type Requests = (String, Option<Box<str>>);

/// What is taken, by whom.
#[derive(Default)]
pub struct Taken {
    by: HashMap<Requests, Vec<usize>>,
    routes: Vec<(Arc<str>, Vec<Method>, Span)>,
}

impl Taken {
    /// Takes a route's requests. The first route that takes some of them already, where neither is more specific: its name
    /// and place.
    pub fn take(&mut self, route: &RouteSettings, at: &Span) -> Option<(Arc<str>, Span)> {
        let shape = super::path::shape(&route.path);
        let hosts: Vec<Option<Box<str>>> = match &*route.hosts {
            [] => vec![None],
            hosts => hosts.iter().cloned().map(Some).collect(),
        };
        let mut clash: Option<usize> = None;
        for host in hosts {
            let others = self.by.entry((shape.clone(), host)).or_default();
            let shares = |other: &&usize| {
                self.routes.get(**other).is_some_and(|(_, methods, _)| share(methods, &route.methods))
            };
            clash = others.iter().find(shares).copied().into_iter().chain(clash).min();
            others.push(self.routes.len());
        }
        self.routes.push((Arc::clone(&route.name), route.methods.clone(), at.clone()));
        clash
            .and_then(|other| self.routes.get(other))
            .map(|(name, _, place)| (Arc::clone(name), place.clone()))
    }
}

fn share(one: &[Method], other: &[Method]) -> bool {
    one.is_empty() && other.is_empty() || one.iter().any(|method| other.contains(method))
}
