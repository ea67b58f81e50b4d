//! The command line of `isobar-proxy`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use crate::config::Config;
use crate::program;

const EXAMPLES: &str = "Examples:
  isobar-proxy --config /etc/isobar/proxy.toml
  isobar-proxy --config proxy.toml --log debug
  ISOBAR_LOG=isobar_edge_proxy::control=debug isobar-proxy --config proxy.toml";

#[derive(Debug, Parser)]
#[command(name = "isobar-proxy", version, about = "The edge proxy of Isobar", after_help = EXAMPLES)]
struct Args {
    /// The configuration, TOML
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// Only check the configuration
    #[arg(long)]
    check: bool,
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
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("isobar-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    log(args.log, args.log_json)?;
    let config = Config::read(&args.config)?;
    if args.check {
        println!("{} is a proxy's configuration", args.config.display());
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let signals = signals(shutdown.clone())?;
        let ended = program::run(config, shutdown).await;
        signals.abort();
        Ok(ended?)
    })
}

fn log(level: Option<String>, json: bool) -> anyhow::Result<()> {
    let level = level.or_else(|| std::env::var("ISOBAR_LOG").ok());
    let level = level.unwrap_or_else(|| "info".to_owned());
    let targets: Targets = level
        .parse()
        .with_context(|| format!("{level:?} is not a log level"))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry();
    let set = match json {
        true => registry.with(lines.json().with_filter(targets)).try_init(),
        false => registry.with(lines.with_filter(targets)).try_init(),
    };
    // When another program runs this one as a library, its own log stays.
    if set.is_err() {
        tracing::debug!("a log is already set");
    }
    Ok(())
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
