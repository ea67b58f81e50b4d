//! Gives requests to endpoints: [`crate::balance`] decides by numbers, here they are read off the endpoints.
//!
//! Made once per snapshot and kept while endpoints and policy stay the same. A choice allocates nothing and takes no
//! lock: it reads a few counters and ends with one compare-and-swap on the chosen endpoint's.
//!
//! **Invariant**: when an endpoint has room that may be used, somebody gets it. An algorithm that finds none among those
//! it looked at is followed by a look at all.

use std::sync::Arc;

use isobar_mesh_api::resource::traffic_policy::{Balance, LoadBalancing};

use crate::balance::maglev::Maglev;
use crate::balance::ring::Ring;
use crate::balance::{self, Load, hash, rendezvous, slow_start};
use crate::clock::Clock;
use crate::endpoint::{EndpointLive, Taken};
use crate::session::Rule;

/// Who gets requests of one service here.
#[derive(Debug)]
pub struct Balancer {
    endpoints: Arc<[Arc<EndpointLive>]>,
    clock: Clock,
    how: How,
    /// Hash of each endpoint's address, and its workers.
    names: Vec<(u64, u32)>,
    slow_start_us: u64,
    /// What of a request is its key, if anything.
    pub key: Option<Rule>,
    /// Whether the key also says which node serves.
    pub keeps_node: bool,
    policy: LoadBalancing,
}

#[derive(Debug)]
enum How {
    RoundRobin,
    Random,
    Weighted,
    LeastRequest,
    PeakEwma,
    Ring(Ring),
    Maglev(Maglev),
}

/// What one request would like.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish<'a> {
    /// Its key, if it has one.
    pub key: Option<u64>,
    /// Not this endpoint, if there is another.
    pub avoid: Option<&'a Arc<EndpointLive>>,
    /// The clock, in microseconds.
    pub now_us: u64,
    /// How many requests were before it.
    pub turn: u64,
}

impl Balancer {
    /// For these endpoints; `old` is what was in force before.
    pub fn new(
        policy: &LoadBalancing,
        endpoints: Arc<[Arc<EndpointLive>]>,
        clock: Clock,
        old: Option<&Arc<Balancer>>,
    ) -> Arc<Balancer> {
        let name = |e: &Arc<EndpointLive>| (hash::of(e.address().as_bytes()), e.workers());
        let names: Vec<(u64, u32)> = endpoints.iter().map(name).collect();
        let same = |old: &&Arc<Balancer>| {
            let mut pairs = old.endpoints.iter().zip(endpoints.iter());
            let same_endpoints = pairs.all(|(a, b)| Arc::ptr_eq(a, b));
            same_endpoints && old.names == names && old.policy == *policy
        };
        if let Some(old) = old.filter(same) {
            return Arc::clone(old);
        }
        let how = match policy.algorithm {
            Balance::RoundRobin => How::RoundRobin,
            Balance::Random => How::Random,
            Balance::Weighted => How::Weighted,
            Balance::LeastRequest => How::LeastRequest,
            Balance::PeakEwma => How::PeakEwma,
            Balance::RingHash => How::Ring(Ring::new(&names)),
            Balance::Maglev => How::Maglev(Maglev::new(&names)),
        };
        Arc::new(Balancer {
            endpoints,
            clock,
            how,
            names,
            slow_start_us: policy.slow_start.as_micros(),
            key: policy
                .affinity
                .as_ref()
                .or(policy.key.as_ref())
                .map(Rule::new),
            keeps_node: policy.affinity.is_some(),
            policy: policy.clone(),
        })
    }

    /// The instances on this node.
    pub fn endpoints(&self) -> &[Arc<EndpointLive>] {
        &self.endpoints
    }

    /// What a request would like that waited until now.
    pub fn wish_of_now(&self) -> Wish<'static> {
        Wish {
            now_us: self.clock.now_us(),
            ..Wish::default()
        }
    }

    /// Takes a slot of an endpoint whose circuit lets a request through. A circuit that wants a probe gets it first.
    pub(crate) fn take(&self, wish: Wish<'_>, rng: &mut fastrand::Rng) -> Option<Taken<'_>> {
        let first = self.endpoints.first()?;
        if first.circuit.has_open_sibling()
            && let Some(taken) = self.probe(wish.now_us)
        {
            return Some(taken);
        }
        loop {
            let endpoint = &self.endpoints[self.choose(wish, rng)?];
            if endpoint.enter() {
                return Some(Taken {
                    endpoint,
                    is_probe: false,
                });
            }
        }
    }

    /// A slot of an endpoint whose circuit is not Closed and lets a request through now.
    fn probe(&self, now_us: u64) -> Option<Taken<'_>> {
        let open = |e: &&Arc<EndpointLive>| e.circuit.is_open() && e.active() < e.places();
        self.endpoints.iter().filter(open).find_map(|endpoint| {
            let is_probe = endpoint.probe(now_us)?;
            Some(Taken { endpoint, is_probe })
        })
    }

    fn choose(&self, wish: Wish<'_>, rng: &mut fastrand::Rng) -> Option<usize> {
        let (count, turn) = (self.endpoints.len(), wish.turn);
        let load = |at: usize| self.load(&self.endpoints[at], wish);
        let by_latency = matches!(self.how, How::PeakEwma);
        let key = wish.key.unwrap_or(turn);
        let chosen = match &self.how {
            _ if count == 1 => None,
            How::Ring(ring) => first_with_room(ring.order(key), load),
            How::Maglev(maglev) => first_with_room(maglev.order(key), load),
            // A session.
            _ if wish.key.is_some() => {
                let usable = |at: usize| load(at).has_room() && load(at).share > 0.0;
                let target = |(at, &(name, workers)): (usize, &(u64, u32))| {
                    (name, if usable(at) { workers } else { 0 })
                };
                rendezvous::choose(self.names.iter().enumerate().map(target), key)
            }
            How::LeastRequest | How::PeakEwma => balance::two(count, load, by_latency, rng),
            How::Random => balance::any(count, load, rng),
            How::RoundRobin => balance::turn(count, load, false, turn, rng),
            How::Weighted => balance::turn(count, load, true, turn, rng),
        };
        chosen.or_else(|| balance::best(count, load, by_latency))
    }

    fn load(&self, endpoint: &Arc<EndpointLive>, wish: Wish<'_>) -> Load {
        let avoided = wish.avoid.is_some_and(|avoid| Arc::ptr_eq(avoid, endpoint));
        let share = match avoided || endpoint.is_down() {
            true => 0.0,
            false if self.slow_start_us == 0 => 1.0,
            false => slow_start::share(endpoint.flows_since_us(), wish.now_us, self.slow_start_us),
        };
        Load {
            active: endpoint.active(),
            workers: match endpoint.circuit.is_open() {
                true => 0,
                false => endpoint.places(),
            },
            latency_us: endpoint.peak_us(wish.now_us),
            share,
        }
    }
}

fn first_with_room(
    mut order: impl Iterator<Item = usize>,
    load: impl Fn(usize) -> Load,
) -> Option<usize> {
    order.find(|&at| {
        let load = load(at);
        load.has_room() && load.share > 0.0
    })
}

#[cfg(test)]
mod tests;
