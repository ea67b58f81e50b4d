//! Routes on their way to the proxies. All of them go to every node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isobar_mesh_api::route::{Route, RouteKey};

/// All routes, and which of them changed since the last push.
#[derive(Debug, Clone, Default)]
pub(super) struct Routes {
    all: BTreeMap<RouteKey, Measured>,
    changed: BTreeSet<RouteKey>,
}

/// A route and how much of a line it takes, in bytes.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub route: Arc<Route>,
    pub len: usize,
}

/// What nodes are told of routes.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// New or replaced.
    pub routes: Vec<Measured>,
    /// Gone.
    pub removed: Vec<RouteKey>,
}

impl Routes {
    pub fn set(&mut self, route: Arc<Route>) {
        let key = route.key().clone();
        if self.all.get(&key).is_some_and(|known| known.route == route) {
            return;
        }
        let len = len(&route);
        self.all.insert(key.clone(), Measured { route, len });
        self.changed.insert(key);
    }

    /// What all take with this one, in bytes.
    pub fn len_with(&self, route: &Route) -> usize {
        let others = self.all.iter().filter(|(key, _)| *key != route.key());
        others.map(|(_, known)| known.len).sum::<usize>() + len(route)
    }

    pub fn remove(&mut self, key: &RouteKey) {
        if self.all.remove(key).is_some() {
            self.changed.insert(key.clone());
        }
    }

    /// Everything, for a node that gets a whole snapshot.
    pub fn whole(&self) -> Told {
        Told {
            routes: self.all.values().cloned().collect(),
            removed: Vec::new(),
        }
    }

    /// What changed, for a node that has the rest.
    pub fn changes(&self) -> Told {
        let mut told = Told::default();
        for key in &self.changed {
            match self.all.get(key) {
                Some(route) => told.routes.push(route.clone()),
                None => told.removed.push(key.clone()),
            }
        }
        told
    }

    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Everybody who is there was told.
    pub fn told(&mut self) {
        self.changed.clear();
    }
}

/// What a route and a comma take of a line, in bytes.
fn len(route: &Route) -> usize {
    // It was written once already, when it was checked.
    serde_json::to_vec(route).map_or(0, |json| json.len() + 1)
}
