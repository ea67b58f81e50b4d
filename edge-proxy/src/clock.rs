//! The proxy's clock: microseconds since the program began.
//!
//! One word instead of an `Instant`, because it is kept in atomics and handed
//! to pure modules. It never goes back and says nothing about the time of day.

use std::time::Instant;

/// Counts from when it was made.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// Begins to count.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Microseconds since the start.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}
