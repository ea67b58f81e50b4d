//! What workers write for one slow reader: lines of an access log, spans for a collector.
//!
//! Each worker appends to a buffer of its own, bounded in bytes; the reader takes all buffers at once, now and then, by
//! swapping them for empty ones. So a request waits for nobody: what finds no room is dropped and counted. How long the
//! reader needs, or whether it comes back at all, changes how much is dropped and nothing else.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A buffer that was larger than this is given back when it is empty, in bytes.
const KEPT_LEN_MAX: usize = 64 * 1024;

/// Buffers between workers and one reader.
#[derive(Debug)]
pub struct Spool {
    parts: Box<[Mutex<Part>]>,
    len_max: usize,
    filled: Notify,
    closed: CancellationToken,
    /// What became of entries.
    pub counts: Arc<Counts>,
}

impl Counts {
    /// What became of entries, by outcome.
    pub fn outcomes(&self) -> [(&'static str, u64); 3] {
        [
            ("written", self.written.load(Relaxed)),
            ("dropped", self.dropped.load(Relaxed)),
            ("lost", self.lost.load(Relaxed)),
        ]
    }
}

/// What became of entries, since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Arrived where they should.
    pub written: AtomicU64,
    /// Found no room.
    pub dropped: AtomicU64,
    /// Could not be written or sent.
    pub lost: AtomicU64,
}

/// Entries one behind another.
#[derive(Debug, Default)]
pub struct Part {
    /// The entries.
    pub bytes: Vec<u8>,
    /// How many.
    pub entries: u64,
}

impl Spool {
    /// Buffers for that many workers, each of at most `len_max` bytes; `counts` outlive it.
    pub fn new(workers: usize, len_max: usize, counts: Arc<Counts>) -> Spool {
        Spool {
            parts: (0..workers).map(|_| Mutex::default()).collect(),
            len_max,
            filled: Notify::new(),
            closed: CancellationToken::new(),
            counts,
        }
    }

    /// Has one entry of a worker written, or drops it.
    pub fn put(&self, worker: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(part) = self.parts.get(worker) else {
            return;
        };
        let mut part = lock(part);
        let before = part.bytes.len();
        write(&mut part.bytes);
        if part.bytes.len() > self.len_max || self.closed.is_cancelled() {
            part.bytes.truncate(before);
            self.counts.dropped.fetch_add(1, Relaxed);
            return;
        }
        part.entries += 1;
        // The reader hears of the first entry; it gathers before it takes.
        if before == 0 {
            drop(part);
            self.filled.notify_one();
        }
    }

    /// Waits for an entry, and then, while it is not closed, for more of them. `false`: it is closed.
    pub async fn gather(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.filled.notified() => {}
            () = self.closed.cancelled() => return false,
        }
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            () = self.closed.cancelled() => false,
        }
    }

    /// Takes a worker's entries; `spare` is what its buffer is from now on.
    pub fn take(&self, worker: usize, spare: Vec<u8>) -> Part {
        let mut spare = spare;
        spare.clear();
        spare.shrink_to(KEPT_LEN_MAX);
        let new = Part {
            bytes: spare,
            entries: 0,
        };
        std::mem::replace(&mut *lock(&self.parts[worker]), new)
    }

    /// How many workers write.
    pub fn workers(&self) -> usize {
        self.parts.len()
    }

    /// Lets the reader take what is there and end.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Waits until it is closed.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Counts what became of entries.
    pub fn note(&self, entries: u64, written: bool) {
        match written {
            true => &self.counts.written,
            false => &self.counts.lost,
        }
        .fetch_add(entries, Relaxed);
    }
}

fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let spool = Spool::new(2, 10, Arc::default());
        let put =
            |worker, text: &str| spool.put(worker, |out| out.extend_from_slice(text.as_bytes()));
        put(0, "12345\n");
        put(0, "67890\n");
        put(0, "abc\n");
        put(1, "other\n");
        put(2, "nobody\n");
        let part = spool.take(0, Vec::new());
        assert_eq!((&part.bytes[..], part.entries), (&b"12345\nabc\n"[..], 2));
        assert_eq!(spool.counts.dropped.load(Relaxed), 1);
        put(0, "67890\n");
        assert_eq!(spool.take(0, part.bytes).entries, 1);
        assert_eq!(spool.take(1, Vec::new()).bytes, b"other\n");
    }
}
