//! What the program itself logs, and how that is changed while it runs.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::Registry;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;
use tracing_subscriber::reload::{self, Handle};

/// The level in force. One for the process, as its log is.
static LEVEL: OnceLock<Handle<Targets, Registry>> = OnceLock::new();

/// Why a level does not come into force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// It is none.
    #[error(
        "{0:?} is no log level; write error, warn, info, debug, trace or off, or target=level,…, as \
         isobar_edge_proxy::control=debug"
    )]
    Level(String),
    /// Another program runs this one as a library, and has its own log.
    #[error("the log is that of the program around this one")]
    NotOurs,
}

/// Begins to log to standard error, as JSON or as text.
///
/// # Errors
/// The level is none.
pub fn start(level: &str, json: bool) -> Result<(), LogError> {
    let (targets, handle) = reload::Layer::new(parse(level)?);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry();
    let set = match json {
        true => registry.with(lines.json().with_filter(targets)).try_init(),
        false => registry.with(lines.with_filter(targets)).try_init(),
    };
    match set {
        Ok(()) => drop(LEVEL.set(handle)),
        // When another program runs this one as a library, its own log stays.
        Err(_) => tracing::debug!("a log is already set"),
    }
    Ok(())
}

/// The level in force.
///
/// # Errors
/// The log is not this program's.
pub fn level() -> Result<String, LogError> {
    let handle = LEVEL.get().ok_or(LogError::NotOurs)?;
    let shown = handle.with_current(|targets| targets.to_string());
    shown.map_err(|_| LogError::NotOurs)
}

/// Changes the level until the next start.
///
/// # Errors
/// It is none, or the log is not this program's.
pub fn set_level(level: &str) -> Result<(), LogError> {
    let targets = parse(level)?;
    let handle = LEVEL.get().ok_or(LogError::NotOurs)?;
    handle.reload(targets).map_err(|_| LogError::NotOurs)?;
    // At a level that is always heard, unless all is switched off.
    tracing::error!(level, "the log's level was changed");
    Ok(())
}

fn parse(level: &str) -> Result<Targets, LogError> {
    let wrong = || LogError::Level(level.to_owned());
    // A word alone would be taken for the name of a target of which everything is logged.
    let is_level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    if !level
        .split(',')
        .all(|part| part.contains('=') || is_level(part))
    {
        return Err(wrong());
    }
    level.parse().map_err(|_| wrong())
}
