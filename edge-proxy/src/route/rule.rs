//! One compiled rule: what is done to a request, and where it goes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use isobar_mesh_api::route::RouteKey;

use super::fault::{Failure, Fault};
use super::head::{HeadChange, Redirect};
use crate::balance::rendezvous;
use crate::session;
use crate::spread::Spread;

/// A rule of a route.
#[derive(Debug)]
pub struct Rule {
    /// Whose.
    pub route: RouteKey,
    /// Its place there, from 0.
    pub place: usize,
    /// What is changed for all backends.
    pub change: HeadChange,
    /// An answer instead of a backend.
    pub redirect: Option<Redirect>,
    /// Delays and failures on purpose.
    pub fault: Option<Fault>,
    /// Who gets copies of requests, and of how many, in parts per million.
    pub mirrors: Vec<(usize, u32)>,
    /// Where requests go.
    pub backends: Vec<Backend>,
    /// What keeps requests together, and on one backend.
    pub session: Option<session::Rule>,
    /// How long they may take.
    pub timeouts: Timeouts,
    /// The backends' weights; empty when all are 0.
    pub(super) weights_ppm: Vec<u32>,
    pub(crate) turns: Arc<Turns>,
}

/// Where a part of a rule's requests goes.
#[derive(Debug)]
pub struct Backend {
    /// The service's place among all; `None` = there is no such service, and its share is answered with 500.
    pub service: Option<usize>,
    /// Hash of its name.
    pub name: u64,
    /// What is changed besides.
    pub change: HeadChange,
}

/// How long a request may take, in microseconds; `u64::MAX` = as long as it likes, `None` = as its service's policy says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From its arrival to the answer's head.
    pub request_us: Option<u64>,
    /// One try.
    pub backend_request_us: Option<u64>,
}

/// Whose turn it is under a rule, and what was answered: one state per worker, which outlives snapshots.
#[derive(Debug)]
pub struct Turns(Box<[OfWorker]>);

#[derive(Debug)]
#[repr(align(128))]
struct OfWorker {
    turn: Mutex<Turn>,
    /// Answers by the first digit of their status, from 1xx.
    answers: [AtomicU64; 5],
}

#[derive(Debug)]
struct Turn {
    spread: Spread,
    rng: fastrand::Rng,
}

/// What is done with one request.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// It waits so long first.
    pub delay: Option<Duration>,
    /// Then it fails.
    pub failure: Option<Failure>,
    /// Else it goes to this backend, if there is one.
    pub backend: Option<usize>,
}

impl Turns {
    /// Turns for that many worker threads; the same seed gives the same random choices.
    pub fn new(threads: usize, seed: u64) -> Turns {
        let turn = |worker: usize| OfWorker {
            turn: Mutex::new(Turn {
                spread: Spread::default(),
                rng: fastrand::Rng::with_seed(seed ^ (worker as u64) << 32),
            }),
            answers: Default::default(),
        };
        Turns((0..threads.max(1)).map(turn).collect())
    }

    /// One more answer.
    pub fn count(&self, worker: usize, status: http::StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.0[worker % self.0.len()].answers[class].fetch_add(1, Relaxed);
    }

    /// Answers so far by the first digit of their status, from 1xx.
    pub fn answers(&self) -> [u64; 5] {
        let mut sums = [0; 5];
        for worker in &self.0 {
            for (sum, count) in sums.iter_mut().zip(&worker.answers) {
                *sum += count.load(Relaxed);
            }
        }
        sums
    }
}

impl Rule {
    /// The backend of a session, by its key.
    pub fn backend_of(&self, key: u64) -> Option<usize> {
        let names = self.backends.iter().map(|backend| backend.name);
        rendezvous::choose(names.zip(self.weights_ppm.iter().copied()), key)
    }

    /// Decides for the next request of a worker.
    pub fn next(&self, worker: usize) -> Verdict {
        let only = (self.weights_ppm.len() == 1).then_some(0);
        if self.fault.is_none() && self.weights_ppm.len() <= 1 {
            return Verdict {
                backend: only,
                ..Verdict::default()
            };
        }
        let turns = &self.turns.0;
        let mut turn = turns[worker % turns.len()]
            .turn
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut verdict = Verdict::default();
        if let Some(fault) = &self.fault {
            verdict.delay = fault.delay(&mut turn.rng);
            verdict.failure = fault.failure(&mut turn.rng);
            if verdict.failure.is_some() {
                return verdict;
            }
        }
        verdict.backend = match self.weights_ppm.is_empty() {
            true => None,
            false => only.or_else(|| Some(turn.spread.next(&self.weights_ppm))),
        };
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isobar_mesh_api::names::ServiceName;
    use isobar_mesh_api::route::RouteKind;

    fn rule(weights_ppm: &[u32], turns: &Arc<Turns>) -> Rule {
        Rule {
            route: RouteKey {
                kind: RouteKind::Http,
                name: ServiceName::new("a/b").unwrap(),
            },
            place: 0,
            change: HeadChange::default(),
            redirect: None,
            fault: None,
            mirrors: Vec::new(),
            backends: Vec::new(),
            session: None,
            timeouts: Timeouts::default(),
            weights_ppm: weights_ppm.to_vec(),
            turns: Arc::clone(turns),
        }
    }

    #[test]
    fn shares_are_exact_and_outlive_a_rule() {
        let turns = Arc::new(Turns::new(2, 1));
        let mut got = [0; 3];
        for _ in 0..100 {
            // A new snapshot with every request.
            let rule = rule(&[700_000, 200_000, 100_000], &turns);
            let verdict = rule.next(1);
            got[verdict.backend.unwrap()] += 1;
        }
        assert_eq!(got, [70, 20, 10]);
        assert_eq!(rule(&[], &turns).next(0), Verdict::default());
    }
}
