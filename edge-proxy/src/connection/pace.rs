//! What a client may do with its HTTP/2 connection.
//!
//! The library bounds what a connection can make the proxy keep: streams, windows, heads, frames. This bounds what it
//! can make the proxy do for nothing: requests given up as soon as they are sent (rapid reset), answers that are
//! never taken (windows that stay shut), connections that ask for nothing.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::body::{BodyError, ResponseBody};
use crate::clock::Clock;

/// A connection may give up this many requests whatever else it does …
pub const GIVEN_UP_MIN: u64 = 100;
/// … and beyond that, one in this many of those it began.
pub const GIVEN_UP_RATIO: u64 = 2;
/// The client need not do anything now.
const NEVER_US: u64 = u64::MAX;

/// One connection's requests.
#[derive(Debug)]
pub struct Pace {
    clock: Clock,
    flooded: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    begun: u64,
    given_up: u64,
    open: usize,
    quiet_since_us: u64,
    /// By request: since when the client has to take something, or [`NEVER_US`].
    untaken_since_us: Vec<u64>,
    free: Vec<usize>,
}

/// What a look at a connection says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// All is well; look again then, in microseconds of the clock.
    At(u64),
    /// It was without a request for too long.
    Idle,
    /// An answer was not taken for too long.
    Stalled,
}

impl Pace {
    /// A connection that begins now.
    pub fn new(clock: Clock) -> Arc<Pace> {
        let state = State {
            quiet_since_us: clock.now_us(),
            ..State::default()
        };
        Arc::new(Pace {
            clock,
            flooded: AtomicBool::new(false),
            state: Mutex::new(state),
        })
    }

    /// A request begins.
    pub fn begin(self: &Arc<Pace>) -> Turn {
        let mut state = self.lock();
        state.begun += 1;
        state.open += 1;
        let key = state.free.pop().unwrap_or_else(|| {
            state.untaken_since_us.push(NEVER_US);
            state.untaken_since_us.len() - 1
        });
        Turn {
            pace: Arc::clone(self),
            key,
            ended: false,
        }
    }

    /// Whether too many requests were given up.
    pub fn is_flooded(&self) -> bool {
        self.flooded.load(Relaxed)
    }

    /// How it stands, when a connection may be idle and an answer untaken for so long, in microseconds.
    pub fn due(&self, idle_us: u64, take_us: u64) -> Due {
        let now_us = self.clock.now_us();
        let state = self.lock();
        if state.open == 0 {
            let due_us = state.quiet_since_us + idle_us;
            return match now_us >= due_us {
                true => Due::Idle,
                false => Due::At(due_us),
            };
        }
        let first = state.untaken_since_us.iter().min().copied();
        let due_us = first.unwrap_or(NEVER_US).min(now_us) + take_us;
        match now_us >= due_us {
            true => Due::Stalled,
            false => Due::At(due_us),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request of a connection, until its answer has gone.
#[derive(Debug)]
pub struct Turn {
    pace: Arc<Pace>,
    key: usize,
    ended: bool,
}

impl Turn {
    /// The answer's body on its way to the client.
    pub fn answer(self, body: ResponseBody) -> Paced {
        self.given();
        Paced { body, turn: self }
    }

    /// What it was for has ended otherwise, and not by being given up.
    pub fn end(mut self) {
        self.ended = true;
    }

    /// The client has something to take.
    fn given(&self) {
        let now_us = self.pace.clock.now_us();
        self.pace.lock().untaken_since_us[self.key] = now_us;
    }

    /// It wants more; what comes next is not up to it.
    fn wanted(&self) {
        self.pace.lock().untaken_since_us[self.key] = NEVER_US;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let now_us = self.pace.clock.now_us();
        let mut state = self.pace.lock();
        state.open -= 1;
        state.quiet_since_us = now_us;
        state.untaken_since_us[self.key] = NEVER_US;
        state.free.push(self.key);
        if !self.ended {
            state.given_up += 1;
            let share = state.given_up > state.begun / GIVEN_UP_RATIO;
            if state.given_up > GIVEN_UP_MIN && share {
                self.pace.flooded.store(true, Relaxed);
            }
        }
    }
}

/// An answer's body whose client is watched.
#[derive(Debug)]
pub struct Paced {
    body: ResponseBody,
    turn: Turn,
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.turn.ended |= self.body.is_end_stream();
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        this.turn.wanted();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(_))) => this.turn.given(),
            // Whatever ended it, the client did not.
            Poll::Ready(_) => this.turn.ended = true,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(pace: &Arc<Pace>) -> Paced {
        pace.begin().answer(ResponseBody::full("answer".into()))
    }

    #[test]
    fn who_gives_up_most_of_its_requests_floods() {
        let pace = Pace::new(Clock::start());
        for _ in 0..GIVEN_UP_MIN {
            drop(pace.begin());
            // An answer that was not taken was given up too.
            assert!(!pace.is_flooded());
        }
        drop(answered(&pace));
        assert!(pace.is_flooded());

        let pace = Pace::new(Clock::start());
        for _ in 0..10 * GIVEN_UP_MIN {
            drop(pace.begin());
            for _ in 0..2 {
                drop(pace.begin().answer(ResponseBody::full(Bytes::new())));
            }
        }
        assert!(!pace.is_flooded());
    }

    #[test]
    fn only_the_client_can_be_late() {
        let pace = Pace::new(Clock::start());
        assert_eq!(pace.due(0, 0), Due::Idle);
        assert!(matches!(pace.due(1_000_000, 0), Due::At(_)));
        let turn = pace.begin();
        assert!(matches!(pace.due(0, 1_000_000), Due::At(_)));
        let paced = turn.answer(ResponseBody::full("answer".into()));
        assert_eq!(pace.due(0, 0), Due::Stalled);
        drop(paced);
        assert_eq!(pace.due(0, 0), Due::Idle);
    }
}
