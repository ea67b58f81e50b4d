//! Whether this controller leads: moves time and answers between an [`Election`] and its [`Ballot`], and tells the others.
//!
//! ```text
//! stand ─▶ Role (watched): a new term begins, a term is over, another leads
//!       └▶ Lease (asked):  may this term act now?
//! ```
//!
//! **Invariant**: whoever is about to push or to write asks [`Lease::holds`] first. It looks at the clock, not at what a
//! task last heard: a controller that was stopped asks before that task has run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::election::{Ballot, Election, Leader, Standing, Step, Timing};
use crate::metrics::Metrics;

pub mod etcd;

/// What this controller is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It leads; the number tells one term of this program from another.
    Leading(u64),
    /// Another leads, or nobody that it knows of.
    Following(Option<Leader>),
}

/// Whether one term may act now. Cloning is a reference count.
#[derive(Debug, Clone)]
pub struct Lease {
    clock: Arc<Clock>,
    term: u64,
}

#[derive(Debug)]
struct Clock {
    began: Instant,
    /// The term that is, and until when it may act, microseconds since `began`.
    term: AtomicU64,
    until_us: AtomicU64,
}

impl Lease {
    /// Of a controller that is the only one.
    pub fn for_ever() -> Lease {
        Leadership::alone().lease(1)
    }

    /// Whether the term may act: push a plan, change something.
    pub fn holds(&self) -> bool {
        let until_us = self.clock.until_us.load(Ordering::Acquire);
        let is_current = self.clock.term.load(Ordering::Acquire) == self.term;
        is_current && (self.clock.began.elapsed().as_micros() as u64) < until_us
    }
}

/// This controller's leadership, as the rest of the program asks about it. Cloning is a reference count.
#[derive(Debug, Clone)]
pub struct Leadership {
    role: watch::Sender<Role>,
    clock: Arc<Clock>,
    /// Whether a term's tasks run here.
    acting: watch::Sender<bool>,
    stand_down: Arc<Notify>,
}

impl Leadership {
    /// Of a controller that shares its store with nobody: it leads.
    pub fn alone() -> Leadership {
        Leadership::new(Role::Leading(1), 1, u64::MAX)
    }

    /// Of one among several, which does not lead yet.
    pub fn among_others() -> Leadership {
        Leadership::new(Role::Following(None), 0, 0)
    }

    fn new(role: Role, term: u64, until_us: u64) -> Leadership {
        Leadership {
            role: watch::Sender::new(role),
            clock: Arc::new(Clock {
                began: Instant::now(),
                term: AtomicU64::new(term),
                until_us: AtomicU64::new(until_us),
            }),
            acting: watch::Sender::new(false),
            stand_down: Arc::default(),
        }
    }

    /// What this controller is to do, now and whenever it changes.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.role.subscribe()
    }

    /// Whether a term may act.
    pub fn lease(&self, term: u64) -> Lease {
        let clock = self.clock.clone();
        Lease { clock, term }
    }

    /// Whether this controller leads and may act now.
    pub fn leads(&self) -> bool {
        match *self.role.borrow() {
            Role::Leading(term) => self.lease(term).holds(),
            Role::Following(_) => false,
        }
    }

    /// Says whether a term's tasks run here: the lease is not given back before they have ended.
    pub fn set_acting(&self, acting: bool) {
        self.acting.send_replace(acting);
    }

    /// Gives up leading: a term could not begin.
    pub fn stand_down(&self) {
        self.stand_down.notify_one();
    }

    /// Stands for election until the signal and until the term that runs then has ended; gives the lease back.
    pub async fn stand(
        self,
        mut ballot: impl Ballot,
        timing: Timing,
        metrics: Arc<Metrics>,
        signal: CancellationToken,
    ) {
        let began = self.clock.began;
        let mut election = Election::new(timing, began.elapsed());
        let mut acting = self.acting.subscribe();
        let over = async move {
            signal.cancelled().await;
            // The sender lives as long as this task.
            let _ = acting.wait_for(|acting| !acting).await;
        };
        tokio::pin!(over);
        let mut before = Standing::Following(None);
        loop {
            let (due, step) = election.next();
            tokio::select! {
                () = &mut over => break,
                () = self.stand_down.notified() => {
                    election.stand_down(began.elapsed());
                    self.tell(&election, &metrics);
                    ballot.resign().await;
                    continue;
                }
                () = tokio::time::sleep_until(began + due) => {}
            }
            let asked = began.elapsed();
            match step {
                Step::Lead => {
                    let answer = heard(ballot.lead().await);
                    election.on_tried(asked, began.elapsed(), answer);
                }
                Step::Keep => {
                    let answer = heard(ballot.keep().await);
                    election.on_kept(asked, began.elapsed(), answer);
                }
            }
            let standing = self.tell(&election, &metrics);
            if standing == Standing::Suspended && before != standing {
                tracing::warn!(
                    "no answer until the lease's end: this controller does nothing until there is one"
                );
            }
            before = standing;
        }
        election.stand_down(began.elapsed());
        self.tell(&election, &metrics);
        ballot.resign().await;
    }

    /// Tells the rest of the program where the election stands.
    fn tell(&self, election: &Election, metrics: &Metrics) -> Standing {
        let until = election.until().unwrap_or(Duration::ZERO);
        let standing = election.standing(self.clock.began.elapsed());
        let before = self.role.borrow().clone();
        let role = match (&standing, &before) {
            (Standing::Leading | Standing::Suspended, Role::Leading(_)) => before.clone(),
            (Standing::Leading | Standing::Suspended, Role::Following(_)) => {
                let term = self.clock.term.fetch_add(1, Ordering::AcqRel) + 1;
                tracing::info!(term, "this controller leads");
                metrics.takeovers.increment(1);
                Role::Leading(term)
            }
            (Standing::Following(leader), _) => Role::Following(leader.clone()),
        };
        let until_us = until.as_micros() as u64;
        self.clock.until_us.store(until_us, Ordering::Release);
        metrics
            .leads
            .set(f64::from(u8::from(standing == Standing::Leading)));
        if role != before {
            match (&role, &before) {
                (Role::Following(leader), Role::Leading(_)) => {
                    tracing::warn!(?leader, "this controller leads no more");
                }
                (Role::Following(Some(leader)), _) => {
                    tracing::info!(
                        name = leader.name,
                        address = leader.address,
                        "another controller leads"
                    );
                }
                (Role::Following(None), _) => tracing::warn!("no controller is known to lead"),
                (Role::Leading(_), _) => {}
            }
            self.role.send_replace(role);
        }
        standing
    }
}

fn heard<T>(answer: Result<T, impl std::error::Error + Send + Sync + 'static>) -> Option<T> {
    let said = |error| {
        let error: &(dyn std::error::Error + 'static) = &error;
        tracing::warn!(error, "the election gives no answer");
    };
    answer.map_err(said).ok()
}
