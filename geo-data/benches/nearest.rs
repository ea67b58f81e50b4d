//! Building the index over 100,000 positions, and asking it for the 8 nearest of every one of them.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use isobar_geo_data::nearest::NearestIndex;
use isobar_geo_data::position::Position;

const POINTS: usize = 100_000;
const NEAREST: usize = 8;

/// Half of the positions anywhere on the sphere, half in a metropolitan area of about 50 km.
fn positions() -> Vec<Position> {
    let mut rng = fastrand::Rng::with_seed(7);
    let centre = Position::new(45.46, 9.19).expect("in range");
    let mut anywhere = || {
        let lat_deg = (2.0 * rng.f64() - 1.0).asin().to_degrees();
        let lon_deg = 360.0 * rng.f64() - 180.0;
        Position::new(lat_deg, lon_deg).expect("in range")
    };
    let mut all: Vec<Position> = (0..POINTS / 2).map(|_| anywhere()).collect();
    all.extend(
        (0..POINTS - all.len())
            .map(|_| centre.destination(360.0 * rng.f64(), 50_000.0 * rng.f64().sqrt())),
    );
    all
}

fn nearest(criterion: &mut Criterion) {
    let positions = positions();
    let mut group = criterion.benchmark_group("nearest");
    group.sample_size(10);
    group.throughput(Throughput::Elements(POINTS as u64));
    group.bench_function("build 100k", |bencher| {
        bencher.iter(|| NearestIndex::new(black_box(&positions)));
    });
    let index = NearestIndex::new(&positions);
    group.bench_function("8 nearest of each of 100k", |bencher| {
        bencher.iter(|| {
            for own in 0..POINTS {
                black_box(index.nearest_of(own, NEAREST));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, nearest);
criterion_main!(benches);
