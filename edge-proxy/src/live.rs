//! What goes on with one service at this node: counters, load, connections.
//!
//! Live state is keyed by name beside the snapshot and outlives it. Counters
//! only rise; whoever reports keeps what it said last and tells the difference.
//! Each worker has its own, on cache lines of its own; readers add them up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use isobar_mesh_api::hop::LoadHint;
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::report::REPORT_NODES_MAX;
use tokio::sync::Notify;

use crate::endpoint::{EndpointLive, Siblings};
use crate::gate::{Gate, RANKS};
use crate::golden::{Cells, Histogram, Kind, Reading};
use crate::limit::{self, Limit};
use crate::pick::Memory;
use crate::plain::PlainCallers;
use crate::rates::RateLive;
use crate::retry::{self, Budget};
use crate::tcp::copy::Bytes;

/// A new latency counts one part in this many.
const LATENCY_SMOOTHING: u32 = 16;

/// Live state of one service.
#[derive(Debug)]
pub struct ServiceLive {
    /// Which service.
    pub service: ServiceName,
    /// The queue before its endpoints here.
    pub gate: Arc<Gate>,
    /// Who calls it in plain text, where a policy has that counted.
    pub plain: PlainCallers,
    /// What its retries may still do.
    pub retries: RetriesLive,
    /// Its TCP connections.
    pub tcp: TcpLive,
    /// What its endpoints here share.
    pub siblings: Arc<Siblings>,
    rates: Mutex<BTreeMap<String, Arc<RateLive>>>,
    /// Requests that found no room in the queue, by class.
    shed_by_rank: [AtomicU64; RANKS],
    /// Outliers that kept their traffic because too many were left alone already.
    pub outliers_spared: AtomicU64,
    latency_us: AtomicU32,
    pressed_us: AtomicU64,
    workers: Box<[WorkerLive]>,
    moved_out: Mutex<BTreeMap<NodeId, Arc<MovedOutLive>>>,
    moved_in: Mutex<BTreeMap<NodeId, Arc<MovedInLive>>>,
}

/// TCP connections of a service at this node, moved-in ones included. One set for all workers.
#[derive(Debug, Default)]
pub struct TcpLive {
    /// Open now.
    pub open: AtomicU32,
    /// Bytes since the start.
    pub bytes: Bytes,
}

/// One worker's part, on its own cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerLive {
    /// What it counted.
    pub counters: Counters,
    /// How requests went.
    pub golden: Cells,
    /// What its choices depend on.
    pub chooser: Mutex<Chooser>,
}

/// State of a worker's choices.
#[derive(Debug, Default)]
pub struct Chooser {
    /// What was chosen and met before.
    pub memory: Memory,
    /// Random candidates; only spreads load, needs no secrecy.
    pub rng: fastrand::Rng,
}

/// Counts since the start. See [`isobar_mesh_api::report::ServiceReport`] for what is counted.
#[derive(Debug)]
pub struct Counters {
    /// First attempts that entered here.
    pub entered: AtomicU64,
    /// Of these, given to an endpoint of this node.
    pub served_home: AtomicU64,
    /// Of these, refused because nobody had room.
    pub shed: AtomicU64,
    /// Of these, ended in an error of the mesh or an endpoint.
    pub failed: AtomicU64,
    /// Of these, sent to the upstream of last resort.
    pub cloud: AtomicU64,
    /// Completed by endpoints of this node.
    pub completed: AtomicU64,
    /// Their time at the endpoint, summed, in microseconds.
    pub latency_sum_us: AtomicU64,
    /// The shortest since it was last taken, in microseconds; `u64::MAX` = none.
    pub latency_min_us: AtomicU64,
    /// Given to endpoints.
    pub begun: AtomicU64,
    /// When, summed, in microseconds; wraps.
    pub begun_us_sum: AtomicU64,
    /// Come back from endpoints, whatever the outcome.
    pub ended: AtomicU64,
    /// When, summed, in microseconds; wraps.
    pub ended_us_sum: AtomicU64,
    /// Tries after the first.
    pub retried: AtomicU64,
    /// Tries that the budget did not allow.
    pub retries_denied: AtomicU64,
    /// Refused or ended by a limit, by [`Limit`].
    pub limited: [AtomicU64; limit::COUNT],
}

impl Counters {
    /// A limit refused or ended one request.
    pub fn limit(&self, limit: Limit) {
        self.limited[limit as usize].fetch_add(1, Relaxed);
    }
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            entered: AtomicU64::default(),
            served_home: AtomicU64::default(),
            shed: AtomicU64::default(),
            failed: AtomicU64::default(),
            cloud: AtomicU64::default(),
            completed: AtomicU64::default(),
            latency_sum_us: AtomicU64::default(),
            latency_min_us: AtomicU64::new(u64::MAX),
            begun: AtomicU64::default(),
            begun_us_sum: AtomicU64::default(),
            ended: AtomicU64::default(),
            ended_us_sum: AtomicU64::default(),
            retried: AtomicU64::default(),
            retries_denied: AtomicU64::default(),
            limited: Default::default(),
        }
    }
}

/// Adds to a count that one worker alone writes: others only read it, so it needs no locked instruction. Wraps.
pub(crate) fn bump(count: &AtomicU64, by: u64) {
    count.store(count.load(Relaxed).wrapping_add(by), Relaxed);
}

/// Requests sent to one node, since the start.
#[derive(Debug, Default)]
pub struct MovedOutLive {
    /// Because the weights said so.
    pub plan: AtomicU64,
    /// Because home was full at that instant.
    pub spill: AtomicU64,
    /// Refused there and brought back.
    pub refused: AtomicU64,
    /// How long those took that were answered.
    pub duration: Histogram,
}

/// Requests that came from one home, since the start.
#[derive(Debug, Default)]
pub struct MovedInLive {
    /// Taken.
    pub accepted: AtomicU64,
    /// Refused at once.
    pub refused: AtomicU64,
}

/// A service's retries, over all workers.
#[derive(Debug, Default)]
pub struct RetriesLive {
    budget: Mutex<Budget>,
    under_way: AtomicU32,
}

/// One retry under way.
#[derive(Debug)]
pub struct Retrying<'a>(&'a AtomicU32);

impl Drop for Retrying<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// All workers' counters, added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// See [`Counters::entered`].
    pub entered: u64,
    /// See [`Counters::served_home`].
    pub served_home: u64,
    /// See [`Counters::shed`].
    pub shed: u64,
    /// See [`Counters::failed`].
    pub failed: u64,
    /// See [`Counters::cloud`].
    pub cloud: u64,
    /// See [`Counters::completed`].
    pub completed: u64,
    /// See [`Counters::latency_sum_us`].
    pub latency_sum_us: u64,
    /// Request-microseconds spent at endpoints since the start, up to the moment of counting;
    /// wraps. Its difference over a window, by the window, is the mean number in flight.
    pub busy_us: u64,
}

impl ServiceLive {
    /// A service nothing was asked of yet, for that many worker threads; `suspicion` is told when an endpoint of it may be
    /// an outlier.
    pub fn new(service: ServiceName, threads: usize, suspicion: Arc<Notify>) -> ServiceLive {
        ServiceLive {
            service,
            gate: Arc::new(Gate::default()),
            plain: PlainCallers::default(),
            retries: RetriesLive::default(),
            tcp: TcpLive::default(),
            rates: Mutex::default(),
            siblings: Arc::new(Siblings::new(suspicion)),
            shed_by_rank: Default::default(),
            outliers_spared: AtomicU64::new(0),
            latency_us: AtomicU32::new(0),
            pressed_us: AtomicU64::new(0),
            workers: (0..threads).map(|_| WorkerLive::default()).collect(),
            moved_out: Mutex::default(),
            moved_in: Mutex::default(),
        }
    }

    /// One worker's part.
    pub fn worker(&self, worker: usize) -> &WorkerLive {
        &self.workers[worker]
    }

    /// This node's own load, given its endpoints of the service.
    pub fn load(&self, endpoints: &[Arc<EndpointLive>]) -> LoadHint {
        let up = endpoints.iter().filter(|endpoint| endpoint.is_up());
        LoadHint {
            in_flight: self.gate.active().saturating_add(self.gate.waiting()),
            workers: up.fold(0, |sum, endpoint| sum.saturating_add(endpoint.places())),
            latency_us: self.latency_us(),
        }
    }

    /// Smoothed time an endpoint takes, in microseconds; 0 when unknown.
    pub fn latency_us(&self) -> u32 {
        self.latency_us.load(Relaxed)
    }

    /// Takes in one more time. Two workers at once may lose one of their figures, no more.
    pub fn note_latency(&self, latency_us: u64) {
        let new = u32::try_from(latency_us).unwrap_or(u32::MAX).max(1);
        let old = self.latency_us();
        let smoothed = match old {
            0 => new,
            _ => old - old / LATENCY_SMOOTHING + new / LATENCY_SMOOTHING,
        };
        self.latency_us.store(smoothed.max(1), Relaxed);
    }

    /// Takes one retry from the budget, if there is one.
    pub fn try_again(&self, rules: &retry::Rules, now_us: u64) -> Option<Retrying<'_>> {
        let under_way = &self.retries.under_way;
        let retrying = Retrying(under_way);
        let before = under_way.fetch_add(1, Relaxed);
        if rules.concurrent_max > 0 && before >= rules.concurrent_max {
            return None;
        }
        let firsts = self.firsts();
        let budget = self.retries.budget.lock();
        let mut budget = budget.unwrap_or_else(PoisonError::into_inner);
        budget.take(firsts, now_us, rules).then_some(retrying)
    }

    /// Retries that the budget would allow now.
    pub fn retries_left(&self, rules: &retry::Rules, now_us: u64) -> f64 {
        let firsts = self.firsts();
        let budget = self.retries.budget.lock();
        let budget = budget.unwrap_or_else(PoisonError::into_inner);
        budget.left(firsts, now_us, rules)
    }

    /// Called at least once a second: what the budget counts from.
    pub fn mark_retries(&self, now_us: u64) {
        let firsts = self.firsts();
        let budget = self.retries.budget.lock();
        let mut budget = budget.unwrap_or_else(PoisonError::into_inner);
        budget.mark(firsts, now_us);
    }

    /// First tries since the start, those of moved-in requests too.
    fn firsts(&self) -> u64 {
        let first = |worker: &WorkerLive| {
            let retried = worker.counters.retried.load(Relaxed);
            worker.counters.begun.load(Relaxed).saturating_sub(retried)
        };
        self.workers.iter().map(first).sum()
    }

    /// What limits refused or ended, by [`Limit`], and retries made and denied.
    pub fn limited(&self) -> ([u64; limit::COUNT], [u64; 2]) {
        let (mut limited, mut retries) = ([0; limit::COUNT], [0; 2]);
        for worker in &self.workers {
            let counters = &worker.counters;
            for (sum, count) in limited.iter_mut().zip(&counters.limited) {
                *sum += count.load(Relaxed);
            }
            retries[0] += counters.retried.load(Relaxed);
            retries[1] += counters.retries_denied.load(Relaxed);
        }
        (limited, retries)
    }

    /// Notes that requests found all workers busy at `now_us`.
    pub fn note_pressed(&self, now_us: u64) {
        // In order with the flag that says whether the prober is awake.
        self.pressed_us.store(now_us + 1, SeqCst);
    }

    /// How long ago that was, in microseconds; `None` = never.
    pub fn pressed_age_us(&self, now_us: u64) -> Option<u64> {
        let pressed_us = self.pressed_us.load(SeqCst);
        (pressed_us > 0).then(|| now_us.saturating_sub(pressed_us - 1))
    }

    /// What all workers counted, as of `now_us`.
    pub fn totals(&self, now_us: u64) -> Totals {
        let mut totals = Totals::default();
        for worker in &self.workers {
            let count = &worker.counters;
            totals.entered += count.entered.load(Relaxed);
            totals.served_home += count.served_home.load(Relaxed);
            totals.shed += count.shed.load(Relaxed);
            totals.failed += count.failed.load(Relaxed);
            totals.cloud += count.cloud.load(Relaxed);
            totals.completed += count.completed.load(Relaxed);
            totals.latency_sum_us += count.latency_sum_us.load(Relaxed);
            // Σ ends + (those still there) × now − Σ begins. Ends are read first, so that a
            // request cannot have ended without having begun.
            let (ended, ended_us) = (count.ended.load(Relaxed), count.ended_us_sum.load(Relaxed));
            let (begun, begun_us) = (count.begun.load(Relaxed), count.begun_us_sum.load(Relaxed));
            let there_us = begun.wrapping_sub(ended).wrapping_mul(now_us);
            let busy_us = ended_us.wrapping_add(there_us).wrapping_sub(begun_us);
            totals.busy_us = totals.busy_us.wrapping_add(busy_us);
        }
        totals
    }

    /// The shortest time since this was last asked, in microseconds.
    pub fn take_latency_min_us(&self) -> Option<u64> {
        let takes = self.workers.iter().map(|worker| {
            let min_us = &worker.counters.latency_min_us;
            min_us.swap(u64::MAX, Relaxed)
        });
        takes.min().filter(|&min_us| min_us < u64::MAX)
    }

    /// How requests of each kind went, over all workers.
    pub fn golden(&self) -> BTreeMap<Kind, Reading> {
        let mut sums = BTreeMap::new();
        self.workers
            .iter()
            .for_each(|worker| worker.golden.read(&mut sums));
        sums
    }

    /// A request of a class found no room in the queue.
    pub fn note_shed(&self, rank: u8) {
        let count = &self.shed_by_rank[usize::from(rank).min(RANKS - 1)];
        count.fetch_add(1, Relaxed);
    }

    /// How many did not, by class.
    pub fn shed_by_rank(&self) -> [u64; RANKS] {
        self.shed_by_rank
            .each_ref()
            .map(|count| count.load(Relaxed))
    }

    /// The buckets of a rate limit, by its name.
    pub fn rate(&self, name: &str) -> Arc<RateLive> {
        let mut rates = self.lock_rates();
        Arc::clone(rates.entry(name.to_owned()).or_default())
    }

    /// All rate limits there are, in order of name.
    pub fn rates(&self) -> Vec<(String, Arc<RateLive>)> {
        let rates = self.lock_rates();
        rates
            .iter()
            .map(|(name, live)| (name.clone(), Arc::clone(live)))
            .collect()
    }

    /// Forgets the buckets of limits that no policy names any more.
    pub fn keep_rates(&self, named: impl Fn(&str) -> bool) {
        self.lock_rates().retain(|name, _| named(name));
    }

    fn lock_rates(&self) -> MutexGuard<'_, BTreeMap<String, Arc<RateLive>>> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counters of requests sent to `to`. At most [`REPORT_NODES_MAX`] nodes have their own; what
    /// is beyond is counted nowhere.
    pub fn moved_out(&self, to: &NodeId) -> Arc<MovedOutLive> {
        entry(&self.moved_out, to)
    }

    /// Counters of requests from `home`; the same limit.
    pub fn moved_in(&self, home: &NodeId) -> Arc<MovedInLive> {
        entry(&self.moved_in, home)
    }

    /// All of [`ServiceLive::moved_out`], in order of name.
    pub fn moved_out_all(&self) -> Vec<(NodeId, Arc<MovedOutLive>)> {
        all(&self.moved_out)
    }

    /// All of [`ServiceLive::moved_in`], in order of name.
    pub fn moved_in_all(&self) -> Vec<(NodeId, Arc<MovedInLive>)> {
        all(&self.moved_in)
    }
}

type ByNode<T> = Mutex<BTreeMap<NodeId, Arc<T>>>;

fn lock<T>(map: &ByNode<T>) -> MutexGuard<'_, BTreeMap<NodeId, Arc<T>>> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

fn entry<T: Default>(map: &ByNode<T>, node: &NodeId) -> Arc<T> {
    let mut map = lock(map);
    if let Some(found) = map.get(node) {
        return Arc::clone(found);
    }
    let new = Arc::new(T::default());
    if map.len() < REPORT_NODES_MAX {
        map.insert(node.clone(), Arc::clone(&new));
    }
    new
}

fn all<T>(map: &ByNode<T>) -> Vec<(NodeId, Arc<T>)> {
    let map = lock(map);
    map.iter()
        .map(|(node, counts)| (node.clone(), Arc::clone(counts)))
        .collect()
}
