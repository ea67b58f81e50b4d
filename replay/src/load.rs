//! How much demand enters where and when.
//!
//! A load is a rate per node and instant; the simulator draws Poisson
//! arrivals with it. All times are seconds since the run's start, of which
//! the first [`WARM_UP_S`](crate::options::WARM_UP_S) are calm.

pub mod synthetic;
pub mod trace;

pub use synthetic::Spike;
pub use trace::{TraceError, TraceLoad};

/// Demand over nodes and time.
#[derive(Debug, Clone)]
pub enum Load {
    /// A made-up spike.
    Spike(Spike),
    /// Measured load.
    Trace(TraceLoad),
}

impl Load {
    /// Requests/s that enter at `node` at `at_s`.
    pub fn rate_rps(&self, node: u32, at_s: f64) -> f64 {
        match self {
            Load::Spike(spike) => spike.rate_rps(node, at_s),
            Load::Trace(trace) => trace.rate_rps(node, at_s),
        }
    }

    /// Whether `node` is hot at `at_s`: in a made-up spike while it is above its base, in a trace
    /// while more enters than the node can serve alone.
    pub fn is_hot(&self, node: u32, at_s: f64) -> bool {
        match self {
            Load::Spike(spike) => spike.is_hot(node, at_s),
            Load::Trace(trace) => trace.is_hot(node, at_s),
        }
    }

    /// Nodes that are hot at some time, and from when until when: its first and last hot instant,
    /// in seconds. By index.
    pub fn hot_spans(&self, nodes: u32, duration_s: f64) -> Vec<HotSpan> {
        const STEP_S: f64 = 0.1;
        let steps = (duration_s / STEP_S) as u32;
        let span = |node: u32| {
            let hot_at = |step: u32| self.is_hot(node, (f64::from(step) + 0.5) * STEP_S);
            let first = (0..steps).find(|&step| hot_at(step))?;
            let last = (first..steps).rev().find(|&step| hot_at(step))?;
            Some(HotSpan {
                node,
                from_s: f64::from(first) * STEP_S,
                until_s: f64::from(last + 1) * STEP_S,
            })
        };
        (0..nodes).filter_map(span).collect()
    }
}

/// When a node is hot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HotSpan {
    /// Its index.
    pub node: u32,
    /// First hot instant, in seconds.
    pub from_s: f64,
    /// Last hot instant, in seconds.
    pub until_s: f64,
}
