//! Who of several controllers leads: one of them holds a lease that it keeps; the others look whether it is free.
//!
//! ```text
//!              ┌── look, every quarter of a period ──┐
//!   Following ─┴─ free: won ──▶ Leading ── keep, four times in a lease ──┐
//!       ▲                          │  └──────────────────────────────────┘
//!       └── the lease is gone ◀────┴── no answer until its end: Suspended (leads on, does nothing), until it is
//!                                      kept after all, or known to be gone
//! ```
//!
//! A plain value: time comes as an argument. What is asked, of which service, is a [`Ballot`]'s part;
//! [`crate::leadership`] moves time and answers between the two.
//!
//! **Invariant**: a lease counts from before it was asked for, by this machine's own monotonic clock, and less than the
//! service counts it: a controller that was stopped for longer knows that its lease has ended before it does anything.

use std::future::Future;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Who leads, as it tells the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Its name.
    pub name: String,
    /// Where the others reach its stream port, `host:port`.
    pub address: String,
}

/// What came of trying to lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// This controller leads.
    Won,
    /// Another one does.
    Lost(Leader),
}

/// A service that lets one of several lead.
pub trait Ballot: Send {
    /// Why it gave no answer.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Takes the lease when nobody has it, else says who does.
    fn lead(&mut self) -> impl Future<Output = Result<Tried, Self::Error>> + Send;

    /// Keeps the lease; `false` when it is gone.
    fn keep(&mut self) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Gives the lease back, so that nobody waits for its end.
    fn resign(&mut self) -> impl Future<Output = ()> + Send;
}

/// How long and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// After so long without being kept the lease is free.
    pub lease: Duration,
    /// Time between two looks of who follows.
    pub look: Duration,
}

impl Timing {
    /// For a control period: a lease of two periods, within what the service can count, which is `lease_min`.
    pub fn new(period: Duration, lease_min: Duration) -> Timing {
        let lease = (period * 2).max(lease_min);
        Timing {
            // Services count whole seconds.
            lease: Duration::from_secs(lease.as_millis().div_ceil(1000) as u64),
            look: (period / 4).clamp(Duration::from_millis(50), Duration::from_secs(1)),
        }
    }

    /// For how long the holder itself believes in it.
    pub fn believed(&self) -> Duration {
        self.lease.mul_f64(0.9)
    }
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Ask who leads, and lead if nobody does.
    Lead,
    /// Keep the lease.
    Keep,
}

/// Where this controller stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It leads.
    Leading,
    /// It led when it last heard; until it hears again it does nothing.
    Suspended,
    /// Another leads, or nobody that it knows of.
    Following(Option<Leader>),
}

/// One controller's part in the election.
#[derive(Debug)]
pub struct Election {
    timing: Timing,
    state: State,
    due: Duration,
}

#[derive(Debug)]
enum State {
    Following {
        leader: Option<Leader>,
        /// When it was last said that this one leads.
        heard: Duration,
    },
    Leading {
        until: Duration,
    },
}

impl Election {
    /// Begins as one that follows nobody and looks at once.
    pub fn new(timing: Timing, now: Duration) -> Election {
        Election {
            timing,
            state: State::Following {
                leader: None,
                heard: now,
            },
            due: now,
        }
    }

    /// What to do next, and when; the answer goes to [`Election::on_tried`] or [`Election::on_kept`].
    pub fn next(&self) -> (Duration, Step) {
        let step = match self.state {
            State::Following { .. } => Step::Lead,
            State::Leading { .. } => Step::Keep,
        };
        (self.due, step)
    }

    /// The answer to [`Step::Lead`], asked for at `asked`; `None` when there was none.
    pub fn on_tried(&mut self, asked: Duration, now: Duration, answer: Option<Tried>) {
        let State::Following { leader, heard } = &mut self.state else {
            return;
        };
        self.due = now + self.timing.look;
        match answer {
            Some(Tried::Won) => {
                self.state = State::Leading {
                    until: asked + self.timing.believed(),
                };
                self.due = asked + self.timing.lease / 4;
            }
            Some(Tried::Lost(other)) => (*leader, *heard) = (Some(other), now),
            // Whoever led may lead on; for longer than a lease nobody can know.
            None if now > *heard + self.timing.lease => *leader = None,
            None => {}
        }
    }

    /// The answer to [`Step::Keep`], asked for at `asked`: whether the lease was there; `None` when there was none.
    pub fn on_kept(&mut self, asked: Duration, now: Duration, answer: Option<bool>) {
        let State::Leading { until } = &mut self.state else {
            return;
        };
        match answer {
            Some(true) => {
                *until = asked + self.timing.believed();
                self.due = (asked + self.timing.lease / 4).max(now);
            }
            Some(false) => {
                self.state = State::Following {
                    leader: None,
                    heard: now,
                };
                self.due = now;
            }
            None => self.due = now + self.timing.look,
        }
    }

    /// Gives up leading: what was begun cannot be gone on with here. Others have the first turn.
    pub fn stand_down(&mut self, now: Duration) {
        if let State::Leading { .. } = self.state {
            self.state = State::Following {
                leader: None,
                heard: now,
            };
            self.due = now + self.timing.look * 4;
        }
    }

    /// Until when this controller may act as the leader; `None` when it does not lead.
    pub fn until(&self) -> Option<Duration> {
        match self.state {
            State::Leading { until } => Some(until),
            State::Following { .. } => None,
        }
    }

    /// Where it stands.
    pub fn standing(&self, now: Duration) -> Standing {
        match &self.state {
            State::Leading { until } if now < *until => Standing::Leading,
            State::Leading { .. } => Standing::Suspended,
            State::Following { leader, .. } => Standing::Following(leader.clone()),
        }
    }
}

#[cfg(test)]
mod tests;
