//! What this process logs, set at the start and changed while it runs.
//!
//! Both programs do it alike. There is one log in a process, so this is the one thing here that all of a process shares. Another
//! program's log, which runs one of ours as a library, is left alone.

use std::io::IsTerminal;
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Registry, reload};

use crate::errand::LEVELS_LEN_MAX;

/// The environment variable with the levels, when nothing else says them.
pub const VARIABLE: &str = "ISOBAR_LOG";
/// The levels when nothing says them.
pub const DEFAULT: &str = "info";

static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    handle: reload::Handle<Targets, Registry>,
    levels: Mutex<String>,
}

/// Why levels are not set.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// They are none.
    #[error("{0:?} is no log level; say error, warn, info, debug, trace or off, or target=level,…")]
    Wrong(String),
    /// Longer than [`LEVELS_LEN_MAX`].
    #[error("log levels have at most {LEVELS_LEN_MAX} bytes")]
    TooLong,
    /// The process has another log.
    #[error("this process has a log of its own, which is not ours to change")]
    NotOurs,
}

/// Sets the process' log up, on standard error, at the levels of a flag, else of [`VARIABLE`], else [`DEFAULT`]; a log that is there
/// already stays.
///
/// # Errors
/// [`LevelError::Wrong`], [`LevelError::TooLong`].
pub fn install(flag: Option<String>, json: bool) -> Result<(), LevelError> {
    let set = || std::env::var(VARIABLE).ok();
    let levels = flag.or_else(|| set().filter(|levels| !levels.is_empty()));
    let levels = levels.unwrap_or_else(|| DEFAULT.to_owned());
    let (filter, handle) = reload::Layer::new(parse(&levels)?);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(is_coloured());
    let registry = tracing_subscriber::registry();
    let set = match json {
        true => registry.with(lines.json().with_filter(filter)).try_init(),
        false => registry.with(lines.with_filter(filter)).try_init(),
    };
    match set {
        Ok(()) => {
            let levels = Mutex::new(levels);
            let _ = LOG.set(Log { handle, levels });
        }
        Err(_) => tracing::debug!("a log is already set"),
    }
    Ok(())
}

/// Whether these are levels.
///
/// # Errors
/// See [`LevelError`].
pub fn check(levels: &str) -> Result<(), LevelError> {
    parse(levels).map(drop)
}

/// Logs at these levels from now on; returns those before.
///
/// # Errors
/// See [`LevelError`]; nothing is changed then.
pub fn set(levels: &str) -> Result<String, LevelError> {
    let targets = parse(levels)?;
    let log = LOG.get().ok_or(LevelError::NotOurs)?;
    log.handle
        .reload(targets)
        .map_err(|_| LevelError::NotOurs)?;
    let mut current = log.levels.lock().unwrap_or_else(PoisonError::into_inner);
    let before = std::mem::replace(&mut *current, levels.to_owned());
    // At a level that is always heard, unless all is switched off.
    tracing::error!(before, levels, "the log's levels were changed");
    Ok(before)
}

/// The levels in force; `None` when the process has another log.
pub fn in_force() -> Option<String> {
    let levels = &LOG.get()?.levels;
    let levels = levels.lock().unwrap_or_else(PoisonError::into_inner);
    Some(levels.clone())
}

/// Whether lines have colours: on terminals, unless `NO_COLOR` is set.
fn is_coloured() -> bool {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    wanted && std::io::stderr().is_terminal()
}

fn parse(levels: &str) -> Result<Targets, LevelError> {
    if levels.len() > LEVELS_LEN_MAX {
        return Err(LevelError::TooLong);
    }
    // A word alone that is no level would be taken for a target of which everything is logged.
    let mut alone = levels.split(',').filter(|part| !part.contains('='));
    let is_wrong = alone.any(|part| part.parse::<LevelFilter>().is_err());
    let targets = levels.parse().ok().filter(|_| !is_wrong);
    targets.ok_or_else(|| LevelError::Wrong(levels.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_checked_before_anything_is_changed() {
        assert!(matches!(set("loud=very"), Err(LevelError::Wrong(_))));
        assert!(matches!(set("loud"), Err(LevelError::Wrong(_))));
        let long = "a".repeat(LEVELS_LEN_MAX + 1);
        assert!(matches!(set(&long), Err(LevelError::TooLong)));
        // A test's process has no log of ours.
        assert!(matches!(set("debug"), Err(LevelError::NotOurs)));
        assert_eq!(in_force(), None);
        assert!(check("isobar_controller::stream=trace,info").is_ok());
    }
}
