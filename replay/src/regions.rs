//! A mesh planned in regions that know of each other only how much room there is at their borders, beside the plan of the
//! whole; nothing is simulated.
//!
//! ```text
//!   each period, each region by itself:
//!     own nodes         demand, capacity less what is offered to others        ┐
//!     guests (nodes of other regions that own homes list as neighbours):       ├─▶ solve ─▶ own load, use of guests
//!                       the room that they were offered, and nothing else      ┘
//!   then between regions: for each border node, what each neighbouring region may send there next
//! ```
//!
//! What a region is offered at a border node is what it used there, and an equal part of half of what is left below the target
//! utilisation. What is offered is kept free for a period by who offers it, so whatever the regions do at the same time, no node
//! is planned above its ceiling. One number per border node and region goes over the wire.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use isobar_controller::planner::SHED_NS;
use isobar_controller::planner::curve::curve;
use isobar_controller::planner::flow::{Arcs, Curve, Exits, Facility, Flow, FlowError};
use isobar_geo_data::nearest::NearestIndex;
use isobar_geo_data::position::Position;
use serde::Serialize;

/// Neighbours of a node.
const NEIGHBOURS: usize = 8;
/// What a node serves, and how long one request takes there.
const CAPACITY_MRPS: i64 = 200_000;
const SERVICE_NS: i64 = 20_000_000;
/// One node in twenty has ten times the demand of the others.
const HOT: f64 = 0.05;
const HOT_TIMES: f64 = 10.0;
/// Side of a cell of the grid; its node is within 40 % of it.
const CELL_DEG: f64 = 0.01;
/// The default policy's target and ceiling utilisation, parts per million.
const TARGET_PPM: u32 = 750_000;
const CEILING_PPM: u32 = 950_000;
const MILLION: i64 = 1_000_000;
/// Most nodes, regions and rounds.
pub const NODES_MAX: u32 = 1_000_000;
/// See [`NODES_MAX`].
pub const REGIONS_MAX: u32 = 4_096;
/// See [`NODES_MAX`].
pub const ROUNDS_MAX: u32 = 100;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RegionOptions {
    /// Nodes, on a jittered grid, 4 to [`NODES_MAX`].
    pub nodes: u32,
    /// Regions of about the same size, 1 to [`REGIONS_MAX`], at most one for four nodes.
    pub regions: u32,
    /// Periods in which they tell each other of room, at most [`ROUNDS_MAX`].
    pub rounds: u32,
    /// Demand of an ordinary node as a part of its capacity, above 0, at most 1.
    pub base: f64,
    /// Seed of positions, round trips and demands.
    pub seed: u64,
}

/// Why nothing is compared.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// An option out of its range.
    #[error("{0}")]
    Option(&'static str),
    /// More nodes or pairs than the solver numbers.
    #[error("planning")]
    Flow(#[from] FlowError),
}

/// One way to plan, and what it comes to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegionLine {
    /// `whole`, `apart`, or `round N`.
    pub plan: String,
    /// Demand that finds no room, requests/s.
    pub unplaced_rps: f64,
    /// Demand that moves, requests/s.
    pub moved_rps: f64,
    /// Of that, over a border between regions.
    pub crossing_rps: f64,
    /// Round trips and waiting of what is placed, averaged over all demand, milliseconds.
    pub delay_ms: f64,
    /// Time to solve: of the whole, or of the slowest region.
    pub solve_ms: f64,
    /// Numbers that regions tell each other for it.
    pub told: usize,
}

/// Plans a made-up mesh as a whole, in regions apart, and in regions that tell each other of room.
///
/// # Errors
/// An option out of its range.
pub fn compare(options: &RegionOptions) -> Result<Vec<RegionLine>, RegionError> {
    check(options)?;
    let mesh = Mesh::new(options)?;
    let (whole, solve) = mesh.whole()?;
    let mut lines = vec![mesh.line("whole".to_owned(), &whole, solve, 0)?];
    let mut regions = mesh.regions(options.regions);
    for round in 0..=options.rounds {
        let mut slowest = Duration::ZERO;
        for region in &mut regions {
            slowest = slowest.max(region.solve(&mesh)?);
        }
        let told = regions.iter().map(|r| r.offers.len()).sum();
        let plan = match round {
            0 => "apart".to_owned(),
            round => format!("round {round}"),
        };
        let combined = combine(&mesh, &regions);
        lines.push(mesh.line(plan, &combined, slowest, told)?);
        offer(&mesh, &mut regions);
    }
    Ok(lines)
}

fn check(options: &RegionOptions) -> Result<(), RegionError> {
    let wrong = |text| Err(RegionError::Option(text));
    if !(4..=NODES_MAX).contains(&options.nodes) {
        return wrong("there must be 4 to 1,000,000 nodes");
    }
    if !(1..=REGIONS_MAX.min(options.nodes / 4)).contains(&options.regions) {
        return wrong("there must be 1 to 4,096 regions, of four nodes at least");
    }
    if options.rounds > ROUNDS_MAX {
        return wrong("there must be at most 100 rounds");
    }
    if !(options.base > 0.0 && options.base <= 1.0) {
        return wrong("the base must be above 0 and at most 1");
    }
    Ok(())
}

/// Flow from a home to a node, of demand that is not shed; homes serve themselves by an arc to themselves.
type Flows = Vec<(u32, u32, i64)>;

struct Mesh {
    positions: Vec<Position>,
    rows: Vec<Vec<(u32, i64)>>,
    demand_mrps: Vec<i64>,
    /// By node.
    region: Vec<u32>,
}

impl Mesh {
    fn new(options: &RegionOptions) -> Result<Mesh, RegionError> {
        let mut rng = fastrand::Rng::with_seed(options.seed);
        let width = f64::from(options.nodes).sqrt().ceil() as u32;
        let position = |node: u32| {
            let mut at = |cell: u32| (f64::from(cell) + 0.8 * rng.f64()) * CELL_DEG;
            let (lat_deg, lon_deg) = (at(node / width), at(node % width));
            Position::new(lat_deg, lon_deg)
        };
        let positions: Result<Vec<Position>, _> = (0..options.nodes).map(position).collect();
        let positions = positions.map_err(|_| RegionError::Option("the grid leaves the globe"))?;
        let index = NearestIndex::new(&positions);
        // Half a millisecond, a microsecond a metre, and up to a millisecond that distance does not explain.
        let mut row = |own: usize| {
            let near = index.nearest_of(own, NEIGHBOURS);
            let cost_ns = |m: f64, rng: &mut fastrand::Rng| {
                500_000 + (m * 1_000.0) as i64 + rng.i64(0..1_000_000)
            };
            let arc = |n: &isobar_geo_data::nearest::Neighbour| (n.index as u32, n.distance_m);
            let near: Vec<(u32, f64)> = near.iter().map(arc).collect();
            let arc = |(to, m)| (to, cost_ns(m, &mut rng));
            near.into_iter().map(arc).collect()
        };
        let rows = (0..positions.len()).map(&mut row).collect();
        let demand = |_| {
            let times = if rng.f64() < HOT { HOT_TIMES } else { 1.0 };
            let share = options.base * (0.95 + 0.1 * rng.f64()) * times;
            (CAPACITY_MRPS as f64 * share) as i64
        };
        let demand_mrps = (0..options.nodes).map(demand).collect();
        let mut mesh = Mesh {
            region: vec![0; positions.len()],
            positions,
            rows,
            demand_mrps,
        };
        let mut all: Vec<u32> = (0..options.nodes).collect();
        halve(
            &mesh.positions,
            &mut all,
            0,
            options.regions,
            &mut mesh.region,
        );
        Ok(mesh)
    }

    /// The plan of the whole.
    fn whole(&self) -> Result<(Flows, Duration), RegionError> {
        let mut flow = problem(&self.rows)?;
        for node in 0..self.rows.len() as u32 {
            flow.set_demand(node, self.demand_mrps[node as usize]);
            flow.set_facility(node, facility(CAPACITY_MRPS, 0));
        }
        let began = Instant::now();
        flow.solve();
        let solve = began.elapsed();
        Ok((flows(&flow, |node| node), solve))
    }

    fn regions(&self, count: u32) -> Vec<Region> {
        let mut own = vec![Vec::new(); count as usize];
        for (node, &region) in (0..).zip(&self.region) {
            own[region as usize].push(node);
        }
        let region = |(number, own): (u32, Vec<u32>)| Region::new(self, number, own);
        (0..).zip(own).map(region).collect()
    }

    fn line(
        &self,
        plan: String,
        flows: &Flows,
        solve: Duration,
        told: usize,
    ) -> Result<RegionLine, RegionError> {
        let (mut moved, mut crossing, mut placed) = (0, 0, 0);
        let mut load_mrps = vec![0; self.rows.len()];
        let mut trips_ns = 0_i128;
        for &(home, to, mrps) in flows {
            placed += mrps;
            load_mrps[to as usize] += mrps;
            if home == to {
                continue;
            }
            moved += mrps;
            let apart = self.region[home as usize] != self.region[to as usize];
            crossing += if apart { mrps } else { 0 };
            let way = self.rows[home as usize].iter().find(|way| way.0 == to);
            trips_ns += i128::from(way.map_or(0, |way| way.1)) * i128::from(mrps);
        }
        let demand: i64 = self.demand_mrps.iter().sum();
        let delay_ns = trips_ns + waiting_ns(&load_mrps)?;
        let rps = |mrps: i64| mrps as f64 / 1e3;
        Ok(RegionLine {
            plan,
            unplaced_rps: rps(demand - placed),
            moved_rps: rps(moved),
            crossing_rps: rps(crossing),
            delay_ms: delay_ns as f64 / demand as f64 / 1e6,
            solve_ms: solve.as_secs_f64() * 1e3,
            told,
        })
    }
}

/// Cuts nodes into `parts` regions of about the same size, along the longer side each time.
fn halve(positions: &[Position], nodes: &mut [u32], first: u32, parts: u32, region: &mut [u32]) {
    if parts <= 1 {
        nodes.iter().for_each(|&node| region[node as usize] = first);
        return;
    }
    let span = |along: fn(&Position) -> f64| {
        let at = nodes.iter().map(|&node| along(&positions[node as usize]));
        let (least, most) = at.fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(x), b.max(x)));
        most - least
    };
    type Degrees = fn(&Position) -> f64;
    let (lat, lon): (Degrees, Degrees) = (|p| p.lat_deg(), |p| p.lon_deg());
    let along = if span(lat) > span(lon) { lat } else { lon };
    let key = |node: u32| along(&positions[node as usize]);
    nodes.sort_by(|&a, &b| key(a).total_cmp(&key(b)).then(a.cmp(&b)));
    let low = parts / 2;
    let middle = nodes.len() * low as usize / parts as usize;
    let (south, north) = nodes.split_at_mut(middle);
    halve(positions, south, first, low, region);
    halve(positions, north, first + low, parts - low, region);
}

/// One region: what it knows, and its last plan.
struct Region {
    number: u32,
    own: Vec<u32>,
    /// Nodes of other regions that own homes list.
    guests: Vec<u32>,
    /// Ways of own nodes, then none of guests, in places of `own` followed by `guests`.
    rows: Vec<Vec<(u32, i64)>>,
    /// What it may send to each guest, milli-requests/s.
    offers: BTreeMap<u32, i64>,
    /// What it keeps free at own nodes for others, milli-requests/s.
    kept_free: BTreeMap<u32, i64>,
    plan: Flows,
}

impl Region {
    fn new(mesh: &Mesh, number: u32, own: Vec<u32>) -> Region {
        let ways = own.iter().flat_map(|&node| &mesh.rows[node as usize]);
        let foreign = ways.filter(|way| mesh.region[way.0 as usize] != number);
        let mut guests: Vec<u32> = foreign.map(|way| way.0).collect();
        guests.sort_unstable();
        guests.dedup();
        let places: BTreeMap<u32, u32> = own.iter().chain(&guests).copied().zip(0..).collect();
        let place = |&(to, cost_ns): &(u32, i64)| (places[&to], cost_ns);
        let row = |&node: &u32| mesh.rows[node as usize].iter().map(place).collect();
        let mut rows: Vec<Vec<(u32, i64)>> = own.iter().map(row).collect();
        rows.resize(own.len() + guests.len(), Vec::new());
        Region {
            number,
            own,
            guests,
            rows,
            offers: BTreeMap::new(),
            kept_free: BTreeMap::new(),
            plan: Vec::new(),
        }
    }

    /// Plans with what it knows. Returns how long the solver took.
    fn solve(&mut self, mesh: &Mesh) -> Result<Duration, RegionError> {
        let mut flow = problem(&self.rows)?;
        for (place, node) in (0..).zip(&self.own) {
            let kept_free = self.kept_free.get(node).copied().unwrap_or(0);
            flow.set_demand(place, mesh.demand_mrps[*node as usize]);
            flow.set_facility(place, facility(CAPACITY_MRPS, kept_free));
        }
        for (place, node) in (self.own.len() as u32..).zip(&self.guests) {
            let offer = self.offers.get(node).copied().unwrap_or(0);
            // As much capacity as reaches its ceiling there.
            let capacity = offer * MILLION / i64::from(CEILING_PPM);
            flow.set_facility(place, facility(capacity, 0));
        }
        let began = Instant::now();
        flow.solve();
        let solve = began.elapsed();
        let nodes: Vec<u32> = self.own.iter().chain(&self.guests).copied().collect();
        self.plan = flows(&flow, |place| nodes[place as usize]);
        Ok(solve)
    }
}

/// Each border node says what each region may send to it next.
fn offer(mesh: &Mesh, regions: &mut [Region]) {
    let target_mrps = CAPACITY_MRPS * i64::from(TARGET_PPM) / MILLION;
    let mut load_mrps = vec![0; mesh.rows.len()];
    let mut used: BTreeMap<(u32, u32), i64> = BTreeMap::new();
    let mut askers = vec![0_i64; mesh.rows.len()];
    for region in regions.iter() {
        for &guest in &region.guests {
            askers[guest as usize] += 1;
        }
        for &(_, to, mrps) in &region.plan {
            load_mrps[to as usize] += mrps;
            if mesh.region[to as usize] != region.number {
                *used.entry((to, region.number)).or_default() += mrps;
            }
        }
    }
    let mut kept_free: BTreeMap<u32, i64> = BTreeMap::new();
    for region in regions.iter_mut() {
        for &guest in &region.guests {
            let left_mrps = (target_mrps - load_mrps[guest as usize]).max(0);
            let used_mrps = used.get(&(guest, region.number)).copied().unwrap_or(0);
            let offer_mrps = used_mrps + left_mrps / 2 / askers[guest as usize];
            region.offers.insert(guest, offer_mrps);
            *kept_free.entry(guest).or_default() += offer_mrps;
        }
    }
    for (node, mrps) in kept_free {
        let owner = &mut regions[mesh.region[node as usize] as usize];
        owner.kept_free.insert(node, mrps);
    }
}

fn combine(mesh: &Mesh, regions: &[Region]) -> Flows {
    let mut all = Flows::with_capacity(mesh.rows.len());
    regions
        .iter()
        .for_each(|region| all.extend_from_slice(&region.plan));
    all
}

fn limits() -> Result<Curve, RegionError> {
    Ok(curve(TARGET_PPM, CEILING_PPM)?)
}

fn problem(rows: &[Vec<(u32, i64)>]) -> Result<Flow, RegionError> {
    let exits = Exits {
        cloud_ns: None,
        shed_ns: SHED_NS,
    };
    Ok(Flow::new(Arcs::new(rows)?, limits()?, exits))
}

fn facility(capacity_mrps: i64, fixed_mrps: i64) -> Facility {
    Facility {
        capacity_mrps,
        service_ns: SERVICE_NS,
        fixed_mrps,
    }
}

/// All flows above zero, with nodes named by `name`.
fn flows(flow: &Flow, name: impl Fn(u32) -> u32) -> Flows {
    let mut flows = Flows::new();
    for home in 0..flow.nodes() as u32 {
        for arc in flow.row(home) {
            let mrps = flow.arc_mrps(arc);
            if mrps > 0 {
                flows.push((name(home), name(flow.arc_head(arc)), mrps));
            }
        }
    }
    flows
}

/// What waiting costs at these loads: that of a mesh without ways in which each node has its load as demand.
fn waiting_ns(load_mrps: &[i64]) -> Result<i128, RegionError> {
    let mut flow = problem(&vec![Vec::new(); load_mrps.len()])?;
    for (node, &mrps) in (0..).zip(load_mrps) {
        flow.set_demand(node, mrps);
        flow.set_facility(node, facility(CAPACITY_MRPS, 0));
    }
    flow.solve();
    Ok(flow.objective())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(regions: u32, base: f64) -> RegionOptions {
        RegionOptions {
            nodes: 900,
            regions,
            rounds: 6,
            base,
            seed: 3,
        }
    }

    #[test]
    fn one_region_is_the_whole() {
        let lines = compare(&options(1, 0.5)).unwrap();
        let figures = |line: &RegionLine| (line.unplaced_rps, line.delay_ms, line.told);
        assert_eq!(figures(&lines[0]), figures(&lines[1]));
        assert_eq!(lines[1].crossing_rps, 0.0);
    }

    #[test]
    fn room_at_the_borders_makes_up_for_them() {
        for base in [0.3, 0.4, 0.5] {
            let lines = compare(&options(9, base)).unwrap();
            let (whole, apart) = (&lines[0], &lines[1]);
            let last = lines.last().unwrap();
            assert!(apart.delay_ms > whole.delay_ms, "{base}: {lines:#?}");
            assert!(last.delay_ms < apart.delay_ms, "{base}: {lines:#?}");
            assert!(
                last.unplaced_rps <= apart.unplaced_rps,
                "{base}: {lines:#?}"
            );
            assert!(last.crossing_rps > 0.0);
            // Nothing is as good as the optimum.
            assert!(last.delay_ms >= whole.delay_ms || last.unplaced_rps > whole.unplaced_rps);
        }
    }

    #[test]
    fn no_node_is_planned_above_its_ceiling_in_any_round() {
        let options = options(16, 0.6);
        let mesh = Mesh::new(&options).unwrap();
        let mut regions = mesh.regions(options.regions);
        for round in 0..options.rounds {
            for region in &mut regions {
                region.solve(&mesh).unwrap();
            }
            let mut load_mrps = vec![0; mesh.rows.len()];
            let plan = combine(&mesh, &regions);
            plan.iter()
                .for_each(|&(_, to, mrps)| load_mrps[to as usize] += mrps);
            let ceiling = CAPACITY_MRPS * i64::from(CEILING_PPM) / MILLION;
            assert!(
                load_mrps.iter().all(|&mrps| mrps <= ceiling),
                "round {round}"
            );
            offer(&mesh, &mut regions);
        }
    }

    #[test]
    fn options_out_of_range_are_named() {
        let sound = options(4, 0.5);
        let cases = [
            (RegionOptions { nodes: 3, ..sound }, "nodes"),
            (
                RegionOptions {
                    regions: 0,
                    ..sound
                },
                "regions",
            ),
            (
                RegionOptions {
                    regions: 226,
                    ..sound
                },
                "regions",
            ),
            (
                RegionOptions {
                    rounds: 101,
                    ..sound
                },
                "rounds",
            ),
            (
                RegionOptions {
                    base: f64::NAN,
                    ..sound
                },
                "base",
            ),
        ];
        for (options, what) in cases {
            let error = compare(&options).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
