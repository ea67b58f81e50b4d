//! What this proxy last heard of its neighbours' load, for one service.
//!
//! One slot per neighbour, written by probes and by the load hints on
//! answers, read by [`crate::pick`]. Shared by all workers without a lock: a
//! slot is two words, and a reader that sees one of them a moment older than
//! the other only judges with a hint a few microseconds older.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use isobar_mesh_api::hop::LoadHint;

/// A hint older than this says nothing: a queue of a few requests lives that long.
pub const HINT_AGE_MAX_US: u64 = 250_000;

/// The latest hints, by the neighbour's index in the snapshot.
#[derive(Debug, Default)]
pub struct NeighbourLoad {
    slots: Box<[Slot]>,
}

#[derive(Debug, Default)]
struct Slot {
    /// in flight (16 bits) | workers (16 bits) | latency in µs (32 bits)
    hint: AtomicU64,
    /// When it was heard, plus one; 0 = never.
    heard_us: AtomicU64,
}

impl NeighbourLoad {
    /// Slots for that many neighbours, all unknown.
    pub fn new(neighbours: usize) -> NeighbourLoad {
        NeighbourLoad {
            slots: (0..neighbours).map(|_| Slot::default()).collect(),
        }
    }

    /// Takes in what a neighbour said of itself at `now_us`. An index beyond the slots is ignored.
    pub fn heard(&self, neighbour: usize, hint: LoadHint, now_us: u64) {
        let Some(slot) = self.slots.get(neighbour) else {
            return;
        };
        slot.hint.store(pack(hint), Relaxed);
        slot.heard_us.store(now_us + 1, Relaxed);
    }

    /// Notes that a request is on its way there, so that the next choice counts it.
    pub fn sent(&self, neighbour: usize) {
        let Some(slot) = self.slots.get(neighbour) else {
            return;
        };
        let hint = slot.hint.load(Relaxed);
        if hint >> 48 < u64::from(u16::MAX) {
            // Racing writers may lose one count; the next hint mends it.
            slot.hint.store(hint + (1 << 48), Relaxed);
        }
    }

    /// Forgets a neighbour, after it could not be reached.
    pub fn forget(&self, neighbour: usize) {
        if let Some(slot) = self.slots.get(neighbour) {
            slot.heard_us.store(0, Relaxed);
        }
    }

    /// The hint of a neighbour, if it is at most [`HINT_AGE_MAX_US`] old.
    pub fn fresh(&self, neighbour: usize, now_us: u64) -> Option<LoadHint> {
        let slot = self.slots.get(neighbour)?;
        let heard_us = slot.heard_us.load(Relaxed);
        let fresh = heard_us > 0 && now_us.saturating_sub(heard_us - 1) <= HINT_AGE_MAX_US;
        fresh.then(|| unpack(slot.hint.load(Relaxed)))
    }

    /// How long ago a neighbour was heard, in microseconds; `None` = never.
    pub fn age_us(&self, neighbour: usize, now_us: u64) -> Option<u64> {
        let heard_us = self.slots.get(neighbour)?.heard_us.load(Relaxed);
        (heard_us > 0).then(|| now_us.saturating_sub(heard_us - 1))
    }
}

fn pack(hint: LoadHint) -> u64 {
    let cut = |n: u32| u64::from(n.min(u32::from(u16::MAX)));
    cut(hint.in_flight) << 48 | cut(hint.workers) << 32 | u64::from(hint.latency_us)
}

fn unpack(word: u64) -> LoadHint {
    LoadHint {
        in_flight: (word >> 48) as u32,
        workers: (word >> 32) as u32 & u32::from(u16::MAX),
        latency_us: word as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HINT: LoadHint = LoadHint {
        in_flight: 5,
        workers: 4,
        latency_us: 20_000,
    };

    #[test]
    fn hints_age() {
        let load = NeighbourLoad::new(2);
        assert_eq!(load.fresh(0, 0), None);
        load.heard(0, HINT, 0);
        assert_eq!(load.fresh(0, HINT_AGE_MAX_US), Some(HINT));
        assert_eq!(load.fresh(0, HINT_AGE_MAX_US + 1), None);
        assert_eq!(load.fresh(1, 0), None);
        load.heard(9, HINT, 0);
        assert_eq!(load.fresh(9, 0), None);
    }

    #[test]
    fn own_requests_count_until_the_next_hint() {
        let load = NeighbourLoad::new(1);
        load.heard(0, HINT, 7);
        load.sent(0);
        load.sent(0);
        assert_eq!(load.fresh(0, 7).map(|h| h.in_flight), Some(7));
        load.heard(0, HINT, 8);
        assert_eq!(load.fresh(0, 8), Some(HINT));
        let full = LoadHint {
            in_flight: u32::MAX,
            ..HINT
        };
        load.heard(0, full, 9);
        load.sent(0);
        assert_eq!(load.fresh(0, 9).map(|h| h.in_flight), Some(65_535));
    }
}
