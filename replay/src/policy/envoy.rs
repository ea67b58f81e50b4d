//! Envoy's load-aware locality rule, with every node a locality of one host.
//!
//! From the documentation of `envoy.load_balancing_policies.load_aware_locality`
//! (Envoy 1.40), with its defaults. Each second a home recomputes:
//!
//! 1. utilisation of each locality, smoothed with a time constant of 5 s, the first sample raw;
//! 2. weight = 1 − smoothed utilisation, not below 0;
//! 3. when home is at most 0.1 above the mean of the others, everything stays home;
//! 4. at least 0.03 of the traffic goes to the others in equal parts, as probes;
//! 5. when every weight is 0, all get the same.
//!
//! The locality is drawn at random by weight. Utilisation is the busy share
//! of a node's workers over its last second, known to all homes at once: in
//! Envoy it travels on responses, so here the rule sees a little better than
//! in life.

use super::weights::WeightRow;
use super::{Policy, Step};
use crate::simulator::Mesh;
use crate::simulator::request::Moved;

const UPDATE_NS: u64 = 1_000_000_000;
const SMOOTHING_S: f64 = 5.0;
const VARIANCE_THRESHOLD: f64 = 0.1;
const REMOTE_PROBE_FRACTION: f64 = 0.03;

/// All Envoys of a field.
#[derive(Debug, Default)]
pub(crate) struct Envoy {
    /// Smoothed utilisation by node; `None` before the first sample.
    utilisation: Vec<Option<f64>>,
    rows: Vec<WeightRow>,
    shares: Vec<f64>,
}

impl Policy for Envoy {
    fn start(&mut self, mesh: &mut Mesh<'_>) {
        self.utilisation = vec![None; mesh.field.len()];
        let all_home = |(home, list): (usize, &Vec<u32>)| WeightRow::home(home as u32, list);
        self.rows = mesh
            .field
            .neighbours
            .iter()
            .enumerate()
            .map(all_home)
            .collect();
        for home in 0..mesh.field.len() as u32 {
            let phase_ns = mesh.rng.u64(1..=UPDATE_NS);
            mesh.call_back(phase_ns, home);
        }
    }

    fn place(&mut self, home: u32, mesh: &mut Mesh<'_>) -> Step {
        match self.rows[home as usize].draw(&mut mesh.rng) {
            to if to == home => Step::Home,
            to => Step::Move {
                to,
                moved: Moved::Plan,
            },
        }
    }

    fn on_event(&mut self, home: u32, mesh: &mut Mesh<'_>) {
        let now_ns = mesh.now_ns;
        let station = &mut mesh.stations[home as usize];
        let most_ns = UPDATE_NS * u64::from(station.workers);
        let busy = station.take_window(now_ns).busy_ns as f64 / most_ns as f64;
        let gain = 1.0 - (-(UPDATE_NS as f64) / 1e9 / SMOOTHING_S).exp();
        let smoothed = &mut self.utilisation[home as usize];
        *smoothed = Some(smoothed.map_or(busy, |before| before + gain * (busy - before)));
        self.update(home);
        if mesh.is_open() {
            mesh.call_back(UPDATE_NS, home);
        }
    }

    fn weights(&self, home: u32, row: &mut Vec<(u32, u32)>) -> bool {
        self.rows[home as usize].list(row);
        true
    }
}

impl Envoy {
    fn update(&mut self, home: u32) {
        let row = &mut self.rows[home as usize];
        let remotes = row.nodes.len() - 1;
        if remotes == 0 {
            return;
        }
        let utilisation = |&node: &u32| self.utilisation[node as usize].unwrap_or(0.0);
        self.shares.clear();
        self.shares.extend(
            row.nodes
                .iter()
                .map(|node| (1.0 - utilisation(node)).max(0.0)),
        );
        let total: f64 = self.shares.iter().sum();
        if total == 0.0 {
            self.shares.fill(1.0);
            row.set(&self.shares);
            return;
        }
        let remote_mean = row.nodes[1..].iter().map(utilisation).sum::<f64>() / remotes as f64;
        if utilisation(&home) <= remote_mean + VARIANCE_THRESHOLD {
            self.shares.fill(0.0);
            self.shares[0] = total;
        }
        let remote: f64 = self.shares[1..].iter().sum();
        let missing = (REMOTE_PROBE_FRACTION * total - remote).clamp(0.0, self.shares[0]);
        self.shares[0] -= missing;
        for share in &mut self.shares[1..] {
            *share += missing / remotes as f64;
        }
        row.set(&self.shares);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights of a home with two neighbours, in points.
    fn check(utilisation: [f64; 3], expected: [u32; 3]) {
        let mut envoy = Envoy {
            utilisation: utilisation.map(Some).to_vec(),
            rows: vec![WeightRow::home(0, &[1, 2])],
            shares: Vec::new(),
        };
        envoy.update(0);
        let points: Vec<u32> = envoy.rows[0]
            .ppm
            .iter()
            .map(|ppm| (ppm + 5_000) / 10_000)
            .collect();
        assert_eq!(points, expected, "{utilisation:?}");
    }

    #[test]
    fn the_documented_example_and_the_edges() {
        check([0.7, 0.3, 0.4], [19, 44, 38]);
        check([0.45, 0.45, 0.45], [97, 2, 2]);
        check([0.2, 0.9, 0.9], [97, 2, 2]);
        check([1.0, 1.0, 1.0], [33, 33, 33]);
        check([1.0, 0.5, 1.0], [0, 100, 0]);
    }
}
