//! Who gets in when everybody comes at once, as after a restart of the controller.
//!
//! ```text
//! accept ─▶ client hello is there ─▶ a turn (≤ 2 s) ─▶ the handshake's work ─▶ hello ─▶ a place (at once) ─▶ control task
//!                                      └ no: closed                                      └ no: 503, Retry-After
//! ```
//!
//! Ten thousand proxies at the door are several seconds of a core. Begun all together, the last would not be through
//! before its proxy gives up, and the work would be for nothing, again and again. So a handshake begins when it has a turn,
//! turns are given in the order of arrival, and who would wait too long is sent away before any work was done: its proxy
//! draws a pause and comes again. Who does not even send a client hello takes no turn.
//!
//! **Invariant**: a handshake that has begun has time to end before its proxy loses patience (5 s).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most handshakes under way at a time; further ones wait for a turn.
pub const HANDSHAKES_MAX: usize = 256;
/// Longest wait for a turn; then the connection is closed.
pub const TURN_WAIT_MAX: Duration = Duration::from_secs(2);
/// Longest that a handshake may take once it has its turn.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(3);
/// Most hellos that wait for the control task; further ones are refused with [`RETRY_AFTER`].
pub const HELLOS_MAX: usize = 1024;
/// How long a refused proxy shall stay away.
pub const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Turns and places. Cloning is a reference count.
#[derive(Debug, Clone)]
pub struct Admission {
    handshakes: Arc<Semaphore>,
    hellos: Arc<Semaphore>,
    turn_wait_max: Duration,
}

impl Default for Admission {
    fn default() -> Admission {
        Admission::new(HANDSHAKES_MAX, HELLOS_MAX, TURN_WAIT_MAX)
    }
}

impl Admission {
    fn new(handshakes: usize, hellos: usize, turn_wait_max: Duration) -> Admission {
        Admission {
            handshakes: Arc::new(Semaphore::new(handshakes)),
            hellos: Arc::new(Semaphore::new(hellos)),
            turn_wait_max,
        }
    }

    /// A turn for a handshake, given back when dropped; `None` when it did not come in time.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        let turn = self.handshakes.clone().acquire_owned();
        let turn = tokio::time::timeout(self.turn_wait_max, turn).await;
        // The semaphore is never closed.
        turn.ok()?.ok()
    }

    /// A place among the hellos that wait, given back when dropped.
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.hellos.clone().try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_too_long_is_sent_away() {
        let admission = Admission::new(1, 1, Duration::from_millis(20));
        let first = admission.turn().await.unwrap();
        assert!(admission.turn().await.is_none());
        drop(first);
        assert!(admission.turn().await.is_some());
    }

    #[tokio::test]
    async fn turns_go_round_in_the_order_of_arrival() {
        let admission = Admission::new(1, 1, Duration::from_secs(60));
        let first = admission.turn().await.unwrap();
        let (second, third) = (admission.clone(), admission.clone());
        let second = tokio::spawn(async move { second.turn().await });
        tokio::task::yield_now().await;
        let third = tokio::spawn(async move { third.turn().await });
        tokio::task::yield_now().await;
        drop(first);
        let second = second.await.unwrap().unwrap();
        assert!(!third.is_finished());
        drop(second);
        assert!(third.await.unwrap().is_some());
    }

    #[test]
    fn places_are_counted() {
        let admission = Admission::new(1, 2, TURN_WAIT_MAX);
        let (first, _second) = (admission.place().unwrap(), admission.place().unwrap());
        assert!(admission.place().is_none());
        drop(first);
        assert!(admission.place().is_some());
    }
}
