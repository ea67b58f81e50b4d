//! Ends waits that take too long, at no cost to those that do not.
//!
//! Every request has a limit, and nearly none reaches it. So a wait is not a
//! timer: it is an entry in its worker's list, made when it first has to wait,
//! removed when it is over. One task per worker sleeps until the earliest
//! entry is due; entries made since are usually due later, so it is rarely
//! woken, and an ordinary request never touches a timer.
//!
//! **Invariant**: `earliest_us` is never later than the earliest entry that is
//! not over.

use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Clock;

/// Never due.
pub const NEVER_US: u64 = u64::MAX;
/// The task looks through its list at most this often: how late an end may be.
pub const RESOLUTION: Duration = Duration::from_millis(1);
/// A quiet time is measured in this many parts: how much too long it may be.
const QUIET_PARTS: u32 = 4;

/// The waits of one worker.
#[derive(Debug, Default)]
pub struct Expiry {
    list: Mutex<List>,
    earlier: Notify,
}

#[derive(Debug)]
struct List {
    entries: Vec<Entry>,
    free: Vec<u32>,
    earliest_us: u64,
}

#[derive(Debug)]
struct Entry {
    due_us: u64,
    waker: Option<Waker>,
    quiet: Option<Quiet>,
}

/// Something that may take long, but not without anything coming.
#[derive(Debug)]
struct Quiet {
    part_us: u64,
    /// Nothing came in so many parts.
    parts: u32,
    moved: bool,
    /// It ends here whatever comes.
    end_us: u64,
}

impl Default for List {
    fn default() -> List {
        List {
            entries: Vec::new(),
            free: Vec::new(),
            earliest_us: NEVER_US,
        }
    }
}

/// It took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired;

impl Expiry {
    /// Runs a future until `due_us` of the worker's clock; [`NEVER_US`] = without end.
    ///
    /// # Errors
    /// It was not ready by then.
    pub fn until<F: Future + Unpin>(&self, due_us: u64, future: F) -> Until<'_, F> {
        Until {
            expiry: self,
            due_us,
            key: None,
            future,
        }
    }

    /// Wakes what is due. Runs as long as its worker.
    pub async fn run(&self, clock: Clock) {
        loop {
            let earliest_us = self.lock().earliest_us;
            let now_us = clock.now_us();
            if earliest_us == NEVER_US {
                self.earlier.notified().await;
                continue;
            }
            let wait = Duration::from_micros(earliest_us.saturating_sub(now_us));
            tokio::select! {
                () = tokio::time::sleep(wait.max(RESOLUTION)) => self.sweep(clock.now_us()),
                () = self.earlier.notified() => {}
            }
        }
    }

    /// A wait for a body's next piece: `quiet_us` without any, or until `end_us`.
    pub fn watch(&self, quiet_us: u64, end_us: u64, now_us: u64, waker: &Waker) -> u32 {
        let part_us = quiet_us / u64::from(QUIET_PARTS);
        let quiet = (quiet_us < NEVER_US).then_some(Quiet {
            part_us,
            parts: 0,
            moved: false,
            end_us,
        });
        let part_due_us = match quiet {
            Some(_) => now_us.saturating_add(part_us),
            None => NEVER_US,
        };
        self.add(Entry {
            due_us: part_due_us.min(end_us),
            waker: Some(waker.clone()),
            quiet,
        })
    }

    /// The wait goes on, with something having come; `true` when its time is over.
    pub fn is_over(&self, key: u32, moved: bool, waker: &Waker) -> bool {
        let mut list = self.lock();
        let Some(entry) = list.entries.get_mut(key as usize) else {
            return false;
        };
        if let (true, Some(quiet)) = (moved, &mut entry.quiet) {
            quiet.moved = true;
        }
        match &mut entry.waker {
            Some(known) => known.clone_from(waker),
            // The sweep took it.
            None => return true,
        }
        false
    }

    /// The wait is over.
    pub fn remove(&self, key: u32) {
        let mut list = self.lock();
        if let Some(entry) = list.entries.get_mut(key as usize) {
            entry.due_us = NEVER_US;
            entry.waker = None;
            entry.quiet = None;
            list.free.push(key);
        }
    }

    fn add(&self, entry: Entry) -> u32 {
        let due_us = entry.due_us;
        let mut list = self.lock();
        let key = match list.free.pop() {
            Some(key) => {
                list.entries[key as usize] = entry;
                key
            }
            None => {
                list.entries.push(entry);
                list.entries.len() as u32 - 1
            }
        };
        if due_us < list.earliest_us {
            list.earliest_us = due_us;
            drop(list);
            self.earlier.notify_one();
        }
        key
    }

    fn sweep(&self, now_us: u64) {
        let mut list = self.lock();
        let mut earliest_us = NEVER_US;
        for entry in &mut list.entries {
            if entry.waker.is_none() {
                continue;
            }
            if entry.due_us <= now_us && entry.is_over(now_us) {
                if let Some(waker) = entry.waker.take() {
                    waker.wake();
                }
                continue;
            }
            earliest_us = earliest_us.min(entry.due_us);
        }
        list.earliest_us = earliest_us;
        // After a burst: nobody waits, so no key is in use.
        if list.free.len() == list.entries.len() {
            *list = List::default();
        }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Whether its time is over, or only a part of it without anything having come.
    fn is_over(&mut self, now_us: u64) -> bool {
        let Some(quiet) = &mut self.quiet else {
            return true;
        };
        quiet.parts = match quiet.moved {
            true => 0,
            false => quiet.parts + 1,
        };
        quiet.moved = false;
        self.due_us = now_us.saturating_add(quiet.part_us).min(quiet.end_us);
        quiet.parts >= QUIET_PARTS || now_us >= quiet.end_us
    }
}

/// See [`Expiry::until`].
#[derive(Debug)]
pub struct Until<'a, F> {
    expiry: &'a Expiry,
    due_us: u64,
    key: Option<u32>,
    future: F,
}

impl<F: Future + Unpin> Future for Until<'_, F> {
    type Output = Result<F::Output, Expired>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Poll::Ready(output) = Pin::new(&mut this.future).poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if this.due_us == NEVER_US {
            return Poll::Pending;
        }
        match this.key {
            None => {
                this.key = Some(this.expiry.add(Entry {
                    due_us: this.due_us,
                    waker: Some(cx.waker().clone()),
                    quiet: None,
                }));
            }
            Some(key) if this.expiry.is_over(key, false, cx.waker()) => {
                return Poll::Ready(Err(Expired));
            }
            Some(_) => {}
        }
        Poll::Pending
    }
}

impl<F> Drop for Until<'_, F> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.expiry.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;
    use std::sync::Arc;

    use super::*;

    fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn what_is_ready_makes_no_entry() {
        let expiry = Expiry::default();
        assert_eq!(poll(&mut expiry.until(5, ready(1))), Poll::Ready(Ok(1)));
        assert!(expiry.lock().entries.is_empty());
    }

    #[test]
    fn what_is_due_ends_and_what_is_dropped_is_forgotten() {
        let expiry = Expiry::default();
        let mut early = expiry.until(10, pending::<()>());
        let mut late = expiry.until(20, pending::<()>());
        let mut never = expiry.until(NEVER_US, pending::<()>());
        for waiting in [&mut early, &mut late, &mut never] {
            assert!(poll(waiting).is_pending());
        }
        assert_eq!(expiry.lock().earliest_us, 10);
        expiry.sweep(9);
        assert!(poll(&mut early).is_pending());
        expiry.sweep(10);
        assert_eq!(poll(&mut early), Poll::Ready(Err(Expired)));
        assert!(poll(&mut late).is_pending());
        assert_eq!(expiry.lock().earliest_us, 20);
        drop((early, late));
        expiry.sweep(11);
        assert!(expiry.lock().entries.is_empty());
        assert_eq!(expiry.lock().earliest_us, NEVER_US);
    }

    #[test]
    fn a_body_may_take_long_but_not_without_anything_coming() {
        let expiry = Expiry::default();
        let waker = Waker::noop();
        let key = expiry.watch(400, NEVER_US, 0, waker);
        let mut now_us = 0;
        for _ in 0..20 {
            now_us += 300;
            expiry.sweep(now_us);
            assert!(!expiry.is_over(key, true, waker));
        }
        let ended = (0..10).position(|_| {
            now_us += 100;
            expiry.sweep(now_us);
            expiry.is_over(key, false, waker)
        });
        assert!((3..=4).contains(&ended.unwrap()), "{ended:?}");
        expiry.remove(key);
        let key = expiry.watch(400, now_us + 50, now_us, waker);
        expiry.sweep(now_us + 50);
        assert!(expiry.is_over(key, true, waker), "its end has come");
    }

    #[tokio::test]
    async fn the_task_wakes_what_is_due() {
        let expiry = Arc::new(Expiry::default());
        let clock = Clock::start();
        let running = Arc::clone(&expiry);
        let task = tokio::spawn(async move { running.run(clock).await });
        let due_us = clock.now_us();
        let ended = expiry.until(due_us, pin!(pending::<()>())).await;
        assert_eq!(ended, Err(Expired));
        task.abort();
    }
}
