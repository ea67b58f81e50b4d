//! Baselines that need no more than an index.

use super::{Policy, Step};
use crate::simulator::Mesh;
use crate::simulator::request::Moved;
use isobar_mesh_api::weight::WHOLE_PPM;

/// Everything is served where it enters.
#[derive(Debug, Default)]
pub(crate) struct Home;

impl Policy for Home {
    fn place(&mut self, _home: u32, _mesh: &mut Mesh<'_>) -> Step {
        Step::Home
    }
}

/// Round robin over home and its neighbourhood: what a load balancer does that knows endpoints
/// but neither load nor place (the default of Envoy and of Kubernetes without topology hints).
#[derive(Debug, Default)]
pub(crate) struct Uniform {
    /// Whose turn it is, by home; 0 is home itself.
    turns: Vec<u32>,
    neighbours: Vec<Vec<u32>>,
}

impl Policy for Uniform {
    fn start(&mut self, mesh: &mut Mesh<'_>) {
        self.turns = vec![0; mesh.field.len()];
        self.neighbours = mesh.field.neighbours.clone();
    }

    fn place(&mut self, home: u32, mesh: &mut Mesh<'_>) -> Step {
        let neighbours = &mesh.field.neighbours[home as usize];
        let turn = &mut self.turns[home as usize];
        let now = *turn as usize;
        *turn = (*turn + 1) % (neighbours.len() as u32 + 1);
        match now {
            0 => Step::Home,
            _ => Step::Move {
                to: neighbours[now - 1],
                moved: Moved::Plan,
            },
        }
    }

    fn weights(&self, home: u32, row: &mut Vec<(u32, u32)>) -> bool {
        let neighbours = self
            .neighbours
            .get(home as usize)
            .map_or(&[][..], Vec::as_slice);
        let equal = WHOLE_PPM / (neighbours.len() as u32 + 1);
        row.push((home, equal));
        row.extend(neighbours.iter().map(|&to| (to, equal)));
        true
    }
}
