//! Rendezvous hashing by weight (Thaler & Ravishankar 1998; weights by the logarithmic method): every target draws a
//! number from key and name, the lowest by its weight wins. A change of weights moves only as many keys as it must,
//! and only to or from the targets whose share changed.

use super::hash;

/// The place of the target for a key, of those with a weight above 0; each is the hash of its name and its weight.
pub fn choose(targets: impl Iterator<Item = (u64, u32)>, key: u64) -> Option<usize> {
    let draw = |(at, (name, weight)): (usize, (u64, u32))| {
        // Uniform in (0, 1].
        let uniform = ((hash::both(name, key) >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        (weight > 0).then(|| (-uniform.ln() / f64::from(weight), at))
    };
    let drawn = targets.enumerate().filter_map(draw);
    drawn
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map(|drawn| drawn.1)
}
