//! The whole mesh in one small answer, for a map that is drawn anew each second.
//!
//! Columns instead of objects: a node is an index, and an arc is two of them. 1,000 nodes with 5,000 arcs are about
//! 250 KB. Rates are rounded to thousandths of a request/s.
//!
//! **Invariant**: columns of one table have one length, and arcs name nodes that are in the picture.

use std::collections::BTreeMap;

use isobar_mesh_api::names::{NodeId, RegionName, ServiceName, SiteName};
use isobar_mesh_api::resource::Algorithm;
use isobar_mesh_api::snapshot::PlanId;
use isobar_mesh_api::weight::WHOLE_PPM;
use serde::Serialize;

use crate::control_loop::{MeshView, NodeView, Presence, SeatView, ServiceView, Totals, totals};

/// Most nodes in a picture, the first by name; further ones are counted.
pub const NODES_MAX: usize = 20_000;
/// Most arcs in a picture, those that carry most; further ones are counted.
pub const ARCS_MAX: usize = 20_000;
/// Less than this is no arc, requests/s: the rounding of weights.
const ARC_RPS_MIN: f64 = 0.001;

/// What a map needs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Picture {
    /// The plan in force.
    pub plan: PlanId,
    /// Time between two plans, milliseconds.
    pub period_ms: u64,
    /// Whose rates these are; of all services together when absent.
    pub service: Option<ServiceName>,
    /// All nodes, by name.
    pub nodes: Nodes,
    /// Load that is moved, by home and target.
    pub arcs: Arcs,
    /// All services, whatever was asked for.
    pub services: Vec<ServiceSums>,
}

/// Nodes, a column a property. Rates in requests/s.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Nodes {
    /// Names.
    pub node: Vec<NodeId>,
    /// Degrees north; `null` where no position is known.
    pub lat_deg: Vec<Option<f64>>,
    /// Degrees east.
    pub lon_deg: Vec<Option<f64>>,
    /// Sites.
    pub site: Vec<Option<SiteName>>,
    /// Regions.
    pub region: Vec<Option<RegionName>>,
    /// Whether they are heard of.
    pub presence: Vec<Presence>,
    /// Age of their last word as of the last plan, milliseconds.
    pub age_ms: Vec<Option<u64>>,
    /// Whether they take no load from others.
    pub cordoned: Vec<bool>,
    /// Whether their endpoints get no load at all.
    pub drained: Vec<bool>,
    /// Busy share of their processors, 0 to 1.
    pub cpu_ratio: Vec<Option<f64>>,
    /// What enters.
    pub demand_rps: Vec<f64>,
    /// What their endpoints can serve.
    pub capacity_rps: Vec<f64>,
    /// Load by the rows in force: own and others'.
    pub load_rps: Vec<f64>,
    /// Of this, what comes from others.
    pub moved_in_rps: Vec<f64>,
    /// What others serve for them, the upstream of last resort included.
    pub moved_out_rps: Vec<f64>,
    /// What was refused altogether, by the last reports.
    pub shed_rps: Vec<f64>,
    /// Nodes beyond [`NODES_MAX`].
    pub left_out: usize,
}

/// Arcs, a column a property.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Arcs {
    /// The home, as an index of the nodes.
    pub from: Vec<u32>,
    /// The node that serves.
    pub to: Vec<u32>,
    /// How much moves, requests/s.
    pub rps: Vec<f64>,
    /// Arcs beyond [`ARCS_MAX`].
    pub left_out: usize,
}

/// A service over all its nodes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServiceSums {
    /// Its name.
    pub service: ServiceName,
    /// How its plan is computed.
    pub algorithm: Algorithm,
    /// Nodes that have it or where it is asked for.
    pub nodes: usize,
    /// Its rates.
    #[serde(flatten)]
    pub totals: Totals,
}

/// What one node has to do with the services in question.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    demand_rps: f64,
    capacity_rps: f64,
    load_rps: f64,
    moved_in_rps: f64,
    moved_out_rps: f64,
    shed_rps: f64,
}

/// The picture of one service, or of all together; `None` when there is no such service.
pub fn picture(view: &MeshView, service: Option<&ServiceName>) -> Option<Picture> {
    let is_meant = |s: &&ServiceView| service.is_none_or(|name| *name == s.service);
    let meant: Vec<&ServiceView> = view.services.iter().filter(is_meant).collect();
    if service.is_some() && meant.is_empty() {
        return None;
    }
    let pictured = &view.nodes[..view.nodes.len().min(NODES_MAX)];
    let mut sums = vec![Sums::default(); pictured.len()];
    let mut flows: BTreeMap<(u32, u32), f64> = BTreeMap::new();
    for seat in meant.iter().flat_map(|service| &service.nodes) {
        let Some(home) = index(pictured, &seat.node) else {
            continue;
        };
        sums[home as usize].add(seat);
        let placed_rps = seat.demand_rps * (1.0 - part(seat.row.shed_ppm));
        for to in &seat.row.moves {
            let Some(target) = index(pictured, &to.to) else {
                continue;
            };
            *flows.entry((home, target)).or_default() += placed_rps * part(to.weight_ppm);
        }
    }
    let sums_of = |s: &ServiceView| ServiceSums {
        service: s.service.clone(),
        algorithm: s.algorithm,
        nodes: s.nodes.len(),
        totals: totals(s),
    };
    Some(Picture {
        plan: view.plan,
        period_ms: view.period_ms,
        service: service.cloned(),
        nodes: Nodes::new(pictured, &sums, view.nodes.len() - pictured.len()),
        arcs: Arcs::new(flows),
        services: view.services.iter().map(sums_of).collect(),
    })
}

/// Nodes are sorted by name.
fn index(nodes: &[NodeView], name: &NodeId) -> Option<u32> {
    let found = nodes.binary_search_by(|node| node.node.cmp(name));
    found.ok().map(|at| at as u32)
}

fn part(weight_ppm: u32) -> f64 {
    f64::from(weight_ppm) / f64::from(WHOLE_PPM)
}

fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

impl Sums {
    fn add(&mut self, seat: &SeatView) {
        let placed_rps = seat.demand_rps * (1.0 - part(seat.row.shed_ppm));
        let moved_ppm: u32 = seat.row.moves.iter().map(|m| m.weight_ppm).sum();
        self.demand_rps += seat.demand_rps;
        self.capacity_rps += seat.capacity_rps;
        self.load_rps += seat.planned_rps;
        self.moved_in_rps += seat.planned_moved_in_rps;
        self.moved_out_rps += placed_rps * part(moved_ppm + seat.row.cloud_ppm);
        self.shed_rps += seat.shed_rps;
    }
}

impl Nodes {
    fn new(nodes: &[NodeView], sums: &[Sums], left_out: usize) -> Nodes {
        let rates = |rate: fn(&Sums) -> f64| sums.iter().map(|s| rounded(rate(s))).collect();
        // A hundred thousandth of a degree is about a metre.
        let degrees = |value: f64| (value * 1e5).round() / 1e5;
        let lat = |n: &NodeView| n.position.map(|at| degrees(at.lat_deg()));
        let lon = |n: &NodeView| n.position.map(|at| degrees(at.lon_deg()));
        Nodes {
            node: nodes.iter().map(|n| n.node.clone()).collect(),
            lat_deg: nodes.iter().map(lat).collect(),
            lon_deg: nodes.iter().map(lon).collect(),
            site: nodes.iter().map(|n| n.site.clone()).collect(),
            region: nodes.iter().map(|n| n.region.clone()).collect(),
            presence: nodes.iter().map(|n| n.presence).collect(),
            age_ms: nodes.iter().map(|n| n.age_ms).collect(),
            cordoned: nodes.iter().map(|n| n.cordoned).collect(),
            drained: nodes.iter().map(|n| n.drained).collect(),
            cpu_ratio: nodes.iter().map(|n| n.cpu_ratio.map(rounded)).collect(),
            demand_rps: rates(|s| s.demand_rps),
            capacity_rps: rates(|s| s.capacity_rps),
            load_rps: rates(|s| s.load_rps),
            moved_in_rps: rates(|s| s.moved_in_rps),
            moved_out_rps: rates(|s| s.moved_out_rps),
            shed_rps: rates(|s| s.shed_rps),
            left_out,
        }
    }
}

impl Arcs {
    fn new(flows: BTreeMap<(u32, u32), f64>) -> Arcs {
        let flows = flows.into_iter().filter(|(_, rps)| *rps >= ARC_RPS_MIN);
        let mut flows: Vec<((u32, u32), f64)> = flows.collect();
        let left_out = flows.len().saturating_sub(ARCS_MAX);
        if left_out > 0 {
            flows.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            flows.truncate(ARCS_MAX);
            flows.sort_by_key(|flow| flow.0);
        }
        Arcs {
            from: flows.iter().map(|flow| flow.0.0).collect(),
            to: flows.iter().map(|flow| flow.0.1).collect(),
            rps: flows.iter().map(|flow| rounded(flow.1)).collect(),
            left_out,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use isobar_mesh_api::message::{Hello, LocalService, Location, PROTOCOL_VERSION};
    use isobar_mesh_api::report::{Report, ServiceReport};
    use isobar_mesh_api::snapshot::Endpoint;

    use super::*;
    use crate::control_loop::ControlLoop;

    fn service() -> ServiceName {
        ServiceName::new("shop/cart").unwrap()
    }

    fn hello(node: usize) -> Hello {
        Hello {
            protocol: PROTOCOL_VERSION,
            node: NodeId::new(&format!("node-{node:04}")).unwrap(),
            version: "0.0.0".to_owned(),
            mesh_address: "127.0.0.1:7411".to_owned(),
            location: Some(Location {
                lat_deg: 45.0 + (node / 32) as f64 * 0.012_345,
                lon_deg: 9.0 + (node % 32) as f64 * 0.012_345,
            }),
            site: None,
            region: Some(RegionName::new("north").unwrap()),
            services: vec![LocalService {
                service: service(),
                hosts: vec!["*".to_owned()],
                endpoints: vec![Endpoint {
                    address: "127.0.0.1:9000".to_owned(),
                    workers: 4,
                }],
                capacity_rps: Some(100.0),
            }],
            plan: None,
        }
    }

    /// Every third node is overloaded.
    fn busy(nodes: usize) -> ControlLoop {
        let mut mesh = ControlLoop::new(1, Duration::from_secs(1));
        let mut now = Duration::from_secs(1);
        for node in 0..nodes {
            mesh.on_hello(&hello(node), now);
        }
        for _ in 0..3 {
            for node in 0..nodes {
                let mut seen = ServiceReport::idle(service());
                seen.entered = if node % 3 == 0 { 170 } else { 20 };
                let report = Report {
                    seq: 1,
                    window_us: 1_000_000,
                    clock_ms: 1_800_000_000_000,
                    cpu_ratio: None,
                    services: vec![seen],
                    neighbours: Vec::new(),
                };
                mesh.on_report(&hello(node).node, &report, now).unwrap();
            }
            now += Duration::from_secs(1);
            mesh.tick(now);
        }
        mesh
    }

    #[test]
    fn what_leaves_a_node_arrives_at_others() {
        let view = busy(12).view();
        let all = picture(&view, None).unwrap();
        assert_eq!(all.nodes.node.len(), 12);
        let arcs: f64 = all.arcs.rps.iter().sum();
        let moved_in: f64 = all.nodes.moved_in_rps.iter().sum();
        let moved_out: f64 = all.nodes.moved_out_rps.iter().sum();
        assert!(arcs > 100.0, "{arcs}");
        assert!((arcs - moved_in).abs() < 0.1, "{arcs} {moved_in}");
        assert!((arcs - moved_out).abs() < 0.1, "{arcs} {moved_out}");
        for (from, to) in all.arcs.from.iter().zip(&all.arcs.to) {
            assert!(from % 3 == 0 && to % 3 != 0, "{from} {to}");
        }
        assert_eq!(all.services[0].nodes, 12);
        let one = picture(&view, Some(&service())).unwrap();
        assert_eq!(one.nodes, all.nodes);
        assert_eq!(
            picture(&view, Some(&ServiceName::new("a/b").unwrap())),
            None
        );
    }

    #[test]
    fn a_thousand_nodes_fit_into_a_megabyte() {
        let picture = picture(&busy(1_000).view(), None).unwrap();
        let text = serde_json::to_string(&picture).unwrap();
        assert!(picture.arcs.rps.len() > 600, "{}", picture.arcs.rps.len());
        assert!(text.len() < 300_000, "{} bytes", text.len());
    }

    #[test]
    fn the_largest_arcs_are_kept() {
        let flows = (0..ARCS_MAX as u32 + 5).map(|at| ((at, at + 1), f64::from(at)));
        let arcs = Arcs::new(flows.collect());
        // The first carries nothing and is no arc.
        assert_eq!((arcs.rps.len(), arcs.left_out), (ARCS_MAX, 4));
        assert_eq!(arcs.from[0], 5);
        assert!(arcs.from.is_sorted());
    }
}
