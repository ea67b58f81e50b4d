//! Who decides where a request goes.
//!
//! `production` drives Isobar's own code; the rest are the baselines, each
//! documented from its public description.

use crate::measure::Outcome;
use crate::simulator::Mesh;
use crate::simulator::request::{Moved, Request};

pub(crate) mod envoy;
pub(crate) mod hazl;
pub(crate) mod l3;
pub(crate) mod ll;
pub(crate) mod optimum;
pub(crate) mod production;
pub(crate) mod queueing;
pub(crate) mod simple;
pub(crate) mod weights;

/// What becomes of a request next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is served at home.
    Home,
    /// It goes to another node.
    Move {
        /// Which.
        to: u32,
        /// Why.
        moved: Moved,
    },
    /// It waits for a node's answer about its load.
    Ask {
        /// Which node.
        to: u32,
    },
    /// It goes to the upstream of last resort.
    Cloud,
    /// It is refused.
    Shed,
}

/// What a home learns from an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reply {
    /// Time since the request entered, in nanoseconds.
    pub(crate) latency_ns: u64,
    /// Requests at the answering node when it answered.
    pub(crate) in_flight: u32,
    /// That node's smoothed service time, in microseconds; 0 = unknown.
    pub(crate) service_us: u32,
}

/// A way to decide. Nodes are indices of the field.
pub(crate) trait Policy {
    /// Before the first arrival: schedule timers, learn the field.
    fn start(&mut self, _mesh: &mut Mesh<'_>) {}

    /// A request enters at `home`.
    fn place(&mut self, home: u32, mesh: &mut Mesh<'_>) -> Step;

    /// The answer to [`Step::Ask`]: requests that were at `asked`.
    fn answered(&mut self, _home: u32, _asked: u32, _in_flight: u32, _mesh: &mut Mesh<'_>) -> Step {
        Step::Home
    }

    /// Whether `at` takes a request moved in from `home`. Its queue may still refuse it.
    fn admit(&mut self, _at: u32, _home: u32, _mesh: &mut Mesh<'_>) -> bool {
        true
    }

    /// `by` refused a request, the `tries`-th time it happened to it.
    fn refused(&mut self, _: u32, _by: u32, _tries: u32, _: Reply, _: &mut Mesh<'_>) -> Step {
        Step::Shed
    }

    /// Most requests that may wait at a node with `workers`, when the queue's own limit is `waiting_max`.
    fn waiting_max(&self, _at: u32, waiting_max: u32, _workers: u32) -> u32 {
        waiting_max
    }

    /// A request of `home` was served by `by`, and its answer is home.
    fn responded(&mut self, _home: u32, _by: u32, _reply: Reply, _mesh: &mut Mesh<'_>) {}

    /// A request has ended.
    fn ended(&mut self, _request: &Request, _outcome: Outcome, _mesh: &Mesh<'_>) {}

    /// What was scheduled with [`Mesh::call_back`] is due.
    fn on_event(&mut self, _id: u32, _mesh: &mut Mesh<'_>) {}

    /// Puts the weights of `home` into `row` as (node, parts per million), home included; `false`
    /// when the policy has no weights.
    fn weights(&self, _home: u32, _row: &mut Vec<(u32, u32)>) -> bool {
        false
    }

    /// The highest utilisation of a node that was ever planned; `None` without plans.
    fn planned_utilisation_max(&self) -> Option<f64> {
        None
    }

    /// Whether a node's own traffic is served before what others moved in.
    fn own_first(&self) -> bool {
        false
    }
}
