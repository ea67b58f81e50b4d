//! What may be written on the command line.

use std::ops::Range;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use isobar_replay::options::{
    Capacity, Near, Options, PolicyName, Sizing, Source, Synthetic, TraceFiles,
};

/// Isobar lets neighbouring edge servers carry each other's peaks.
#[derive(Debug, Parser)]
#[command(
    name = "isobar",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
#[command(after_help = "Examples:
  isobar demo --quick
  isobar status
  isobar explain shop/cart north-7
  isobar replay --synthetic step --policies home,ll,convex --seeds 5
  isobar completions bash > /etc/bash_completion.d/isobar

Exit status: 0 done, 1 failed or \"no\", 2 wrong usage or input, 3 the controller cannot be reached, 4 it refuses who \
asks, 5 there is no such thing, 6 it was changed meanwhile.")]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show one night on real processes: New Year's Eve in Auckland, home-only and with Isobar
    Demo(DemoArguments),
    /// Replay a load spike under several policies, simulated or on real processes
    Replay(Box<ReplayArguments>),
    /// Print the manifests of controller and proxies, for kubectl to apply
    Install(crate::install::InstallArguments),
    /// Say what another version or other options would change in the cluster, and print what to apply and to delete
    Upgrade(crate::upgrade::UpgradeArguments),
    /// Put the proxy beside an application into its manifests
    Inject(crate::inject::InjectArguments),
    /// Print what was installed, for kubectl to delete
    Uninstall(crate::install::UninstallArguments),
    /// Print a completion script for a shell
    #[command(
        after_help = "Examples:\n  isobar completions bash > /etc/bash_completion.d/isobar\n  isobar completions zsh > ~/.zfunc/_isobar"
    )]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages, one for each command
    #[command(after_help = "Examples:\n  isobar man /usr/local/share/man/man1")]
    Man {
        /// Where to
        directory: PathBuf,
    },
    /// A running mesh.
    #[command(flatten)]
    Mesh(crate::mesh::arguments::MeshCommand),
    /// Run a controller
    #[command(hide = true)]
    Controller(ProgramArguments),
    /// Run an edge proxy
    #[command(hide = true)]
    Proxy(ProgramArguments),
    /// Run the endpoints and links of a replay
    #[command(hide = true)]
    Places(ProgramArguments),
}

/// How to run a program of the mesh.
#[derive(Debug, Args)]
pub struct ProgramArguments {
    /// Its configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// End when standard input ends
    #[arg(long)]
    pub with_parent: bool,
}

/// How to show the night.
#[derive(Debug, Args)]
#[command(after_help = "\
The night is replayed twice on real processes of this machine: a controller, 21 edge proxies and their \
endpoints. Verdict, and exit status 1 when it is a fail: with Isobar at most 0.1 % of requests fail and p99 \
is at most half of home-only's, while home-only failed more than 0.1 % or took 500 ms at p99.

Examples:
  isobar demo
  isobar demo --quick --json night.json --html night.html")]
pub struct DemoArguments {
    /// The night in 20 s instead of 60 s: both runs in under a minute
    #[arg(long)]
    pub quick: bool,
    /// Write the figures of both runs as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where the report goes, one page that needs nothing else
    #[arg(long, value_name = "FILE", default_value = "isobar-demo.html")]
    pub html: PathBuf,
    /// Seed of arrivals and service times
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// What to replay.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").required(true).args(["synthetic", "sites", "auckland", "regions"]))]
#[command(after_help = "\
Policies: home, uniform, threshold, waterfall, envoy, l3, hazl, ll, static, convex (Isobar), optimum.
Shapes: calm, step, ramp, trapezoid, platoon, overlap, square, surge.
The JSON has one object per policy and seed.

Examples:
  isobar replay --synthetic step
  isobar replay --synthetic platoon --policies home,ll,convex --times 5 --seeds 10 --json platoon.json
  isobar replay --sites sites.csv --load load.csv.gz --join join.csv --html match.html
  isobar replay --sites sites.csv --load load.csv.gz --sized 40,2,8 --overflow 0.5,1
  isobar replay --synthetic step --policies home,convex --cluster --controller-down 10..20
  isobar replay --regions 16 --nodes 100000 --base 0.4")]
pub struct ReplayArguments {
    /// A made-up spike
    #[arg(long, value_name = "SHAPE", conflicts_with_all = ["sites", "auckland"])]
    pub synthetic: Option<Synthetic>,
    /// Sites with positions: CSV, optionally gzip, or GeoJSON
    #[arg(
        long,
        value_name = "FILE",
        requires = "load",
        conflicts_with = "auckland"
    )]
    pub sites: Option<PathBuf>,
    /// Load by site and time: CSV, optionally gzip
    #[arg(long, value_name = "FILE", requires = "sites")]
    pub load: Option<PathBuf>,
    /// Which row of the load belongs to which site: CSV, optionally gzip
    #[arg(long, value_name = "FILE", requires = "sites")]
    pub join: Option<PathBuf>,
    /// New Year's Eve 2024 in Auckland, which is part of the program
    #[arg(long)]
    pub auckland: bool,
    /// First time of a trace that is replayed, as the trace writes it
    #[arg(
        long,
        value_name = "TIME",
        requires = "to",
        conflicts_with = "synthetic"
    )]
    pub from: Option<String>,
    /// First time of a trace that is not replayed any more
    #[arg(
        long,
        value_name = "TIME",
        requires = "from",
        conflicts_with = "synthetic"
    )]
    pub to: Option<String>,
    /// Seconds that a trace is compressed to
    #[arg(
        long,
        value_name = "S",
        default_value_t = 120.0,
        conflicts_with = "synthetic"
    )]
    pub trace_s: f64,
    /// A site's capacity: at least LEAST, or FACTOR times its highest load in the trace's last BINS bins, where a
    /// unit of load is a request/s. Or alike: --workers everywhere, and each site's load scaled to --base
    #[arg(
        long,
        value_name = "LEAST,FACTOR,BINS",
        default_value = "alike",
        conflicts_with = "synthetic"
    )]
    pub sized: Sizing,
    /// Only the sites at most so far from a place
    #[arg(
        long,
        value_name = "LAT,LON,KM",
        conflicts_with = "synthetic",
        allow_hyphen_values = true
    )]
    pub near: Option<Near>,
    /// Say what plans could place at best, bin by bin, if load may move within these radii; nothing is simulated
    #[arg(long, value_name = "KM,KM,…", value_delimiter = ',', requires = "sized", conflicts_with_all = ["synthetic", "cluster", "html"])]
    pub overflow: Vec<f64>,
    /// Plan a made-up mesh in so many regions that tell each other only of room at their borders, beside the plan of the
    /// whole; nothing is simulated
    #[arg(long, value_name = "N", conflicts_with_all = ["synthetic", "sites", "auckland", "cluster", "html"])]
    pub regions: Option<u32>,
    /// Nodes of the mesh that is planned in regions
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100_000,
        requires = "regions"
    )]
    pub nodes: u32,
    /// Periods in which regions tell each other of room
    #[arg(long, value_name = "N", default_value_t = 5, requires = "regions")]
    pub rounds: u32,
    /// Who decides, separated by commas [default: all; with --cluster home,waterfall,convex]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub policies: Vec<PolicyName>,
    /// Utilisation of every node before the spike
    #[arg(long, value_name = "PART", default_value_t = 0.6)]
    pub base: f64,
    /// Height of a made-up spike over the base [default: 10; with --cluster 5]
    #[arg(long, value_name = "N")]
    pub times: Option<f64>,
    /// Columns and rows of the nodes of a made-up spike [default: 20x20; with --cluster 5x5]
    #[arg(long, value_name = "CxR", value_parser = grid)]
    pub grid: Option<(u32, u32)>,
    /// Neighbours a home may use
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub neighbours: u32,
    /// Farthest neighbour
    #[arg(long, value_name = "KM")]
    pub radius_km: Option<f64>,
    /// Requests a node works on at once
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub workers: u32,
    /// Mean service time, exponential [default: 20; with --cluster 100]
    #[arg(long, value_name = "MS")]
    pub service_ms: Option<f64>,
    /// Round trips between nodes [default: 1..4 for a made-up spike, by distance for a trace]
    #[arg(long, value_name = "A..B", value_parser = span)]
    pub rtt_ms: Option<Range<f64>>,
    /// From a report to the weights it changes, apart from waiting for the tick; simulated
    #[arg(long, value_name = "MS", default_value_t = 400.0)]
    pub lag_ms: f64,
    /// Time between two plans
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    pub period_ms: u64,
    /// The first seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// How many seeds, counted up from the first
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seeds: u32,
    /// The part of reports that get lost; simulated
    #[arg(long, value_name = "PART", default_value_t = 0.0)]
    pub report_loss: f64,
    /// Seconds after the warm-up in which the controller is away; `A..` for ever
    #[arg(long, value_name = "A..B", value_parser = span)]
    pub controller_down: Option<Range<f64>>,
    /// A node whose proxy is killed, and when, in seconds after the warm-up; --cluster alone
    #[arg(long, value_name = "NODE@S", value_parser = node_at, requires = "cluster")]
    pub proxy_down: Option<(String, f64)>,
    /// What the controller knows of capacities: declared, learned or learned:FACTOR
    #[arg(long, value_name = "HOW", default_value = "declared")]
    pub capacity: Capacity,
    /// Whether a full neighbour may move its own load on; simulated
    #[arg(long, value_name = "WHETHER", default_value = "on")]
    pub displacement: Switch,
    /// Round trip to an upstream of last resort; simulated
    #[arg(long, value_name = "MS")]
    pub cloud_rtt_ms: Option<f64>,
    /// Threads of the simulator; 0 for one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Real processes on this machine instead of the simulator
    #[arg(long)]
    pub cluster: bool,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a report, one page that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Yes
    On,
    /// No
    Off,
}

/// A replay on real processes is smaller unless its numbers are given: its requests are real, and this
/// machine carries all of them.
mod on_processes {
    use super::PolicyName;

    pub const GRID: (u32, u32) = (5, 5);
    pub const TIMES: f64 = 5.0;
    pub const SERVICE_MS: f64 = 100.0;
    pub const POLICIES: [PolicyName; 3] =
        [PolicyName::Home, PolicyName::Waterfall, PolicyName::Convex];
}

impl ReplayArguments {
    /// As the replay crate takes them; ranges are checked there.
    pub fn options(&self) -> Options {
        let default = Options::default();
        let source = match (&self.synthetic, &self.sites, &self.load) {
            (Some(shape), _, _) => Source::Synthetic(*shape),
            (None, Some(sites), Some(load)) => Source::Trace(TraceFiles {
                sites: sites.clone(),
                load: load.clone(),
                join: self.join.clone(),
            }),
            _ => Source::Auckland,
        };
        let made_up = matches!(source, Source::Synthetic(_));
        let policies = match (self.policies.is_empty(), self.cluster) {
            (false, _) => self.policies.clone(),
            (true, true) => on_processes::POLICIES.to_vec(),
            (true, false) => default.policies,
        };
        let (grid, times, service_ms) = match self.cluster {
            true => (
                on_processes::GRID,
                on_processes::TIMES,
                on_processes::SERVICE_MS,
            ),
            false => (default.grid, default.times, default.service_ms),
        };
        let rtt_ms = if made_up { default.rtt_ms } else { None };
        Options {
            source,
            policies,
            base: self.base,
            times: self.times.unwrap_or(times),
            grid: self.grid.unwrap_or(grid),
            neighbours: self.neighbours,
            radius_km: self.radius_km,
            workers: self.workers,
            service_ms: self.service_ms.unwrap_or(service_ms),
            rtt_ms: self.rtt_ms.clone().or(rtt_ms),
            lag_ms: self.lag_ms,
            period_ms: self.period_ms,
            trace_s: self.trace_s,
            trace_span: self.from.clone().zip(self.to.clone()),
            sizing: self.sized,
            near: self.near,
            seed: self.seed,
            seeds: self.seeds,
            report_loss: self.report_loss,
            controller_down: self.controller_down.clone(),
            silences: Vec::new(),
            capacity: self.capacity,
            displacement: self.displacement == Switch::On,
            cloud_rtt_ms: self.cloud_rtt_ms,
            threads: self.threads,
        }
    }
}

/// `20x20`.
fn grid(text: &str) -> Result<(u32, u32), String> {
    let parts = text.split_once('x');
    parts
        .and_then(|(columns, rows)| Some((columns.parse().ok()?, rows.parse().ok()?)))
        .ok_or_else(|| "write columns x rows, as 20x20".to_owned())
}

/// `1..4`, or `3` for `3..3`, or `3..` for no end.
fn span(text: &str) -> Result<Range<f64>, String> {
    let number = |part: &str| part.parse::<f64>().ok().filter(|n| !n.is_nan());
    let read = match text.split_once("..") {
        None => number(text).map(|n| n..n),
        Some((from, "")) => number(from).map(|from| from..f64::INFINITY),
        Some((from, to)) => number(from).zip(number(to)).map(|(from, to)| from..to),
    };
    read.ok_or_else(|| "write two numbers with two dots between them, as 1..4".to_owned())
}

/// `r2c2@10`.
fn node_at(text: &str) -> Result<(String, f64), String> {
    let parts = text.rsplit_once('@');
    parts
        .and_then(|(node, at_s)| Some((node.to_owned(), at_s.parse::<f64>().ok()?)))
        .filter(|(node, at_s)| !node.is_empty() && at_s.is_finite() && *at_s >= 0.0)
        .ok_or_else(|| "write a node, @ and seconds, as r2c2@10".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn options(line: &str) -> Result<Options, String> {
        let words = format!("isobar replay {line}");
        match Arguments::try_parse_from(words.split_whitespace())
            .map_err(|e| e.to_string())?
            .command
        {
            Command::Replay(arguments) => Ok(arguments.options()),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_plain_step_is_the_reference() {
        assert_eq!(options("--synthetic step").unwrap(), Options::default());
    }

    #[test]
    fn words_become_options() {
        let got = options(
            "--synthetic surge --policies home,ll --grid 3x5 --rtt-ms 2..7 --controller-down 4..",
        )
        .unwrap();
        assert_eq!(got.policies, [PolicyName::Home, PolicyName::Ll]);
        assert_eq!((got.grid, got.rtt_ms), ((3, 5), Some(2.0..7.0)));
        assert_eq!(got.controller_down, Some(4.0..f64::INFINITY));
        let trace = options("--sites s.csv --load l.csv --from a --to b").unwrap();
        assert_eq!(
            (trace.rtt_ms, trace.trace_span),
            (None, Some(("a".into(), "b".into())))
        );
        assert_eq!(
            options("--auckland --cluster").unwrap().policies,
            on_processes::POLICIES
        );
    }

    #[test]
    fn wrong_words_are_named() {
        let cases = [
            ("", "--synthetic"),
            ("--synthetic sunny", "trapezoid"),
            ("--synthetic step --policies home,magic", "convex"),
            ("--synthetic step --grid 20", "20x20"),
            ("--synthetic step --rtt-ms fast", "1..4"),
            ("--sites s.csv", "--load"),
            (
                "--synthetic step --sites s.csv --load l.csv",
                "cannot be used with",
            ),
            ("--synthetic step --proxy-down r1c1", "r2c2@10"),
            ("--synthetic step --proxy-down r1c1@4", "--cluster"),
            ("--synthetic step --displacement maybe", "on"),
            ("--synthetic step --capacity guess", "learned"),
            ("--synthetic step --neighbors 4", "--neighbours"),
        ];
        for (line, part) in cases {
            let error = options(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
