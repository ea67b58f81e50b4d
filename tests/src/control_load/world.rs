//! Who the simulated nodes are, and what they say.

use isobar_mesh_api::message::{Hello, LocalService, Location, PROTOCOL_VERSION};
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::report::{MovedOut, NeighbourReport, Report, ServiceReport};
use isobar_mesh_api::snapshot::{Endpoint, PlanId, Row};
use isobar_mesh_api::weight::WHOLE_PPM;

/// Nodes in a row of the grid that have the same services.
const BLOCK: u32 = 64;
/// Side of a cell of the grid, in degrees.
const CELL_DEG: f64 = 0.01;
/// What the endpoints of one service on one node serve.
const CAPACITY_RPS: u64 = 100;
/// What enters at rest.
const REST_RPS: f64 = 50.0;
/// What enters in a step.
const STEP_RPS: f64 = 160.0;

/// The mesh that is simulated.
#[derive(Debug, Clone, Copy)]
pub(super) struct World {
    pub nodes: u32,
    pub services: u32,
    pub services_per_node: u32,
    pub period_us: u64,
}

impl World {
    /// The name of a node.
    pub fn node(self, number: u32) -> NodeId {
        NodeId::new(&format!("node-{number:05}")).expect("letters, digits and a hyphen")
    }

    /// The services of a node.
    pub fn services(self, number: u32) -> Vec<ServiceName> {
        let per_node = self.services_per_node.min(self.services);
        let first = number / BLOCK * per_node;
        let name = |at| {
            let name = format!("load/s{:03}", (first + at) % self.services);
            ServiceName::new(&name).expect("letters, digits and a slash")
        };
        (0..per_node).map(name).collect()
    }

    /// What a node says first.
    pub fn hello(self, number: u32, plan: Option<PlanId>) -> Hello {
        let side = f64::from(self.nodes).sqrt().ceil() as u32;
        let (row, column) = (number / side, number % side);
        let local = |service| LocalService {
            service,
            hosts: Vec::new(),
            endpoints: vec![Endpoint {
                address: "127.0.0.1:9000".to_owned(),
                workers: 4,
            }],
            capacity_rps: Some(CAPACITY_RPS as f64),
        };
        Hello {
            protocol: PROTOCOL_VERSION,
            node: self.node(number),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mesh_address: format!("10.{}.{}.1:7411", number / 250, number % 250),
            location: Some(Location {
                lat_deg: f64::from(row) * CELL_DEG,
                lon_deg: f64::from(column) * CELL_DEG,
            }),
            site: None,
            region: None,
            services: self.services(number).into_iter().map(local).collect(),
            plan,
        }
    }

    /// The counters of one service over a window. `row` says where the load went.
    pub fn counters(
        self,
        service: &ServiceName,
        row: Option<&Row>,
        hot: bool,
        window_us: u64,
        rng: &mut fastrand::Rng,
    ) -> ServiceReport {
        let window_s = window_us as f64 / 1e6;
        let mean = window_s * if hot { STEP_RPS } else { REST_RPS };
        let entered = (mean + mean.sqrt() * noise(rng)).max(0.0).round() as u64;
        let mut report = ServiceReport::idle(service.clone());
        report.entered = entered;
        let moves = row.map_or(&[][..], |row| &row.moves);
        let moved = |m: &isobar_mesh_api::snapshot::Move| MovedOut {
            to: m.to.clone(),
            plan: entered * u64::from(m.weight_ppm) / u64::from(WHOLE_PPM),
            spill: 0,
            refused: 0,
        };
        report.moved_out = moves.iter().map(moved).collect();
        let gone: u64 = report.moved_out.iter().map(|m| m.plan).sum();
        report.served_home = entered - gone.min(entered);
        report.completed = report.served_home;
        report.latency_sum_us = report.completed * 22_000;
        report.latency_min_us = 18_000;
        report.in_flight_mean_milli = report.completed * 22_000 * 1_000 / window_us;
        report
    }
}

/// A report of a window that has just ended.
pub(super) fn report(
    seq: u64,
    window_us: u64,
    services: Vec<ServiceReport>,
    neighbours: &[(NodeId, u64)],
    rng: &mut fastrand::Rng,
) -> Report {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let measured = |(node, rtt_us): &(NodeId, u64)| NeighbourReport {
        node: node.clone(),
        rtt_us: rtt_us + rng.u64(0..200),
    };
    Report {
        seq,
        window_us,
        clock_ms: clock.map_or(0, |t| t.as_millis() as u64),
        cpu_ratio: Some(0.4),
        services,
        neighbours: neighbours.iter().map(measured).collect(),
    }
}

/// About a standard normal deviate: twelve uniform ones, summed.
fn noise(rng: &mut fastrand::Rng) -> f64 {
    (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_nodes_and_every_node_its_share() {
        let world = World {
            nodes: 2_000,
            services: 100,
            services_per_node: 4,
            period_us: 1_000_000,
        };
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..world.nodes {
            let services = world.services(number);
            assert_eq!(services.len(), 4);
            seen.extend(services);
        }
        assert_eq!(seen.len(), 100);
        let few = World {
            services: 2,
            ..world
        };
        assert_eq!(few.services(7).len(), 2);
    }

    #[test]
    fn reports_are_believed() {
        let world = World {
            nodes: 4,
            services: 3,
            services_per_node: 3,
            period_us: 1_000_000,
        };
        let mut rng = fastrand::Rng::with_seed(1);
        let row = Row {
            home_ppm: 400_000,
            cloud_ppm: 0,
            moves: vec![isobar_mesh_api::snapshot::Move {
                to: world.node(1),
                weight_ppm: 600_000,
            }],
            shed_ppm: 0,
        };
        for seq in 0..200 {
            let services = world.services(0);
            let services = services.iter().map(|service| {
                world.counters(service, Some(&row), seq % 2 == 0, 1_000_000, &mut rng)
            });
            let services = services.collect();
            let neighbours = [(world.node(1), 1_000)];
            let report = report(
                seq,
                world.period_us,
                services,
                &neighbours,
                &mut rng.clone(),
            );
            report.check().unwrap();
        }
    }
}
