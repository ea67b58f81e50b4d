//! The controller under test, as a process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Args;
use crate::peers::pinned;
use crate::peers::process::{self, Cpu, Process};

/// Longest wait until a started controller listens.
const START_WAIT_MAX: Duration = Duration::from_secs(120);
/// How often a starting controller is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Where it listens: its `addresses.json`.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Addresses {
    pub rest: SocketAddr,
    pub stream: SocketAddr,
}

/// A controller, its directory and its process. Ended when dropped.
pub(super) struct Controller {
    directory: PathBuf,
    program: Vec<PathBuf>,
    core: Option<usize>,
    period_ms: u64,
    process: Option<Process>,
    pub addresses: Addresses,
}

impl Controller {
    /// Starts one in a directory, on free ports; returns when it listens.
    ///
    /// # Errors
    /// No such program, or it ends.
    pub fn start(args: &Args, directory: &Path) -> Result<Controller> {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut controller = Controller {
            directory: directory.to_owned(),
            program: program(args)?,
            core: args.controller_core,
            period_ms: args.period_ms,
            process: None,
            addresses: Addresses {
                rest: anywhere,
                stream: anywhere,
            },
        };
        controller.start_again()?;
        Ok(controller)
    }

    /// Starts it on its old data and ports; returns when it listens.
    ///
    /// # Errors
    /// It ends, or does not listen in time.
    pub fn start_again(&mut self) -> Result<()> {
        let data_dir = self.directory.join("data");
        let addresses_path = data_dir.join("addresses.json");
        // Of the one before; there may be none.
        let _ = std::fs::remove_file(&addresses_path);
        let config = self.directory.join("controller.toml");
        let text = format!(
            "data_dir = {data_dir:?}\nrest_listen = \"{}\"\nstream_listen = \"{}\"\nperiod_ms = {}\n\
             rest_open = true\nenrol_open = true\n",
            self.addresses.rest, self.addresses.stream, self.period_ms
        );
        std::fs::write(&config, text).context("writing the controller's configuration")?;
        let mut command = match self.core {
            Some(core) => pinned::on_core(core, &self.program[0]),
            None => Command::new(&self.program[0]),
        };
        command
            .args(&self.program[1..])
            .arg("--config")
            .arg(&config)
            .env("ISOBAR_LOG", "warn")
            .stdout(Stdio::null());
        let mut process = Process::start(command)?;
        let began = Instant::now();
        while !addresses_path.exists() {
            if let Some(status) = process.ended()? {
                bail!("the controller ended: {status}");
            }
            if began.elapsed() > START_WAIT_MAX {
                bail!("the controller does not listen after {START_WAIT_MAX:?}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let text = std::fs::read(&addresses_path)?;
        self.addresses = serde_json::from_slice(&text).context("reading addresses.json")?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills it as a crash would.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.kill(),
            None => Ok(()),
        }
    }

    /// A file of its data directory.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self, name: &str) -> Result<String> {
        let path = self.directory.join("data").join(name);
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// Processor time since its start.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu(&self) -> Result<Cpu> {
        process::cpu(&self.pids()?)
    }

    /// Resident memory, in bytes.
    ///
    /// # Errors
    /// It has ended.
    pub fn resident_bytes(&self) -> Result<u64> {
        Ok(process::memory(&self.pids()?)?.rss_bytes)
    }

    fn pids(&self) -> Result<Vec<u32>> {
        let process = self.process.as_ref().context("the controller is away")?;
        process.tree()
    }
}

fn program(args: &Args) -> Result<Vec<PathBuf>> {
    if !args.controller.is_empty() {
        return Ok(args.controller.clone());
    }
    let own = std::env::current_exe().context("finding this program")?;
    let beside = own.with_file_name("isobar-controller");
    if !beside.exists() {
        bail!(
            "there is no {}; build it with `cargo build --release -p isobar-controller`, or name one with --controller",
            beside.display()
        );
    }
    Ok(vec![beside])
}
