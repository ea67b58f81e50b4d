//! Why a real cluster does not run.

use std::io;
use std::path::PathBuf;

use super::spec::NODES_MAX;

/// Why a real cluster does not run.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// More nodes than processes are started for.
    #[error("{0} nodes; a real cluster runs one process per node, from 1 to {NODES_MAX}")]
    Nodes(usize),
    /// Two nodes with one name, or a name that the mesh does not take.
    #[error("node {name:?}: {problem}")]
    Node {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A number outside its range.
    #[error("{what} {problem}")]
    Range {
        /// Which number.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A file of the cluster cannot be written or read.
    #[error("cannot {verb} {}", .path.display())]
    File {
        /// `read`, `write` or `create`.
        verb: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A process cannot be started.
    #[error("cannot start {name}")]
    Start {
        /// Which.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A process ended that should run.
    #[error("{name} ended ({status}); the end of its log:\n{log}")]
    Ended {
        /// Which.
        name: String,
        /// How.
        status: String,
        /// Its last words.
        log: String,
    },
    /// A process is not ready by its deadline.
    #[error("{name} is not ready after {after_s} s: {missing}; the end of its log:\n{log}")]
    NotReady {
        /// Which.
        name: String,
        /// How long it was waited for, in seconds.
        after_s: u64,
        /// What it was waited for.
        missing: String,
        /// Its last words.
        log: String,
    },
    /// The emulated endpoints or links cannot listen.
    #[error("cannot listen on a loopback port")]
    Listen(#[source] io::Error),
    /// A threads' or signals' resource is missing.
    #[error("the system gives no thread or signal")]
    System(#[source] io::Error),
    /// The REST API did not answer as expected.
    #[error("{method} {path}: {problem}")]
    Rest {
        /// The request's method.
        method: String,
        /// The request's path.
        path: String,
        /// What came instead.
        problem: String,
    },
    /// The run was stopped from outside.
    #[error("stopped")]
    Stopped,
}
