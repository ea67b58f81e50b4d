//! One control stream, from hello to its end.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use isobar_mesh_api::message::{
    Down, Hello, LineBuffer, LineError, Nack, PROTOCOL_VERSION, Up, decode_line, encode_line,
};
use isobar_mesh_api::snapshot::{Delta, PlanId, Snapshot, SnapshotError};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::dial::{DialError, Dialled, dial};
use super::errands::{Errands, TAPPED_EVERY, send_tapped};
use super::lines::{Lines, OpenError};
use super::{Control, DECAY_EVERY};
use crate::alert;
use crate::decay::SILENT_PERIODS;
use crate::enrol;

/// After a failed renewal the next is tried this much later.
pub const RENEWAL_PAUSE: Duration = Duration::from_secs(30);
/// Certificates by a root that signs no more are renewed within about so many periods.
const SPREAD_PERIODS: u32 = 10;
/// A stream on which nothing came for this long is given up, if that is longer than the periods
/// after which weights decay.
pub const SILENCE_MIN: Duration = Duration::from_secs(10);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// There is no certificate.
    #[error("this proxy has no certificate")]
    NoIdentity,
    /// The TLS library refuses.
    #[error("preparing the connection")]
    Tls(#[from] rustls::Error),
    /// The controller cannot be reached.
    #[error("reaching the controller")]
    Dial(#[from] DialError),
    /// It did not begin.
    #[error("opening the stream")]
    Open(#[from] OpenError),
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    /// A line that is too long.
    #[error("reading the stream")]
    Line(#[from] LineError),
    /// The controller closed the stream.
    #[error("the controller closed the stream")]
    Closed,
    /// This node's own services have changed; the controller is told by a new stream.
    #[error("this node's services have changed")]
    LocalChanged,
    /// Nothing came for too long.
    #[error("the controller is silent")]
    Silent,
}

/// The two ends of one stream.
struct Stream {
    lines: Lines,
    buffer: LineBuffer,
    errands: Errands,
}

impl Stream {
    /// Ends this side and waits a moment for the other, so that the last report arrives.
    async fn close(self) {
        drop(self.errands);
        self.lines.close().await;
    }
}

impl Control {
    /// Holds one stream. `Ok` = told to end.
    ///
    /// # Errors
    /// Why it did not begin, or ended.
    pub(super) async fn session(&mut self, end: &CancellationToken) -> Result<(), SessionError> {
        let ended = self.stream(end).await;
        // Nobody is there to be told.
        self.proxy.taps.clear();
        ended
    }

    async fn stream(&mut self, end: &CancellationToken) -> Result<(), SessionError> {
        let mut stream = self.open().await?;
        tracing::info!(controller = self.controllers.current(), "connected");
        self.proxy.control.is_open.store(true, Relaxed);
        self.proxy.control.opened.fetch_add(1, Relaxed);
        self.heard();
        let mut period = self.period();
        let mut report_due = ticker(period);
        let mut look_due = ticker(DECAY_EVERY);
        let mut tapped_due = ticker(TAPPED_EVERY);
        let proxy = Arc::clone(&self.proxy);
        loop {
            tokio::select! {
                bytes = stream.lines.read() => {
                    let bytes = bytes?;
                    if bytes.is_empty() {
                        return Err(SessionError::Closed);
                    }
                    self.received(&mut stream, &bytes)?;
                    self.save_if_due().await;
                }
                _ = report_due.tick() => {
                    if !alert::is_too_short(self.book.window(proxy.clock.now_us()), period) {
                        self.report(&stream);
                    }
                }
                () = proxy.spike.notified() => {
                    if self.alert.on_onset(self.now(), period) {
                        self.report(&stream);
                    }
                }
                () = self.alert_due() => {
                    self.alert.on_reported();
                    self.report(&stream);
                }
                _ = look_due.tick() => {
                    self.follow_decay();
                    let silence_max = SILENCE_MIN.max(period * SILENT_PERIODS);
                    if self.heard.elapsed() > silence_max {
                        return Err(SessionError::Silent);
                    }
                    self.renew_if_due().await;
                }
                _ = tapped_due.tick(), if proxy.taps.is_any() => send_tapped(&proxy, &stream.lines.sender),
                () = self.proxy.local_changed.notified() => {
                    return Err(SessionError::LocalChanged);
                }
                () = end.cancelled() => {
                    self.report(&stream);
                    stream.close().await;
                    return Ok(());
                }
            }
            if period != self.period() {
                period = self.period();
                report_due = ticker(period);
            }
        }
    }

    async fn open(&mut self) -> Result<Stream, SessionError> {
        let identity = self.proxy.identity.get().ok_or(SessionError::NoIdentity)?;
        let mut connection =
            dial(self.controllers.current(), identity.client_to_controller()?).await?;
        let hello = encode_line(&Up::Hello(self.hello(&connection)))?;
        Ok(Stream {
            lines: Lines::open(&mut connection.sender, hello).await?,
            buffer: LineBuffer::new(),
            errands: Errands::default(),
        })
    }

    fn hello(&self, connection: &Dialled) -> Hello {
        let config = &self.proxy.config;
        let listen = self.mesh_listen;
        let ip = match listen.ip().is_unspecified() {
            true => connection.local_ip,
            false => listen.ip(),
        };
        let mesh_address = std::net::SocketAddr::new(ip, listen.port()).to_string();
        let plan = self.proxy.table.load().snapshot.plan;
        Hello {
            protocol: PROTOCOL_VERSION,
            node: config.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mesh_address: config.mesh_advertise.clone().unwrap_or(mesh_address),
            location: config.location,
            site: config.site.clone(),
            region: config.region.clone(),
            services: self.proxy.in_force.load().services.clone(),
            plan: (plan != PlanId::default()).then_some(plan),
        }
    }

    fn received(&mut self, stream: &mut Stream, bytes: &[u8]) -> Result<(), SessionError> {
        stream.buffer.push(bytes)?;
        while let Some(line) = stream.buffer.next_line() {
            let message = decode_line::<Down>(line);
            self.heard();
            match message {
                Ok(message) => {
                    if let Some(answer) =
                        self.obey(message, &mut stream.errands, &stream.lines.sender)
                    {
                        let line = encode_line(&answer)?;
                        if stream.lines.sender.try_send(Bytes::from(line)).is_err() {
                            tracing::warn!("the controller does not read its stream");
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %crate::chain(&error), "a line was skipped");
                }
            }
        }
        Ok(())
    }

    /// Does what a message says; what to answer.
    fn obey(
        &self,
        message: Down,
        errands: &mut Errands,
        lines: &mpsc::Sender<Bytes>,
    ) -> Option<Up> {
        let (plan, applied) = match message {
            Down::Snapshot(snapshot) => (snapshot.plan, self.apply(snapshot)),
            Down::Delta(delta) => (delta.plan, self.apply_delta(delta)),
            Down::Certificate(certificate) => {
                if let Err(error) = enrol::adopt(&self.proxy, &certificate) {
                    tracing::warn!(error = %crate::chain(&error), "a certificate was refused");
                }
                return None;
            }
            Down::Trust(trust) => {
                let version = trust.version;
                return match enrol::adopt_trust(&self.proxy, &trust) {
                    Ok(()) => Some(Up::Trusted { version }),
                    Err(error) => {
                        tracing::warn!(version, error = %crate::chain(&error), "whom to trust was not changed");
                        None
                    }
                };
            }
            Down::Ping { clock_ms } => {
                self.proxy.skew.told(clock_ms, SystemTime::now());
                return None;
            }
            Down::Tap(tap) => {
                let (number, now_us) = (tap.tap, self.proxy.clock.now_us());
                if !self.proxy.taps.begin(tap, now_us) {
                    tracing::warn!(
                        tap = number,
                        "there are taps enough; one more was not begun"
                    );
                }
                return None;
            }
            Down::Untap { tap } => {
                self.proxy.taps.end(tap);
                return None;
            }
            Down::Errand(errand) => {
                errands.begin(&self.proxy, errand, lines);
                return None;
            }
            Down::Unknown => {
                tracing::debug!("a message of a later version was skipped");
                return None;
            }
        };
        Some(match applied {
            Ok(()) => Up::Ack(plan),
            Err(error) => {
                tracing::warn!(%plan, %error, "a plan was refused");
                Up::Nack(Nack {
                    plan,
                    reason: error.to_string(),
                })
            }
        })
    }

    /// A whole snapshot may be the one in force again; it must not be older.
    fn apply(&self, snapshot: Snapshot) -> Result<(), SnapshotError> {
        let have = self.proxy.table.load().snapshot.plan;
        if snapshot.plan < have {
            return Err(SnapshotError::Old {
                offered: snapshot.plan,
                have,
            });
        }
        self.take_up(snapshot)
    }

    fn apply_delta(&self, delta: Delta) -> Result<(), SnapshotError> {
        let have = Arc::clone(&self.proxy.table.load().snapshot);
        self.take_up(have.apply(delta)?)
    }

    fn take_up(&self, snapshot: Snapshot) -> Result<(), SnapshotError> {
        self.proxy.table.apply(Arc::new(snapshot))?;
        let applied_us = &self.proxy.control.applied_us;
        applied_us.store(self.proxy.clock.now_us(), Relaxed);
        Ok(())
    }

    /// The proxy's clock.
    fn now(&self) -> Duration {
        Duration::from_micros(self.proxy.clock.now_us())
    }

    /// Waits for the report that holds a spike's beginning; for ever when there is none.
    fn alert_due(&self) -> impl Future<Output = ()> + use<> {
        let wait = self.alert.due_at().map(|at| at.saturating_sub(self.now()));
        async move {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Sends what happened since the last report; when it cannot be sent, the next one tells it.
    fn report(&mut self, stream: &Stream) {
        let Ok(place) = stream.lines.sender.try_reserve() else {
            return;
        };
        let proxy = &self.proxy;
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let clock_ms = since_1970.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
        let cpu_ratio = self.cpu.ratio().filter(|_| proxy.config.report_cpu);
        let services = proxy.table.services();
        let routes = proxy.table.load();
        let now_us = proxy.clock.now_us();
        let draft = self
            .book
            .draft(&services, &routes, now_us, clock_ms, cpu_ratio);
        let Some(draft) = draft else {
            return;
        };
        match encode_line(&Up::Report(draft.report.clone())) {
            Ok(line) => {
                tracing::trace!(len = line.len(), "a report goes up");
                place.send(Bytes::from(line));
            }
            Err(error) => tracing::warn!(%error, "a report is too long to send"),
        }
        self.book.sent(draft);
    }

    /// Asks for a new certificate in time.
    async fn renew_if_due(&mut self) {
        let now = SystemTime::now();
        let identity = self.proxy.identity.get();
        let rested = self
            .renewal_tried
            .is_none_or(|at| at.elapsed() >= RENEWAL_PAUSE);
        let Some(identity) = identity.filter(|_| rested) else {
            return;
        };
        // When another root signs, all renew: by chance, not all at once.
        let turn =
            || fastrand::f64() < DECAY_EVERY.div_duration_f64(self.period() * SPREAD_PERIODS);
        if !(identity.renewal_due(now) || (identity.is_superseded && turn())) {
            return;
        }
        self.renewal_tried = Some(Instant::now());
        if let Err(error) = enrol::enrol(&self.proxy, self.controllers.current()).await {
            tracing::warn!(error = %crate::chain(&error), "the certificate is not renewed yet");
        }
    }
}

fn ticker(period: Duration) -> tokio::time::Interval {
    let mut ticker = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}
