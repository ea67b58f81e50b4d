//! LL(1, T): one random probe when home is above a threshold.
//!
//! After Beraldi and Mattia's work on random choices for fog computing. With
//! fewer than T requests at home, home serves. Else one neighbour drawn at
//! random is asked for its load, which takes a round trip, and serves the
//! request if it has fewer than home then. No controller, no state; the
//! simplest rule that reacts within milliseconds, and the one to beat.

use super::{Policy, Step};
use crate::simulator::Mesh;
use crate::simulator::request::Moved;

/// T: in flight at home from which a neighbour is asked.
pub(crate) const THRESHOLD: u32 = 6;

/// The rule.
#[derive(Debug, Default)]
pub(crate) struct Ll;

impl Policy for Ll {
    fn place(&mut self, home: u32, mesh: &mut Mesh<'_>) -> Step {
        let neighbours = &mesh.field.neighbours[home as usize];
        if mesh.stations[home as usize].in_flight() < THRESHOLD || neighbours.is_empty() {
            return Step::Home;
        }
        Step::Ask {
            to: neighbours[mesh.rng.usize(..neighbours.len())],
        }
    }

    fn answered(&mut self, home: u32, asked: u32, in_flight: u32, mesh: &mut Mesh<'_>) -> Step {
        if in_flight < mesh.stations[home as usize].in_flight() {
            Step::Move {
                to: asked,
                moved: Moved::Spill,
            }
        } else {
            Step::Home
        }
    }
}
