//! Cores and open files: set by `taskset` and `prlimit`, which start a program in place.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::args::Args;

/// Open files are raised to the hard limit, but no further than this: some proxies size their
/// tables by the limit.
const OPEN_FILES_MAX: u64 = 40_000;

/// Restarts this program on the load core with as many open files as it may have.
///
/// # Errors
/// Does not return otherwise: no `taskset`, or no such core.
pub fn restart(args: &Args) -> Result<()> {
    let mut more = vec!["--pinned".to_owned()];
    if args.proxy_core.is_none() {
        more.extend(["--proxy-core".to_owned(), args.proxy_core().to_string()]);
    }
    restart_on(args.load_core, &more)
}

/// Restarts this program on a core with as many open files as it may have, with `more` at the end of its arguments.
///
/// # Errors
/// Does not return otherwise: no `taskset`, or no such core.
pub fn restart_on(core: usize, more: &[String]) -> Result<()> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]);
    if let Some((_, hard)) = open_files() {
        let limit = hard.min(OPEN_FILES_MAX);
        command.args(["prlimit", &format!("--nofile={limit}:{limit}")]);
    }
    command
        .arg(program)
        .args(std::env::args_os().skip(1))
        .args(more);
    Err(command.exec()).context("restarting under taskset and prlimit of util-linux")
}

/// A command that starts `program` on one core.
pub fn on_core(core: usize, program: &std::path::Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

/// Open files that this process may have: now, and at most.
pub fn open_files() -> Option<(u64, u64)> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    parse_open_files(&limits).ok()
}

fn parse_open_files(limits: &str) -> Result<(u64, u64)> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let mut fields = line.context("no such limit")?.split_whitespace();
    let mut next = || match fields.next() {
        Some("unlimited") => Ok(u64::MAX),
        Some(number) => number.parse().context("not a number"),
        None => bail!("a field is missing"),
    };
    Ok((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let file = "Limit   Soft Limit  Hard Limit  Units\nMax open files            1024    unlimited     files\n";
        assert_eq!(parse_open_files(file).unwrap(), (1024, u64::MAX));
        assert!(parse_open_files("Max open files  many").is_err());
        assert!(parse_open_files("").is_err());
    }
}
