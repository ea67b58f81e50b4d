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
    /// Notes how many connections are open now, and the most that were since this was last asked; whether more than half of a
    /// burst has gone since it was last said.
    pub fn has_ebbed(&mut self, most_open: usize, open: usize) -> bool {
        self.most = self.most.max(most_open).max(open);
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

/// Lets go of those pages of the program itself that only its start needed. They are in the page cache and come back, a few
/// at a time, when they are used again.
///
/// What cannot be found or is refused stays as it is.
#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "of 9.5 MB resident when idle, 6.9 MB were the program's own pages, read ahead at the start"
)]
pub fn forget_start() {
    use rustix::mm::{Advice, madvise};
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return;
    };
    let program = std::env::current_exe().unwrap_or_default();
    for line in maps.lines() {
        let Some((begin, end)) = pages_of(line, &program) else {
            continue;
        };
        let begin_at = std::ptr::without_provenance_mut(begin);
        // SAFETY: the pages are mapped from a file, read-only and privately: nothing of them was changed, so that the
        // next use reads the same bytes from the file.
        let _ = unsafe { madvise(begin_at, end - begin, Advice::LinuxDontNeed) };
    }
}

/// Where a line of `/proc/self/maps` says that code of `program` is; `None`: it is something else.
#[cfg(target_os = "linux")]
fn pages_of(line: &str, program: &std::path::Path) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, rights) = (words.next()?, words.next()?);
    let path = words.nth(3)?;
    let (begin, end) = range.split_once('-')?;
    let hex = |text| usize::from_str_radix(text, 16).ok();
    let is_code = rights == "r-xp" && std::path::Path::new(path) == program;
    is_code.then_some((hex(begin)?, hex(end)?))
}

/// Other systems keep what they want.
#[cfg(not(target_os = "linux"))]
pub fn forget_start() {}

/// Gives free memory back to the system; other allocators do so by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_burst_ebbs_once() {
        let mut tide = Tide::default();
        let opens = [10, 0, 1000, 600, 500, 400, 200, 1000, 0, 0];
        let seen = opens.map(|open| tide.has_ebbed(open, open));
        let ebbs = [4, 6, 8];
        for (at, seen) in seen.into_iter().enumerate() {
            // 500 of 1000; then 200 of 500; then none of 1000.
            assert_eq!(seen, ebbs.contains(&at), "{at}");
        }
        // One that came and went between two looks.
        assert!(tide.has_ebbed(1000, 0));
        assert!(!tide.has_ebbed(0, 0));
        give_back();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn only_the_programs_own_code_is_let_go() {
        let program = std::path::Path::new("/bin/isobar-proxy");
        let check = |line, expected| assert_eq!(pages_of(line, program), expected, "{line}");
        check(
            "55a0-66b0 r-xp 00001000 fe:00 12 /bin/isobar-proxy",
            Some((0x55a0, 0x66b0)),
        );
        check("55a0-66b0 rw-p 00001000 fe:00 12 /bin/isobar-proxy", None);
        check("55a0-66b0 r-xp 00001000 fe:00 12 /lib/libc.so.6", None);
        check("55a0-66b0 r-xp 00000000 00:00 0", None);
        check("", None);
        forget_start();
    }
}
