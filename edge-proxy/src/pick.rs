//! Who serves one request: home, a neighbour, or the upstream of last resort.
//!
//! The plan is right on average; single milliseconds are not average. So a
//! choice starts from the plan's weights and is corrected by what is known now:
//!
//! ```text
//! home has an idle worker ───────────────────────────────► home (recall)
//! weights say home, calm, under 2 × workers in flight ───► home
//! weights say home, more in flight ──┬─ nobody clearly better ─► home
//!                                    └─ better of two random ──► that neighbour (spill)
//! weights say neighbour ─────────────┬─ it has an idle worker ─► that neighbour (plan)
//!                                    └─ better of two random ──► another, or home
//! ```
//!
//! "Better" compares expected waits: requests beyond the workers, times the
//! time one takes, per worker, plus the round trip. Two random candidates
//! instead of the best of all: when several homes look for room at once, the
//! best of all would be crowded by all of them (Mitzenmacher 2001, the power
//! of two choices; Wydrowski et al. 2024, Prequal, for asynchronous probes).
//!
//! Pure: takes the clock and the random numbers as arguments, so that the
//! simulator runs this very code.

use isobar_mesh_api::hop::LoadHint;
use isobar_mesh_api::names::NodeId;
use isobar_mesh_api::snapshot::{Neighbour, Row, ServicePlan};

use crate::balance::{hash, rendezvous};
use crate::neighbour_load::NeighbourLoad;
use crate::pressure::Pressure;
use crate::spread::Spread;

/// A calm home compares with neighbours before queueing when this many are in flight per hundred workers.
pub const SPILL_PERCENT: u32 = 200;
/// The same of a home under [pressure](crate::pressure): before anybody queues.
pub const SPILL_PRESSED_PERCENT: u32 = 100;
/// A neighbour is clearly better when it saves at least this part of one service time.
pub const CLEARLY: f64 = 0.1;
/// Assumed service time while none has been measured, in microseconds.
const LATENCY_UNKNOWN_US: u32 = 10_000;

/// Why a request is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The weights said so.
    Plan,
    /// Home, or the node that the weights named, was full at that instant.
    Spill,
}

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// An endpoint of this node.
    Home,
    /// The neighbour with this index in the snapshot.
    Move {
        /// Its index.
        neighbour: usize,
        /// Why.
        cause: Cause,
    },
    /// The upstream of last resort.
    Cloud,
}

/// One service's row, with names resolved to indices of the snapshot's neighbours.
#[derive(Debug, Clone)]
pub struct Route {
    /// Home, cloud, then the moves; what [`Spread`] runs over.
    weights_ppm: Vec<u32>,
    /// Hashes of their names, for sessions.
    names: Vec<u64>,
    /// Neighbour index of `weights_ppm[2..]`.
    moves: Vec<u16>,
    /// Neighbours that a single request may be moved to now.
    spill: Vec<u16>,
    /// Round trip by neighbour index, in microseconds.
    rtt_us: Vec<u32>,
}

/// What one worker thread remembers between its choices for one service.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    spread: Spread,
    pressure: Pressure,
}

impl Memory {
    /// Whether home came under pressure since this was asked last: the controller should hear of it soon.
    pub fn take_onset(&mut self) -> bool {
        self.pressure.take_onset()
    }
}

/// What is known at the instant of a choice.
#[derive(Debug)]
pub struct Now<'a> {
    /// This node's own load with the service.
    pub home: LoadHint,
    /// What neighbours last said.
    pub neighbours: &'a NeighbourLoad,
    /// The coarse clock, in microseconds.
    pub now_us: u64,
}

impl Route {
    /// Resolves a plan's row and spill list. Nodes that are not among `neighbours` are left out and
    /// their weight goes home (a checked snapshot has none).
    pub fn new(plan: &ServicePlan, neighbours: &[Neighbour]) -> Route {
        Route::with_row(plan, &plan.row, neighbours)
    }

    /// The same with another row, for weights that decay.
    pub fn with_row(plan: &ServicePlan, row: &Row, neighbours: &[Neighbour]) -> Route {
        let index = |node: &NodeId| {
            let found = neighbours.iter().position(|n| n.node == *node);
            found.and_then(|i| u16::try_from(i).ok())
        };
        let mut weights_ppm = vec![row.home_ppm, row.cloud_ppm];
        let mut names = Route::own_names();
        let mut moves = Vec::new();
        for to in &row.moves {
            match index(&to.to) {
                Some(i) => {
                    moves.push(i);
                    names.push(hash::of(to.to.as_str().as_bytes()));
                    weights_ppm.push(to.weight_ppm);
                }
                None => weights_ppm[0] += to.weight_ppm,
            }
        }
        let rtt_us = |n: &Neighbour| u32::try_from(n.rtt_us).unwrap_or(u32::MAX);
        Route {
            weights_ppm,
            names,
            moves,
            spill: plan.spill.iter().filter_map(index).collect(),
            rtt_us: neighbours.iter().map(rtt_us).collect(),
        }
    }

    /// Everything at home, nowhere to spill.
    pub fn home_only() -> Route {
        Route {
            weights_ppm: vec![isobar_mesh_api::weight::WHOLE_PPM, 0],
            names: Route::own_names(),
            moves: Vec::new(),
            spill: Vec::new(),
            rtt_us: Vec::new(),
        }
    }

    /// Home and cloud.
    fn own_names() -> Vec<u64> {
        vec![hash::of(b"home"), hash::of(b"cloud")]
    }

    /// Neighbours that a single request may be moved to, by index.
    pub fn spill(&self) -> impl Iterator<Item = usize> + '_ {
        self.spill.iter().map(|&i| usize::from(i))
    }

    /// Chooses for one request that entered here. A moved-in request is never asked about: it is
    /// served here or refused.
    pub fn pick(&self, now: &Now<'_>, memory: &mut Memory, rng: &mut fastrand::Rng) -> Choice {
        let may_correct = !self.spill.is_empty();
        // The weights are drawn first in any case, so that what recall keeps home does not
        // change who gets the rest.
        let drawn = memory.spread.next(&self.weights_ppm);
        let spill_percent = match memory.pressure.arrived(now.home, now.now_us) {
            true => SPILL_PRESSED_PERCENT,
            false => SPILL_PERCENT,
        };
        if may_correct && now.home.in_flight < now.home.workers {
            return Choice::Home;
        }
        match drawn {
            0 if may_correct && reaches(now.home, spill_percent) => {
                self.spill_or(Choice::Home, now, rng)
            }
            0 => Choice::Home,
            1 => Choice::Cloud,
            drawn => self.move_by_plan(usize::from(self.moves[drawn - 2]), now, rng),
        }
    }

    /// The same for a request of a session. The weights say who serves by its key, so a session stays with a node as long as
    /// that node's weight is not taken back, and a change of weights moves no other sessions than it must. Only while that
    /// node is full is a request of it served as any other.
    pub fn pick_for(
        &self,
        key: u64,
        now: &Now<'_>,
        memory: &mut Memory,
        rng: &mut fastrand::Rng,
    ) -> Choice {
        memory.pressure.arrived(now.home, now.now_us);
        let weighted = self
            .names
            .iter()
            .copied()
            .zip(self.weights_ppm.iter().copied());
        match rendezvous::choose(weighted, key) {
            None | Some(0) if reaches(now.home, SPILL_PERCENT) && !self.spill.is_empty() => {
                self.spill_or(Choice::Home, now, rng)
            }
            None | Some(0) => Choice::Home,
            Some(1) => Choice::Cloud,
            Some(drawn) => self.move_by_plan(usize::from(self.moves[drawn - 2]), now, rng),
        }
    }

    /// Chooses again after a neighbour refused or could not be reached: one other, or home.
    pub fn pick_again(&self, refused: usize, now: &Now<'_>, rng: &mut fastrand::Rng) -> Choice {
        now.neighbours.forget(refused);
        if now.home.workers > 0 && !is_busy(now.home) {
            return Choice::Home;
        }
        self.spill_or(Choice::Home, now, rng)
    }

    fn move_by_plan(&self, neighbour: usize, now: &Now<'_>, rng: &mut fastrand::Rng) -> Choice {
        let planned = Choice::Move {
            neighbour,
            cause: Cause::Plan,
        };
        let busy = now
            .neighbours
            .fresh(neighbour, now.now_us)
            .is_some_and(is_busy);
        if !busy {
            return planned;
        }
        self.spill_or(planned, now, rng)
    }

    /// The better of two random neighbours when it is clearly better than `otherwise`.
    fn spill_or(&self, otherwise: Choice, now: &Now<'_>, rng: &mut fastrand::Rng) -> Choice {
        let margin_us = CLEARLY * f64::from(latency_us(now.home));
        let home_us = wait_us(now.home);
        let (mut best, mut best_us) = match otherwise {
            Choice::Move { neighbour, .. } => {
                let there_us = self.cost_us(neighbour, now).unwrap_or(f64::MAX);
                if home_us + margin_us < there_us {
                    (Choice::Home, home_us)
                } else {
                    (otherwise, there_us)
                }
            }
            _ => (otherwise, home_us),
        };
        for neighbour in self.two_random(rng) {
            let Some(there_us) = self.cost_us(neighbour, now) else {
                continue;
            };
            if there_us + margin_us < best_us {
                best = Choice::Move {
                    neighbour,
                    cause: Cause::Spill,
                };
                best_us = there_us;
            }
        }
        best
    }

    /// Expected wait at a neighbour plus the way there and back, in microseconds.
    fn cost_us(&self, neighbour: usize, now: &Now<'_>) -> Option<f64> {
        let hint = now.neighbours.fresh(neighbour, now.now_us)?;
        if hint.workers == 0 {
            return None;
        }
        let rtt_us = self.rtt_us.get(neighbour).copied().unwrap_or(0);
        Some(wait_us(hint) + f64::from(rtt_us))
    }

    fn two_random(&self, rng: &mut fastrand::Rng) -> impl Iterator<Item = usize> + use<> {
        let n = self.spill.len();
        let pair = match n {
            0 => [None, None],
            1 => [Some(0), None],
            _ => {
                let first = rng.usize(..n);
                let second = rng.usize(..n - 1);
                [Some(first), Some(second + usize::from(second >= first))]
            }
        };
        let at = |i: usize| usize::from(self.spill[i]);
        let pair = pair.map(|i| i.map(at));
        pair.into_iter().flatten()
    }
}

/// Whether a newcomer would wait.
pub fn is_busy(load: LoadHint) -> bool {
    load.in_flight >= load.workers
}

/// Whether so many are in flight per hundred workers.
fn reaches(load: LoadHint, percent: u32) -> bool {
    u64::from(load.in_flight) * 100 >= u64::from(load.workers) * u64::from(percent)
}

/// How long a newcomer would wait before an endpoint takes it, in microseconds. Infinite without
/// workers.
pub fn wait_us(load: LoadHint) -> f64 {
    if load.workers == 0 {
        return f64::INFINITY;
    }
    let ahead = (load.in_flight + 1).saturating_sub(load.workers);
    f64::from(ahead) * f64::from(latency_us(load)) / f64::from(load.workers)
}

fn latency_us(load: LoadHint) -> u32 {
    match load.latency_us {
        0 => LATENCY_UNKNOWN_US,
        known => known,
    }
}

#[cfg(test)]
mod tests;
