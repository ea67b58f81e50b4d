//! The exact plan with full knowledge and without any lag.
//!
//! Once a period, for the true mean demand of the period that begins, the
//! true capacities and the true round trips: the minimum of round trips plus
//! waiting, exact, by the production solver. Waiting is that of an M/M/c
//! queue, so at rest nothing but noise moves anything. No node is planned
//! above [`CEILING`]; what finds no room is shed. Weights act at once and are
//! drawn evenly. No rule that only sets weights once a period does better;
//! rules that also react to single requests can.

use isobar_controller::planner::flow::{Arcs, Curve, Exits, Facility, Flow, FlowError};
use isobar_edge_proxy::spread::Spread;

use super::queueing::mean_wait;
use super::weights::WeightRow;
use super::{Policy, Step};
use crate::field::Field;
use crate::simulator::Mesh;
use crate::simulator::request::Moved;

/// Highest planned utilisation.
const CEILING: f64 = 0.98;
/// Segments of the cost curve.
const SEGMENTS: u32 = 49;
/// Cost of shedding one request, in nanoseconds: far above any wait.
const SHED_NS: i64 = 1_000_000_000_000;
/// Instants at which a period's demand is looked at.
const LOOKS: u32 = 10;

/// The plan for the period that runs.
pub(crate) struct Optimum {
    flow: Flow,
    period_ns: u64,
    rows: Vec<Planned>,
    utilisation_max: f64,
}

struct Planned {
    /// Home, neighbours, and last the part that is shed.
    row: WeightRow,
    spread: Spread,
}

impl Optimum {
    /// A plan that holds from the first period on.
    ///
    /// # Errors
    /// The field has more nodes or arcs than the solver takes.
    pub(crate) fn new(field: &Field, period_ns: u64) -> Result<Optimum, FlowError> {
        let arcs: Vec<Vec<(u32, i64)>> = (0_u32..)
            .zip(&field.neighbours)
            .map(|(home, list)| {
                list.iter()
                    .map(|&to| (to, field.rtt_ns(home, to) as i64))
                    .collect()
            })
            .collect();
        let exits = Exits {
            cloud_ns: None,
            shed_ns: SHED_NS,
        };
        let mut flow = Flow::new(
            Arcs::new(&arcs)?,
            waiting_curve(field.workers.iter().copied().min().unwrap_or(1))?,
            exits,
        );
        for node in 0..field.len() as u32 {
            let facility = Facility {
                capacity_mrps: (field.capacity_rps(node) * 1000.0) as i64,
                service_ns: field.service_ns as i64,
                fixed_mrps: 0,
            };
            flow.set_facility(node, facility);
        }
        let planned = |(home, list): (usize, &Vec<u32>)| {
            let mut row = WeightRow::home(home as u32, list);
            row.nodes.push(u32::MAX);
            row.ppm.push(0);
            Planned {
                row,
                spread: Spread::default(),
            }
        };
        Ok(Optimum {
            flow,
            period_ns,
            rows: field.neighbours.iter().enumerate().map(planned).collect(),
            utilisation_max: 0.0,
        })
    }

    fn plan(&mut self, mesh: &Mesh<'_>) {
        let (from_s, period_s) = (mesh.now_ns as f64 / 1e9, self.period_ns as f64 / 1e9);
        let nodes = 0..self.rows.len() as u32;
        for node in nodes.clone() {
            let look = |n: u32| from_s + period_s * (f64::from(n) + 0.5) / f64::from(LOOKS);
            let sum_rps: f64 = (0..LOOKS).map(|n| mesh.load.rate_rps(node, look(n))).sum();
            self.flow
                .set_demand(node, (sum_rps / f64::from(LOOKS) * 1000.0) as i64);
        }
        for node in self.flow.solve().rows {
            let mut shares: Vec<f64> = self
                .flow
                .row(node)
                .map(|arc| self.flow.arc_mrps(arc) as f64)
                .collect();
            shares.push(self.flow.shed_mrps(node) as f64);
            self.rows[node as usize].row.set(&shares);
        }
        for node in nodes {
            let capacity_mrps = mesh.field.capacity_rps(node) * 1000.0;
            let utilisation = self.flow.load_mrps(node) as f64 / capacity_mrps;
            self.utilisation_max = self.utilisation_max.max(utilisation);
        }
    }
}

/// Slopes of load × wait over utilisation, in service times.
fn waiting_curve(workers: u32) -> Result<Curve, FlowError> {
    let cost = |rho: f64| rho * mean_wait(workers, rho);
    let end = |k: u32| CEILING * f64::from(k) / f64::from(SEGMENTS);
    let slope = |k: u32| (cost(end(k + 1)) - cost(end(k))) / (end(k + 1) - end(k));
    let ppm = |value: f64| (value * 1e6) as u32;
    let upto_ppm = (1..=SEGMENTS).map(|k| ppm(end(k))).collect();
    let excess_ppm = (0..SEGMENTS).map(|k| ppm(slope(k))).collect();
    Curve::new(upto_ppm, excess_ppm)
}

impl Policy for Optimum {
    fn start(&mut self, mesh: &mut Mesh<'_>) {
        self.plan(mesh);
        mesh.call_back(self.period_ns, 0);
    }

    fn place(&mut self, home: u32, _mesh: &mut Mesh<'_>) -> Step {
        let Planned { row, spread } = &mut self.rows[home as usize];
        match row.nodes[spread.next(&row.ppm)] {
            u32::MAX => Step::Shed,
            to if to == home => Step::Home,
            to => Step::Move {
                to,
                moved: Moved::Plan,
            },
        }
    }

    fn on_event(&mut self, _id: u32, mesh: &mut Mesh<'_>) {
        self.plan(mesh);
        if mesh.is_open() {
            mesh.call_back(self.period_ns, 0);
        }
    }

    fn weights(&self, home: u32, row: &mut Vec<(u32, u32)>) -> bool {
        self.rows[home as usize].row.list(row);
        true
    }

    fn planned_utilisation_max(&self) -> Option<f64> {
        Some(self.utilisation_max)
    }
}
