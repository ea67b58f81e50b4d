//! What was seen of every request, in bins of one second.
//!
//! A request belongs to the second in which it was *intended* to be sent, and
//! its latency counts from there: when the generator or the mesh is late, the
//! request is late, and nothing is left out because something else was slow.

use hdrhistogram::Histogram;

/// Longest latency that is told apart, in microseconds; longer ones count as this.
pub const LATENCY_US_MAX: u64 = 4_000_000;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered with success by the endpoint of the node with this index.
    Served {
        /// Index of the node, when it is known.
        by: Option<usize>,
    },
    /// Refused at once (503).
    Shed,
    /// Any other error, or not answered within the patience of a client.
    Failed,
}

/// Counts of one node and second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bin {
    /// Requests intended.
    pub offered: u32,
    /// Of these, answered with success.
    pub served: u32,
    /// Of these, not answered with success; the shed ones among them.
    pub failed: u32,
    /// Of these, refused at once.
    pub shed: u32,
    /// Served by another node than their home.
    pub moved: u32,
    /// Requests that this node served for others.
    pub moved_in: u32,
}

impl Bin {
    /// Requests that this node's endpoint served, whoever's home they had.
    pub fn worked(&self) -> u32 {
        (self.served + self.moved_in).saturating_sub(self.moved)
    }
}

/// A request that another node than its home served.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moved {
    /// When it was intended, in seconds after the start.
    pub due_s: f64,
    /// Index of its home.
    pub home: usize,
    /// Index of the node that served it.
    pub by: usize,
}

/// Everything seen of one run.
#[derive(Debug, Clone)]
pub struct Record {
    nodes: usize,
    measure_from_s: f64,
    /// `[second][node]`.
    bins: Vec<Vec<Bin>>,
    /// Latencies of served requests by second, all nodes.
    latency: Vec<Histogram<u32>>,
    /// The same of requests whose home was hot.
    hot_latency: Vec<Histogram<u32>>,
    /// The same as `latency` from `measure_from_s` on, over all seconds.
    total: Histogram<u32>,
    /// The same of requests whose home was hot.
    hot: Histogram<u32>,
    moves: Vec<Moved>,
    counted: Counted,
}

/// Sums from the beginning of the measurement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Requests that ended.
    pub requests: u64,
    /// Of these, not answered with success.
    pub failures: u64,
    /// Of these, refused at once.
    pub shed: u64,
    /// Served by another node than their home.
    pub moved: u64,
    /// Requests whose home was hot.
    pub hot_requests: u64,
    /// Failures among them.
    pub hot_failures: u64,
}

fn histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 2)
        .expect("bounds and digits are constants that make a histogram")
}

impl Record {
    /// An empty record; sums begin with requests intended at `measure_from_s`.
    pub fn new(nodes: usize, measure_from_s: f64) -> Record {
        Record {
            nodes,
            measure_from_s,
            bins: Vec::new(),
            latency: Vec::new(),
            hot_latency: Vec::new(),
            total: histogram(),
            hot: histogram(),
            moves: Vec::new(),
            counted: Counted::default(),
        }
    }

    fn second(&mut self, due_s: f64) -> usize {
        // Saturates at 0 for what is before the start.
        let second = due_s as usize;
        while self.bins.len() <= second {
            self.bins.push(vec![Bin::default(); self.nodes]);
            self.latency.push(histogram());
            self.hot_latency.push(histogram());
        }
        second
    }

    /// Counts a request that is about to be sent.
    pub fn offer(&mut self, home: usize, due_s: f64) {
        let second = self.second(due_s);
        self.bins[second][home].offered += 1;
    }

    /// Counts how a request ended.
    pub fn end(&mut self, ended: Ended) {
        let Ended {
            home,
            due_s,
            hot,
            outcome,
            latency_us,
        } = ended;
        let second = self.second(due_s);
        let measured = due_s >= self.measure_from_s;
        let bin = &mut self.bins[second][home];
        let moved_by = match outcome {
            Outcome::Served { by } => {
                bin.served += 1;
                self.latency[second].saturating_record(latency_us);
                if hot {
                    self.hot_latency[second].saturating_record(latency_us);
                }
                by.filter(|&by| by != home)
            }
            Outcome::Shed => {
                bin.failed += 1;
                bin.shed += 1;
                None
            }
            Outcome::Failed => {
                bin.failed += 1;
                None
            }
        };
        if let Some(by) = moved_by {
            bin.moved += 1;
            self.bins[second][by].moved_in += 1;
            self.moves.push(Moved { due_s, home, by });
        }
        if !measured {
            return;
        }
        self.counted.requests += 1;
        self.counted.moved += u64::from(moved_by.is_some());
        let failed = !matches!(outcome, Outcome::Served { .. });
        self.counted.failures += u64::from(failed);
        self.counted.hot_requests += u64::from(hot);
        self.counted.hot_failures += u64::from(hot && failed);
        self.counted.shed += u64::from(outcome == Outcome::Shed);
        if !failed {
            self.total.saturating_record(latency_us);
            if hot {
                self.hot.saturating_record(latency_us);
            }
        }
    }

    /// Counts by node of a second; nothing when nothing was intended in it.
    pub fn bins(&self, second: usize) -> Option<&[Bin]> {
        self.bins.get(second).map(Vec::as_slice)
    }

    /// Seconds there are bins for.
    pub fn seconds(&self) -> usize {
        self.bins.len()
    }

    /// A quantile of a second's served requests, in milliseconds; 0 when nothing was served.
    pub fn second_ms(&self, second: usize, quantile: f64) -> f64 {
        self.latency.get(second).map_or(0.0, |h| ms(h, quantile))
    }

    /// A quantile of those of them whose home was hot, in milliseconds.
    pub fn second_hot_ms(&self, second: usize, quantile: f64) -> f64 {
        self.hot_latency
            .get(second)
            .map_or(0.0, |h| ms(h, quantile))
    }

    /// A quantile of all measured and served requests, in milliseconds.
    pub fn total_ms(&self, quantile: f64) -> f64 {
        ms(&self.total, quantile)
    }

    /// A quantile of those whose home was hot, in milliseconds.
    pub fn hot_ms(&self, quantile: f64) -> f64 {
        ms(&self.hot, quantile)
    }

    /// Sums from the beginning of the measurement.
    pub fn counted(&self) -> Counted {
        self.counted
    }

    /// Every request that another node than its home served, in the order in which they ended.
    pub fn moves(&self) -> &[Moved] {
        &self.moves
    }

    /// From `step_s` to the first request of `home` that was moved, in seconds.
    pub fn first_move_s(&self, home: usize, step_s: f64) -> Option<f64> {
        self.moves
            .iter()
            .filter(|moved| moved.home == home && moved.due_s >= step_s)
            .map(|moved| moved.due_s - step_s)
            .reduce(f64::min)
    }

    /// Requests moved from node to node in the seconds given: `nodes × nodes`, row by row by home.
    pub fn flows(&self, seconds: std::ops::Range<usize>) -> Vec<u32> {
        let mut flows = vec![0; self.nodes * self.nodes];
        for moved in &self.moves {
            if seconds.contains(&(moved.due_s as usize)) {
                flows[moved.home * self.nodes + moved.by] += 1;
            }
        }
        flows
    }
}

/// One request's end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ended {
    /// Index of its home.
    pub home: usize,
    /// When it was intended, in seconds after the start.
    pub due_s: f64,
    /// Whether its home was hot then.
    pub hot: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// From when it was intended until its answer was whole, in microseconds.
    pub latency_us: u64,
}

fn ms(histogram: &Histogram<u32>, quantile: f64) -> f64 {
    match histogram.is_empty() {
        true => 0.0,
        false => histogram.value_at_quantile(quantile) as f64 / 1000.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(due_s: f64, outcome: Outcome, latency_us: u64) -> Ended {
        Ended {
            home: 0,
            due_s,
            hot: due_s >= 2.0,
            outcome,
            latency_us,
        }
    }

    #[test]
    fn every_request_is_counted_once_in_its_own_second() {
        let mut record = Record::new(2, 1.0);
        let by = |node| Outcome::Served { by: Some(node) };
        let all = [
            ended(0.5, by(0), 1_000),
            ended(1.5, by(0), 10_000),
            ended(2.5, by(1), 100_000),
            ended(2.6, Outcome::Shed, 1_000),
            ended(2.7, Outcome::Failed, 2_000_000),
        ];
        for end in all {
            record.offer(0, end.due_s);
            record.end(end);
        }
        let counted = Counted {
            requests: 4,
            failures: 2,
            shed: 1,
            moved: 1,
            hot_requests: 3,
            hot_failures: 2,
        };
        assert_eq!(record.counted(), counted);
        assert_eq!(record.seconds(), 3);
        let last = Bin {
            offered: 3,
            served: 1,
            failed: 2,
            shed: 1,
            moved: 1,
            moved_in: 0,
        };
        assert_eq!(record.bins(2).unwrap()[0], last);
        assert_eq!(record.bins(2).unwrap()[1].moved_in, 1);
        assert_eq!(record.flows(2..3), [0, 1, 0, 0]);
        let close = |got: f64, expected: f64| (got - expected).abs() <= expected * 0.02;
        assert!(
            close(record.total_ms(0.5), 10.0),
            "{}",
            record.total_ms(0.5)
        );
        assert!(close(record.hot_ms(0.5), 100.0), "{}", record.hot_ms(0.5));
        assert!(close(record.second_ms(0, 0.99), 1.0));
        assert_eq!(record.second_ms(7, 0.99), 0.0);
        assert!(close(record.first_move_s(0, 2.0).unwrap(), 0.5));
        assert_eq!(record.first_move_s(1, 0.0), None);
    }
}
