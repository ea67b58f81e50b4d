//! One load against one cluster, with faults, watched.
//!
//! Time 0 is when the load begins, after everything has started and the
//! controller has heard of every node.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::arrivals::RateFn;
use super::generator::{self, HotFn, Traffic};
use super::record::Record;
use super::status::Status;
use super::{Cluster, ClusterError, ClusterSpec, Say, Stopped};

/// Time between two looks at the run.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The controller is asked at every look of this number.
const ASK_EVERY: u32 = 2;
/// The load begins this long after the generator was started.
const LEAD: Duration = Duration::from_millis(100);

/// What goes wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The controller is killed (SIGKILL).
    KillController,
    /// The controller is started again.
    RestartController,
    /// The proxy of the node with this index is killed (SIGKILL).
    KillProxy(usize),
    /// The proxy of the node with this index is started again.
    RestartProxy(usize),
}

/// What goes wrong when.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    /// Seconds after the load began.
    pub at_s: f64,
    /// What happens.
    pub kind: FaultKind,
}

/// One load against one cluster.
#[derive(Clone)]
pub struct Experiment {
    /// The cluster.
    pub spec: ClusterSpec,
    /// Requests/s by node index and second.
    pub rate: Arc<RateFn>,
    /// Which requests count as sent to a hot node.
    pub hot: Arc<HotFn>,
    /// How long it lasts, in seconds.
    pub duration_s: f64,
    /// Sums begin here, in seconds.
    pub measure_from_s: f64,
    /// Seed of the arrivals.
    pub seed: u64,
    /// What goes wrong, in order of time.
    pub faults: Vec<Fault>,
}

impl std::fmt::Debug for Experiment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Experiment")
            .field("spec", &self.spec)
            .field("duration_s", &self.duration_s)
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

/// What the controller said at a time.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Seconds after the load began.
    pub at_s: f64,
    /// What it said.
    pub status: Status,
}

/// What a watcher sees.
#[derive(Debug)]
pub struct Moment<'a> {
    /// Seconds after the load began; more than the duration while the last answers come in.
    pub at_s: f64,
    /// How long the load lasts, in seconds.
    pub duration_s: f64,
    /// What has been seen so far.
    pub record: &'a Record,
    /// What the controller last said.
    pub status: Option<&'a Status>,
}

/// What was seen of a whole run.
#[derive(Debug)]
pub struct Seen {
    /// Every request.
    pub record: Record,
    /// What the controller said meanwhile.
    pub samples: Vec<Sample>,
    /// How the processes ended.
    pub stopped: Stopped,
}

/// Starts a cluster, sends the load, stops the cluster.
///
/// # Errors
/// The cluster does not start, a process ends that nobody killed, or `stop` was cancelled
/// ([`ClusterError::Stopped`]). Nothing is left running in any case.
pub async fn run(
    program: &Path,
    experiment: &Experiment,
    stop: &CancellationToken,
    say: Say<'_>,
    watch: &mut dyn FnMut(&Moment<'_>),
) -> Result<Seen, ClusterError> {
    let mut cluster = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(ClusterError::Stopped),
        cluster = Cluster::start(program, experiment.spec.clone(), say) => cluster?,
    };
    let looked = look(&mut cluster, experiment, stop, watch).await;
    say("stopping");
    let stopped = cluster.stop().await;
    let (record, samples) = looked?;
    match stop.is_cancelled() {
        true => Err(ClusterError::Stopped),
        false => Ok(Seen {
            record,
            samples,
            stopped,
        }),
    }
}

async fn look(
    cluster: &mut Cluster,
    experiment: &Experiment,
    stop: &CancellationToken,
    watch: &mut dyn FnMut(&Moment<'_>),
) -> Result<(Record, Vec<Sample>), ClusterError> {
    let record = Arc::new(Mutex::new(Record::new(
        experiment.spec.places.len(),
        experiment.measure_from_s,
    )));
    let start = Instant::now() + LEAD;
    // However this ends, the generator ends with it.
    let enough = stop.child_token();
    let end_generator = enough.clone().drop_guard();
    let generator = generator::spawn(traffic(cluster, experiment), start, record.clone(), enough)?;

    let mut samples: Vec<Sample> = Vec::new();
    let mut faults = experiment.faults.iter().peekable();
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks = 0_u32;
    while !generator.is_finished() {
        ticks.tick().await;
        let at_s = start.elapsed().as_secs_f64();
        while let Some(fault) = faults.next_if(|fault| fault.at_s <= at_s) {
            strike(cluster, fault.kind).await?;
        }
        cluster.check_running()?;
        if looks.is_multiple_of(ASK_EVERY)
            && let Ok(status) = cluster.status().await
        {
            samples.push(Sample { at_s, status });
        }
        looks += 1;
        let record = record.lock().unwrap_or_else(PoisonError::into_inner);
        watch(&Moment {
            at_s,
            duration_s: experiment.duration_s,
            record: &record,
            status: samples.last().map(|sample| &sample.status),
        });
    }
    drop(end_generator);
    // It has finished, so this does not wait; all its references to the record are gone.
    let _ = generator.join();
    let record = record
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    Ok((record, samples))
}

fn traffic(cluster: &Cluster, experiment: &Experiment) -> Traffic {
    let places = experiment.spec.places.iter();
    Traffic {
        names: places.map(|place| place.name.clone()).collect(),
        ingress: cluster.ingress().to_vec(),
        rate: experiment.rate.clone(),
        hot: experiment.hot.clone(),
        duration_s: experiment.duration_s,
        seed: experiment.seed,
    }
}

async fn strike(cluster: &mut Cluster, kind: FaultKind) -> Result<(), ClusterError> {
    match kind {
        FaultKind::KillController => cluster.kill_controller(),
        FaultKind::RestartController => cluster.restart_controller().await?,
        FaultKind::KillProxy(node) => cluster.kill_proxy(node),
        FaultKind::RestartProxy(node) => cluster.restart_proxy(node).await?,
    }
    Ok(())
}
