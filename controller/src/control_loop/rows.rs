//! From flows to the rows in force, without swinging.
//!
//! An optimum is a corner: a few requests/s more at one node can turn the best row of another around, though both rows
//! serve nearly as well. So the rows in force follow the plan only where that is worth something:
//!
//! ```text
//! flows ──▶ planned row ──┬─ someone is above what the plan allows, and this row is why ──▶ follow
//!                         ├─ a tenth of the home's capacity is at stake                 ──▶ follow
//!                         ├─ nobody around is in need any more                          ──▶ follow
//!                         ├─ it has differed for [`PATIENCE_TICKS`]                     ──▶ follow
//!                         └─ else                                                       ──▶ stay
//! ```
//!
//! Who follows goes the whole way: outward at once, homeward by steps.
//!
//! **Invariant**: after a tick no node is above its ceiling by rows in force that the plan does not put above it.

use isobar_mesh_api::resource::Algorithm;
use isobar_mesh_api::weight::WHOLE_PPM;

use super::mesh::Nodes;
use super::planning::{part_mrps, part_of_mrps};
use super::service::{Seat, Service};
use crate::load_book::Standing;
use crate::planner::Arc;
use crate::planner::damp::Weights;

/// Load above the ceiling that is put down to the rounding of weights, as a share of the ceiling.
const CEILING_SLACK: f64 = 0.001;
/// Load above what is planned that a node bears before rows change, as a share of its capacity: the noise of a demand
/// that fills it.
const BEAR_SHARE: f64 = 0.05;
/// Load that is worth a change of a row, as a share of the home's capacity.
const WORTH_SHARE: f64 = 0.1;
/// Ticks after which even a small difference is followed.
const PATIENCE_TICKS: u32 = 30;
/// Rounds in which rows that follow make others follow; displacement reaches as many steps outward in one tick.
const ROUNDS_MAX: usize = 16;

impl Service {
    /// Turns flows into planned rows, and brings the rows in force after them.
    pub(super) fn settle(&mut self, nodes: &Nodes) {
        let mut moved: Vec<(u32, f64)> = Vec::new();
        let mut apart: Vec<usize> = Vec::new();
        for at in 0..self.seats.len() {
            match self.seats[at].planned_as(nodes) {
                Standing::Live => self.plan_row(at, &mut moved),
                Standing::Stale { .. } => {
                    let seat = &mut self.seats[at];
                    seat.planned.clone_from(&seat.weights);
                }
                Standing::Absent | Standing::Silent => {
                    self.seats[at].planned = Weights::default();
                    self.seats[at].weights = Weights::default();
                }
            }
            let seat = &mut self.seats[at];
            if std::mem::take(&mut seat.broken) {
                seat.weights.clone_from(&seat.planned);
            }
            if seat.weights == seat.planned {
                seat.apart = 0;
                seat.following = false;
            } else {
                seat.apart += 1;
                apart.push(at);
            }
        }
        if self.policy.observe_only {
            return self.stay_home();
        }
        if std::mem::take(&mut self.planning.obey) {
            for at in apart.drain(..) {
                let seat = &mut self.seats[at];
                seat.weights.clone_from(&seat.planned);
            }
        }
        self.follow(apart);
        self.hold_limits();
    }

    /// A policy that only observes leaves everything at home.
    fn stay_home(&mut self) {
        for seat in &mut self.seats {
            seat.weights = Weights::default();
            seat.following = false;
        }
        (self.planning.load_mrps, self.planning.moved_in_mrps) =
            self.loads_mrps(|seat| &seat.weights);
    }

    fn plan_row(&mut self, at: usize, moved: &mut Vec<(u32, f64)>) {
        let (field, flows) = (&self.planning.field, &self.planning.flows);
        moved.clear();
        for arc in field.row(at as u32) {
            let Arc { to, static_ppm, .. } = field.arcs()[arc];
            let share = match self.policy.algorithm {
                Algorithm::Static => f64::from(static_ppm),
                _ => flows.arc_mrps[arc] as f64,
            };
            if share > 0.0 {
                moved.push((self.seats[to as usize].node, share));
            }
        }
        let pinned_mrps = self.pinned_out_mrps(at);
        for pin in self.planning.pins.get(at).into_iter().flatten() {
            let node = self.seats[pin.to as usize].node;
            let share = part_of_mrps(self.planning.demand_mrps[at], pin.weight_ppm) as f64;
            match moved.iter_mut().find(|m| m.0 == node) {
                Some(known) => known.1 += share,
                None if share > 0.0 => moved.push((node, share)),
                None => {}
            }
        }
        let (cloud, shed) = (flows.cloud_mrps[at] as f64, flows.shed_mrps[at] as f64);
        if moved.is_empty() && cloud == 0.0 && shed == 0.0 {
            if !self.seats[at].planned.is_home() {
                self.seats[at].planned = Weights::default();
            }
            return;
        }
        let home = match self.policy.algorithm {
            Algorithm::Static => f64::from(WHOLE_PPM) - moved.iter().map(|m| m.1).sum::<f64>(),
            _ => {
                let kept_mrps = self.planning.demand_mrps[at] - field.spots[at].demand_mrps;
                (flows.home_mrps[at] + kept_mrps - pinned_mrps).max(0) as f64
            }
        };
        self.seats[at].planned = Weights::from_flows(home, cloud, shed, moved);
    }

    /// Takes one step with every row that has reason to; `apart` lists those that differ from their plan.
    fn follow(&mut self, mut apart: Vec<usize>) {
        if apart.is_empty() {
            return;
        }
        let (planned_mrps, planned_in_mrps) = self.loads_mrps(|seat| &seat.planned);
        apart.retain(|&at| {
            let follows = self.is_worth_following(at, planned_in_mrps[at]);
            if follows {
                self.step(at);
            }
            !follows
        });
        for _ in 0..ROUNDS_MAX {
            let (load_mrps, _) = self.loads_mrps(|seat| &seat.weights);
            let over = self.above_plan(&load_mrps, &planned_mrps);
            let before = apart.len();
            apart.retain(|&at| {
                let follows = self.relieves(at, &over);
                if follows {
                    self.step(at);
                }
                !follows
            });
            if apart.len() == before {
                break;
            }
        }
    }

    fn step(&mut self, at: usize) {
        let seat = &mut self.seats[at];
        seat.following = true;
        seat.weights.step_towards(&seat.planned);
    }

    /// Whether a row has reason of its own to follow its plan.
    fn is_worth_following(&self, at: usize, planned_in_mrps: i64) -> bool {
        let seat = &self.seats[at];
        if seat.following
            || seat.apart > PATIENCE_TICKS
            || self.policy.algorithm == Algorithm::Static
        {
            return true;
        }
        // Nobody is refused for the sake of calm, and nothing stays away when all is calm.
        if seat.planned.shed_ppm < seat.weights.shed_ppm
            || (seat.planned.is_home() && planned_in_mrps == 0)
        {
            return true;
        }
        let demand_mrps = self.planning.demand_mrps[at] as f64;
        let at_stake_mrps = f64::from(seat.weights.distance_ppm(&seat.planned))
            / f64::from(WHOLE_PPM)
            * demand_mrps;
        at_stake_mrps > WORTH_SHARE * seat.capacity.held_rps() * 1e3
    }

    /// Whether a row puts more on a seat that is `over` than its plan does.
    fn relieves(&self, at: usize, over: &[bool]) -> bool {
        let seat = &self.seats[at];
        let flow = |row: &Weights, weight_ppm: u32| {
            part_mrps(self.planning.demand_mrps[at], row, weight_ppm)
        };
        let less = |now_ppm: u32, planned_ppm: u32| {
            flow(&seat.weights, now_ppm) > flow(&seat.planned, planned_ppm)
        };
        let home = over[at] && less(seat.weights.home_ppm, seat.planned.home_ppm);
        home || seat.weights.moves.iter().any(|&(node, weight_ppm)| {
            let there = self.seat_at(node).is_some_and(|to| over[to]);
            there && less(weight_ppm, seat.planned.to_ppm(node))
        })
    }

    /// Rows on their way home go all the way at once where someone would else be above the ceiling. What one row takes
    /// off a node another may have put there, so this is repeated; at last all rows are as planned, and the plan keeps
    /// the ceiling.
    fn hold_limits(&mut self) {
        for round in 0..=ROUNDS_MAX {
            let (load_mrps, moved_in_mrps) = self.loads_mrps(|seat| &seat.weights);
            let over = self.above_ceiling(&load_mrps);
            self.planning.load_mrps = load_mrps;
            self.planning.moved_in_mrps = moved_in_mrps;
            if !over.contains(&true) {
                return;
            }
            let late = |&at: &usize| {
                let seat = &self.seats[at];
                seat.weights != seat.planned && (round == ROUNDS_MAX || self.relieves(at, &over))
            };
            let late: Vec<usize> = (0..self.seats.len()).filter(late).collect();
            if late.is_empty() {
                return;
            }
            for &at in &late {
                let seat = &mut self.seats[at];
                seat.weights.clone_from(&seat.planned);
            }
        }
        (self.planning.load_mrps, self.planning.moved_in_mrps) =
            self.loads_mrps(|seat| &seat.weights);
    }

    /// Load by seat, and of it what is moved in, when every home follows `row`.
    pub(super) fn loads_mrps(&self, row: fn(&Seat) -> &Weights) -> (Vec<i64>, Vec<i64>) {
        let mut load_mrps = vec![0; self.seats.len()];
        let mut moved_in_mrps = vec![0; self.seats.len()];
        let demands_mrps = self.planning.demand_mrps.iter();
        for ((at, seat), &demand_mrps) in self.seats.iter().enumerate().zip(demands_mrps) {
            let weights = row(seat);
            load_mrps[at] += part_mrps(demand_mrps, weights, weights.home_ppm);
            for &(node, weight_ppm) in &weights.moves {
                if let Some(to) = self.seat_at(node) {
                    let mrps = part_mrps(demand_mrps, weights, weight_ppm);
                    load_mrps[to] += mrps;
                    moved_in_mrps[to] += mrps;
                }
            }
        }
        (load_mrps, moved_in_mrps)
    }

    /// Seats above their ceiling.
    pub(super) fn above_ceiling(&self, load_mrps: &[i64]) -> Vec<bool> {
        let limit = self.policy.ceiling_utilisation * (1.0 + CEILING_SLACK);
        let above = |(seat, &load_mrps): (&Seat, &i64)| {
            load_mrps as f64 > seat.capacity.held_rps() * 1e3 * limit
        };
        self.seats.iter().zip(load_mrps).map(above).collect()
    }

    /// Seats that carry noticeably more than the plan and the target allow, or are above their ceiling.
    fn above_plan(&self, load_mrps: &[i64], planned_mrps: &[i64]) -> Vec<bool> {
        let mut over = self.above_ceiling(load_mrps);
        for (at, over) in over.iter_mut().enumerate() {
            let capacity_mrps = self.seats[at].capacity.held_rps() * 1e3;
            let allowed_mrps =
                (capacity_mrps * self.policy.target_utilisation).max(planned_mrps[at] as f64);
            *over |= load_mrps[at] as f64 > allowed_mrps + BEAR_SHARE * capacity_mrps;
        }
        over
    }
}
