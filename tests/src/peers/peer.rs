//! The proxies that are compared: how each is found, configured and started.

mod envoy;
mod haproxy;
mod isobar;
mod nginx;
mod raw;
mod tls;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use serde::Serialize;
use tempfile::TempDir;

use super::args::Args;
use super::backend::Backends;
use super::closed_loop::{Client, Exchange};
use super::pinned;
use super::process::Process;

pub use envoy::fetch as fetch_envoy;

/// Upstream connections that each proxy may keep, and requests it may have under way. More than any
/// scenario has.
const POOL_MAX: usize = 4_096;
/// Client connections that each proxy must take.
const CLIENTS_MAX: usize = 10_200;
/// A proxy must answer this long after its start.
const START_WAIT_MAX: Duration = Duration::from_secs(20);
/// Starts before a proxy is given up: a port that was free may be taken by then.
const STARTS_MAX: usize = 3;

/// A proxy that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A raw byte forwarder: the floor.
    Raw,
    /// The proxy of this repository.
    Isobar,
    /// nginx, as Debian packs it.
    Nginx,
    /// HAProxy, as Debian packs it.
    Haproxy,
    /// Envoy, as its Python wheel packs it.
    Envoy,
}

impl Kind {
    /// All of them, in the order of the tables.
    pub const ALL: [Kind; 5] = [
        Kind::Raw,
        Kind::Isobar,
        Kind::Nginx,
        Kind::Haproxy,
        Kind::Envoy,
    ];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Raw => "raw",
            Kind::Isobar => "isobar",
            Kind::Nginx => "nginx",
            Kind::Haproxy => "haproxy",
            Kind::Envoy => "envoy",
        }
    }
}

/// A proxy that is installed.
#[derive(Debug, Clone)]
pub struct Program {
    /// Which one.
    pub kind: Kind,
    /// Its file.
    pub path: PathBuf,
    /// What it says of itself.
    pub version: String,
    /// Its file's size without symbols; absent where it is a part of this program.
    pub stripped_bytes: Option<u64>,
}

/// Looks for a proxy on this machine.
///
/// # Errors
/// It is not there; the text says what would bring it.
pub fn find(kind: Kind, args: &Args) -> Result<Program> {
    let (path, version) = match kind {
        Kind::Raw => (std::env::current_exe()?, String::from("this program")),
        Kind::Isobar => isobar::find(args.isobar.as_deref())?,
        Kind::Nginx => nginx::find()?,
        Kind::Haproxy => haproxy::find()?,
        Kind::Envoy => envoy::find(args.envoy.as_deref())?,
    };
    // Programs are started in a directory of their own.
    let path = path
        .canonicalize()
        .with_context(|| format!("looking for {}", path.display()))?;
    let stripped_bytes = if kind == Kind::Raw {
        None
    } else {
        stripped_bytes(&path).ok()
    };
    Ok(Program {
        kind,
        path,
        version,
        stripped_bytes,
    })
}

/// Where a started proxy listens.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// HTTP/1.1, clear text.
    pub http1: SocketAddr,
    /// HTTP/2 with prior knowledge, clear text. The same as `http1` where the proxy tells them apart.
    pub http2: Option<SocketAddr>,
    /// HTTP/1.1 over TLS that ends there.
    pub tls: Option<SocketAddr>,
}

/// A started proxy. Ended when dropped.
#[derive(Debug)]
pub struct Running {
    /// Its processes.
    pub process: Process,
    /// Where it listens.
    pub ports: Ports,
    log: PathBuf,
    // Removed after the process has ended: fields drop in this order.
    _dir: TempDir,
}

/// What a peer's own module needs to write its configuration and command line.
struct Site<'a> {
    dir: &'a Path,
    core: usize,
    backend: SocketAddr,
    /// What calls of [`super::grpc::HOST`] go to, over HTTP/2.
    grpc: SocketAddr,
    http1: SocketAddr,
    http2: SocketAddr,
    /// Where TLS ends, when there is a certificate.
    tls: Option<SocketAddr>,
    admin: SocketAddr,
    mesh: SocketAddr,
}

impl Program {
    /// Starts it on one core in front of the backends and waits until it answers.
    ///
    /// # Errors
    /// It ended, or did not answer in time; with what it wrote.
    pub async fn start(&self, core: usize, backends: &Backends) -> Result<Running> {
        let mut failure = anyhow!("not started");
        for _ in 0..STARTS_MAX {
            match self.start_once(core, backends).await {
                Ok(running) => return Ok(running),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn start_once(&self, core: usize, backends: &Backends) -> Result<Running> {
        let dir = tempfile::Builder::new().prefix("isobar-peers-").tempdir()?;
        let [http1, http2, tls, admin, mesh] = free_addresses()?;
        let tls = tls::certify(dir.path()).then_some(tls);
        let site = Site {
            dir: dir.path(),
            core,
            backend: backends.http1,
            grpc: backends.grpc.address,
            http1,
            http2,
            tls,
            admin,
            mesh,
        };
        let mut command = match self.kind {
            Kind::Raw => raw::command(&self.path, &site),
            Kind::Isobar => isobar::command(&self.path, &site)?,
            Kind::Nginx => nginx::command(&self.path, &site)?,
            Kind::Haproxy => haproxy::command(&self.path, &site)?,
            Kind::Envoy => envoy::command(&self.path, &site)?,
        };
        let log = dir.path().join("log");
        let log_file = fs::File::create(&log)?;
        command
            .current_dir(dir.path())
            .stderr(log_file.try_clone()?);
        command.stdout(if self.kind == Kind::Raw {
            Stdio::piped()
        } else {
            log_file.into()
        });
        let mut process = Process::start(command)?;
        let ports = match self.kind {
            Kind::Raw => raw::ports(&mut process)?,
            Kind::Isobar => isobar::ports(&site),
            Kind::Nginx | Kind::Haproxy | Kind::Envoy => Ports {
                http1,
                http2: Some(http2),
                tls,
            },
        };
        let mut running = Running {
            process,
            ports,
            log,
            _dir: dir,
        };
        running.wait().await?;
        Ok(running)
    }
}

impl Running {
    /// Until a request comes through.
    async fn wait(&mut self) -> Result<()> {
        let exchange = Exchange::new(0, 1);
        let started = Instant::now();
        loop {
            let Err(error) = Client::connect(self.ports.http1, &exchange).await else {
                return Ok(());
            };
            if let Some(status) = self.process.ended()? {
                bail!("{status}: {}", self.log_end());
            }
            if started.elapsed() > START_WAIT_MAX {
                return Err(error.context(format!(
                    "not ready after {START_WAIT_MAX:?}: {}",
                    self.log_end()
                )));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The last lines that it wrote.
    pub fn log_end(&self) -> String {
        const LINES: usize = 5;
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join(" | ")
    }
}

/// Addresses that were free a moment ago, all different.
fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    let mut held = Vec::with_capacity(N);
    for address in &mut addresses {
        let listener = TcpListener::bind(*address).context("finding a free port")?;
        *address = listener.local_addr()?;
        held.push(listener);
    }
    Ok(addresses)
}

/// The first of these names that is a file, on the PATH or where system programs are.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The first line that a program prints when asked for its version.
fn version(path: &Path, flag: &str) -> Result<String> {
    let output = Command::new(path).arg(flag).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("starting {}", path.display()))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| !line.trim().is_empty());
    line.map(|line| line.trim().to_owned())
        .with_context(|| format!("{} says nothing", path.display()))
}

/// Size of a program's file without symbols.
fn stripped_bytes(path: &Path) -> Result<u64> {
    let dir = tempfile::tempdir()?;
    let stripped = dir.path().join("stripped");
    let status = Command::new("strip")
        .arg("-o")
        .arg(&stripped)
        .arg(path)
        .status();
    // Without binutils the file is measured as it is: all peers ship without symbols.
    let file = if status.is_ok_and(|status| status.success()) {
        &stripped
    } else {
        path
    };
    Ok(fs::metadata(file)?.len())
}

/// A command on the proxies' core.
fn on_core(site: &Site<'_>, program: &Path) -> Command {
    pinned::on_core(site.core, program)
}
