//! How requests went and how long they took, by what was asked and what came of it.
//!
//! Each worker has cells of its own for each service: to note a request adds to two numbers on the worker's own cache lines,
//! takes no lock and, but for the first of its kind, no memory. Of each service a worker tells at most [`SERIES_MAX`]
//! kinds apart; no name that a client chooses is part of one, so nobody outside can make more of them.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed,
};

use http::{Method, StatusCode};

/// Kinds of requests that a worker tells apart, per service; what is beyond is one kind together. A power of 2.
pub const SERIES_MAX: usize = 64;
/// Upper bounds of the buckets, in microseconds; the last bucket has none.
pub const BOUNDS_US: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];
const BUCKETS: usize = BOUNDS_US.len() + 1;

/// Where a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// A client.
    Ingress,
    /// An application on this node.
    Outbound,
    /// Another node, its home.
    Mesh,
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An endpoint of this node answered.
    Home,
    /// Another node did.
    Moved,
    /// The upstream of last resort did.
    Cloud,
    /// Nobody had room.
    Shed,
    /// A policy, a limit or a route refused it.
    Refused,
    /// Nobody answered, or the answer broke off.
    Failed,
    /// The client left.
    Gone,
    /// Its route answered: a redirect.
    Route,
}

const DIRECTIONS: [(Direction, &str); 3] = [
    (Direction::Ingress, "ingress"),
    (Direction::Outbound, "outbound"),
    (Direction::Mesh, "mesh"),
];

const OUTCOMES: [&str; 8] = [
    "home", "moved", "cloud", "shed", "refused", "failed", "gone", "route",
];

const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE", OTHER,
];
/// Any other method (OpenTelemetry, "HTTP metrics").
const OTHER: &str = "_OTHER";

impl Direction {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        DIRECTIONS[self as usize].1
    }
}

impl Outcome {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        OUTCOMES[self as usize]
    }
}

/// A kind of requests: direction, outcome, method, status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind(u32);

/// So that no kind is 0.
const TAKEN: u32 = 1 << 31;

impl Kind {
    /// All of one direction and method; the rest is yet to be known.
    pub fn new(direction: Direction, method: &Method) -> Kind {
        let method = METHODS.iter().position(|known| *known == method.as_str());
        let method = method.unwrap_or(METHODS.len() - 1) as u32;
        Kind(TAKEN | (direction as u32) << 4 | method)
    }

    /// What they were answered.
    #[must_use]
    pub fn answered(self, status: StatusCode) -> Kind {
        Kind(self.0 & !(0x3ff << 16) | u32::from(status.as_u16()) << 16)
    }

    /// What came of them.
    #[must_use]
    pub fn with(self, outcome: Outcome) -> Kind {
        Kind(self.0 & !0xf00 | (outcome as u32) << 8)
    }

    /// Direction, outcome and method, as labels.
    pub fn words(self) -> [&'static str; 3] {
        let word = |words: &'static [&'static str], shift: u32| {
            words
                .get(((self.0 >> shift) & 0xf) as usize)
                .copied()
                .unwrap_or(OTHER)
        };
        let direction = DIRECTIONS.get((self.0 >> 4 & 0xf) as usize);
        let direction = direction.map_or(OTHER, |(_, word)| word);
        [direction, word(&OUTCOMES, 8), word(&METHODS, 0)]
    }

    /// The status; `None` where many kinds are one.
    pub fn status(self) -> Option<u16> {
        let status = (self.0 >> 16 & 0x3ff) as u16;
        (status > 0).then_some(status)
    }

    /// What is beyond [`SERIES_MAX`]: direction and outcome are still told apart.
    fn beyond(self) -> Kind {
        Kind(self.0 & 0xff0 | TAKEN | (METHODS.len() - 1) as u32)
    }
}

/// How long requests took.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl Histogram {
    /// One more.
    pub fn note(&self, took_us: u64) {
        let bucket = BOUNDS_US.partition_point(|bound| *bound < took_us);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(took_us, Relaxed);
    }
}

/// A histogram as it was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// In each bucket, not summed up.
    pub buckets: [u64; BUCKETS],
    /// All times together, in microseconds.
    pub sum_us: u64,
}

impl Reading {
    /// Adds what a histogram has.
    pub fn add(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.load(Relaxed);
        }
        self.sum_us += histogram.sum_us.load(Relaxed);
    }
}

/// One worker's cells for one service. Nothing until the first request.
#[derive(Debug, Default)]
pub struct Cells(OnceLock<Box<[Cell; SERIES_MAX]>>);

#[derive(Debug, Default)]
struct Cell {
    kind: AtomicU32,
    histogram: OnceLock<Box<Histogram>>,
}

impl Cells {
    /// One more request of this kind. Meant for one thread; several would count right too.
    pub fn note(&self, kind: Kind, took_us: u64) {
        let cells = self
            .0
            .get_or_init(|| Box::new(std::array::from_fn(|_| Cell::default())));
        // The last few are for what is beyond.
        let room = SERIES_MAX - DIRECTIONS.len() * OUTCOMES.len();
        let cell = find(cells, kind, room).or_else(|| find(cells, kind.beyond(), SERIES_MAX));
        if let Some(cell) = cell {
            cell.histogram.get_or_init(Box::default).note(took_us);
        }
    }

    /// Adds what there is, by kind.
    pub fn read(&self, sums: &mut BTreeMap<Kind, Reading>) {
        for cell in self.0.get().into_iter().flat_map(|cells| cells.iter()) {
            if let Some(histogram) = cell.histogram.get() {
                let kind = Kind(cell.kind.load(Acquire));
                sums.entry(kind).or_default().add(histogram);
            }
        }
    }
}

/// The cell of a kind among the first `room`; takes a free one when it has none.
fn find(cells: &[Cell; SERIES_MAX], kind: Kind, room: usize) -> Option<&Cell> {
    cells[..room].iter().find(|cell| {
        let mut found = cell.kind.load(Acquire);
        if found == 0 {
            let taken = cell.kind.compare_exchange(0, kind.0, AcqRel, Acquire);
            found = taken.err().unwrap_or(kind.0);
        }
        found == kind.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(method: &str, status: u16) -> Kind {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let status = StatusCode::from_u16(status).unwrap();
        let kind = Kind::new(Direction::Outbound, &method);
        kind.answered(status).with(Outcome::Gone)
    }

    #[test]
    fn kinds_say_what_they_are() {
        assert_eq!(kind("PUT", 418).words(), ["outbound", "gone", "PUT"]);
        assert_eq!(kind("PUT", 418).status(), Some(418));
        assert_eq!(kind("BREW", 999).words(), ["outbound", "gone", "_OTHER"]);
        let again = kind("PUT", 200).with(Outcome::Shed);
        assert_eq!(again.words()[1], "shed");
        for (at, (direction, _)) in DIRECTIONS.into_iter().enumerate() {
            assert_eq!(direction as usize, at);
        }
    }

    #[test]
    fn times_fall_into_their_buckets() {
        let histogram = Histogram::default();
        for took_us in [0, 500, 501, 10_000_000, 10_000_001] {
            histogram.note(took_us);
        }
        let mut reading = Reading::default();
        reading.add(&histogram);
        let at = |bucket: usize| reading.buckets[bucket];
        assert_eq!((at(0), at(1), at(13), at(14)), (2, 1, 1, 1));
        assert_eq!(reading.sum_us, 20_001_002);
    }

    #[test]
    fn kinds_are_bounded_and_no_request_is_forgotten() {
        let cells = Cells::default();
        for status in 100..1000 {
            cells.note(kind("GET", status), 1);
        }
        let mut sums = BTreeMap::new();
        cells.read(&mut sums);
        assert!(sums.len() <= SERIES_MAX, "{}", sums.len());
        let count = sums
            .values()
            .flat_map(|reading| reading.buckets)
            .sum::<u64>();
        assert_eq!(count, 900);
        assert!(sums.keys().any(|kind| kind.status().is_none()));
    }
}
