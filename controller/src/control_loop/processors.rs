//! Whose of a node's processors are, when they are scarce: its services' claims, by the priorities of their policies.
//!
//! **Invariant**: where all services of a mesh are of one priority, nobody's claims are looked at.

use super::ControlLoop;
use super::service::{Seat, Service};
use crate::capacity::cpu::{CPU_CEILING, Claim, Used};

/// Most services that an explanation names as more, or less, important.
const NAMED_MAX: usize = 3;

/// What the priorities at a node mean for one of its services.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Rank {
    /// The processors suffice, or all are of one priority.
    Alike,
    /// Others come first, or others are to make room first; what follows names them.
    Among {
        /// More important ones, if it is they that it is short for.
        above: Option<String>,
        /// Less important ones.
        below: Option<String>,
    },
}

impl Service {
    /// Its priority at every node. What only observes takes nothing from anybody.
    pub fn priority(&self) -> i32 {
        match self.policy.observe_only {
            true => 0,
            false => self.policy.priority,
        }
    }

    fn claim(&self, number: u32, need: impl Fn(&Service, usize) -> f64) -> Option<Claim> {
        let at = self.seat_at(number)?;
        let seat = &self.seats[at];
        if seat.endpoints.is_empty() {
            return None;
        }
        let capacity_rps = seat.capacity.figure(seat.configured()).0;
        Some(Claim {
            priority: self.priority(),
            workers: workers(seat),
            need: match capacity_rps > 0.0 {
                true => (need(self, at) / capacity_rps).min(1.0),
                false => 0.0,
            },
        })
    }

    /// What it would serve there: all that enters, or what rows bring if that is more.
    fn asked_rps(&self, at: usize) -> f64 {
        let load_mrps = self.planning.load_mrps.get(at).copied().unwrap_or(0);
        self.seats[at].demand.held_rps().max(load_mrps as f64 / 1e3)
    }
}

fn workers(seat: &Seat) -> f64 {
    let configured = seat.configured();
    f64::from(configured.workers) * configured.up_share
}

/// How busy a node's services were in the window just reported, the busiest of them `busiest`.
pub(super) fn used(
    services: &[Service],
    number: u32,
    ranked: bool,
    cpu: Option<f64>,
    busiest: f64,
) -> Used {
    let mut used = Used {
        busiest,
        mean: None,
    };
    if !ranked || cpu.is_none_or(|ratio| ratio <= CPU_CEILING) {
        return used;
    }
    let completed_rps = |service: &Service, at: usize| service.seats[at].seen.completed_rps;
    let claims = services
        .iter()
        .filter_map(|s| s.claim(number, completed_rps));
    let (mut workers, mut busy, mut first, mut differ) = (0.0, 0.0, None, false);
    for claim in claims.filter(|claim| claim.workers > 0.0) {
        workers += claim.workers;
        busy += claim.workers * claim.need;
        differ |= *first.get_or_insert(claim.priority) != claim.priority;
    }
    used.mean = differ.then(|| busy / workers);
    used
}

impl ControlLoop {
    /// Divides the processors of every node where they are scarce among its services.
    pub(super) fn divide_processors(&mut self) {
        let mut priorities = self.services.iter().map(Service::priority);
        let first = priorities.next();
        self.ranked = priorities.any(|priority| Some(priority) != first);
        let (services, ranked) = (&self.services, self.ranked);
        for (number, node) in self.nodes.iter_mut() {
            if !(ranked && node.page.cpu.factor() < 1.0) {
                node.page.cpu.divide(&[]);
                continue;
            }
            let claims = services.iter();
            let claims = claims.filter_map(|s| s.claim(number, Service::asked_rps));
            node.page.cpu.divide(&claims.collect::<Vec<Claim>>());
        }
    }

    /// What the priorities at a node mean for a service there.
    pub(super) fn rank(&self, service: &Service, number: u32) -> Rank {
        let Some(cpu) = self.nodes.get(number).map(|node| &node.page.cpu) else {
            return Rank::Alike;
        };
        if cpu.factor() >= 1.0 {
            return Rank::Alike;
        }
        let own = service.priority();
        let is_short = cpu.factor_of(own) < 1.0;
        let above = self.named(number, |priority| priority > own && is_short);
        let below = self.named(number, |priority| priority < own);
        match above.is_none() && below.is_none() {
            true => Rank::Alike,
            false => Rank::Among { above, below },
        }
    }

    /// Names of services at a node by priority, the highest first.
    fn named(&self, number: u32, is_meant: impl Fn(i32) -> bool) -> Option<String> {
        let there = self.services.iter().filter(|service| {
            let seat = service.seat(number);
            seat.is_some_and(|s| !s.endpoints.is_empty()) && is_meant(service.priority())
        });
        let mut there: Vec<&Service> = there.collect();
        there.sort_by(|a, b| {
            let by_priority = b.priority().cmp(&a.priority());
            by_priority.then_with(|| a.name.cmp(&b.name))
        });
        let more = there.len().saturating_sub(NAMED_MAX);
        let named = there.iter().take(NAMED_MAX);
        let named: Vec<String> = named
            .map(|service| format!("{} ({})", service.name, service.priority()))
            .collect();
        match more {
            0 => (!named.is_empty()).then(|| named.join(", ")),
            more => Some(format!("{} and {more} more", named.join(", "))),
        }
    }
}
