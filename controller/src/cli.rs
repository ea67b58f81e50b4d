//! The command line of `isobar-controller`.
//!
//! What a field is: its flag, else its environment variable, else the configuration file, else its default.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use isobar_mesh_api::log_level;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ConfigError};
use crate::program::{LeaseTerm, Program, ProgramError};
use crate::reload::Reloader;
use crate::stream::CONNECTIONS_MAX;

/// Open files beside those of streams: the store's, the REST API's, a few of the program's own.
const FILES_BESIDE: usize = 2_000;

const EXAMPLES: &str = "\
Examples:
  isobar-controller --data-dir /var/lib/isobar
  isobar-controller --config /etc/isobar/controller.toml --log debug
  isobar-controller check /etc/isobar/controller.toml
  isobar-controller --data-dir /tmp/mesh --rest-listen 127.0.0.1:0 --stream-listen 127.0.0.1:0 \\
      --resources mesh.yaml        (the ports it got are in /tmp/mesh/addresses.json)

On SIGHUP the configuration is read again: the files of `resources` and `discovery` come into force, and the log names
what waits for the next start.

The data directory has admin-token, the first credential for the REST API; with it `isobar token create` makes
what a proxy needs to enrol. The key that opens the stored authority may come from the environment:
ISOBAR_AUTHORITY_KEY.";

/// The control plane of Isobar: plans which part of each node's load is served by which neighbour.
#[derive(Debug, Clone, Default, Parser)]
#[command(name = "isobar-controller", version, after_help = EXAMPLES)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Configuration file (TOML); flags below replace its fields
    #[arg(long, value_name = "FILE", env = "ISOBAR_CONTROLLER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where the store, the authority's key and the enrolment token live
    #[arg(long, value_name = "DIR", env = "ISOBAR_CONTROLLER_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// REST API, metrics and health, HTTPS [default: 127.0.0.1:7400]
    #[arg(long, value_name = "ADDR", env = "ISOBAR_CONTROLLER_REST_LISTEN")]
    pub rest_listen: Option<SocketAddr>,
    /// Let every node enrol that has the token in the data directory's enrol-token; for development
    #[arg(long, env = "ISOBAR_CONTROLLER_ENROL_OPEN")]
    pub enrol_open: bool,
    /// Ask nobody who they are at the REST API, over plain HTTP; for development, on a loopback address alone
    #[arg(long, env = "ISOBAR_CONTROLLER_REST_OPEN")]
    pub rest_open: bool,
    /// Speak plain HTTP at the REST API: who listens in on the way can take the tokens
    #[arg(long, env = "ISOBAR_CONTROLLER_REST_INSECURE")]
    pub rest_insecure: bool,
    /// DNS name or IP address under which operators reach --rest-listen; may be repeated
    #[arg(
        long = "rest-name",
        value_name = "NAME",
        env = "ISOBAR_CONTROLLER_REST_NAMES",
        value_delimiter = ','
    )]
    pub rest_names: Vec<String>,
    /// Control stream and enrolment, TLS [default: 0.0.0.0:7401]
    #[arg(long, value_name = "ADDR", env = "ISOBAR_CONTROLLER_STREAM_LISTEN")]
    pub stream_listen: Option<SocketAddr>,
    /// DNS name or IP address under which proxies reach --stream-listen; may be repeated
    #[arg(
        long = "stream-name",
        value_name = "NAME",
        env = "ISOBAR_CONTROLLER_STREAM_NAMES",
        value_delimiter = ','
    )]
    pub stream_names: Vec<String>,
    /// Control period in milliseconds [default: 1000]
    #[arg(long, value_name = "MS", env = "ISOBAR_CONTROLLER_PERIOD_MS")]
    pub period_ms: Option<u64>,
    /// SPIFFE trust domain [default: isobar.local]
    #[arg(long, value_name = "NAME", env = "ISOBAR_CONTROLLER_TRUST_DOMAIN")]
    pub trust_domain: Option<String>,
    /// File with a list of resources (YAML or JSON) to apply at start; may be repeated
    #[arg(
        long,
        value_name = "FILE",
        env = "ISOBAR_CONTROLLER_RESOURCES",
        value_delimiter = ','
    )]
    pub resources: Vec<PathBuf>,
    /// How long streams and requests may take to end, in milliseconds [default: 5000]
    #[arg(long, value_name = "MS", env = "ISOBAR_CONTROLLER_DRAIN_MS")]
    pub drain_ms: Option<u64>,
    /// Level, or levels by module: info, debug, isobar_controller::stream=trace,info
    /// [env: ISOBAR_LOG] [default: info]
    #[arg(long, value_name = "LEVELS")]
    pub log: Option<String>,
    /// Write the log as JSON, an object a line
    #[arg(long)]
    pub log_json: bool,
}

/// What to do instead of running.
#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Say what is wrong with a configuration file, one line per fault, and start nothing
    ///
    /// Exit status: 0 good, 1 wrong or not readable.
    Check {
        /// Configuration file (TOML)
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Reads the process' arguments and runs the controller.
pub fn main() -> ExitCode {
    run(Args::parse())
}

/// Runs the controller until SIGTERM or ctrl-c. Sets up the process' log.
pub fn run(args: Args) -> ExitCode {
    let ended = match &args.command {
        Some(Command::Check { file }) => check(file),
        None => try_run(args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        // A line for each fault, as compilers have it.
        Err(error) if matches!(error.downcast_ref(), Some(ConfigError::Faults(_))) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("isobar-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(file: &Path) -> anyhow::Result<()> {
    let config = Config::check_file(file)?;
    crate::program::read_resources(&config.resources)?;
    println!("{} is good", file.display());
    Ok(())
}

fn try_run(args: Args) -> anyhow::Result<()> {
    log_level::install(args.log.clone(), args.log_json)?;
    let config = args.config()?;
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let beginning = begin(config, &shutdown);
        tokio::pin!(beginning);
        // Who contends for a Lease may wait for long before it begins.
        let begun = loop {
            tokio::select! {
                begun = &mut beginning => break begun?,
                _ = terminate.recv() => shutdown.cancel(),
                _ = interrupt.recv() => shutdown.cancel(),
            }
        };
        let Some((term, program)) = begun else {
            return Ok(());
        };
        let reloader = program.reloader();
        let ended = term.lead(program);
        tokio::pin!(ended);
        loop {
            tokio::select! {
                ended = &mut ended => return ended.map_err(Into::into),
                _ = terminate.recv() => shutdown.cancel(),
                _ = interrupt.recv() => shutdown.cancel(),
                _ = hang_up.recv() => reload(&args, &reloader).await,
            }
        }
    })
}

/// Waits until this controller leads, and starts it then; none when it was told to stop before.
async fn begin(
    config: Config,
    shutdown: &CancellationToken,
) -> Result<Option<(LeaseTerm, Program)>, ProgramError> {
    config.check()?;
    let Some(term) = LeaseTerm::begin(&config, shutdown).await? else {
        return Ok(None);
    };
    let program = Program::start(config, shutdown.clone()).await?;
    Ok(Some((term, program)))
}

/// Reads the configuration again; what is wrong with it changes nothing.
async fn reload(args: &Args, reloader: &Reloader) {
    match reloader
        .reload(args.config())
        .await
        .map_err(anyhow::Error::from)
    {
        Ok(waiting) if waiting.is_empty() => tracing::info!("the configuration was read again"),
        Ok(waiting) => {
            let waiting = waiting.join(", ");
            tracing::warn!(
                waiting,
                "the configuration was read again; some of it waits for the next start"
            );
        }
        Err(error) => {
            tracing::error!("the configuration was read again and changes nothing: {error:#}")
        }
    }
}

/// Raises the limit of open files as far as it may go: each proxy's stream is one, and many systems begin with 1024.
fn raise_open_files() {
    let needed = (CONNECTIONS_MAX + FILES_BESIDE) as u64;
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.unwrap_or(u64::MAX) < needed.min(most) {
        let raised = Rlimit {
            current: Some(needed.min(most)),
            ..limit
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files was not raised");
        }
    }
    if most < needed {
        tracing::info!(
            most,
            "streams are bounded by the limit of open files (RLIMIT_NOFILE), one each"
        );
    }
}

impl Args {
    /// The configuration file with variables and flags laid over it.
    ///
    /// # Errors
    /// The file is missing or wrong. Ranges are checked later.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        fn lay<T: Clone>(flag: &Option<T>, field: &mut T) {
            if let Some(value) = flag {
                *field = value.clone();
            }
        }
        lay(&self.data_dir, &mut config.data_dir);
        lay(&self.rest_listen, &mut config.rest_listen);
        lay(&self.stream_listen, &mut config.stream_listen);
        lay(&self.period_ms, &mut config.period_ms);
        lay(&self.trust_domain, &mut config.trust_domain);
        lay(&self.drain_ms, &mut config.drain_ms);
        config.enrol_open |= self.enrol_open;
        config.rest_open |= self.rest_open;
        config.rest_insecure |= self.rest_insecure;
        config.rest_names.extend(self.rest_names.iter().cloned());
        config
            .stream_names
            .extend(self.stream_names.iter().cloned());
        config.resources.extend(self.resources.iter().cloned());
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_lie_over_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.toml");
        std::fs::write(&path, "data_dir = 'd'\nperiod_ms = 200\nresources = ['a']").unwrap();
        let path = path.to_str().unwrap();
        let words = [
            "isobar-controller",
            "--config",
            path,
            "--period-ms",
            "300",
            "--resources",
            "b",
        ];
        let config = Args::try_parse_from(words).unwrap().config().unwrap();
        assert_eq!(config.data_dir, PathBuf::from("d"));
        assert_eq!(config.period_ms, 300);
        assert_eq!(config.resources, [PathBuf::from("a"), PathBuf::from("b")]);
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        assert!(Args::try_parse_from(["isobar-controller", "--period-ms", "soon"]).is_err());
    }
}
