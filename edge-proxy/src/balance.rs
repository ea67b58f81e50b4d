//! Which endpoint of a node gets a request.
//!
//! Every algorithm sees endpoints as numbers ([`Load`]) and answers with a
//! place. None of them gives a request to an endpoint that has no room; when
//! the one it would like has none, it says who is next, or nobody: then
//! [`best`] looks at all.
//!
//! - two choices ([`two`]): of two random endpoints the one with the lower
//!   cost, requests per worker or peak latency times that (Mitzenmacher 2001;
//!   the peak-sensitive average is Finagle's);
//! - turns ([`turn`]): one after another, or in proportion to workers;
//! - [`ring`], [`maglev`]: by the hash of a key; what is full passes the key on
//!   to the next (consistent hashing with bounded loads, Mirrokni et al. 2018);
//! - [`rendezvous`]: the same without a table, by weight, for affinity.
//!
//! Pure: takes clock and random numbers as arguments.

pub mod hash;
pub mod maglev;
pub mod rendezvous;
pub mod ring;
pub mod slow_start;

/// A latency is forgotten with this time constant, in microseconds.
pub const DECAY_US: f64 = 10_000_000.0;
/// 2^64 / golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// How much more an endpoint costs whose share is nothing.
const LAST_RESORT: f64 = 1e9;
/// Cost of an endpoint whose latency is not known, in microseconds: it is tried soon.
const LATENCY_UNKNOWN_US: f64 = 1.0;

/// One endpoint, at the instant of a choice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Requests it works on.
    pub active: u32,
    /// Requests it works on at once; 0 = it may not be chosen.
    pub workers: u32,
    /// Recent peak latency, in microseconds; 0 when unknown or not asked for.
    pub latency_us: f64,
    /// Part of its full share that it may get, 0 to 1: below 1 while it starts slowly, 0 when it gets a request only if
    /// nobody else can.
    pub share: f64,
}

impl Load {
    /// Whether it has room.
    pub fn has_room(&self) -> bool {
        self.active < self.workers
    }

    /// What one more request there costs: waiting in proportion to what it has, longer when it is slow.
    fn cost(&self, by_latency: bool) -> f64 {
        let per_worker = f64::from(self.active + 1) / f64::from(self.workers.max(1));
        let latency_us = match by_latency {
            true if self.latency_us > 0.0 => self.latency_us,
            _ => LATENCY_UNKNOWN_US,
        };
        let last_resort = if self.share > 0.0 { 1.0 } else { LAST_RESORT };
        per_worker * latency_us * last_resort
    }
}

/// Of two random ones of `count` endpoints the better one with room; `None` when neither has any.
pub fn two(
    count: usize,
    load: impl Fn(usize) -> Load,
    by_latency: bool,
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    if count < 2 {
        return (count == 1 && load(0).has_room()).then_some(0);
    }
    let first = rng.usize(0..count);
    // Any of the others.
    let second = (first + rng.usize(1..count)) % count;
    let (a, b) = (load(first), load(second));
    let mut most = None;
    let a_takes = accepts(count, a, &load, &mut most, rng);
    let b_takes = accepts(count, b, &load, &mut most, rng);
    match (a_takes, b_takes) {
        (true, true) if b.cost(by_latency) < a.cost(by_latency) => Some(second),
        (true, _) => Some(first),
        (false, true) => Some(second),
        (false, false) => None,
    }
}

/// The one of all with room that has the lowest cost. Who has a share of zero comes last.
pub fn best(count: usize, load: impl Fn(usize) -> Load, by_latency: bool) -> Option<usize> {
    let with_room = (0..count).filter(|&at| load(at).has_room());
    with_room.min_by(|&a, &b| {
        load(a)
            .cost(by_latency)
            .total_cmp(&load(b).cost(by_latency))
    })
}

/// Any endpoint with room, of a few that are drawn.
pub fn any(count: usize, load: impl Fn(usize) -> Load, rng: &mut fastrand::Rng) -> Option<usize> {
    let mut most = None;
    (0..4).find_map(|_| {
        let at = rng.usize(0..count.max(1));
        (at < count && accepts(count, load(at), &load, &mut most, rng)).then_some(at)
    })
}

/// Whether an endpoint takes a request that is its turn: one that starts slowly does so the less often, the smaller its
/// share is beside the largest of all.
fn accepts(
    count: usize,
    one: Load,
    load: impl Fn(usize) -> Load,
    most: &mut Option<f64>,
    rng: &mut fastrand::Rng,
) -> bool {
    let mut is_drawn = || {
        let largest = || (0..count).map(|at| load(at).share).fold(0.0, f64::max);
        let most = *most.get_or_insert_with(largest);
        one.share > 0.0 && rng.f64() * most < one.share
    };
    one.has_room() && (one.share >= 1.0 || is_drawn())
}

/// The endpoint whose turn it is: the `n`th request of all. In proportion to workers when `weighted`, else one after
/// another. Those without room are passed over.
pub fn turn(
    count: usize,
    load: impl Fn(usize) -> Load,
    weighted: bool,
    n: u64,
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    let first = match weighted {
        false => (n % count.max(1) as u64) as usize,
        true => {
            let total: u64 = (0..count).map(|at| u64::from(load(at).workers)).sum();
            // Multiples of the golden ratio fall evenly into the whole, whatever part of it is looked at (Weyl).
            let golden = u128::from(n.wrapping_mul(GOLDEN));
            let mut left = ((golden * u128::from(total)) >> 64) as u64;
            (0..count).find(|&at| {
                let workers = u64::from(load(at).workers);
                let here = left < workers;
                left = left.wrapping_sub(workers);
                here
            })?
        }
    };
    let mut most = None;
    let mut order = (0..count).map(|step| (first + step) % count);
    order.find(|&at| accepts(count, load(at), &load, &mut most, rng))
}

/// A recent latency that follows peaks at once and forgets them slowly. One word, so that it can be kept in an atomic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Peak(pub u64);

impl Peak {
    /// Takes up one latency.
    #[must_use]
    pub fn with(self, latency_us: u64, now_us: u64) -> Peak {
        let latency_us = latency_us.clamp(1, u64::from(u32::MAX)) as f64;
        let (old_us, kept) = (self.us(), self.kept(now_us));
        let new_us = match latency_us >= old_us {
            true => latency_us,
            false => old_us * kept + latency_us * (1.0 - kept),
        };
        Peak((new_us as u64) << 32 | ((now_us / 1000) & 0xffff_ffff))
    }

    /// The latency as of now, in microseconds; 0 when unknown.
    pub fn at(self, now_us: u64) -> f64 {
        self.us() * self.kept(now_us)
    }

    fn us(self) -> f64 {
        (self.0 >> 32) as f64
    }

    /// The part that is not forgotten: e^-x by the first terms of e^x, which costs a choice less than the exact value and
    /// falls as it should.
    fn kept(self, now_us: u64) -> f64 {
        let then_ms = (self.0 & 0xffff_ffff) as u32;
        let age_ms = ((now_us / 1000) as u32).wrapping_sub(then_ms);
        let x = f64::from(age_ms) * 1000.0 / DECAY_US;
        1.0 / (1.0 + x * (1.0 + x * (0.5 + x / 6.0)))
    }
}

#[cfg(test)]
mod tests;
