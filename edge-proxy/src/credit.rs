//! What this node takes for others.
//!
//! The controller agrees a credit per home: the plan's flow plus a share of
//! this node's headroom. A moved-in request is taken
//!
//! - always, while fewer than [`OPEN_FACTOR`] × workers are in flight: nobody waits long for it;
//! - within credit, while fewer than [`RECEIVE_FACTOR`] × workers are in flight;
//! - else it is refused at once, so that its home can serve it or try one other.
//!
//! Homes without an entry are refused: policy does not let them in. Own
//! traffic is never asked.
//!
//! Credits are overcommitted on purpose (one home must be able to use most of
//! the headroom in a spike's first second); the limit on what is in flight is
//! what protects this node.
//!
//! The bucket is the generic cell rate algorithm (ITU-T I.371, virtual
//! scheduling): one word per home, the theoretical arrival time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use isobar_mesh_api::hop::LoadHint;
use isobar_mesh_api::names::NodeId;
use isobar_mesh_api::snapshot::Credit;

/// Moved-in requests wait behind at most this many in flight per worker. High enough that a home with a long queue
/// finds its neighbours' shorter ones open in a spike's first second, before any plan; own requests go first in any
/// case (see [`crate::turns`]), and homes move only to who is clearly better.
pub const RECEIVE_FACTOR: u32 = 6;

/// Up to so many in flight per worker, moved-in requests are taken whatever the credit: in a spike's first second, before
/// any plan, credits are guesses, and a home with a long queue must not be refused by one with next to none.
pub const OPEN_FACTOR: u32 = 2;

/// A home may use this much of its credit at once.
pub const CREDIT_BURST_US: u64 = 250_000;

/// What becomes of a moved-in request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It goes to an endpoint.
    Take,
    /// Its home has no credit left; the home may try another.
    BeyondCredit,
    /// This node is full.
    Full,
}

/// Credits by home, for one service at one node.
#[derive(Debug, Default)]
pub struct CreditBook {
    homes: BTreeMap<NodeId, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// Time between two requests at the agreed rate, in nanoseconds; `u64::MAX` = no credit.
    interval_ns: u64,
    /// When the next request would be due if all came evenly, in nanoseconds.
    due_ns: AtomicU64,
}

impl CreditBook {
    /// The book of a new plan. Homes that were in the book before keep what they have used.
    pub fn new(credits: &[Credit], before: Option<&CreditBook>) -> CreditBook {
        let bucket = |credit: &Credit| {
            let used = before.and_then(|book| book.homes.get(&credit.home));
            Bucket {
                interval_ns: interval_ns(credit.credit_rps),
                due_ns: AtomicU64::new(used.map_or(0, |b| b.due_ns.load(Relaxed))),
            }
        };
        CreditBook {
            homes: credits
                .iter()
                .map(|credit| (credit.home.clone(), bucket(credit)))
                .collect(),
        }
    }

    /// Decides about one request from `home`, given this node's own load at `now_us`.
    pub fn admit(&self, home: &NodeId, own: LoadHint, now_us: u64) -> Admission {
        let Some(bucket) = self.homes.get(home) else {
            return Admission::BeyondCredit;
        };
        let within = bucket.draw(now_us * 1000);
        if own.in_flight < own.workers.saturating_mul(OPEN_FACTOR) {
            return Admission::Take;
        }
        if own.in_flight >= own.workers.saturating_mul(RECEIVE_FACTOR) {
            return Admission::Full;
        }
        match within {
            true => Admission::Take,
            false => Admission::BeyondCredit,
        }
    }
}

impl Bucket {
    /// Draws one request; whether it was within credit.
    fn draw(&self, now_ns: u64) -> bool {
        if self.interval_ns == u64::MAX {
            return false;
        }
        // Even the smallest credit lets a few requests come together.
        let burst_ns = (CREDIT_BURST_US * 1000).max(self.interval_ns.saturating_mul(4));
        let mut due_ns = self.due_ns.load(Relaxed);
        loop {
            let from_ns = due_ns.max(now_ns);
            if from_ns - now_ns > burst_ns {
                return false;
            }
            let next_ns = from_ns.saturating_add(self.interval_ns);
            match self
                .due_ns
                .compare_exchange_weak(due_ns, next_ns, Relaxed, Relaxed)
            {
                Ok(_) => return true,
                Err(seen) => due_ns = seen,
            }
        }
    }
}

fn interval_ns(credit_rps: f64) -> u64 {
    if credit_rps.is_finite() && credit_rps > 1e-3 {
        (1e9 / credit_rps) as u64
    } else {
        u64::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn book(credit_rps: f64) -> CreditBook {
        let credit = Credit {
            home: home("a"),
            credit_rps,
        };
        CreditBook::new(&[credit], None)
    }

    fn load(in_flight: u32) -> LoadHint {
        LoadHint {
            in_flight,
            workers: 4,
            latency_us: 20_000,
        }
    }

    #[test]
    fn who_is_taken() {
        let cases = [
            (100.0, "a", 0, Admission::Take),
            (0.0, "a", 3, Admission::Take),
            (0.0, "a", 7, Admission::Take),
            (0.0, "a", 8, Admission::BeyondCredit),
            (100.0, "a", 8, Admission::Take),
            (100.0, "a", 24, Admission::Full),
            (100.0, "stranger", 0, Admission::BeyondCredit),
        ];
        for (rps, from, in_flight, expected) in cases {
            let got = book(rps).admit(&home(from), load(in_flight), 1_000_000);
            assert_eq!(got, expected, "{rps} rps, {from}, {in_flight} in flight");
        }
    }

    #[test]
    fn beyond_the_burst_the_rate_holds() {
        let book = book(100.0);
        let second = |s: u64| {
            let tries = (0..1000_u64).map(|i| s * 1_000_000 + i * 1000);
            tries
                .filter(|&now_us| book.admit(&home("a"), load(9), now_us) == Admission::Take)
                .count()
        };
        let first = second(1);
        assert!((120..=130).contains(&first), "{first}");
        let steady = second(2);
        assert!((99..=101).contains(&steady), "{steady}");
    }

    #[test]
    fn a_new_plan_does_not_refill_the_bucket() {
        let credit = Credit {
            home: home("a"),
            credit_rps: 10.0,
        };
        let first = CreditBook::new(std::slice::from_ref(&credit), None);
        while first.admit(&home("a"), load(9), 5) == Admission::Take {}
        let second = CreditBook::new(&[credit], Some(&first));
        assert_eq!(
            second.admit(&home("a"), load(9), 5),
            Admission::BeyondCredit
        );
    }
}
