//! Rows of weights over dense nodes, and drawing from them.

use isobar_mesh_api::weight::{WHOLE_PPM, apportion_ppm};

/// One home's weights: `nodes[0]` is home.
#[derive(Debug, Clone)]
pub(crate) struct WeightRow {
    pub(crate) nodes: Vec<u32>,
    pub(crate) ppm: Vec<u32>,
}

impl WeightRow {
    /// Everything at home.
    pub(crate) fn home(home: u32, neighbours: &[u32]) -> WeightRow {
        let nodes: Vec<u32> = std::iter::once(home)
            .chain(neighbours.iter().copied())
            .collect();
        let mut ppm = vec![0; nodes.len()];
        ppm[0] = WHOLE_PPM;
        WeightRow { nodes, ppm }
    }

    /// Takes over weights in proportion to `shares`, in the order of `nodes`.
    pub(crate) fn set(&mut self, shares: &[f64]) {
        self.ppm = apportion_ppm(shares);
    }

    /// Draws a node with probability equal to its weight.
    pub(crate) fn draw(&self, rng: &mut fastrand::Rng) -> u32 {
        let mut left = rng.u32(..WHOLE_PPM);
        for (&node, &ppm) in self.nodes.iter().zip(&self.ppm) {
            if left < ppm {
                return node;
            }
            left -= ppm;
        }
        self.nodes[0]
    }

    /// Appends (node, weight) pairs.
    pub(crate) fn list(&self, row: &mut Vec<(u32, u32)>) {
        row.extend(self.nodes.iter().copied().zip(self.ppm.iter().copied()));
    }
}
