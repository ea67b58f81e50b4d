//! The services of one node share its processors.
//!
//! Above its ceiling the node can do only a part of what its services' endpoints could: the factor, learned from how busy
//! the processors are. Services of one priority shrink together, each to that part of its own capacity. Where
//! priorities differ, the factor is a budget of workers' time, and the highest priority is given of it first:
//!
//! ```text
//! factor × all workers ──▶ every class its least share
//!                          └─ what is left ─▶ highest class, up to its whole capacity
//!                             └─ what that one does not need ─▶ the next class ─▶ …
//! ```
//!
//! Workers' time stands for the processors' time: a request of one service is not worth a request of another, but a
//! worker that is busy is about as busy as any other. What a class keeps busy is what the next one is not given, so
//! when an important service's demand jumps, the others shrink in the same plan, before the processors are full.
//!
//! **Invariant**: what a class is given depends on no class below it, every share is from the least one to 1, and
//! services of one priority alone are given exactly the factor.

use super::STEP_SHARE_MAX;

/// Busy share of a node's processors above which its services shrink.
pub const CPU_CEILING: f64 = 0.9;
/// Busy share below which they grow back; between the two they rest.
pub const CPU_CALM: f64 = 0.85;
/// Least factor.
const FACTOR_MIN: f64 = 0.01;
/// Share of its own capacity that a service keeps whatever comes before it, unless the factor itself is less: what
/// serves nothing at all is found out to be slow, or well again, by nobody.
pub const LEAST_SHARE: f64 = 0.05;

/// What one service would have of its node's processors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Claim {
    /// Its priority; the higher, the more important.
    pub priority: i32,
    /// Requests that its endpoints work on at once, of those that are up.
    pub workers: f64,
    /// Share of them that it keeps busy, 0 to 1.
    pub need: f64,
}

/// How busy a node's services were in one window.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Used {
    /// The highest utilisation (completions over unshrunk capacity) among them.
    pub busiest: f64,
    /// Share of all their workers that was busy; `None` where they are of one priority.
    pub mean: Option<f64>,
}

/// What one node's processors leave of its services' capacities.
#[derive(Debug, Clone, PartialEq)]
pub struct CpuShare {
    factor: f64,
    /// By priority, the highest first; empty where all are alike.
    classes: Vec<(i32, f64)>,
}

impl Default for CpuShare {
    fn default() -> CpuShare {
        CpuShare {
            factor: 1.0,
            classes: Vec::new(),
        }
    }
}

impl CpuShare {
    /// Takes up the busy share of one window, 0 to 1. Among services of one priority the factor changes by at most 10 %,
    /// and never falls below what was just served with the processor at its ceiling. Where priorities differ it goes
    /// half the way to what was just served of all together: those that come last are to make room at once, and are not
    /// heard of as long as the budget has room for all.
    pub fn observe(&mut self, cpu_ratio: Option<f64>, used: Used) {
        let Some(cpu_ratio) = cpu_ratio.filter(|r| r.is_finite()) else {
            self.factor = 1.0;
            return;
        };
        if cpu_ratio > CPU_CEILING {
            let over = CPU_CEILING / cpu_ratio;
            let shrunk = match used.mean {
                None => {
                    let served = (used.busiest * over).min(1.0);
                    let shrunk = self.factor * over.max(1.0 - STEP_SHARE_MAX);
                    shrunk.max(served)
                }
                Some(mean) => (self.factor + (mean * over).clamp(0.0, 1.0)) / 2.0,
            };
            self.factor = shrunk.min(self.factor).max(FACTOR_MIN);
        } else if cpu_ratio < CPU_CALM {
            self.factor = (self.factor * (1.0 + STEP_SHARE_MAX / 2.0)).min(1.0);
        }
    }

    /// Divides what the factor leaves among the node's services.
    pub fn divide(&mut self, claims: &[Claim]) {
        self.classes = match self.factor < 1.0 {
            true => divide(self.factor, claims),
            false => Vec::new(),
        };
    }

    /// What to multiply the capacities of all services together by, above 0 to 1.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// What to multiply the capacity of a service of that priority by, above 0 to 1.
    pub fn factor_of(&self, priority: i32) -> f64 {
        let class = self.classes.iter().find(|class| class.0 == priority);
        class.map_or(self.factor, |class| class.1)
    }
}

/// What the services of each priority are given, the highest first, as a share of their own capacity; nothing where all
/// are of one priority.
fn divide(factor: f64, claims: &[Claim]) -> Vec<(i32, f64)> {
    let mut classes: Vec<Claim> = Vec::new();
    for claim in claims.iter().filter(|claim| claim.workers > 0.0) {
        let busy = claim.need.clamp(0.0, 1.0) * claim.workers;
        match classes.iter_mut().find(|c| c.priority == claim.priority) {
            // While they are summed, `need` counts workers.
            Some(class) => {
                class.workers += claim.workers;
                class.need += busy;
            }
            None => classes.push(Claim {
                need: busy,
                ..*claim
            }),
        }
    }
    if classes.len() < 2 {
        return Vec::new();
    }
    classes.sort_by_key(|class| std::cmp::Reverse(class.priority));
    let least = factor.min(LEAST_SHARE);
    let workers: f64 = classes.iter().map(|class| class.workers).sum();
    let mut left = (factor - least) * workers;
    let given = classes.into_iter().map(|class| {
        let share = (least + left.max(0.0) / class.workers).min(1.0);
        let needed = class.need.min(share * class.workers);
        left -= (needed - least * class.workers).max(0.0);
        (class.priority, share)
    });
    given.collect()
}

#[cfg(test)]
mod tests;
