//! One run: start, enrol, connect, settle, measure, kill.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::Args;
use super::controller::Controller;
use super::enrol::enrol_all;
use super::figures::Figures;
use super::link::Door;
use super::node::{Shared, live};
use super::report::{Errors, Latency, Measured, Messages, Recovery};
use super::world::World;
use crate::peers::process::cpu;

/// Files beside those of the streams: the programs' own, and what the store opens.
const FILES_BESIDE: u64 = 300;
/// Longest wait for all streams, first and after a kill.
const STREAMS_WAIT_MAX: Duration = Duration::from_secs(300);
/// How often it is looked whether something has come.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Plans that rows rest for before the controller is killed.
const REST_PERIODS: u32 = 8;

/// Runs as the arguments say.
///
/// # Errors
/// Too few open files, no controller program, or one that ends by itself.
pub fn run(args: &Args) -> Result<Measured> {
    raise_open_files(u64::from(args.nodes) + FILES_BESIDE)?;
    let directory = tempfile::tempdir()?;
    let controller = Controller::start(args, directory.path())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(args, controller))
}

/// Lets this process, and those that it starts, open so many files.
fn raise_open_files(needed: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.unwrap_or(u64::MAX);
    if maximum < needed {
        bail!(
            "{needed} open files are needed and this process may have {maximum} at most; raise the hard limit (`ulimit -Hn` \
             as root, LimitNOFILE= of a service), or take fewer nodes"
        );
    }
    if limit.current.is_some_and(|current| current < needed) {
        let raised = Rlimit {
            current: Some(needed),
            ..limit
        };
        setrlimit(Resource::Nofile, raised).context("raising the limit of open files")?;
    }
    Ok(())
}

async fn measure(args: &Args, controller: Controller) -> Result<Measured> {
    let world = World {
        nodes: args.nodes,
        services: args.services,
        services_per_node: args.services_per_node,
        period_us: args.period_ms * 1_000,
    };
    let empty_resident_bytes = controller.resident_bytes()?;
    let door = Door::new(controller.addresses.stream, &controller.read("ca.pem")?)?;
    let began = Instant::now();
    let certified = enrol_all(&door, world, &controller.read("enrol-token")?).await?;
    let enrol_s = began.elapsed().as_secs_f64();
    let shared = Arc::new(Shared {
        world,
        door,
        figures: Figures::new(),
        steps_ppm: args.steps_ppm,
        pace: Semaphore::new(args.handshakes as usize),
    });
    let began = Instant::now();
    let nodes = (0..).zip(certified);
    let nodes: Vec<JoinHandle<()>> = nodes
        .map(|(number, certified)| tokio::spawn(live(shared.clone(), number, certified)))
        .collect();
    all_back(&shared, began).await?;
    shared.pace.close();
    let open_s = began.elapsed().as_secs_f64();
    let open_cpu_s = controller.cpu()?.total.as_secs_f64();
    tokio::time::sleep(Duration::from_secs(args.settle)).await;
    let mut measured = window(args, &shared, &controller).await?;
    measured.enrol_s = enrol_s;
    measured.open_s = open_s;
    measured.open_cpu_s = open_cpu_s;
    measured.empty_resident_bytes = empty_resident_bytes;
    let added = measured.resident_bytes.saturating_sub(empty_resident_bytes);
    measured.node_kib = added as f64 / 1024.0 / f64::from(args.nodes);
    let mut controller = controller;
    for _ in 0..args.storms {
        let (recovery, again) = storm(args, &shared, controller).await?;
        measured.recoveries.push(recovery);
        controller = again;
    }
    nodes.iter().for_each(JoinHandle::abort);
    Ok(measured)
}

/// Steps and measures.
async fn window(args: &Args, shared: &Shared, controller: &Controller) -> Result<Measured> {
    let figures = &shared.figures;
    figures.begin();
    figures.stepping.store(true, Ordering::Relaxed);
    let own = [std::process::id()];
    let (began, before, own_before) = (Instant::now(), controller.cpu()?, cpu(&own)?);
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let seconds = began.elapsed().as_secs_f64();
    let (spent, own_spent) = (controller.cpu()?, cpu(&own)?);
    let ratio =
        |before: Duration, after: Duration| after.saturating_sub(before).as_secs_f64() / seconds;
    let load = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
    let (p50_ms, answered) = figures.latency_ms(0.5);
    Ok(Measured {
        nodes: args.nodes,
        services: args.services,
        services_per_node: args.services_per_node.min(args.services),
        period_ms: args.period_ms,
        seconds,
        streams: load(&figures.streams),
        enrol_s: 0.0,
        open_s: 0.0,
        open_cpu_s: 0.0,
        controller_cpu_ratio: ratio(before.total, spent.total),
        load_cpu_ratio: ratio(own_before.total, own_spent.total),
        waited_ratio: ratio(before.waited, spent.waited),
        empty_resident_bytes: 0,
        resident_bytes: controller.resident_bytes()?,
        node_kib: 0.0,
        plan_latency: Latency {
            answered,
            unanswered: load(&figures.unanswered),
            p50_ms,
            p99_ms: figures.latency_ms(0.99).0,
            max_ms: figures.latency_ms(1.0).0,
        },
        messages: Messages {
            reports: load(&figures.reports),
            snapshots: load(&figures.snapshots),
            deltas: load(&figures.deltas),
            acks: load(&figures.acks),
            pings: load(&figures.pings),
        },
        errors: errors(figures),
        recoveries: Vec::new(),
    })
}

fn errors(figures: &Figures) -> Errors {
    let load = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
    Errors {
        nacks: load(&figures.nacks),
        ended: load(&figures.ended),
        unreached: load(&figures.unreached),
        slow: load(&figures.slow),
        refused: load(&figures.refused),
        reports_held: load(&figures.reports_held),
        lag_ms_max: load(&figures.lag_us_max) as f64 / 1e3,
    }
}

/// Kills the controller and starts it again.
async fn storm(
    args: &Args,
    shared: &Arc<Shared>,
    mut controller: Controller,
) -> Result<(Recovery, Controller)> {
    let figures = &shared.figures;
    figures.stepping.store(false, Ordering::Relaxed);
    let period = Duration::from_millis(args.period_ms);
    // Until steps are over, weights are home again, and the plan is on the disk.
    tokio::time::sleep(period * (5 + REST_PERIODS)).await;
    let before = {
        let mut comeback = figures.comeback();
        comeback.epoch_min = comeback.epoch_max + 1;
        comeback.back.clear();
        comeback.at.clear();
        comeback.jump_ppm_max = 0;
        comeback.rows_moved = 0;
        comeback.epoch_max
    };
    figures.begin();
    let away = Duration::from_millis(args.away_ms);
    let began = Instant::now();
    // Its own thread: the proxies go on trying meanwhile.
    let (controller, listens_s) = tokio::task::spawn_blocking(move || {
        controller.kill()?;
        std::thread::sleep(away.saturating_sub(began.elapsed()));
        controller.start_again()?;
        anyhow::Ok((controller, began.elapsed().as_secs_f64()))
    })
    .await??;
    all_back(shared, began).await?;
    let cpu_s = controller.cpu()?.total.as_secs_f64();
    tokio::time::sleep(period * REST_PERIODS).await;
    let comeback = figures.comeback();
    let mut at: Vec<f64> = comeback
        .at
        .iter()
        .map(|at| at.duration_since(began).as_secs_f64())
        .collect();
    at.sort_by(f64::total_cmp);
    let after = |share: f64| {
        let place = (at.len() as f64 * share).ceil() as usize;
        at.get(place.saturating_sub(1)).copied().unwrap_or(0.0)
    };
    let errors = errors(figures);
    let recovery = Recovery {
        listens_s,
        half_s: after(0.5),
        most_s: after(0.99),
        all_s: after(1.0),
        cpu_s,
        epochs: [before, comeback.epoch_max],
        rows_moved: comeback.rows_moved,
        jump_ppm_max: comeback.jump_ppm_max,
        nacks: errors.nacks,
        // The streams that the kill itself ended are no failures.
        failed: errors.connections().saturating_sub(u64::from(args.nodes)),
    };
    drop(comeback);
    Ok((recovery, controller))
}

/// Waits until every node has a snapshot that counts.
async fn all_back(shared: &Shared, began: Instant) -> Result<()> {
    let nodes = shared.world.nodes as usize;
    loop {
        let back = shared.figures.comeback().back.len();
        if back == nodes {
            return Ok(());
        }
        if began.elapsed() > STREAMS_WAIT_MAX {
            let errors = errors(&shared.figures);
            bail!(
                "only {back} of {nodes} nodes have a plan after {STREAMS_WAIT_MAX:?}: {errors:?}"
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
