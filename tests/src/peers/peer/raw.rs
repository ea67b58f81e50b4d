//! The raw byte forwarder: this program in another role.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::super::process::Process;
use super::{Ports, Site, on_core};

pub fn command(path: &Path, site: &Site<'_>) -> Command {
    let mut command = on_core(site, path);
    command.args(["forward", "--backend", &site.backend.to_string()]);
    command
}

/// It listens on a port of its own choice and prints it. It cannot do HTTP/2: the backend behind it
/// would have to.
pub fn ports(process: &mut Process) -> Result<Ports> {
    let mut line = String::new();
    let stdout = process.stdout().context("its output is not piped")?;
    BufReader::new(stdout)
        .read_line(&mut line)
        .context("reading its address")?;
    let http1 = line
        .trim()
        .parse()
        .with_context(|| format!("its address {line:?}"))?;
    Ok(Ports {
        http1,
        http2: None,
        tls: None,
    })
}
