//! What is tried again, how often, after what pause.
//!
//! A request that was never sent may be sent with any method. One that was
//! sent may have been done: it is repeated only when its method allows that,
//! and only while nothing of an answer has gone to the client. And all retries
//! together stay within a budget: when everything fails, they must not double
//! the load.
//!
//! Pure: takes the clock and the random numbers as arguments.

use isobar_mesh_api::resource::traffic_policy::{self, RetryOn};

/// The budget looks back this long, in microseconds.
pub const BUDGET_WINDOW_US: u64 = 10_000_000;
const MARKS: usize = 10;

/// What came of one try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It was not sent.
    Unsent,
    /// It was sent and the connection broke before anything of the answer came.
    Broken,
    /// It was sent and no answer came in time.
    TimedOut,
    /// The endpoint answered with this status.
    Status {
        /// The status code.
        status: u16,
        /// `grpc-status` of the head, if there is one.
        grpc: Option<u16>,
        /// Whether `Retry-After` says when to return.
        says_when: bool,
    },
}

/// What is tried again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Tries in all.
    pub attempts: u32,
    on: u16,
    /// Whether methods that may not be repeated are.
    pub unsafe_methods: bool,
    budget_ratio: f64,
    budget_min_rps: u32,
    /// Retries under way at once; 0 = no limit.
    pub concurrent_max: u32,
    backoff_base_us: u64,
    backoff_max_us: u64,
    retry_after_max_us: u64,
}

impl Rules {
    /// As a policy says.
    pub fn new(policy: &traffic_policy::Retries) -> Rules {
        Rules {
            attempts: policy.attempts,
            on: policy.on.iter().fold(0, |set, on| set | bit(*on)),
            unsafe_methods: policy.unsafe_methods,
            budget_ratio: policy.budget_ratio,
            budget_min_rps: policy.budget_min_rps,
            concurrent_max: policy.concurrent_max,
            backoff_base_us: policy.backoff_base.as_micros(),
            backoff_max_us: policy.backoff_max.as_micros(),
            retry_after_max_us: policy.retry_after_max.as_micros(),
        }
    }

    /// Whether a failure of this kind calls for another try, with a method that `may_repeat` or not.
    pub fn again(&self, failure: Failure, may_repeat: bool) -> bool {
        let on = |what| self.on & bit(what) != 0;
        if failure == Failure::Unsent {
            return on(RetryOn::ConnectFailure);
        }
        let wanted = match failure {
            Failure::Unsent => true,
            Failure::Broken => on(RetryOn::Reset),
            Failure::TimedOut => on(RetryOn::Timeout),
            Failure::Status {
                status,
                grpc,
                says_when,
            } => {
                (on(RetryOn::GatewayError) && matches!(status, 502..=504))
                    || (on(RetryOn::RetryAfter) && matches!(status, 429 | 503) && says_when)
                    || (on(RetryOn::ServerError) && (500..600).contains(&status))
                    || (on(RetryOn::GrpcUnavailable) && grpc == Some(14))
                    || (on(RetryOn::GrpcResourceExhausted) && grpc == Some(8))
            }
        };
        wanted && (may_repeat || self.unsafe_methods)
    }

    /// Whether any answer at all could call for another try; if not, heads need no look.
    pub fn looks_at_answers(&self) -> bool {
        self.attempts > 1 && self.on & !TRANSPORT != 0
    }

    /// The pause before the `n`th retry, from 1, in microseconds: a random part of a limit that doubles
    /// (full jitter: Brooker 2015, "Exponential Backoff and Jitter").
    pub fn backoff_us(&self, n: u32, rng: &mut fastrand::Rng) -> u64 {
        let doubled = self
            .backoff_base_us
            .saturating_mul(1 << n.saturating_sub(1).min(32));
        rng.u64(0..=doubled.min(self.backoff_max_us))
    }

    /// The pause that an endpoint asked for, in microseconds; `None` when that is too long to wait.
    pub fn asked_pause_us(&self, retry_after_s: u64) -> Option<u64> {
        let asked_us = retry_after_s.saturating_mul(1_000_000);
        (asked_us <= self.retry_after_max_us).then_some(asked_us)
    }
}

/// The conditions that no answer's head decides.
const TRANSPORT: u16 = bit(RetryOn::ConnectFailure) | bit(RetryOn::Reset) | bit(RetryOn::Timeout);

const fn bit(on: RetryOn) -> u16 {
    1 << on as u16
}

/// Whether a method may be repeated (RFC 9110, section 9.2.2).
pub fn may_repeat(method: &http::Method) -> bool {
    method.is_idempotent()
}

/// How many retries a service may make.
#[derive(Debug, Clone, Default)]
pub struct Budget {
    marks: [Mark; MARKS],
    mark_next: usize,
    retries: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    at_us: u64,
    firsts: u64,
    retries: u64,
}

impl Budget {
    /// Takes one retry, if there is one; `firsts` counts first attempts since the start.
    pub fn take(&mut self, firsts: u64, now_us: u64, rules: &Rules) -> bool {
        if self.base(now_us).is_none() {
            // Without a mark in the window nobody asked lately.
            self.mark(firsts, now_us);
        }
        if self.left(firsts, now_us, rules) < 1.0 {
            return false;
        }
        self.retries += 1;
        true
    }

    /// Retries that there are; `firsts` as in [`Budget::take`].
    pub fn left(&self, firsts: u64, now_us: u64, rules: &Rules) -> f64 {
        let base = self.base(now_us).unwrap_or(Mark {
            at_us: now_us,
            firsts,
            retries: self.retries,
        });
        let window_s = BUDGET_WINDOW_US as f64 / 1e6;
        let firsts = firsts.saturating_sub(base.firsts) as f64;
        let allowed = firsts * rules.budget_ratio + f64::from(rules.budget_min_rps) * window_s;
        allowed - (self.retries - base.retries) as f64
    }

    /// The oldest mark in the window.
    fn base(&self, now_us: u64) -> Option<Mark> {
        let begin_us = now_us.saturating_sub(BUDGET_WINDOW_US);
        let inside = self.marks.iter().filter(|mark| mark.at_us > begin_us);
        inside.min_by_key(|mark| mark.at_us).copied()
    }

    /// Remembers the counts of now. Called at least once a second.
    pub fn mark(&mut self, firsts: u64, now_us: u64) {
        self.marks[self.mark_next] = Mark {
            at_us: now_us.max(1),
            firsts,
            retries: self.retries,
        };
        self.mark_next = (self.mark_next + 1) % MARKS;
    }
}

#[cfg(test)]
mod tests;
