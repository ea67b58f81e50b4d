//! What proxies hold in memory: fresh, with idle connections, and some time after those closed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::backend::Backends;
use super::closed_loop::{Client, Exchange};
use super::peer::{Kind, Program, Running};
use super::pinned;
use super::process;
use super::summary::{Figures, Samples};

/// Connections opened at once.
const OPEN_AT_ONCE: usize = 64;
/// Before memory is read, what was going on may end.
const SETTLE: Duration = Duration::from_millis(500);
/// Open files that a process needs beside its connections.
const FILES_BESIDE: usize = 500;

/// How many idle connections, and how long after their end memory is read once more.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Numbers of connections, growing, with the name of their figure.
    pub steps: &'static [(usize, &'static str)],
    /// Between the end of the connections and the last reading.
    pub after: Duration,
}

/// For the full and for the quick run.
pub fn plan(quick: bool) -> Plan {
    if quick {
        Plan {
            steps: &[(1_000, "rss_1000_mb")],
            after: Duration::from_secs(2),
        }
    } else {
        Plan {
            steps: &[(1_000, "rss_1000_mb"), (10_000, "rss_10000_mb")],
            after: Duration::from_secs(30),
        }
    }
}

/// Measures all proxies, fresh ones, one after the other; the waits at the end run side by side.
pub async fn run(
    programs: &[Program],
    core: usize,
    backends: &Backends,
    plan: Plan,
) -> Vec<Samples> {
    let mut loaded = Vec::new();
    for program in programs {
        loaded.push(load(program, core, backends, plan).await);
    }
    let mut all = Vec::new();
    for (program, loaded) in programs.iter().zip(loaded) {
        let measured = match loaded {
            Ok(loaded) => loaded.finish(plan.after).await,
            Err(error) => Err(error),
        };
        let mut samples = Samples {
            peer: program.kind.name(),
            ..Samples::default()
        };
        match measured {
            Ok(figures) => samples.rounds.push(figures),
            Err(error) => samples.failure = Some(format!("{error:#}")),
        }
        all.push(samples);
    }
    all
}

struct Loaded {
    running: Running,
    figures: Figures,
    closed: Instant,
}

async fn load(program: &Program, core: usize, backends: &Backends, plan: Plan) -> Result<Loaded> {
    let running = program.start(core, backends).await?;
    tokio::time::sleep(SETTLE).await;
    let idle = process::memory(&running.process.tree()?)?;
    let mut figures = Figures::from([
        ("rss_idle_mb", mb(idle.rss_bytes)),
        ("pss_idle_mb", mb(idle.pss_bytes)),
    ]);
    // The forwarder needs a second connection for each; everybody else shares a few.
    let files_each = if program.kind == Kind::Raw { 2 } else { 1 };
    let files = pinned::open_files().map_or(0, |(now, _)| now);
    let mut open = Vec::new();
    for &(count, name) in plan.steps {
        if (files_each * count + FILES_BESIDE) as u64 > files {
            eprintln!(
                "{}: {count} connections need more than {files} open files",
                program.kind.name()
            );
            break;
        }
        connect(&running, count, &mut open).await?;
        tokio::time::sleep(SETTLE).await;
        let now = process::memory(&running.process.tree()?)?;
        figures.insert(name, mb(now.rss_bytes));
        let grown = now.rss_bytes as f64 - idle.rss_bytes as f64;
        figures.insert("per_connection_kb", grown / count as f64 / 1e3);
    }
    drop(open);
    Ok(Loaded {
        running,
        figures,
        closed: Instant::now(),
    })
}

/// Opens connections up to `count`, each with one request done.
async fn connect(running: &Running, count: usize, open: &mut Vec<TcpStream>) -> Result<()> {
    let address = running.ports.http1;
    let exchange = Exchange::new(0, 128);
    while open.len() < count {
        let mut tasks = JoinSet::new();
        for _ in 0..OPEN_AT_ONCE.min(count - open.len()) {
            let exchange = exchange.clone();
            tasks.spawn(async move { Client::connect(address, &exchange).await });
        }
        while let Some(client) = tasks.join_next().await {
            let client = client.context("a connection's task")?;
            let at = open.len();
            open.push(
                client
                    .with_context(|| format!("connection {at}"))?
                    .into_stream(),
            );
        }
    }
    // An idle connection that the proxy closed has something to read: its end.
    let mut byte = [0];
    let closed = open
        .iter()
        .filter(|s| s.try_read(&mut byte).is_ok())
        .count();
    ensure!(closed == 0, "closed {closed} of {count} idle connections");
    Ok(())
}

impl Loaded {
    async fn finish(mut self, after: Duration) -> Result<Figures> {
        tokio::time::sleep(after.saturating_sub(self.closed.elapsed())).await;
        let now = process::memory(&self.running.process.tree()?)?;
        self.figures.insert("rss_closed_mb", mb(now.rss_bytes));
        if let Some(idle) = self.figures.get("rss_idle_mb") {
            self.figures
                .insert("closed_to_idle", mb(now.rss_bytes) / idle);
        }
        Ok(self.figures)
    }
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
