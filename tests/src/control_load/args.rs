//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Most simulated nodes: as many connections as one controller takes.
const NODES_MAX: i64 = 20_000;
/// Most services: as many as one mesh may have.
const SERVICES_MAX: i64 = 1_000;

/// Loads a controller with many simulated proxies over real control streams.
#[derive(Debug, Clone, Parser)]
#[command(name = "control-load")]
pub struct Args {
    /// Simulated proxies, 1 to 20 000.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=NODES_MAX))]
    pub nodes: u32,
    /// Services of the mesh, 1 to 1 000.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=SERVICES_MAX))]
    pub services: u32,
    /// Services that one node has endpoints of, at most as many as there are.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=SERVICES_MAX))]
    pub services_per_node: u32,
    /// How long is measured, in seconds, 1 to 600.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// How long all streams are open before that, in seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub settle: u64,
    /// Times that the controller is killed and started again afterwards.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub storms: u32,
    /// How long the controller is away after a kill, in milliseconds.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub away_ms: u64,
    /// The control period, in milliseconds.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(100..=30_000))]
    pub period_ms: u64,
    /// Handshakes under way at a time while the streams are opened first.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub handshakes: u32,
    /// Part of the reports that begin a step of demand, per million.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub steps_ppm: u32,
    /// The controller, with arguments before its own. Default: `isobar-controller` beside this program.
    #[arg(long, num_args = 1..)]
    pub controller: Vec<PathBuf>,
    /// The core of the simulated proxies. Default: none, wherever there is room.
    #[arg(long)]
    pub load_core: Option<usize>,
    /// The core of the controller. Default: none, wherever there is room.
    #[arg(long)]
    pub controller_core: Option<usize>,
    /// Writes all figures to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Set by this program itself when it restarts on its core.
    #[arg(long, hide = true)]
    pub pinned: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
        for wrong in [["--nodes", "0"], ["--nodes", "20001"], ["--seconds", "0"]] {
            let line = [&["control-load"][..], &wrong].concat();
            assert!(Args::try_parse_from(line).is_err(), "{wrong:?}");
        }
    }
}
