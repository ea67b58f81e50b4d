//! A ring of hashes (Karger et al. 1997): every endpoint stands on it at many points, in proportion to its workers,
//! and a key belongs to the next point. When an endpoint goes, only its own keys move.

use super::hash;

/// Points of an endpoint with as many workers as the mean.
pub const POINTS: usize = 160;

/// The ring.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ring(Vec<(u64, u16)>);

impl Ring {
    /// A ring of endpoints, each the hash of its name and its workers.
    pub fn new(endpoints: &[(u64, u32)]) -> Ring {
        let total: u64 = endpoints.iter().map(|e| u64::from(e.1)).sum();
        let mean = total as f64 / endpoints.len().max(1) as f64;
        let mut points = Vec::with_capacity(endpoints.len() * POINTS);
        for (at, &(name, workers)) in endpoints.iter().enumerate() {
            let count = (POINTS as f64 * f64::from(workers) / mean.max(1.0)).ceil();
            let count = (count as u64).clamp(1, 16 * POINTS as u64);
            points.extend((0..count).map(|point| (hash::both(name, point), at as u16)));
        }
        points.sort_unstable();
        Ring(points)
    }

    /// The endpoints for a key: its own, then those it is passed on to. May name one more than once.
    pub fn order(&self, key: u64) -> impl Iterator<Item = usize> {
        let begin = self.0.partition_point(|point| point.0 < key);
        let (before, after) = self.0.split_at(begin);
        after.iter().chain(before).map(|point| usize::from(point.1))
    }
}
