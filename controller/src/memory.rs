//! Memory that a burst took goes back to the system.
//!
//! When many proxies connect at once, each is told everything, and again as its neighbours change. What that took is
//! freed within seconds, but glibc keeps what lies below the topmost piece in use until it is asked to look. It is asked
//! when the program has grown.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How often the program looks at its size.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);
/// Growth by less is not looked for, in bytes: what is then found would not be worth the time.
const GROWTH_MIN: u64 = 32 << 20;

/// Sees the program grow.
#[derive(Debug, Default)]
struct Growth {
    /// Its size after memory was last given back.
    small: u64,
}

impl Growth {
    /// Whether it has grown by a quarter and more than [`GROWTH_MIN`]. A program that shrank by itself is measured from there.
    fn is_due(&mut self, resident: u64) -> bool {
        self.small = self.small.min(resident);
        resident > self.small + GROWTH_MIN.max(self.small / 4)
    }

    fn on_given_back(&mut self, resident: u64) {
        self.small = resident;
    }
}

/// Gives free memory back whenever the program has grown, until the signal.
pub async fn keep_small(signal: CancellationToken) {
    let mut growth = Growth::default();
    growth.on_given_back(resident().unwrap_or(0));
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        tokio::select! {
            () = signal.cancelled() => return,
            _ = looks.tick() => {}
        }
        if resident().is_some_and(|bytes| growth.is_due(bytes)) {
            // It takes as long as there are free pieces to look at; a panic of it would be glibc's.
            let _ = tokio::task::spawn_blocking(give_back).await;
            growth.on_given_back(resident().unwrap_or(0));
        }
    }
}

/// Resident memory of this program in bytes; `None` where the system does not say.
fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Gives free memory back to the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(
    unsafe_code,
    reason = "of 974 MB after a thousand proxies came at once 554 were free; there is no other way to ask glibc"
)]
fn give_back() {
    // SAFETY: the call takes no pointer, touches only free memory, and may be made by any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other systems keep what they want.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn it_is_asked_after_growth_alone() {
        let mut growth = Growth::default();
        growth.on_given_back(20 * MIB);
        assert!(!growth.is_due(50 * MIB));
        assert!(growth.is_due(53 * MIB));
        growth.on_given_back(52 * MIB);
        assert!(!growth.is_due(84 * MIB));
        // A large one must grow by a quarter.
        growth.on_given_back(400 * MIB);
        assert!(!growth.is_due(500 * MIB));
        assert!(growth.is_due(501 * MIB));
        // It shrank by itself, and grows from there.
        assert!(!growth.is_due(100 * MIB));
        assert!(growth.is_due(133 * MIB));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_says_how_large_it_is() {
        assert!(resident().is_some_and(|bytes| bytes > MIB));
    }
}
