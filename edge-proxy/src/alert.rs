//! A report out of turn, when a spike begins.
//!
//! A spike begins in the middle of a report's window, so the first regular report tells a mixture of before and after, and
//! the plan that answers it is too small and must be corrected a period later. Therefore the window is closed at the onset
//! ([`crate::pressure`]) and the next one after a part of a period: that one holds nothing but the spike, and the first plan
//! made from it is right.
//!
//! ```text
//! onset ──▶ report what was before ── WINDOW_SHARE of a period ──▶ report the spike ──▶ as usual
//! ```

use std::time::Duration;

/// Length of the window that holds the spike's beginning, as a share of the period. Long enough that chance changes its
/// rate little: ±5 % at 1000 requests/s and a period of a second.
pub const WINDOW_SHARE: f64 = 0.4;
/// After an onset, others are not told out of turn for so many periods.
pub const REST_PERIODS: u32 = 2;
/// A regular report waits for the next turn when its window is shorter than this share of the period: a rate from few
/// requests says little and is taken for a jump too easily.
pub const WINDOW_SHARE_MIN: f64 = 0.25;

/// When reports go out of turn. Times are since any start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alert {
    onset_at: Option<Duration>,
    due_at: Option<Duration>,
}

impl Alert {
    /// A spike began. Whether to report now; the report after it is then [due](Alert::due_at) soon.
    pub fn on_onset(&mut self, now: Duration, period: Duration) -> bool {
        let rested = self
            .onset_at
            .is_none_or(|at| now.saturating_sub(at) >= period * REST_PERIODS);
        if rested {
            self.onset_at = Some(now);
            self.due_at = Some(now + period.mul_f64(WINDOW_SHARE));
        }
        rested
    }

    /// When the report with the spike's beginning is due.
    pub fn due_at(&self) -> Option<Duration> {
        self.due_at
    }

    /// It is sent.
    pub fn on_reported(&mut self) {
        self.due_at = None;
    }
}

/// Whether a regular report should wait for its next turn.
pub fn is_too_short(window: Duration, period: Duration) -> bool {
    window < period.mul_f64(WINDOW_SHARE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_report_at_the_onset_and_one_soon_after() {
        let ms = Duration::from_millis;
        let (mut alert, period) = (Alert::default(), ms(1000));
        assert!(alert.on_onset(ms(5000), period));
        assert_eq!(alert.due_at(), Some(ms(5400)));
        assert!(!alert.on_onset(ms(5300), period), "told already");
        alert.on_reported();
        assert_eq!(alert.due_at(), None);
        assert!(!alert.on_onset(ms(6999), period));
        assert!(alert.on_onset(ms(7000), period));
        assert!(is_too_short(ms(249), period) && !is_too_short(ms(250), period));
    }
}
