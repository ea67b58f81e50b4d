use std::collections::BTreeMap;

use isobar_geo_data::position::Position;
use isobar_mesh_api::message::{LINE_LEN_MAX, LocalService, PROTOCOL_VERSION, encode_line};
use isobar_mesh_api::report::{NeighbourReport, RateDemand, ServiceReport};
use isobar_mesh_api::resource::{Algorithm, EndpointSpec};
use isobar_mesh_api::snapshot::{Endpoint, Row};

use super::*;
use isobar_mesh_api::message::Hello;
use isobar_mesh_api::resource::ServiceSpec;

mod closed_loop;
mod priority;
mod registry;
mod traffic;

pub(super) const PERIOD: Duration = Duration::from_secs(1);

fn node(index: usize) -> NodeId {
    NodeId::new(&format!("n{index:05}")).unwrap()
}

fn cart() -> ServiceName {
    ServiceName::new("shop/cart").unwrap()
}

fn hello(index: usize) -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        node: node(index),
        version: "test".to_owned(),
        mesh_address: format!("10.0.0.1:{}", index % 60_000),
        location: None,
        site: None,
        region: None,
        services: Vec::new(),
        plan: None,
    }
}

fn poisson(rng: &mut fastrand::Rng, mean: f64) -> u64 {
    if mean > 500.0 {
        let normal =
            (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos();
        return (mean + normal * mean.sqrt()).max(0.0) as u64;
    }
    let (mut at, mut count) = (0.0, 0);
    loop {
        at -= (1.0 - rng.f64()).ln();
        if at > mean {
            return count;
        }
        count += 1;
    }
}

/// A square grid of nodes 500 m apart, each with four workers good for 200 requests/s, under a control loop whose
/// messages really go to proxies: each keeps a snapshot and applies deltas to it as a real one does.
struct Grid {
    side: usize,
    mesh: ControlLoop,
    rng: fastrand::Rng,
    now: Duration,
    have: BTreeMap<NodeId, Snapshot>,
    /// Reports under way, oldest first.
    under_way: std::collections::VecDeque<Vec<(usize, Report)>>,
    lag_periods: usize,
    /// Nodes where only so many workers are up.
    up: BTreeMap<usize, u32>,
    /// What is asked of the limit `all` at each.
    asked: BTreeMap<usize, u64>,
}

impl Grid {
    fn new(side: usize, seed: u64, lag_periods: usize) -> Grid {
        let mut mesh = ControlLoop::new(1, PERIOD);
        let south_west = Position::new(45.4, 9.1).unwrap();
        let mut spec = ServiceSpec {
            hosts: vec!["cart.example".to_owned()],
            endpoints: Vec::new(),
            protocol: None,
        };
        for index in 0..side * side {
            let row = south_west.destination(0.0, 500.0 * (index / side) as f64);
            let seat = NodeSeat {
                position: Some(row.destination(90.0, 500.0 * (index % side) as f64)),
                ..NodeSeat::default()
            };
            mesh.set_node(node(index), seat);
            spec.endpoints.push(EndpointSpec {
                node: node(index),
                address: "127.0.0.1:8080".to_owned(),
                workers: 4,
                capacity_rps: Some(200.0),
            });
        }
        mesh.set_service(cart(), spec);
        let mut grid = Grid {
            side,
            mesh,
            rng: fastrand::Rng::with_seed(seed),
            now: Duration::from_secs(1000),
            have: BTreeMap::new(),
            under_way: std::collections::VecDeque::new(),
            lag_periods,
            up: BTreeMap::new(),
            asked: BTreeMap::new(),
        };
        grid.connect();
        grid
    }

    fn connect(&mut self) {
        for index in 0..self.side * self.side {
            self.mesh.on_hello(&hello(index), self.now);
        }
    }

    fn policy(&mut self, change: impl FnOnce(&mut WeightPolicySpec)) {
        let mut policy = WeightPolicySpec::default();
        change(&mut policy);
        self.mesh.set_policies(vec![("all".to_owned(), policy)]);
    }

    fn middle(&self) -> usize {
        (self.side / 2) * self.side + self.side / 2
    }

    fn report(&mut self, index: usize, rate_rps: f64) -> Report {
        let mut seen = ServiceReport::idle(cart());
        seen.entered = poisson(&mut self.rng, rate_rps);
        seen.workers_up = self.up.get(&index).copied();
        let demand = |&asked: &u64| RateDemand {
            limit: "all".to_owned(),
            asked,
        };
        seen.rates = self.asked.get(&index).map(demand).into_iter().collect();
        let neighbours = self
            .have
            .get(&node(index))
            .map_or(&[][..], |s| &s.neighbours);
        let rtt = |n: &isobar_mesh_api::snapshot::Neighbour| {
            let there: usize = n.node.as_str()[1..].parse().unwrap();
            // One to four milliseconds, the same in both directions and for ever.
            let spread = (index.min(there) * 7_919 + index.max(there) * 104_729) % 3_000;
            NeighbourReport {
                node: n.node.clone(),
                rtt_us: 1_000 + spread as u64,
            }
        };
        Report {
            seq: 1,
            window_us: PERIOD.as_micros() as u64,
            clock_ms: 1_700_000_000_000,
            cpu_ratio: None,
            neighbours: neighbours.iter().map(rtt).collect(),
            services: vec![seen],
        }
    }

    /// One period: everybody whose `rate_rps` is a number reports; reports arrive after the lag; a tick.
    fn period(&mut self, rate_rps: impl Fn(usize) -> Option<f64>) -> TickStats {
        let mut reports = Vec::new();
        for index in 0..self.side * self.side {
            if let Some(rate_rps) = rate_rps(index) {
                reports.push((index, self.report(index, rate_rps)));
            }
        }
        self.under_way.push_back(reports);
        if self.under_way.len() > self.lag_periods {
            for (index, report) in self.under_way.pop_front().unwrap_or_default() {
                self.mesh
                    .on_report(&node(index), &report, self.now)
                    .unwrap();
            }
        }
        self.now += PERIOD;
        self.tick()
    }

    fn tick(&mut self) -> TickStats {
        let tick = self.mesh.tick(self.now);
        for (to, message) in tick.pushes {
            let plan = match message {
                Down::Snapshot(snapshot) => {
                    assert_eq!((snapshot.check(), &snapshot.node), (Ok(()), &to));
                    assert!(
                        self.have
                            .get(&to)
                            .is_none_or(|had| had.plan < snapshot.plan)
                    );
                    let plan = snapshot.plan;
                    self.have.insert(to.clone(), snapshot);
                    plan
                }
                Down::Delta(delta) => {
                    let plan = delta.plan;
                    let next = self.have[&to].apply(delta).unwrap();
                    self.have.insert(to.clone(), next);
                    plan
                }
                other => panic!("{other:?}"),
            };
            assert!(plan <= tick.plan);
            self.mesh.on_ack(&to, plan);
        }
        tick.stats
    }

    fn row(&self, index: usize) -> Row {
        let services = &self.have[&node(index)].services;
        services
            .iter()
            .find(|s| s.service == cart())
            .unwrap()
            .row
            .clone()
    }

    fn credits_rps(&self, index: usize) -> Vec<(NodeId, f64)> {
        let credits = &self.have[&node(index)].services[0].credits;
        credits
            .iter()
            .map(|c| (c.home.clone(), c.credit_rps))
            .collect()
    }

    /// What really arrives at a node's endpoints, by the rows that proxies have.
    fn load_rps(&self, index: usize, rate_rps: &impl Fn(usize) -> Option<f64>) -> f64 {
        let part = |home: usize| {
            let row = self.row(home);
            let weight_ppm = match home == index {
                true => row.home_ppm,
                false => row.weight_ppm(&node(index)),
            };
            f64::from(weight_ppm) / 1e6 * rate_rps(home).unwrap_or(0.0)
        };
        (0..self.side * self.side).map(part).sum()
    }

    /// Everybody at 60 %, but the middle one at `times` that.
    fn hot(&self, times: f64) -> impl Fn(usize) -> Option<f64> + use<> {
        let middle = self.middle();
        move |index| {
            Some(if index == middle {
                120.0 * times
            } else {
                120.0
            })
        }
    }
}
