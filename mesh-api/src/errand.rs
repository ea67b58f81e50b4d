//! Errands: what an operator asks one proxy to do once, through the controller, and what came of it.

use serde::{Deserialize, Serialize};

use crate::names::NodeId;

/// Longest text of log levels, in bytes.
pub const LEVELS_LEN_MAX: usize = 1024;

/// What a proxy is to do once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errand {
    /// The answer has the same number.
    pub number: u64,
    /// What.
    pub what: What,
}

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Log at these levels from now on, `info` or `isobar_edge_proxy::control=debug,info`; at most [`LEVELS_LEN_MAX`] bytes.
    LogLevels(String),
    /// Measure the way to another node's mesh port.
    BenchLink(BenchLink),
}

/// Which way to measure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenchLink {
    /// The other node; its certificate must say so.
    pub to: NodeId,
    /// Its mesh port, `host:port`.
    pub mesh_address: String,
}

/// What came of an errand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrandDone {
    /// [`Errand::number`].
    pub number: u64,
    /// What came of it.
    pub said: Said,
}

/// What a proxy says to an errand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// It was not done, and why.
    Failed(String),
    /// It logs at other levels; these were in force before.
    LogLevels {
        /// The levels before.
        before: String,
    },
    /// The way was measured.
    Link(LinkFigures),
}

/// What a way between two mesh ports is like.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LinkFigures {
    /// Small requests sent one after another on one connection.
    pub rounds: u32,
    /// The shortest round trip, in microseconds.
    pub rtt_min_us: u64,
    /// The median of round trips, in microseconds.
    pub rtt_p50_us: u64,
    /// The 99th percentile of round trips, in microseconds.
    pub rtt_p99_us: u64,
    /// Bytes sent to the other node and acknowledged by it.
    pub bytes: u64,
    /// How long that took, in microseconds.
    pub took_us: u64,
}
