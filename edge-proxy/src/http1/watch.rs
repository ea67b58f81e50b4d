//! What ends a client's connection from outside: a deadline, or the drain.
//!
//! A timer is set once and left alone while deadlines only move on: when it
//! goes off, it is set to the deadline of then. So a request sets no timer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::clock::Clock;
use crate::drain::Drain;

/// One connection's timer and its ear for the drain.
pub struct Watch<'a> {
    sleep: Pin<Box<Sleep>>,
    armed_us: u64,
    clock: Clock,
    drain: &'a Drain,
    idle_over: Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
    listening: bool,
}

impl<'a> Watch<'a> {
    /// Armed for `deadline_us`.
    pub fn new(clock: Clock, drain: &'a Drain, deadline_us: u64) -> Watch<'a> {
        Watch {
            sleep: Box::pin(tokio::time::sleep_until(instant(clock, deadline_us))),
            armed_us: deadline_us,
            clock,
            drain,
            idle_over: Box::pin(drain.idle_over()),
            listening: false,
        }
    }

    /// Ready when the deadline, in microseconds of the clock, has passed; it is that of this moment.
    pub fn poll_deadline(&mut self, deadline_us: u64, cx: &mut Context<'_>) -> Poll<()> {
        if deadline_us < self.armed_us {
            self.arm(deadline_us);
        }
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if self.clock.now_us() >= deadline_us {
                return Poll::Ready(());
            }
            self.arm(deadline_us);
        }
    }

    /// Ready when the drain closes idle connections.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The token takes a lock each time it is asked. It remembers this task's waker from the
        // first time, so later a look at the drain's flag is enough.
        if self.listening && !self.drain.is_begun() {
            return Poll::Pending;
        }
        self.listening = true;
        self.idle_over.as_mut().poll(cx)
    }

    fn arm(&mut self, deadline_us: u64) {
        self.armed_us = deadline_us;
        let at = instant(self.clock, deadline_us);
        self.sleep.as_mut().reset(at);
    }
}

/// Microseconds, such that a sum with the clock does not overflow.
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).map_or(u64::MAX / 4, |us| us.min(u64::MAX / 4))
}

fn instant(clock: Clock, at_us: u64) -> Instant {
    let ahead_us = at_us.saturating_sub(clock.now_us());
    // A millisecond more: the timer's own grain must not wake it too early.
    Instant::now() + Duration::from_micros(ahead_us) + Duration::from_millis(1)
}
