//! An endpoint's circuit among many workers.
//!
//! While it is Closed and nothing fails, asking is one load and telling is one
//! count on the worker's own cache line. Only after a failure does the
//! circuit's lock come into play.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::circuit::{Admit, Cause, Circuit, Rules, State, Tally};
use crate::clock::Clock;
use crate::live::bump;
use crate::outlier;
use crate::traffic::Traffic;

/// A circuit, its rules, and what went through it.
#[derive(Debug)]
pub struct LiveCircuit {
    /// Not Closed.
    is_open: AtomicBool,
    /// A success is news.
    is_marked: AtomicBool,
    /// Errors since the last good answer, over all workers.
    errors_in_row: AtomicU32,
    /// So many of them in a row make it a suspect; 0 = they do not.
    errors_in_row_max: AtomicU32,
    /// When it closed last, in microseconds.
    closed_since_us: AtomicU64,
    siblings: Arc<Siblings>,
    kept: Mutex<Kept>,
    workers: Box<[WorkerTally]>,
}

#[derive(Debug)]
struct Kept {
    circuit: Circuit,
    rules: Rules,
    /// Failures in a row that make it a suspect; 0 = they do not.
    failures_in_row_max: u32,
    openings: u64,
    ejections: u64,
}

/// One worker's part, on its own cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct WorkerTally {
    ended: AtomicU64,
    failed: AtomicU64,
    errors: AtomicU64,
    completed: AtomicU64,
    latency_sum_us: AtomicU64,
}

/// What the endpoints of one service on this node share.
#[derive(Debug, Default)]
pub struct Siblings {
    /// Circuits that are not Closed.
    open: AtomicU32,
    /// Told when one of them may be an outlier.
    suspicion: Arc<Notify>,
}

impl Siblings {
    /// Nobody yet; `suspicion` is told when one may be an outlier.
    pub fn new(suspicion: Arc<Notify>) -> Siblings {
        Siblings {
            open: AtomicU32::new(0),
            suspicion,
        }
    }

    fn note(&self, open: bool) {
        match open {
            true => self.open.fetch_add(1, Relaxed),
            false => self.open.fetch_sub(1, Relaxed),
        };
    }
}

/// What went through, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Through {
    /// Requests that ended, and failures of the endpoint among them.
    pub tally: Tally,
    /// Answers that were errors (5xx and the like), failures included.
    pub errors: u64,
    /// Answers that ended as they should.
    pub completed: u64,
    /// Their time, summed, in microseconds.
    pub latency_sum_us: u64,
}

/// A circuit, for people.
#[derive(Debug, Clone, Copy)]
pub struct CircuitView {
    /// Whether traffic flows.
    pub state: State,
    /// Since when, in microseconds of the proxy's clock.
    pub since_us: u64,
    /// Why it opened last.
    pub cause: Option<Cause>,
    /// Failures in a row so far.
    pub failures_in_row: u32,
    /// How often it opened.
    pub openings: u64,
    /// How often because it was an outlier.
    pub ejections: u64,
    /// Whether it passes its health check, or has none.
    pub is_healthy: bool,
    /// Whether it gave so many errors in a row that it may be an outlier.
    pub is_suspect: bool,
    /// Time until it may be probed, in microseconds.
    pub wait_us: u64,
}

/// What an answer's head says of the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It works.
    Good,
    /// It answered with an error of its own; it works.
    Error,
    /// It does not work.
    Failure,
}

impl Verdict {
    /// By the status, and `grpc-status` when the head has one.
    pub fn of(status: http::StatusCode, grpc: Option<u16>) -> Verdict {
        match (status.as_u16(), grpc) {
            (502..=504, _) | (_, Some(14)) => Verdict::Failure,
            // UNKNOWN, INTERNAL, DATA_LOSS.
            (500.., _) | (_, Some(2 | 13 | 15)) => Verdict::Error,
            _ => Verdict::Good,
        }
    }
}

impl LiveCircuit {
    /// Closed, for that many worker threads.
    pub fn new(threads: usize, siblings: Arc<Siblings>) -> LiveCircuit {
        LiveCircuit {
            is_open: AtomicBool::new(false),
            is_marked: AtomicBool::new(false),
            errors_in_row: AtomicU32::new(0),
            errors_in_row_max: AtomicU32::new(0),
            closed_since_us: AtomicU64::new(0),
            siblings,
            kept: Mutex::new(Kept {
                circuit: Circuit::default(),
                rules: Traffic::default().circuit,
                failures_in_row_max: 0,
                openings: 0,
                ejections: 0,
            }),
            workers: (0..threads).map(|_| WorkerTally::default()).collect(),
        }
    }

    /// Sets when it opens from now on.
    pub fn set_rules(&self, traffic: &Traffic) {
        let errors_max = traffic.outlier.errors_in_row;
        self.errors_in_row_max.store(errors_max, Relaxed);
        let mut kept = self.lock();
        kept.rules = traffic.circuit;
        kept.failures_in_row_max = traffic.outlier.failures_in_row;
    }

    /// Whether a circuit of its service is not Closed, on this node.
    pub fn has_open_sibling(&self) -> bool {
        self.siblings.open.load(Relaxed) > 0
    }

    /// When it closed last, in microseconds; 0 = it was never open.
    pub fn closed_since_us(&self) -> u64 {
        self.closed_since_us.load(Relaxed)
    }

    /// Whether it is not Closed.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Relaxed)
    }

    /// Whether its health check says so, or there is none.
    pub fn is_healthy(&self) -> bool {
        self.lock().circuit.is_healthy()
    }

    /// Whether it would let a probe through now.
    pub fn wants_probe(&self, now_us: u64) -> bool {
        self.lock().circuit.wants_probe(now_us)
    }

    /// Asks for one request of a circuit that is not Closed.
    pub fn admit(&self, now_us: u64) -> Admit {
        let mut kept = self.lock();
        let Kept { circuit, rules, .. } = &mut *kept;
        let admit = circuit.admit(now_us, rules);
        self.publish(&kept.circuit);
        admit
    }

    /// The head of an answer came.
    pub fn answered(&self, worker: usize, verdict: Verdict, is_probe: bool, clock: Clock) {
        let tally = &self.workers[worker];
        match verdict {
            Verdict::Failure => return self.failed(worker, is_probe, clock),
            Verdict::Error => {
                tally.errors.fetch_add(1, Relaxed);
                self.note_error();
            }
            Verdict::Good if self.errors_in_row.load(Relaxed) > 0 => {
                self.errors_in_row.store(0, Relaxed);
            }
            Verdict::Good => {}
        }
        bump(&tally.ended, 1);
        if self.is_marked.load(Relaxed) {
            let mut kept = self.lock();
            let Kept { circuit, rules, .. } = &mut *kept;
            circuit.succeeded(is_probe, clock.now_us(), rules);
            self.publish(&kept.circuit);
        }
    }

    /// An answer ended as it should.
    pub fn completed(&self, worker: usize, latency_us: u64) {
        let tally = &self.workers[worker];
        bump(&tally.completed, 1);
        bump(&tally.latency_sum_us, latency_us);
    }

    /// The endpoint failed: no connection, a broken one, no answer in time, or an answer that says so.
    pub fn failed(&self, worker: usize, is_probe: bool, clock: Clock) {
        let tally = &self.workers[worker];
        bump(&tally.ended, 1);
        tally.failed.fetch_add(1, Relaxed);
        tally.errors.fetch_add(1, Relaxed);
        self.note_error();
        let all = self.through().tally;
        let mut kept = self.lock();
        let Kept { circuit, rules, .. } = &mut *kept;
        let opened = circuit.failed(is_probe, all, clock.now_us(), rules);
        kept.openings += u64::from(opened.is_some());
        self.publish(&kept.circuit);
        let (in_row, max) = (kept.circuit.failures_in_row(), kept.failures_in_row_max);
        if opened.is_none() && max > 0 && in_row.is_multiple_of(max) {
            self.siblings.suspicion.notify_one();
        }
    }

    /// A request ended without saying anything about the endpoint.
    pub fn abandoned(&self, is_probe: bool) {
        if is_probe {
            self.lock().circuit.abandoned(is_probe);
        }
    }

    /// Counts one error in a row. An endpoint that stays a suspect, for there is no room to leave it alone, is told of
    /// again after as many more.
    fn note_error(&self) {
        let in_row = self.errors_in_row.fetch_add(1, Relaxed) + 1;
        let max = self.errors_in_row_max.load(Relaxed);
        if max > 0 && in_row.is_multiple_of(max) {
            self.siblings.suspicion.notify_one();
        }
    }

    /// Opens it because it is an outlier.
    pub fn eject(&self, rules: &outlier::Rules, now_us: u64) {
        let (base_us, max_us) = (rules.ejection_base_us, rules.ejection_max_us);
        self.errors_in_row.store(0, Relaxed);
        let mut kept = self.lock();
        kept.circuit.open(Cause::Outlier, now_us, base_us, max_us);
        kept.openings += 1;
        kept.ejections += 1;
        self.publish(&kept.circuit);
    }

    /// Takes over what the health check says.
    pub fn set_healthy(&self, healthy: bool, now_us: u64) {
        let mut kept = self.lock();
        let was = kept.circuit.state();
        kept.circuit.set_healthy(healthy, now_us);
        let opened = was != State::Open && kept.circuit.state() == State::Open;
        kept.openings += u64::from(opened);
        self.publish(&kept.circuit);
    }

    /// Called several times a window: what went through until now is remembered.
    pub fn mark(&self, now_us: u64) {
        let tally = self.through().tally;
        self.lock().circuit.mark(tally, now_us);
    }

    /// What went through all workers.
    pub fn through(&self) -> Through {
        let mut all = Through::default();
        for worker in &self.workers {
            // Failures first, so that they are never more than what ended.
            all.tally.failed += worker.failed.load(Relaxed);
            all.errors += worker.errors.load(Relaxed);
            all.tally.ended += worker.ended.load(Relaxed);
            all.completed += worker.completed.load(Relaxed);
            all.latency_sum_us += worker.latency_sum_us.load(Relaxed);
        }
        all
    }

    /// As of now.
    pub fn view(&self, now_us: u64) -> CircuitView {
        let kept = self.lock();
        let circuit = &kept.circuit;
        let (errors, errors_max) = (&self.errors_in_row, &self.errors_in_row_max);
        let reached = |count: u32, max: u32| max > 0 && count >= max;
        CircuitView {
            state: circuit.state(),
            since_us: circuit.since_us(),
            cause: circuit.cause(),
            failures_in_row: circuit.failures_in_row(),
            openings: kept.openings,
            ejections: kept.ejections,
            is_healthy: circuit.is_healthy(),
            is_suspect: reached(errors.load(Relaxed), errors_max.load(Relaxed))
                || reached(circuit.failures_in_row(), kept.failures_in_row_max),
            wait_us: circuit.wait_us(now_us),
        }
    }

    fn publish(&self, circuit: &Circuit) {
        let open = circuit.state() != State::Closed;
        if self.is_open.swap(open, Relaxed) != open {
            self.siblings.note(open);
            self.closed_since_us.store(circuit.since_us(), Relaxed);
        }
        self.is_marked.store(circuit.is_marked(), Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LiveCircuit {
    fn drop(&mut self) {
        if *self.is_open.get_mut() {
            self.siblings.note(false);
        }
    }
}
