//! Edge proxies measured beside each other, in one run on one machine.
//!
//! ```text
//! cargo run --release -p isobar-tests --bin peers                  # the short default, a few minutes
//! cargo run --release -p isobar-tests --bin peers -- --quick       # under 30 s: does it all work?
//! cargo run --release -p isobar-tests --bin peers -- --scenario all --rounds 7 --json peers.json
//! ```
//!
//! # What stands where
//!
//! ```text
//!   load core                                   proxy core
//!   ┌─────────────────────────────────┐         ┌───────────────┐
//!   │ load generator ─────────────────┼────────►│ one proxy     │
//!   │ backend ◄───────────────────────┼─────────┤ one worker    │
//!   └─────────────────────────────────┘         └───────────────┘
//! ```
//!
//! The load generator and the backend share one thread on one core, every proxy has one worker on the
//! other. All proxies of a scenario run at once, but only one gets traffic at any moment; the idle
//! ones sleep. All traffic stays on 127.0.0.1.
//!
//! # What is measured
//!
//! - **CPU microseconds per request** is the figure of merit: what the kernel says the proxy's
//!   processes and threads spent, over the answers that came back whole. Other load on the machine
//!   moves it far less than it moves throughput. The kernel's part of it (two receives, two sends)
//!   is the same for everybody; the user part is what a proxy adds of its own.
//! - **Requests/s** in a closed loop: every connection sends its next request when the last answer is
//!   whole. It says which proxy saturates its core first, and where the load core is the narrower one
//!   it says nothing more.
//! - **Latency** in an open loop: arrivals are a Poisson process of a fixed seed at 30 % of what the
//!   slowest proxy of this run can do, and each latency counts from the moment the request was *meant*
//!   to leave, so that a stall is charged for all who wait behind it. *Added* is the proxy's quantile
//!   minus the same quantile without a proxy in the same round. The load generator spins, so that its
//!   own wake-ups are not in the figure.
//! - **Memory** is what is resident: fresh, with idle connections that each did one request, and some
//!   time after all of them closed.
//! - **Program size** is that of the file without symbols; shared libraries do not count.
//!
//! # Against noise
//!
//! Rounds alternate over the proxies, and every second round goes the other way round. Shown is the
//! median over rounds with the lowest and highest; the ratio to nginx is formed within each round
//! first. A proxy that fails in a measurement is shown as failed there, never left out.
//!
//! # Fairness
//!
//! Each proxy's configuration is in its own file under `peers/peer/` with reasons. For all: one worker,
//! no access log, metrics as they are by default, keep-alive to the backend with pools larger than any
//! scenario needs, no limit that a scenario could reach, bodies streamed and never spooled to disk.
//! `raw` copies bytes between each client connection and a backend connection of its own and knows no
//! HTTP: it is the floor. `direct` is no proxy at all.
//!
//! # A new scenario or peer
//!
//! A scenario is one line in `scenario.rs`. A peer is one file in `peer/` and one line in `peer.rs`.

mod args;
mod backend;
mod bench;
mod closed_loop;
mod forward;
mod grpc;
mod h2load;
mod memory;
mod open_loop;
mod peer;
pub(crate) mod pinned;
pub(crate) mod process;
mod report;
mod scenario;
mod summary;
mod wire;

pub use args::{Args, Role};

use anyhow::Result;

/// Runs what the command line asks for, on the cores that it names.
///
/// # Errors
/// No `taskset` on this machine, a port or file that cannot be had, or a missing proxy when
/// `ISOBAR_TEST_REQUIRE=all` is set. A proxy that fails under load is part of the report.
pub fn main(args: Args) -> Result<()> {
    if let Some(Role::Forward { backend }) = args.role {
        return forward::main(backend);
    }
    if args.list {
        print!("{}", scenario::list());
        return Ok(());
    }
    if !args.pinned {
        return pinned::restart(&args);
    }
    bench::main(&args)
}
