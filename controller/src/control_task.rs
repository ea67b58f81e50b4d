//! A report's whole life in the controller, on one screen: see [`ControlTask::run`].
//!
//! ```text
//!            streams (session.rs)                    REST (rest.rs)
//!   hello, report, ack, nack, gone │                  │ put, delete, get, view
//!                                  ▼                  ▼
//!                      one bounded inbox, read by this one task
//!                                  │ each period
//!      drain the inbox ─▶ ControlLoop::tick (pure) ─▶ push what changed ─▶ ping the rest ─▶ keep the plan
//! ```
//!
//! **Invariant**: the control loop has one owner, this task, which never waits for a socket, a
//! disk or a peer. Streams get messages by `try_send`; what must be durable goes to the store's queue
//! and who asked waits for it, not this task.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use isobar_mesh_api::errand::{Said, What as ErrandWhat};
use isobar_mesh_api::message::{Down, Hello, Up};
use isobar_mesh_api::names::NodeId;
use isobar_mesh_api::snapshot::PlanId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::control_loop::{ControlLoop, MeshView, StoredPlan, Tick};
use crate::leadership::Lease;
use crate::metrics::Metrics;
use crate::store::{Store, Tree, Write};

mod answers;
mod audit;
mod change;
mod desired;
mod errands;
mod events;
mod handle;
mod history;
mod hypothesis;
mod leases;
mod restore;
mod route_status;
mod streams;
mod taps;
pub(crate) mod timestamp;
mod writes;

pub use audit::{AUDIT_LEN_MAX, AuditEntry};
pub use change::{Asked, CHANGES_MAX, Change, Durable, Etag, Expect, Outcome, Place, Target};
pub use desired::{MemoryLimit, NODES_MAX, POLICIES_MAX, ROUTES_LEN_MAX, ROUTES_MAX, SERVICES_MAX};
pub use errands::{ERRANDS_MAX, ErrandError};
pub use events::{EVENTS_KEPT, Event, Subscription, What};
pub use handle::{ControlError, ControlHandle, Page, Shown, Status};
pub use history::{Answer, Generation, GenerationSummary, Told};
pub use hypothesis::Hypothesis;
pub use leases::{ENDPOINTS_MAX, LEASE_S_MAX, Leased, Registered};
pub use restore::{Beginning, RestoreError, keep_plans, restore};
pub use streams::{StreamEnd, StreamId};
pub use taps::{LINES_WAITING_MAX, LeftOut, Line, TAPS_MAX, TapAsked, TapReader, TapsFull};

use audit::Audit;
use desired::Desired;
use errands::Errands;
use events::Events;
use handle::Message;
use history::History;
use restore::LAST;
use streams::Streams;
use taps::{Messages, Taps};

/// Most messages waiting for the control task; senders of further ones wait at their own socket.
pub const INBOX_LEN_MAX: usize = 4096;

/// How old the kept plan may become when nothing in it is told to anybody: what it was made from
/// changes all the same.
const KEEP_INTERVAL: Duration = Duration::from_secs(10);

/// The task's state.
pub struct ControlTask {
    control_loop: ControlLoop,
    desired: Desired,
    audit: Audit,
    events: Events,
    history: History,
    streams: Streams,
    taps: Taps,
    errands: Errands,
    inbox: mpsc::Receiver<Message>,
    store: Arc<dyn Store>,
    /// Where a new plan is laid for [`keep_plans`].
    plans: watch::Sender<Option<Arc<StoredPlan>>>,
    metrics: Arc<Metrics>,
    /// Whether this term may act.
    lease: Lease,
    period: Duration,
    began: Instant,
    /// Which plan was last laid down, and when.
    kept: (PlanId, Instant),
    /// The view and the plan of the last tick, made when first asked for.
    view: Option<Arc<MeshView>>,
    plan: Option<Arc<StoredPlan>>,
}

impl ControlTask {
    /// Runs until the signal, then ends all streams and lays the last plan down to be kept.
    pub async fn run(mut self, signal: CancellationToken) {
        let mut ticks = tokio::time::interval(self.period);
        // After a stall one tick follows, not one for each missed.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut expected = tokio::time::Instant::now();
        loop {
            tokio::select! {
                biased;
                () = signal.cancelled() => break,
                due = ticks.tick() => {
                    if tokio::time::Instant::now() > expected + self.period {
                        self.metrics.ticks_late.increment(1);
                    }
                    expected = due.max(expected) + self.period;
                    self.tick();
                }
                message = self.inbox.recv() => match message {
                    Some(message) => self.take(message),
                    None => break,
                }
            }
        }
        self.streams.end_all();
        if self.lease.holds() {
            self.keep_plan();
        }
    }

    /// One control period: what came in, what follows from it, who is told.
    fn tick(&mut self) {
        let began = Instant::now();
        for _ in 0..INBOX_LEN_MAX {
            match self.inbox.try_recv() {
                Ok(message) => self.take(message),
                Err(_) => break,
            }
        }
        // Without a lease nothing is planned or told; what is reported is taken up, so that it goes on from there.
        if !self.lease.holds() {
            return;
        }
        let read = Instant::now();
        self.expire_endpoints();
        self.desired.settle_endpoints(&mut self.control_loop);
        let clock_s = (clock_ms() / 1000) as i64;
        self.desired
            .settle_schedules(clock_s, &mut self.control_loop);
        let tick = self.control_loop.tick(self.now());
        let planned = Instant::now();
        if !self.lease.holds() {
            // It ended while the plan was made, and nobody is told of that plan.
            self.end_streams();
            return;
        }
        let unplaced_rps = tick.stats.unplaced_mrps as f64 / 1e3;
        self.metrics.unplaced.set(unplaced_rps);
        self.push(tick);
        let messages = self.taps.settle(self.now());
        self.tell(messages);
        if self.control_loop.plan_id() != self.kept.0 || self.kept.1.elapsed() > KEEP_INTERVAL {
            self.keep_plan();
        }
        let seconds = &self.metrics.tick_seconds;
        seconds.inbox.record(read - began);
        seconds.plan.record(planned - read);
        seconds.push.record(planned.elapsed());
        self.metrics.ticks.increment(1);
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Hello { hello, end, reply } => {
                let answer = self.hello(hello, end);
                // Who asked may have gone; its reader then says so.
                let _ = reply.send(answer);
            }
            Message::Up { node, stream, up } if self.streams.is_current(&node, stream) => {
                self.up(&node, *up);
            }
            Message::Up { .. } => {}
            Message::Gone { node, stream } => {
                if self.streams.close(&node, stream) {
                    self.metrics.streams_ended.closed.increment(1);
                    self.lost(&node);
                }
            }
            Message::Change { asked, reply } => {
                let _ = reply.send(self.change(asked));
            }
            Message::Note { who, target, reply } => {
                let _ = reply.send(self.note(&who, &target));
            }
            Message::Tap { asked, reply } => {
                let _ = reply.send(self.tap(asked));
            }
            Message::Errand { node, what, reply } => {
                let _ = reply.send(self.errand(&node, what));
            }
            Message::View { reply } => {
                let _ = reply.send(self.view());
            }
            Message::Plan { reply } => {
                let _ = reply.send(self.plan());
            }
            Message::Alive { reply } => {
                let _ = reply.send(());
            }
            question => self.answer(question),
        }
    }

    fn hello(&mut self, hello: Hello, end: StreamEnd) -> Result<StreamId, ControlError> {
        if !self.lease.holds() {
            return Err(ControlError::NotLeading);
        }
        let now = self.now();
        let node = hello.node.clone();
        self.desired.check_room_for(&node)?;
        let epoch = self.control_loop.plan_id().epoch;
        self.control_loop.on_hello(&hello, now);
        let beyond = self.control_loop.plan_id().epoch;
        if beyond != epoch {
            tracing::warn!(%node, epoch = beyond, "a proxy has a plan of a later controller; planning goes on beyond it");
            // A failure is logged by the store. The next hello is another try.
            if let Ok(write) = Write::put(Tree::Epoch, LAST, &beyond) {
                drop(self.store.apply(vec![write]));
            }
        }
        tracing::info!(%node, version = hello.version, "a proxy is connected");
        let version = hello.version.clone();
        self.events.add(What::NodeConnected {
            node: node.clone(),
            version,
        });
        self.desired.remember(hello);
        // The next tick knows its neighbours, and sends it a whole snapshot.
        let stream = self.streams.open(&node, end);
        for down in self.taps.for_new(&node) {
            self.send(&node, down);
        }
        Ok(stream)
    }

    fn up(&mut self, node: &NodeId, up: Up) {
        match up {
            Up::Report(report) => match self.control_loop.on_report(node, &report, self.now()) {
                Ok(()) => self.metrics.reports_accepted.increment(1),
                Err(error) => {
                    self.metrics.reports_refused.increment(1);
                    tracing::debug!(%node, error = &error as &dyn std::error::Error, "a report was refused");
                }
            },
            Up::Ack(plan) => {
                self.metrics.acks.increment(1);
                self.control_loop.on_ack(node, plan);
                self.history.acknowledge(node, plan);
            }
            Up::Nack(nack) => {
                self.metrics.nacks.increment(1);
                let reason: String = nack.reason.chars().take(500).collect();
                tracing::warn!(%node, plan = %nack.plan, reason, "a proxy refused a plan");
                self.history.refuse(node, nack.plan, &reason);
                self.events.add(What::refused(node, nack.plan, &reason));
                self.control_loop.on_nack(node, nack.plan);
            }
            Up::Tapped(lines) => self.taps.tapped(node, lines),
            Up::Done(done) => {
                if !self.errands.done(node, done) {
                    tracing::debug!(%node, "nobody waits for an errand's answer");
                }
            }
            // A second hello, or a message of a later version.
            Up::Hello(_) | Up::Trusted { .. } | Up::Unknown => {
                self.metrics.lines_unknown.increment(1)
            }
        }
    }

    fn push(&mut self, tick: Tick) {
        self.metrics.epoch.set(tick.plan.epoch as f64);
        self.metrics.generation.set(tick.plan.generation as f64);
        let at = timestamp::rfc3339(clock_ms() / 1000);
        let nodes = self.history.add(tick.plan, &at, &tick.pushes);
        if nodes > 0 {
            let plan = tick.plan;
            self.events.add(What::PlanTold { plan, nodes });
        }
        for (node, is_present) in tick.presence {
            self.events.add(match is_present {
                true => What::NodePresent { node },
                false => What::NodeSilent { node },
            });
        }
        for (node, down) in tick.pushes {
            self.send(&node, down);
        }
        for node in self.streams.ping_quiet(clock_ms()) {
            self.lost(&node);
        }
        self.view = None;
        self.plan = None;
    }

    /// Ends all streams in order; who comes back is told everything anew.
    fn end_streams(&mut self) {
        let nodes: Vec<NodeId> = self.streams.nodes().cloned().collect();
        self.streams.end_all();
        nodes.iter().for_each(|node| self.lost(node));
    }

    fn send(&mut self, node: &NodeId, down: Down) {
        if !self.streams.send(node, down) {
            self.lost(node);
        }
    }

    /// Sends messages to a node each, or to all that are connected.
    fn tell(&mut self, messages: Messages) {
        for (node, down) in messages {
            let nodes = match node {
                Some(node) => vec![node],
                None => self.streams.nodes().cloned().collect(),
            };
            for node in nodes {
                self.send(&node, down.clone());
            }
        }
    }

    fn tap(&mut self, asked: TapAsked) -> Result<TapReader, TapsFull> {
        let (reader, messages) = self.taps.begin(asked, self.streams.nodes(), self.now())?;
        self.tell(messages);
        Ok(reader)
    }

    fn errand(
        &mut self,
        node: &NodeId,
        what: ErrandWhat,
    ) -> Result<oneshot::Receiver<Said>, ErrandError> {
        if !self.streams.is_open(node) {
            return Err(ErrandError::NotConnected(node.clone()));
        }
        let (errand, said) = self.errands.begin(node, what)?;
        self.send(node, Down::Errand(errand));
        Ok(said)
    }

    fn lost(&mut self, node: &NodeId) {
        self.errands.lost(node);
        tracing::info!(%node, "a proxy's stream has ended");
        self.events
            .add(What::NodeDisconnected { node: node.clone() });
        self.control_loop.on_gone(node, self.now());
    }

    /// Lays the plan down for [`keep_plans`].
    fn keep_plan(&mut self) {
        self.kept = (self.control_loop.plan_id(), Instant::now());
        let plan = self.control_loop.plan_to_keep();
        self.plans.send_replace(Some(Arc::new(plan)));
    }

    fn plan(&mut self) -> Arc<StoredPlan> {
        let make = || Arc::new(self.control_loop.export_plan());
        self.plan.get_or_insert_with(make).clone()
    }

    fn view(&mut self) -> Arc<MeshView> {
        let make = || Arc::new(self.control_loop.view());
        self.view.get_or_insert_with(make).clone()
    }

    /// Time since this program's control loop began.
    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

/// The controller's clock, milliseconds since 1970; 0 before.
fn clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |d| d.as_millis() as u64)
}
