//! Whether an endpoint gets requests.
//!
//! ```text
//!            failures in a row, or their share         time is over
//!   Closed ───────────────────────────────────► Open ──────────────► HalfOpen
//!     ▲                                          ▲  a probe failed      │
//!     │                                          └──────────────────────┤
//!     └─────────────────────────────────────────────────────────────────┘
//!                     probes succeeded one after another
//! ```
//!
//! Closed = traffic flows, Open = none does, HalfOpen = one probe at a time.
//! Each opening lasts twice as long as the one before, until the circuit has
//! been Closed for as long as the longest one.
//!
//! Successes of a Closed circuit are counted outside, per worker, and handed
//! in as a [`Tally`] when they matter: the ordinary request takes no lock.
//!
//! Pure: takes the clock as an argument.

use isobar_mesh_api::resource::traffic_policy;

/// The window's tallies are kept at this many instants.
const MARKS: usize = 10;

/// When a circuit opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Failures in a row that open it; 0 = they do not.
    pub consecutive_failures: u32,
    /// Share of failures in the window that opens it; 0 = it does not.
    pub failure_ratio: f64,
    /// Length of the window, in microseconds.
    pub window_us: u64,
    /// With fewer requests in the window the share says nothing.
    pub window_requests_min: u64,
    /// First opening, in microseconds.
    pub open_base_us: u64,
    /// Longest opening, in microseconds.
    pub open_max_us: u64,
    /// Probes that must succeed one after another.
    pub probes: u32,
}

impl Rules {
    /// As a policy says.
    pub fn new(policy: &traffic_policy::Circuit) -> Rules {
        Rules {
            consecutive_failures: policy.consecutive_failures,
            failure_ratio: policy.failure_ratio,
            window_us: policy.window.as_micros(),
            window_requests_min: u64::from(policy.window_requests_min),
            open_base_us: policy.open_base.as_micros(),
            open_max_us: policy.open_max.as_micros(),
            probes: policy.half_open_probes,
        }
    }
}

/// Requests since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// That ended, one way or the other.
    pub ended: u64,
    /// Of these, that failed.
    pub failed: u64,
}

/// Whether traffic flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// It does.
    #[default]
    Closed,
    /// None does.
    Open,
    /// Probes only.
    HalfOpen,
}

impl State {
    /// The word of the admin page and the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half_open",
        }
    }
}

/// Why a circuit opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Failures in a row.
    Consecutive,
    /// Their share in the window.
    Ratio,
    /// A probe failed.
    Probe,
    /// It is much worse than its siblings.
    Outlier,
    /// It does not pass its health check.
    Health,
}

impl Cause {
    /// The word of the admin page and the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Consecutive => "consecutive_failures",
            Cause::Ratio => "failure_ratio",
            Cause::Probe => "probe",
            Cause::Outlier => "outlier",
            Cause::Health => "health_check",
        }
    }
}

/// What a Closed or HalfOpen circuit says to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admit {
    /// It may go.
    Flow,
    /// It may go, and what comes of it decides.
    Probe,
    /// It may not.
    No,
}

/// The circuit of one endpoint.
#[derive(Debug, Clone, Default)]
pub struct Circuit {
    state: State,
    since_us: u64,
    cause: Option<Cause>,
    failures_in_row: u32,
    /// Openings one after another.
    openings: u32,
    open_until_us: u64,
    probe_out_since_us: Option<u64>,
    probes_ok: u32,
    /// Held open by the health check.
    unhealthy: bool,
    marks: [Mark; MARKS],
    mark_next: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    at_us: u64,
    tally: Tally,
}

impl Circuit {
    /// Whether traffic flows.
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when, in microseconds.
    pub fn since_us(&self) -> u64 {
        self.since_us
    }

    /// Why it opened last.
    pub fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// Whether the health check says so, or there is none.
    pub fn is_healthy(&self) -> bool {
        !self.unhealthy
    }

    /// Failures in a row so far.
    pub fn failures_in_row(&self) -> u32 {
        self.failures_in_row
    }

    /// Whether a success is news: after a failure, or when the circuit is not Closed.
    pub fn is_marked(&self) -> bool {
        self.state != State::Closed || self.failures_in_row > 0
    }

    /// Time until it may be probed, in microseconds.
    pub fn wait_us(&self, now_us: u64) -> u64 {
        match self.state {
            State::Closed => 0,
            _ => self.open_until_us.saturating_sub(now_us),
        }
    }

    /// Whether it would let a probe through now.
    pub fn wants_probe(&self, now_us: u64) -> bool {
        match self.state {
            State::Closed => false,
            State::Open => now_us >= self.open_until_us && !self.unhealthy,
            State::HalfOpen => self.probe_out_since_us.is_none(),
        }
    }

    /// Asks for one request.
    pub fn admit(&mut self, now_us: u64, rules: &Rules) -> Admit {
        if self.state == State::Open && now_us >= self.open_until_us && !self.unhealthy {
            self.enter(State::HalfOpen, now_us);
        }
        match self.state {
            State::Closed => Admit::Flow,
            State::Open => Admit::No,
            State::HalfOpen => {
                // A probe whose end was never told must not hold the circuit for ever.
                let lost = |since_us| now_us.saturating_sub(since_us) > rules.open_max_us;
                match self.probe_out_since_us {
                    Some(since_us) if !lost(since_us) => Admit::No,
                    _ => {
                        self.probe_out_since_us = Some(now_us);
                        Admit::Probe
                    }
                }
            }
        }
    }

    /// A request succeeded.
    pub fn succeeded(&mut self, is_probe: bool, now_us: u64, rules: &Rules) {
        self.failures_in_row = 0;
        if self.state == State::HalfOpen && is_probe {
            self.probe_out_since_us = None;
            self.probes_ok += 1;
            if self.probes_ok >= rules.probes {
                self.enter(State::Closed, now_us);
            }
        }
    }

    /// A request failed; `tally` counts it already. Returns why the circuit opens, if it does.
    pub fn failed(
        &mut self,
        is_probe: bool,
        tally: Tally,
        now_us: u64,
        rules: &Rules,
    ) -> Option<Cause> {
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        let cause = match self.state {
            State::HalfOpen if is_probe => Cause::Probe,
            // What was sent before it opened says nothing new.
            State::HalfOpen | State::Open => return None,
            State::Closed if self.too_many_in_row(rules) => Cause::Consecutive,
            State::Closed if self.too_many_in_window(tally, now_us, rules) => Cause::Ratio,
            State::Closed => return None,
        };
        self.open(cause, now_us, rules.open_base_us, rules.open_max_us);
        Some(cause)
    }

    /// A request ended without saying anything about the endpoint.
    pub fn abandoned(&mut self, is_probe: bool) {
        if is_probe {
            self.probe_out_since_us = None;
        }
    }

    /// Opens it, for `base_us` the first time.
    pub fn open(&mut self, cause: Cause, now_us: u64, base_us: u64, max_us: u64) {
        let rested = now_us.saturating_sub(self.since_us) > max_us;
        if self.state == State::Closed && rested {
            self.openings = 0;
        }
        let for_us = base_us
            .saturating_mul(1 << self.openings.min(32))
            .min(max_us);
        self.openings = self.openings.saturating_add(1);
        self.cause = Some(cause);
        self.open_until_us = now_us.saturating_add(for_us);
        self.enter(State::Open, now_us);
    }

    /// What the health check says. An unhealthy endpoint stays Open until it is healthy; a healthy one
    /// that it opened needs no more probes.
    pub fn set_healthy(&mut self, healthy: bool, now_us: u64) {
        let unhealthy = !healthy;
        if unhealthy == self.unhealthy {
            return;
        }
        self.unhealthy = unhealthy;
        match healthy {
            false => {
                self.cause = Some(Cause::Health);
                self.open_until_us = now_us;
                self.enter(State::Open, now_us);
            }
            true if self.cause == Some(Cause::Health) => self.enter(State::Closed, now_us),
            true => {}
        }
    }

    /// Remembers the tally of now. Called about ten times a window.
    pub fn mark(&mut self, tally: Tally, now_us: u64) {
        self.marks[self.mark_next] = Mark {
            at_us: now_us,
            tally,
        };
        self.mark_next = (self.mark_next + 1) % MARKS;
    }

    fn enter(&mut self, state: State, now_us: u64) {
        self.state = state;
        self.since_us = now_us;
        self.probe_out_since_us = None;
        self.probes_ok = 0;
        if state == State::Closed {
            self.failures_in_row = 0;
            // What was before is no reason to open again.
            self.marks = [Mark::default(); MARKS];
        }
    }

    fn too_many_in_row(&self, rules: &Rules) -> bool {
        rules.consecutive_failures > 0 && self.failures_in_row >= rules.consecutive_failures
    }

    fn too_many_in_window(&self, tally: Tally, now_us: u64, rules: &Rules) -> bool {
        let begin_us = now_us.saturating_sub(rules.window_us);
        let inside = self.marks.iter().filter(|mark| mark.at_us > begin_us);
        // Of a window that has no mark yet nothing is known.
        let Some(base) = inside.min_by_key(|mark| mark.at_us) else {
            return false;
        };
        let ended = tally.ended.saturating_sub(base.tally.ended);
        let failed = tally.failed.saturating_sub(base.tally.failed);
        rules.failure_ratio > 0.0
            && ended >= rules.window_requests_min.max(1)
            && failed as f64 >= rules.failure_ratio * ended as f64
    }
}

#[cfg(test)]
mod tests;
