//! Maglev's table (Eisenbud et al. 2016, section 3.4): endpoints take turns to fill it, each in an order of its own,
//! so every one gets nearly the same part, and when one goes few others' keys move.

use super::hash;

/// Entries; a prime, much larger than any number of endpoints.
pub const SIZE: usize = 16_381;

/// The table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Maglev(Vec<u16>);

impl Maglev {
    /// A table of endpoints, each the hash of its name and its workers.
    pub fn new(endpoints: &[(u64, u32)]) -> Maglev {
        if endpoints.is_empty() {
            return Maglev::default();
        }
        let most = endpoints.iter().map(|e| e.1).max().unwrap_or(1).max(1);
        let mut table = vec![u16::MAX; SIZE];
        let mut next = vec![0_u64; endpoints.len()];
        let mut due = vec![0_u64; endpoints.len()];
        let mut filled = 0;
        loop {
            for (at, &(name, workers)) in endpoints.iter().enumerate() {
                // Who has half the workers of the largest fills every other time.
                due[at] += u64::from(workers.max(1));
                if due[at] < u64::from(most) {
                    continue;
                }
                due[at] -= u64::from(most);
                let offset = hash::both(name, 1) % SIZE as u64;
                let skip = hash::both(name, 2) % (SIZE as u64 - 1) + 1;
                let place = loop {
                    let place = ((offset + next[at] * skip) % SIZE as u64) as usize;
                    next[at] += 1;
                    if table[place] == u16::MAX {
                        break place;
                    }
                };
                table[place] = at as u16;
                filled += 1;
                if filled == SIZE {
                    return Maglev(table);
                }
            }
        }
    }

    /// The endpoints for a key: its own, then those it is passed on to. May name one more than once.
    pub fn order(&self, key: u64) -> impl Iterator<Item = usize> {
        let begin = (key % SIZE as u64) as usize;
        let (before, after) = self.0.split_at(begin.min(self.0.len()));
        after.iter().chain(before).map(|&at| usize::from(at))
    }
}
