//! The stream to the controller: reports go up, plans come down.
//!
//! ```text
//! certificate? ─ enrol ─► connect ─► hello ─►┬─ each period: report
//!      ▲                                     ├─ snapshot, delta: one swap, then ack, or nack and why
//!      └────── wait, longer each time ◄──────┴─ until the stream ends
//! ```
//!
//! **Invariant**: nothing on the request path waits for this task. Without a
//! controller the last plan holds, then decays home ([`crate::decay`]).
//!
//! [`session`] is one stream from its beginning to its end, [`lines`] what carries it; [`dial`] connects; [`controllers`] says to whom, [`backoff`] when again;
//! [`errands`] are what operators ask.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use isobar_mesh_api::snapshot::Snapshot;
use tokio_util::sync::CancellationToken;

use crate::alert::Alert;
use crate::decay;
use crate::enrol::{EnrolError, enrol};
use crate::proxy::Proxy;
use crate::report::{CpuMeter, ReportBook};
use crate::snapshot_file;

pub mod backoff;
pub mod controllers;
pub mod dial;
pub mod errands;
pub mod lines;
pub mod session;

use controllers::Controllers;
use lines::OpenError;
use session::SessionError;

/// Shortest and longest control period that is followed.
pub const PERIOD: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(30);
/// How often the decay of weights is followed while the controller is silent.
const DECAY_EVERY: Duration = Duration::from_millis(250);
/// Weights follow the decay in steps of this share.
const DECAY_STEP: f64 = 0.01;
/// The snapshot's file is written at most this often: many nodes live on flash.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// Why the proxy is not connected.
#[derive(Debug, thiserror::Error)]
enum ControlError {
    #[error("no certificate")]
    Enrol(#[from] EnrolError),
    #[error("the stream ended")]
    Session(#[from] SessionError),
}

impl ControlError {
    /// How long the controller asks this proxy to stay away.
    fn hint(&self) -> Option<Duration> {
        match self {
            ControlError::Session(SessionError::Open(OpenError::Refused(_, hint))) => *hint,
            _ => None,
        }
    }
}

/// How the stream is, for `/metrics`.
#[derive(Debug, Default)]
pub struct ControlLive {
    /// Whether it is open.
    pub is_open: AtomicBool,
    /// Times that it was opened.
    pub opened: AtomicU64,
    /// When the controller was heard, in microseconds of the proxy's clock.
    pub heard_us: AtomicU64,
    /// When a snapshot was applied.
    pub applied_us: AtomicU64,
}

/// What outlives one stream.
#[derive(Debug)]
pub struct Control {
    proxy: Arc<Proxy>,
    controllers: Controllers,
    mesh_listen: SocketAddr,
    book: ReportBook,
    cpu: CpuMeter,
    alert: Alert,
    /// When the controller was last heard.
    heard: Instant,
    /// When a renewal of the certificate was last tried.
    renewal_tried: Option<Instant>,
    /// The snapshot that the file holds.
    saved: Arc<Snapshot>,
    saved_at: Option<Instant>,
}

/// Stays connected to one of the controllers until `end`; writes the last snapshot then.
pub async fn run(
    proxy: Arc<Proxy>,
    controllers: Vec<String>,
    mesh_listen: SocketAddr,
    end: CancellationToken,
) {
    let saved = Arc::clone(&proxy.table.load().snapshot);
    let mut control = Control {
        proxy,
        controllers: Controllers::new(controllers),
        mesh_listen,
        book: ReportBook::default(),
        cpu: CpuMeter::default(),
        alert: Alert::default(),
        heard: Instant::now(),
        renewal_tried: None,
        saved,
        saved_at: None,
    };
    let mut rng = fastrand::Rng::new();
    while !end.is_cancelled() {
        let begun = Instant::now();
        let Err(error) = control.connected(&end).await else {
            break;
        };
        let hint = error.hint();
        let error = crate::chain(&error);
        let controller = control.controllers.current();
        tracing::warn!(controller, error, "not connected");
        let pause = control.controllers.go_on(begun.elapsed(), hint, &mut rng);
        tokio::select! {
            () = control.idle(pause) => {}
            () = end.cancelled() => {}
        }
    }
    control.save().await;
}

impl Control {
    /// Gets a certificate when one is needed, then holds a stream. `Ok` = told to end.
    async fn connected(&mut self, end: &CancellationToken) -> Result<(), ControlError> {
        let identity = self.proxy.identity.get();
        let now = SystemTime::now();
        let due = identity.is_none_or(|identity| identity.renewal_due(now));
        if due {
            let enrolled = enrol(&self.proxy, self.controllers.current()).await;
            // A certificate that still holds is good enough to try with.
            let have = self.proxy.identity.get();
            if enrolled.is_err() && !have.is_some_and(|identity| identity.is_valid(now)) {
                return Ok(enrolled?);
            }
        }
        let ended = self.session(end).await;
        self.proxy.control.is_open.store(false, Relaxed);
        Ok(ended?)
    }

    /// Waits; weights decay meanwhile.
    async fn idle(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        loop {
            self.follow_decay();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(DECAY_EVERY)).await;
        }
    }

    /// The time between two plans, as the controller says, within [`PERIOD`].
    fn period(&self) -> Duration {
        let told = Duration::from_millis(self.proxy.table.load().snapshot.period_ms);
        told.clamp(*PERIOD.start(), *PERIOD.end())
    }

    fn heard(&mut self) {
        self.heard = Instant::now();
        let live = &self.proxy.control;
        live.heard_us.store(self.proxy.clock.now_us(), Relaxed);
        self.follow_decay();
    }

    /// Brings weights in line with how long the controller has been silent.
    fn follow_decay(&self) {
        let share = decay::share_left(self.heard.elapsed(), self.period());
        let in_force = self.proxy.table.load().share_left;
        let whole = share >= 1.0 || share <= 0.0;
        if (share - in_force).abs() >= DECAY_STEP || (whole && share != in_force) {
            self.proxy.table.set_share_left(share);
        }
    }

    /// Writes the snapshot now and then.
    async fn save_if_due(&mut self) {
        let rested = self.saved_at.is_none_or(|at| at.elapsed() >= SAVE_EVERY);
        if rested {
            self.save().await;
        }
    }

    async fn save(&mut self) {
        let snapshot = Arc::clone(&self.proxy.table.load().snapshot);
        if Arc::ptr_eq(&snapshot, &self.saved) {
            return;
        }
        self.saved = Arc::clone(&snapshot);
        self.saved_at = Some(Instant::now());
        let dir = self.proxy.config.data_dir.clone();
        let written =
            tokio::task::spawn_blocking(move || snapshot_file::save(&dir, &snapshot)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(error = %crate::chain(&error), "the snapshot is not kept");
        }
    }
}
