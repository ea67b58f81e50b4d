//! The command line of `isobar-proxy`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use isobar_mesh_api::log_level;
use tokio_util::sync::CancellationToken;

use crate::config::listener::Intercept;
use crate::config::{Config, ConfigError};
use crate::intercept::Catch;
use crate::{intercept, listener, program};

/// What still blocks a thread when the program ends has this long.
const RUNTIME_END_WAIT_MAX: Duration = Duration::from_secs(1);

const CHECK_EXITS: &str =
    "Exit status: 0 the configuration is good, 1 it is wrong, 2 it cannot be read";

const EXAMPLES: &str = "Examples:
  isobar-proxy --config /etc/isobar/proxy.toml
  isobar-proxy --config proxy.toml --log debug
  isobar-proxy check --config proxy.toml
  isobar-proxy intercept --mode redirect --inbound 7413 --outbound 7414 --exempt-uid 65532
  ISOBAR_LOG=isobar_edge_proxy::control=debug isobar-proxy --config proxy.toml";

#[derive(Debug, Parser)]
#[command(name = "isobar-proxy", version, about = "The edge proxy of Isobar", after_help = EXAMPLES)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

/// What may be written on the command line.
pub fn command() -> clap::Command {
    <Args as clap::CommandFactory>::command()
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Says what is wrong with a configuration, and where
    #[command(after_help = CHECK_EXITS)]
    Check {
        /// The configuration, TOML
        #[arg(long, short, value_name = "FILE")]
        config: PathBuf,
    },
    /// Puts the rules into force that bring connections to intercepting listeners
    Intercept(InterceptArgs),
}

/// What `intercept` needs: a configuration whose listeners say it, or the listeners' ports.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
struct InterceptArgs {
    /// The configuration, TOML: what its listeners intercept
    #[arg(long, short, value_name = "FILE", group = "what")]
    config: Option<PathBuf>,
    /// How connections come to --inbound and --outbound
    #[arg(long, value_enum, default_value_t = Mode::Redirect)]
    mode: Mode,
    /// The listener's port for what arrives for applications here
    #[arg(long, value_name = "PORT", group = "what")]
    inbound: Option<u16>,
    /// The listener's port for what leaves applications (with tproxy: for what passes through)
    #[arg(long, value_name = "PORT", group = "what")]
    outbound: Option<u16>,
    /// Only what arrives at these ports
    #[arg(
        long,
        value_name = "PORT,…",
        value_delimiter = ',',
        requires = "inbound"
    )]
    inbound_ports: Vec<u16>,
    /// Only what goes to these ports
    #[arg(
        long,
        value_name = "PORT,…",
        value_delimiter = ',',
        requires = "outbound"
    )]
    outbound_ports: Vec<u16>,
    /// Never what arrives at these ports
    #[arg(long, value_name = "PORT,…", value_delimiter = ',', default_values_t = intercept::OWN_PORTS)]
    own_ports: Vec<u16>,
    /// The user that the proxy runs as: its own connections are left alone
    #[arg(long, value_name = "UID", default_value_t = intercept::PROXY_UID)]
    exempt_uid: u32,
    /// Says what would be done, as a script
    #[arg(long, conflicts_with = "remove")]
    print: bool,
    /// Takes the rules off this machine
    #[arg(long, group = "what")]
    remove: bool,
}

/// `--mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    Redirect,
    Tproxy,
}

#[derive(Debug, clap::Args)]
struct Run {
    /// The configuration, TOML
    #[arg(long, short, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or target=level,…; default ISOBAR_LOG, else info
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// Log lines as JSON
    #[arg(long)]
    log_json: bool,
}

/// Runs the program with these arguments (the first is the program's name).
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            // Help and version are "errors" with exit code 0.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let run = match args.command {
        Some(Command::Check { config }) => return check(&config),
        Some(Command::Intercept(args)) => return ended(intercept(&args)),
        None => args.run,
    };
    ended(self::run(run))
}

fn ended(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("isobar-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn intercept(args: &InterceptArgs) -> anyhow::Result<()> {
    if args.remove {
        return Ok(intercept::remove()?);
    }
    let how = match args.mode {
        Mode::Redirect => Intercept::Redirect,
        Mode::Tproxy => Intercept::Tproxy,
    };
    let catch = |inbound, to, ports: &[u16]| Catch {
        how,
        inbound,
        ports: ports.to_vec(),
        to,
        ipv4_alone: false,
    };
    let mut catches = Vec::new();
    if let Some(path) = &args.config {
        catches.extend(Config::read(path)?.listeners.iter().filter_map(Catch::of));
    }
    let inbound = args.inbound.map(|to| catch(true, to, &args.inbound_ports));
    let outbound = args
        .outbound
        .map(|to| catch(false, to, &args.outbound_ports));
    catches.extend(inbound.into_iter().chain(outbound));
    // Who connects to the listeners themselves means them.
    let mut own_ports = args.own_ports.clone();
    own_ports.extend(catches.iter().map(|catch| catch.to));
    let rules = intercept::rules(&catches, args.exempt_uid, &own_ports)?;
    match args.print {
        true => print!("{}", rules.script()),
        false => rules.apply()?,
    }
    Ok(())
}

/// One line per fault, `file:line:column: key: problem`.
fn check(path: &Path) -> ExitCode {
    let checked = Config::read(path).and_then(|config| match listener::resolve(&config) {
        Ok(_) => Ok(config),
        Err(error) => Err(error.in_file(path)),
    });
    match checked {
        Ok(config) => {
            let (node, listeners) = (&config.node, config.listeners.len());
            println!(
                "{}: good; node {node}, {listeners} listeners of its own",
                path.display()
            );
            ExitCode::SUCCESS
        }
        Err(ConfigError::Faults(faults)) => {
            eprintln!("{faults}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("isobar-proxy: {}", crate::chain(&error));
            ExitCode::from(2)
        }
    }
}

fn run(args: Run) -> anyhow::Result<()> {
    log_level::install(args.log, args.log_json)?;
    let path = args.config.context("no configuration was named")?;
    let config = Config::read(&path)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let ended = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let signals = signals(shutdown.clone())?;
        let ended = program::run(config, shutdown).await;
        signals.abort();
        Ok(ended?)
    });
    // A disk that hangs under a log does not keep the program.
    runtime.shutdown_timeout(RUNTIME_END_WAIT_MAX);
    ended
}

fn signals(shutdown: CancellationToken) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    Ok(tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to end");
        shutdown.cancel();
    }))
}
