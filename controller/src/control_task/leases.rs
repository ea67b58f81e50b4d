//! Endpoints that register themselves, each for as long as it says so again in time.
//!
//! What the operator declares of a service comes first: a registered endpoint of the same node and address adds
//! nothing. A service that nobody declares is there as long as an endpoint of it is registered.
//!
//! **Invariant**: after a restart every lease begins anew: nobody loses its place because the controller was away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::resource::EndpointSpec;
use serde::{Deserialize, Serialize};

use super::change::Place;
use super::desired::MemoryLimit;

/// Most endpoints that are registered at once.
pub const ENDPOINTS_MAX: usize = 20_000;
/// Longest lease, in seconds.
pub const LEASE_S_MAX: u64 = 86_400;

/// One registered endpoint, as it is stored and shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registered {
    /// Of which service.
    pub service: ServiceName,
    /// What it is.
    #[serde(flatten)]
    pub endpoint: EndpointSpec,
    /// How long it stays without another word, in seconds.
    pub lease_s: u64,
    /// Which source of the configuration discovered it; absent: it registered itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl Registered {
    /// Its name: `namespace/name/node/address`.
    pub fn name(&self) -> String {
        self.place().to_string()
    }

    /// Which it is.
    pub fn place(&self) -> Place {
        Place {
            service: self.service.clone(),
            node: self.endpoint.node.clone(),
            address: self.endpoint.address.clone(),
        }
    }
}

/// A registered endpoint with the time that it has left.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Leased {
    /// What it is.
    #[serde(flatten)]
    pub registered: Registered,
    /// How long it stays without another word, in milliseconds.
    pub left_ms: u64,
}

#[derive(Debug, Clone)]
struct Lease {
    registered: Registered,
    until: Duration,
}

type OnNode = (NodeId, String);

/// All registered endpoints.
#[derive(Debug, Clone, Default)]
pub(super) struct Leases {
    by_service: BTreeMap<ServiceName, BTreeMap<OnNode, Lease>>,
    len: usize,
    /// Services whose endpoints are not those that the control loop knows.
    changed: BTreeSet<ServiceName>,
}

/// What a registration came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// It is new.
    New,
    /// It says something else than before.
    Changed,
    /// It says the same again: its lease begins anew.
    Renewed,
}

impl Leases {
    /// Takes an endpoint's word, at `now` since the program's start.
    pub fn register(&mut self, registered: Registered, now: Duration) -> Result<Word, MemoryLimit> {
        let until = now + Duration::from_secs(registered.lease_s.min(LEASE_S_MAX));
        let service = registered.service.clone();
        let place = place(&registered.endpoint);
        let known = self.by_service.get_mut(&service);
        if let Some(lease) = known.and_then(|endpoints| endpoints.get_mut(&place)) {
            lease.until = until;
            if lease.registered == registered {
                return Ok(Word::Renewed);
            }
            lease.registered = registered;
            self.changed.insert(service);
            return Ok(Word::Changed);
        }
        if self.len >= ENDPOINTS_MAX {
            return Err(MemoryLimit::new("registered endpoints", ENDPOINTS_MAX));
        }
        let lease = Lease { registered, until };
        let endpoints = self.by_service.entry(service.clone()).or_default();
        endpoints.insert(place, lease);
        self.len += 1;
        self.changed.insert(service);
        Ok(Word::New)
    }

    /// Removes an endpoint. Returns what it was, if it was there.
    pub fn deregister(&mut self, place: &Place) -> Option<Registered> {
        let endpoints = self.by_service.get_mut(&place.service)?;
        let lease = endpoints.remove(&(place.node.clone(), place.address.clone()))?;
        if endpoints.is_empty() {
            self.by_service.remove(&place.service);
        }
        self.len -= 1;
        self.changed.insert(place.service.clone());
        Some(lease.registered)
    }

    /// One registered endpoint.
    pub fn get(&self, place: &Place) -> Option<&Registered> {
        let endpoints = self.by_service.get(&place.service)?;
        let lease = endpoints.get(&(place.node.clone(), place.address.clone()))?;
        Some(&lease.registered)
    }

    /// Removes endpoints whose lease has ended.
    pub fn expire(&mut self, now: Duration) -> Vec<Registered> {
        let all = self.by_service.values().flat_map(BTreeMap::values);
        let ended = all.filter(|lease| lease.until < now);
        let ended: Vec<Registered> = ended.map(|lease| lease.registered.clone()).collect();
        for registered in &ended {
            self.deregister(&registered.place());
        }
        ended
    }

    /// Services whose endpoints changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<ServiceName> {
        std::mem::take(&mut self.changed)
    }

    /// Whether a service has registered endpoints.
    pub fn has(&self, service: &ServiceName) -> bool {
        self.by_service.contains_key(service)
    }

    /// The registered endpoints of a service.
    pub fn endpoints(&self, service: &ServiceName) -> impl Iterator<Item = &EndpointSpec> {
        let endpoints = self.by_service.get(service);
        let leases = endpoints.into_iter().flat_map(BTreeMap::values);
        leases.map(|lease| &lease.registered.endpoint)
    }

    /// Registered endpoints, of one service or all, by name, with the time that they have left.
    pub fn list(&self, service: Option<&ServiceName>, now: Duration) -> Vec<Leased> {
        let all = self.by_service.iter();
        let chosen = all.filter(|(name, _)| service.is_none_or(|service| service == *name));
        let leases = chosen.flat_map(|(_, endpoints)| endpoints.values());
        leases
            .map(|lease| Leased {
                registered: lease.registered.clone(),
                left_ms: lease.until.saturating_sub(now).as_millis() as u64,
            })
            .collect()
    }
}

fn place(endpoint: &EndpointSpec) -> OnNode {
    (endpoint.node.clone(), endpoint.address.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(address: &str, lease_s: u64) -> Registered {
        Registered {
            service: ServiceName::new("shop/cart").unwrap(),
            endpoint: EndpointSpec {
                node: NodeId::new("a").unwrap(),
                address: address.to_owned(),
                workers: 4,
                capacity_rps: None,
            },
            lease_s,
            source: None,
        }
    }

    #[test]
    fn who_is_not_heard_of_goes_and_who_is_stays() {
        let at = Duration::from_secs;
        let mut leases = Leases::default();
        let (x, y) = (registered("h:1", 10), registered("h:2", 10));
        assert_eq!(leases.register(x.clone(), at(0)), Ok(Word::New));
        assert_eq!(leases.register(y.clone(), at(0)), Ok(Word::New));
        assert_eq!(leases.take_changed().len(), 1);
        assert_eq!(leases.register(x.clone(), at(9)), Ok(Word::Renewed));
        assert!(leases.take_changed().is_empty());
        assert_eq!(leases.expire(at(10)), []);
        assert_eq!(leases.expire(at(11)), std::slice::from_ref(&y));
        assert_eq!(leases.list(None, at(11))[0].left_ms, 8_000);
        assert!(leases.has(&x.service));
        assert!(leases.deregister(&y.place()).is_none());
        assert_eq!(leases.get(&x.place()), Some(&x));
        assert!(leases.deregister(&x.place()).is_some());
        assert!(!leases.has(&x.service) && leases.len == 0);
    }
}
