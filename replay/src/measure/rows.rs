//! Weights of hot homes over time: do they settle, do they swing?
//!
//! Only stretches of steady overload are judged: the home is hot and its
//! demand stays within a tenth of what it was when the stretch began. What
//! weights do while demand itself moves is their work.

use serde::Serialize;

use crate::load::{HotSpan, Load};
use crate::policy::Policy;
use crate::simulator::Mesh;

/// Most hot homes that are watched.
pub const HOMES_MAX: usize = 64;
/// A turn of more than this, in parts per million, is a reversal.
pub const REVERSAL_PPM: u32 = 40_000;
/// Weights within this of their last value have settled, in parts per million.
pub const SETTLED_PPM: u32 = 50_000;
/// A stretch of steady overload shorter than this is not judged, in seconds.
const STRETCH_S_MIN: f64 = 3.0;
/// Demand within this part of the stretch's first is steady.
const STEADY: f64 = 0.1;

/// A home's weights at some instants.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct History {
    /// Whose.
    pub home: u32,
    /// The nodes that had any weight, home first.
    pub nodes: Vec<u32>,
    /// Seconds since the run's start.
    pub at_s: Vec<f64>,
    /// By instant, the weight of each of `nodes` in parts per million.
    pub weights_ppm: Vec<Vec<u32>>,
}

impl History {
    fn push(&mut self, at_s: f64, row: &[(u32, u32)]) {
        let mut weights = vec![0; self.nodes.len()];
        for &(node, ppm) in row {
            match self.nodes.iter().position(|&known| known == node) {
                Some(i) => weights[i] = ppm,
                None => {
                    self.nodes.push(node);
                    weights.push(ppm);
                }
            }
        }
        self.at_s.push(at_s);
        self.weights_ppm.push(weights);
    }

    /// The weight of the `i`-th node at the `at`-th instant; nodes that came later had none.
    fn weight(&self, at: usize, i: usize) -> u32 {
        self.weights_ppm[at].get(i).copied().unwrap_or(0)
    }
}

#[derive(Debug)]
struct Watched {
    span: HotSpan,
    /// All instants, for the page.
    history: History,
    /// Indices into the history where a steady stretch begins, and where it ends (exclusive).
    stretches: Vec<(usize, usize, f64)>,
}

/// Weights of the watched homes.
#[derive(Debug)]
pub(crate) struct Rows {
    homes: Vec<Watched>,
    scratch: Vec<(u32, u32)>,
}

impl Rows {
    pub(crate) fn new(spans: Vec<HotSpan>) -> Rows {
        let watch = |span: HotSpan| Watched {
            span,
            history: History {
                home: span.node,
                nodes: vec![span.node],
                ..History::default()
            },
            stretches: Vec::new(),
        };
        Rows {
            homes: spans.into_iter().take(HOMES_MAX).map(watch).collect(),
            scratch: Vec::new(),
        }
    }

    pub(crate) fn sample<P: Policy>(&mut self, mesh: &Mesh<'_>, policy: &P) {
        let at_s = mesh.now_ns as f64 / 1e9;
        self.note(mesh.load, at_s, |home, row| policy.weights(home, row));
    }

    /// Notes the weights of every watched home at an instant. `weights` gives a home's row as
    /// (node, parts per million), or `false` when there is none.
    pub(crate) fn note(
        &mut self,
        load: &Load,
        at_s: f64,
        mut weights: impl FnMut(u32, &mut Vec<(u32, u32)>) -> bool,
    ) {
        for watched in &mut self.homes {
            let home = watched.span.node;
            self.scratch.clear();
            if !weights(home, &mut self.scratch) {
                continue;
            }
            let at = watched.history.at_s.len();
            watched.history.push(at_s, &self.scratch);
            let inside = (watched.span.from_s..watched.span.until_s).contains(&at_s);
            if !inside || !load.is_hot(home, at_s) {
                continue;
            }
            let rate_rps = load.rate_rps(home, at_s);
            match watched.stretches.last_mut() {
                Some((_, end, first_rps))
                    if *end == at && (rate_rps - *first_rps).abs() <= STEADY * *first_rps =>
                {
                    *end = at + 1;
                }
                _ => watched.stretches.push((at, at + 1, rate_rps)),
            }
        }
    }

    /// Reversals over all stretches, and the longest time a stretch took to settle, in seconds.
    pub(crate) fn judge(&self) -> (u32, Option<f64>) {
        let mut reversals = 0;
        let mut settle_s: Option<f64> = None;
        for watched in &self.homes {
            let history = &watched.history;
            for &(from, to, _) in &watched.stretches {
                let (begin_s, end_s) = (history.at_s[from], history.at_s[to - 1]);
                if end_s - begin_s < STRETCH_S_MIN {
                    continue;
                }
                let nodes = 0..history.nodes.len();
                reversals += nodes
                    .clone()
                    .map(|i| turns(history, from, to, i))
                    .sum::<u32>();
                let off = |at: usize| {
                    let far = |i| history.weight(at, i).abs_diff(history.weight(to - 1, i));
                    nodes.clone().any(|i| far(i) > SETTLED_PPM)
                };
                let settled = (from..to)
                    .rev()
                    .find(|&at| off(at))
                    .map_or(from, |at| at + 1);
                // The first sample stands for the time since the one before it.
                let took_s = history.at_s[settled.min(to - 1)] - begin_s;
                settle_s = Some(settle_s.unwrap_or(0.0).max(took_s));
            }
        }
        (reversals, settle_s)
    }

    pub(crate) fn into_first_history(self) -> History {
        let first = self.homes.into_iter().next();
        first.map_or_else(History::default, |watched| watched.history)
    }
}

/// How often the weight of one node turned around by more than [`REVERSAL_PPM`].
fn turns(history: &History, from: usize, to: usize, i: usize) -> u32 {
    let first = history.weight(from, i);
    let (mut low, mut high, mut rising, mut count) = (first, first, None, 0);
    for at in from..to {
        let now = history.weight(at, i);
        let (fell, rose) = (high.saturating_sub(now), now.saturating_sub(low));
        (low, high) = (low.min(now), high.max(now));
        if rising != Some(false) && fell > REVERSAL_PPM {
            count += u32::from(rising == Some(true));
            (rising, low) = (Some(false), now);
        } else if rising != Some(true) && rose > REVERSAL_PPM {
            count += u32::from(rising == Some(false));
            (rising, high) = (Some(true), now);
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(home_ppm: &[u32]) -> Rows {
        let span = HotSpan {
            node: 7,
            from_s: 0.0,
            until_s: 1e9,
        };
        let mut rows = Rows::new(vec![span]);
        let home = &mut rows.homes[0];
        for (second, &ppm) in home_ppm.iter().enumerate() {
            home.history
                .push(second as f64, &[(7, ppm), (8, 1_000_000 - ppm)]);
        }
        home.stretches.push((0, home_ppm.len(), 1.0));
        rows
    }

    #[test]
    fn swings_and_settling() {
        let p = 10_000; // one point
        // Weights of home in points, reversals over home and the other, seconds to settle.
        let cases: [(&[u32], u32, f64); 6] = [
            (&[100, 100, 100, 100, 100], 0, 0.0),
            (&[100, 50, 17, 17, 17], 0, 2.0),
            (&[100, 17, 19, 16, 20], 0, 1.0),
            (&[100, 17, 30, 30, 30], 2, 2.0),
            (&[100, 17, 100, 17, 100, 17], 8, 5.0),
            (&[100, 17, 20, 23, 26, 20], 4, 5.0),
        ];
        for (points, reversals, settle_s) in cases {
            let ppm: Vec<u32> = points.iter().map(|n| n * p).collect();
            let got = watched(&ppm).judge();
            assert_eq!(got, (reversals, Some(settle_s)), "{points:?}");
        }
    }
}
