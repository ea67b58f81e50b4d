//! A controller under many control streams, measured.
//!
//! ```text
//! cargo run --release -p isobar-tests --bin control-load -- --nodes 10000 --seconds 60
//! cargo run --release -p isobar-tests --bin control-load -- --nodes 1000 --storms 1 --json storm.json
//! ```
//!
//! # What stands where
//!
//! ```text
//!   load core                                   controller core
//!   ┌─────────────────────────────────┐         ┌────────────────────┐
//!   │ n simulated proxies, one thread ┼────────►│ isobar-controller  │
//!   │ one TLS connection each         │◄────────┤ 7401               │
//!   └─────────────────────────────────┘         └────────────────────┘
//! ```
//!
//! A simulated proxy is everything that the controller can see of one and nothing behind it: it enrols, connects over mTLS
//! and HTTP/2, says hello, reports once a period, applies snapshots and deltas, acknowledges them, and comes back after a
//! broken stream by the proxy's own rule ([`isobar_edge_proxy::control::backoff`]). All proxies share one key, so that the load
//! core does not spend its time on making keys; their certificates differ.
//!
//! # What is measured
//!
//! - **Plan latency**: from the moment at which a report with a step of demand is handed to the stream to the moment at which
//!   a row that moves load has been read from it. A report waits for the next tick, so with a period of 1 s the middle of an
//!   idle controller is half a second.
//! - **Processor time** of the controller with all its threads, from `/proc`.
//! - **Resident memory**, and what each node adds to that of a controller with nobody connected.
//! - **Recovery**: the controller is killed (SIGKILL) and started again on its data; how long until it listens, and until
//!   half, 99 % and all proxies have a stream and a snapshot of the new epoch, counted from the kill.
//!
//! Nodes stand on a grid, 0.01° apart. Each has the services of its block of 64 nodes; every endpoint serves 100 requests/s,
//! demand is half of that with its Poisson noise, and each report begins, by chance, a step to 160 requests/s for five
//! periods, so that at any time one node in twenty is hot.

mod args;
mod controller;
mod enrol;
mod figures;
mod link;
mod node;
mod report;
mod run;
mod world;

pub use args::Args;
pub use report::{Measured, Recovery};
pub use run::run;

use anyhow::Result;

use crate::peers::pinned;

/// Runs what the command line asks for and prints it.
///
/// # Errors
/// Too few open files, no controller program, or one that ends by itself.
pub fn main(args: Args) -> Result<()> {
    if let (Some(core), false) = (args.load_core, args.pinned) {
        return pinned::restart_on(core, &["--pinned".to_owned()]);
    }
    let measured = run(&args)?;
    print!("{}", measured.to_text());
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&measured)?)?;
    }
    Ok(())
}
