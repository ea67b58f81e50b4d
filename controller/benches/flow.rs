//! How long the exact plan takes: from scratch, and after one node in a hundred changed.
//!
//! Fields are jittered grids of equal nodes (200 requests/s, 20 ms) with 8 neighbours each, and, where the environment variable
//! `ISOBAR_DATA_DIR` names the folder of `scale_points_milan.csv.gz`, the base stations of one metropolitan area.
//! One node in twenty has ten times the demand of the others. What decides is how loaded the others are:
//!
//! - *calm* (base 30 %, 44 % of all capacity): every peak finds room around it;
//! - *busy* (base 40 %, 58 %): peaks share their neighbours, and neighbours are displaced;
//! - *full* (base 50 %, 73 %): as much load as the target allows altogether, so that it must be spread over districts;
//! - *scarce* (base 60 %, 87 %): more than that; everything is above target, and some load is shed.

use std::fs::File;
use std::path::Path;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, criterion_group, criterion_main};
use flate2::read::GzDecoder;
use isobar_controller::planner::SHED_NS;
use isobar_controller::planner::curve::curve;
use isobar_controller::planner::flow::{Arcs, Exits, Facility, Flow};
use isobar_geo_data::nearest::NearestIndex;
use isobar_geo_data::position::Position;

const NEIGHBOURS: usize = 8;
const CAPACITY_MRPS: i64 = 200_000;
const SERVICE_NS: i64 = 20_000_000;
const HOT: f64 = 0.05;
const CHANGED: f64 = 0.01;
/// Side of a cell of the grid; its nodes are within 40 % of it.
const CELL_DEG: f64 = 0.01;

/// (name, demand of an ordinary node as a share of its capacity)
const LOADS: [(&str, f64); 4] = [("calm", 0.3), ("busy", 0.4), ("full", 0.5), ("scarce", 0.6)];

fn flow(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow");
    group.sample_size(10);
    let small = neighbours(&grid(10_000));
    for (name, base) in LOADS {
        measure(&mut group, &format!("10k {name}"), &small, base);
    }
    let large = neighbours(&grid(100_000));
    for (name, base) in &LOADS[..3] {
        measure(&mut group, &format!("100k {name}"), &large, *base);
    }
    match milan() {
        Some(positions) => {
            let sites = neighbours(&positions);
            for (name, base) in LOADS {
                measure(&mut group, &format!("milan {name}"), &sites, base);
            }
        }
        None => println!("skipped: milan (ISOBAR_DATA_DIR has no scale_points_milan.csv.gz)"),
    }
    group.finish();
}

fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    rows: &[Vec<(u32, i64)>],
    base: f64,
) {
    let rng = &mut fastrand::Rng::with_seed(7);
    let (unsolved, demands_mrps) = field(rows, base, rng);
    group.bench_function(format!("{name}, from scratch"), |bencher| {
        bencher.iter_batched_ref(|| unsolved.clone(), Flow::solve, BatchSize::PerIteration);
    });

    let mut solved = unsolved;
    let effort = solved.solve();
    println!(
        "{name}, from scratch: {} scans, {} paths",
        effort.scans, effort.augmentations
    );
    // Demand within its noise, and demand that doubles or halves.
    for (what, least, most) in [("1 % ±10 %", 0.9, 1.1), ("1 % halved to doubled", 0.5, 2.0)] {
        let mut changed = solved.clone();
        for (node, &demand_mrps) in (0..).zip(&demands_mrps) {
            if rng.f64() < CHANGED {
                let factor = least + rng.f64() * (most - least);
                changed.set_demand(node, (demand_mrps as f64 * factor) as i64);
            }
        }
        group.bench_function(format!("{name}, {what}"), |bencher| {
            bencher.iter_batched_ref(|| changed.clone(), Flow::solve, BatchSize::PerIteration);
        });
    }
}

/// The problem, and the demand of every node.
fn field(rows: &[Vec<(u32, i64)>], base: f64, rng: &mut fastrand::Rng) -> (Flow, Vec<i64>) {
    let curve = curve(750_000, 950_000).expect("the default policy's limits make a curve");
    let exits = Exits {
        cloud_ns: None,
        shed_ns: SHED_NS,
    };
    let mut flow = Flow::new(
        Arcs::new(rows).expect("nearest neighbours are arcs"),
        curve,
        exits,
    );
    let facility = Facility {
        capacity_mrps: CAPACITY_MRPS,
        service_ns: SERVICE_NS,
        fixed_mrps: 0,
    };
    let mut demands_mrps = Vec::new();
    for node in 0..rows.len() as u32 {
        let share = base * (0.95 + 0.1 * rng.f64()) * if rng.f64() < HOT { 10.0 } else { 1.0 };
        let demand_mrps = (CAPACITY_MRPS as f64 * share) as i64;
        flow.set_demand(node, demand_mrps);
        flow.set_facility(node, facility);
        demands_mrps.push(demand_mrps);
    }
    (flow, demands_mrps)
}

/// The nearest neighbours of every position, at 0.5 ms, a microsecond per metre, and up to 1 ms that distance does not explain.
fn neighbours(positions: &[Position]) -> Vec<Vec<(u32, i64)>> {
    let index = NearestIndex::new(positions);
    let mut rng = fastrand::Rng::with_seed(11);
    (0..positions.len())
        .map(|own| {
            let nearest = index.nearest_of(own, NEIGHBOURS);
            let arc = |distance_m: f64, rng: &mut fastrand::Rng| {
                500_000 + (distance_m * 1_000.0) as i64 + rng.i64(0..1_000_000)
            };
            nearest
                .iter()
                .map(|near| (near.index as u32, arc(near.distance_m, &mut rng)))
                .collect()
        })
        .collect()
}

/// About square, in rows from south to north.
fn grid(nodes: usize) -> Vec<Position> {
    let mut rng = fastrand::Rng::with_seed(5);
    let width = (nodes as f64).sqrt().ceil() as usize;
    (0..nodes)
        .map(|node| {
            let mut at = |cell: usize| (cell as f64 + 0.8 * rng.f64()) * CELL_DEG;
            let (lat_deg, lon_deg) = (at(node / width), at(node % width));
            Position::new(lat_deg, lon_deg).expect("a few degrees from the equator")
        })
        .collect()
}

/// The base stations: columns kind, id, lat, lon.
fn milan() -> Option<Vec<Position>> {
    let folder = std::env::var_os("ISOBAR_DATA_DIR")?;
    let file = File::open(Path::new(&folder).join("scale_points_milan.csv.gz")).ok()?;
    let rows = csv::Reader::from_reader(GzDecoder::new(file)).into_deserialize();
    let position = |row: Result<(String, String, f64, f64), csv::Error>| {
        let (_, _, lat_deg, lon_deg) = row.expect("four columns");
        Position::new(lat_deg, lon_deg).expect("degrees")
    };
    Some(rows.map(position).collect())
}

criterion_group!(benches, flow);
criterion_main!(benches);
