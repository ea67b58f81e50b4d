//! Latency-aware weights, after L3 (Michaelis, Schmid, Mostafaei, Middleware 2024).
//!
//! A reconstruction from its public description, not its code: weights of
//! home and neighbours are inversely proportional to the smoothed latency
//! that the home observes there, round trip and queue included; failures
//! count as the longest wait. Once a second the window's mean latency per
//! node is taken in with a time constant of 5 s, upwards at once (a peak
//! EWMA, so that a node that slows down is left quickly). A node that served
//! nothing in the window keeps its figure.

use super::weights::WeightRow;
use super::{Policy, Reply, Step};
use crate::simulator::Mesh;
use crate::simulator::request::Moved;

const UPDATE_NS: u64 = 1_000_000_000;
const SMOOTHING_S: f64 = 5.0;
/// What a refused request counts as.
const REFUSED_NS: f64 = 1e9;

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    latency_ns: f64,
    sum_ns: f64,
    count: u32,
}

/// All homes' weights.
#[derive(Debug, Default)]
pub(crate) struct L3 {
    rows: Vec<WeightRow>,
    /// By home, in the order of its row.
    seen: Vec<Vec<Seen>>,
    shares: Vec<f64>,
}

impl Policy for L3 {
    fn start(&mut self, mesh: &mut Mesh<'_>) {
        for (home, list) in mesh.field.neighbours.iter().enumerate() {
            let home = home as u32;
            let row = WeightRow::home(home, list);
            // Until something was served there: an idle node's latency.
            let idle = |&node: &u32| Seen {
                latency_ns: mesh.field.service_ns
                    + if node == home {
                        0.0
                    } else {
                        mesh.field.rtt_ns(home, node) as f64
                    },
                ..Seen::default()
            };
            self.seen.push(row.nodes.iter().map(idle).collect());
            self.rows.push(row);
        }
        for home in 0..mesh.field.len() as u32 {
            self.update(home);
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

    fn refused(&mut self, home: u32, by: u32, _: u32, _: Reply, _: &mut Mesh<'_>) -> Step {
        self.see(home, by, REFUSED_NS);
        Step::Shed
    }

    fn responded(&mut self, home: u32, by: u32, reply: Reply, _mesh: &mut Mesh<'_>) {
        self.see(home, by, reply.latency_ns as f64);
    }

    fn on_event(&mut self, home: u32, mesh: &mut Mesh<'_>) {
        let gain = 1.0 - (-(UPDATE_NS as f64) / 1e9 / SMOOTHING_S).exp();
        for seen in &mut self.seen[home as usize] {
            if seen.count > 0 {
                let mean_ns = seen.sum_ns / f64::from(seen.count);
                let rising = mean_ns > seen.latency_ns;
                let gain = if rising { 1.0 } else { gain };
                seen.latency_ns += gain * (mean_ns - seen.latency_ns);
                (seen.sum_ns, seen.count) = (0.0, 0);
            }
        }
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

impl L3 {
    fn see(&mut self, home: u32, by: u32, latency_ns: f64) {
        let nodes = &self.rows[home as usize].nodes;
        if let Some(i) = nodes.iter().position(|&node| node == by) {
            let seen = &mut self.seen[home as usize][i];
            seen.sum_ns += latency_ns;
            seen.count += 1;
        }
    }

    fn update(&mut self, home: u32) {
        let seen = &self.seen[home as usize];
        self.shares.clear();
        self.shares
            .extend(seen.iter().map(|seen| 1.0 / seen.latency_ns.max(1.0)));
        self.rows[home as usize].set(&self.shares);
    }
}
