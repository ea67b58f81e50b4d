//! Who hears of finished requests: the access log, and a collector of traces; beside them [taps](crate::tap).
//!
//! ```text
//! a request begins ─ does anybody want to hear? ─ no: nothing is remembered
//!                                               └ yes: a Story ─ … ─ it ends ─ hear ─┬─ access log ─ spool ─ writer
//!                                                                                    └─ spans ────── spool ─ exporter
//! ```
//!
//! **Invariant**: nobody in the audience holds a request up. Whoever listens gets what fits in its [`Spool`].

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::request::Parts;
use http::{HeaderMap, Method};
use isobar_mesh_api::names::NodeId;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::access_log::{AccessLog, output};
use crate::config::Config;
use crate::connection::{Downstream, Peer};
use crate::golden::Direction;
use crate::headers;
use crate::otlp::{self, Collector, Signal};
use crate::proxy::{Proxy, Worker};
use crate::proxy_protocol::Ends;
use crate::spool::{Counts, Spool};
use crate::story::{Asked, Ended, Story};
use crate::tap::Tapping;
use crate::trace::{Trace, Tracer};

/// When the proxy ends, what was heard has this long to be written.
pub const END_WAIT_MAX: Duration = Duration::from_secs(2);

/// Everybody who listens now.
#[derive(Debug)]
pub struct Audience {
    /// This node.
    pub node: NodeId,
    /// The access log.
    pub log: Option<AccessLog>,
    /// What makes spans of requests.
    pub tracer: Option<Tracer>,
}

/// The audience of now.
#[derive(Debug, Default)]
pub struct AudienceCell {
    /// Whether there is one: all that a request looks at when there is not.
    is_there: AtomicBool,
    now: ArcSwapOption<Audience>,
    writers: Mutex<Vec<Writer>>,
    /// What became of lines of the access log.
    pub lines: Arc<Counts>,
    /// What became of spans.
    pub spans: Arc<Counts>,
}

/// A task that takes what is heard to where it belongs, and where it gets it.
#[derive(Debug)]
struct Writer {
    spool: Arc<Spool>,
    task: JoinHandle<()>,
}

impl Audience {
    /// Tells everybody of a finished request.
    pub(crate) fn hear(&self, ended: &Ended<'_>) {
        if let Some(tracer) = &self.tracer {
            tracer.hear(&self.node, ended);
        }
        if let Some(log) = &self.log {
            log.hear(&self.node, ended);
        }
    }
}

/// What is remembered of a request, or of a connection, from now on; nothing, when nobody could want to hear of it. A
/// connection has no headers.
fn story(
    audience: Option<Arc<Audience>>,
    tapping: Option<Tapping>,
    worker: &Worker,
    headers: &HeaderMap,
    direction: Direction,
    asked: impl FnOnce() -> Asked,
) -> Option<Arc<Story>> {
    let log = audience.as_ref().and_then(|audience| audience.log.as_ref());
    let tracer = audience
        .as_ref()
        .and_then(|audience| audience.tracer.as_ref());
    let trace = match tracer {
        Some(tracer) => tracer.place(headers, direction),
        None => log.and_then(|log| log.place(headers)),
    };
    let is_drawn = log.is_some_and(AccessLog::draws);
    let may_pick = log.is_some_and(AccessLog::may_pick);
    let may_trace = trace.as_ref().is_some_and(Trace::may_be_recorded);
    if !is_drawn && !may_pick && !may_trace && tapping.is_none() {
        return None;
    }
    let mut asked = asked();
    asked.is_drawn = is_drawn;
    if let Some(log) = log {
        asked.headers = log.headers(headers);
    }
    let (index, clock) = (worker.index, worker.proxy.clock);
    Some(Arc::new(Story::new(
        audience, index, clock, asked, trace, tapping,
    )))
}

impl AudienceCell {
    /// Nobody, or whoever the configuration names, instead of those of before. Their tasks run on the calling runtime.
    pub fn start(&self, config: &Config, workers: usize) {
        let mut writers = self.writers();
        writers.iter().for_each(|writer| writer.spool.close());
        writers.retain(|writer| !writer.task.is_finished());
        let log = config.access_log.as_ref().map(|log| {
            let spool = Spool::new(workers, log.queue_len_max, Arc::clone(&self.lines));
            let spool = Arc::new(spool);
            let task = match &log.collector {
                Some(collector) => {
                    let collector = Collector::new(collector, log.ca_file.clone(), log.wait_max());
                    let node = config.node.clone();
                    tokio::spawn(otlp::run(Signal::Logs, collector, node, Arc::clone(&spool)))
                }
                None => {
                    let place = output::Place::new(log, config);
                    tokio::spawn(output::run(place, Arc::clone(&spool)))
                }
            };
            writers.push(Writer {
                spool: Arc::clone(&spool),
                task,
            });
            AccessLog::new(log, spool)
        });
        let tracer = config.traces.as_ref().map(|traces| {
            let spool = Spool::new(workers, traces.queue_len_max, Arc::clone(&self.spans));
            let spool = Arc::new(spool);
            let collector =
                Collector::new(&traces.collector, traces.ca_file.clone(), traces.wait_max());
            let node = config.node.clone();
            let exported = otlp::run(Signal::Traces, collector, node, Arc::clone(&spool));
            writers.push(Writer {
                spool: Arc::clone(&spool),
                task: tokio::spawn(exported),
            });
            Tracer::new(traces, spool)
        });
        let node = config.node.clone();
        let is_there = log.is_some() || tracer.is_some();
        let audience = is_there.then(|| Arc::new(Audience { node, log, tracer }));
        self.now.store(audience);
        self.is_there.store(is_there, Relaxed);
    }

    /// Has everybody write what they heard, in [`END_WAIT_MAX`].
    pub async fn end(&self) {
        self.is_there.store(false, Relaxed);
        let writers = std::mem::take(&mut *self.writers());
        writers.iter().for_each(|writer| writer.spool.close());
        let until = Instant::now() + END_WAIT_MAX;
        for mut writer in writers {
            if tokio::time::timeout_at(until, &mut writer.task)
                .await
                .is_err()
            {
                tracing::warn!("what was heard last is not written in time");
                writer.task.abort();
            }
        }
    }

    fn load(&self) -> Option<Arc<Audience>> {
        match self.is_there.load(Relaxed) {
            true => self.now.load_full(),
            false => None,
        }
    }

    fn writers(&self) -> MutexGuard<'_, Vec<Writer>> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a tap gets to see of a request from now on, while there is one.
fn tapping(proxy: &Proxy, headers: &HeaderMap) -> Option<Tapping> {
    let is_any = proxy.taps.is_any();
    is_any.then(|| proxy.taps.begin_request(&proxy.config.node, headers))
}

/// The story of a request that enters here, if anybody wants to hear it.
pub(crate) fn story_of_client(downstream: &Downstream, head: &Parts) -> Option<Arc<Story>> {
    let (worker, headers) = (&downstream.worker, &head.headers);
    let audience = worker.proxy.audience.load();
    let tapping = tapping(&worker.proxy, headers);
    if audience.is_none() && tapping.is_none() {
        return None;
    }
    let direction = downstream.direction;
    let asked = || Asked {
        client: Some(downstream.client.address(headers)),
        scheme: downstream.client.scheme(headers),
        ..Asked::new(head, direction)
    };
    story(audience, tapping, worker, headers, direction, asked)
}

/// The story of a TCP connection that enters here, if anybody wants to hear it.
pub(crate) fn story_of_connection(
    worker: &Worker,
    direction: Direction,
    client: IpAddr,
    ends: Option<Ends>,
) -> Option<Arc<Story>> {
    let headers = HeaderMap::new();
    let audience = worker.proxy.audience.load();
    let tapping = tapping(&worker.proxy, &headers);
    if audience.is_none() && tapping.is_none() {
        return None;
    }
    let asked = || Asked::connection(direction, Some(client), ends);
    story(audience, tapping, worker, &headers, direction, asked)
}

/// The story of a request or of a TCP connection that another node sends.
pub(crate) fn story_of_peer(worker: &Worker, peer: &Peer, head: &Parts) -> Option<Arc<Story>> {
    let audience = worker.proxy.audience.load()?;
    let asked = || {
        let home = Some(peer.home.clone());
        if head.method != Method::CONNECT {
            let request = Asked::new(head, Direction::Mesh);
            return Asked { home, ..request };
        }
        let ends = headers::ends(&head.headers);
        let client = ends.map(|ends| ends.source.ip());
        let connection = Asked::connection(Direction::Mesh, client, ends);
        Asked { home, ..connection }
    };
    let (audience, headers) = (Some(audience), &head.headers);
    story(audience, None, worker, headers, Direction::Mesh, asked)
}

/// Replaces the audience when the configuration says otherwise than before.
pub fn change(proxy: &Proxy, before: &Config, config: &Config) {
    if (&before.access_log, &before.traces) != (&config.access_log, &config.traces) {
        proxy.audience.start(config, proxy.config.worker_count());
    }
}
