//! What is noted of one request, from when it is given to whoever serves it
//! until its answer has ended.
//!
//! An [`Observation`] travels with the answer's body. However the request
//! ends, dropping it does the book-keeping once: counters first, then the
//! connection goes back to its pool, then the slot to the queue.
//!
//! The endpoint's circuit hears of it as soon as something is known: the
//! answer's head, or that none came.
//!
//! A request may have several: one per try. What came of the request as a whole is a `Conclusion`, noted once, when the
//! last of them is over. Whoever wants to hear more of single requests is served by [`crate::story`].

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;

use http::{HeaderMap, StatusCode, response};

use crate::clock::Clock;
use crate::endpoint::{EndpointLive, Verdict};
use crate::expiry::{Expiry, NEVER_US};
use crate::gate::{Class, Slot};
use crate::golden::{Kind, Outcome};
use crate::headers;
use crate::http1::client::Connection;
use crate::limit::Limit;
use crate::live::{MovedOutLive, ServiceLive, bump};
use crate::pick::Cause;
use crate::proxy::Worker;
use crate::request::{Exchange, is_answer_to_call};
use crate::routes::ServiceRoute;
use crate::story::{Story, To};

/// One request with whoever serves it.
#[derive(Debug)]
pub struct Observation {
    live: Arc<ServiceLive>,
    worker: usize,
    clock: Clock,
    expiry: Arc<Expiry>,
    begun_us: u64,
    bounds: Bounds,
    class: Class,
    outcome: End,
    /// Whether the endpoint's circuit knows.
    is_told: bool,
    /// It will know when the answer's trailers say how the call ended.
    awaits_status: bool,
    /// When the answer was over, if the connection goes on after it.
    answered_us: Option<u64>,
    /// With an endpoint: its slot if it is of this node, where its connection goes, and the
    /// connection when the answer has ended.
    slot: Option<Slot>,
    endpoint: Option<Arc<EndpointLive>>,
    connection: Option<Connection>,
    /// Who serves it, as an outcome of the request, and what is counted of moves there.
    by: Outcome,
    moved: Option<Arc<MovedOutLive>>,
    /// What is noted of the whole request when this is over: its kind, and when it arrived.
    concludes: Option<(Kind, u64)>,
    /// The request's story, and which of its tries this is.
    story: Option<(Arc<Story>, usize)>,
    /// When it was over, once it is.
    over_us: Option<u64>,
}

/// How a request at somebody's ended, and when, in microseconds of the proxy's clock.
#[derive(Debug, Clone, Copy)]
pub struct Over {
    at_us: u64,
    outcome: Outcome,
}

/// What is noted of a request as a whole.
#[derive(Debug)]
pub(crate) struct Conclusion<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) kind: Kind,
    /// Whose it was and when it arrived, if that was ever known.
    pub(crate) of: Option<(Arc<ServiceRoute>, u64)>,
}

impl Conclusion<'_> {
    /// It was over at that time.
    pub(crate) fn note(&self, over: Over) {
        let cells = match &self.of {
            Some((route, _)) => &route.live.worker(self.worker.index).golden,
            None => self.worker.proxy.unrouted(self.worker.index),
        };
        let arrived_us = self
            .of
            .as_ref()
            .map_or(over.at_us, |(_, arrived_us)| *arrived_us);
        let took_us = over.at_us.saturating_sub(arrived_us);
        cells.note(self.kind.with(over.outcome), took_us);
    }

    /// It is over now.
    pub(crate) fn note_now(&self, outcome: Outcome) {
        let at_us = self
            .of
            .as_ref()
            .map_or(0, |_| self.worker.proxy.clock.now_us());
        self.note(Over { at_us, outcome });
    }

    /// What is said of an answer of which nothing is left but that it failed.
    pub(crate) fn lost(&self) -> Over {
        Over {
            at_us: self.worker.proxy.clock.now_us(),
            outcome: Outcome::Failed,
        }
    }
}

/// What bounds the answer's body.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    idle_us: u64,
    end_us: u64,
    end_is_told: bool,
    len_max: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client went away, or the request was given to someone else.
    Abandoned,
    Completed,
    /// Answered in full, with an error of the endpoint (5xx).
    CompletedInError,
    /// It broke off while it was answered.
    Failed,
    /// A limit ended it, through no fault of the endpoint.
    Cut,
    /// It broke off before it was answered; whoever tries again or gives up counts it.
    Unanswered,
}

impl Observation {
    /// A request that an endpoint of this node gets now, at `now_us`.
    pub(crate) fn at_home(
        exchange: &Exchange<'_>,
        class: Class,
        slot: Slot,
        now_us: u64,
    ) -> Observation {
        let to = || To::Endpoint(Arc::clone(slot.endpoint()), slot.is_probe());
        let mut observation = Observation::away(exchange, Outcome::Home, to, now_us);
        let counters = &observation.live.worker(observation.worker).counters;
        bump(&counters.begun, 1);
        bump(&counters.begun_us_sum, observation.begun_us);
        observation.class = class;
        observation.slot = Some(slot);
        observation
    }

    /// A request that a neighbour gets now, at `now_us`, by its index in the snapshot.
    pub(crate) fn moved(
        exchange: &Exchange<'_>,
        neighbour: usize,
        cause: Cause,
        now_us: u64,
    ) -> Observation {
        let route = exchange.route;
        let to = || To::Node(Arc::clone(&route.neighbours[neighbour]), cause);
        let mut observation = Observation::away(exchange, Outcome::Moved, to, now_us);
        observation.moved = Some(Arc::clone(route.moved_out(neighbour)));
        observation
    }

    /// A request that the upstream of last resort gets now, at `now_us`.
    pub(crate) fn at_cloud(
        exchange: &Exchange<'_>,
        cloud: &Arc<EndpointLive>,
        now_us: u64,
    ) -> Observation {
        let to = || To::Cloud(Arc::clone(cloud));
        Observation::away(exchange, Outcome::Cloud, to, now_us)
    }

    fn away(
        exchange: &Exchange<'_>,
        by: Outcome,
        to: impl FnOnce() -> To,
        begun_us: u64,
    ) -> Observation {
        let (worker, route) = (exchange.worker, exchange.route);
        let clock = worker.proxy.clock;
        let story = exchange.story.map(|story| {
            let place = story.tries(to(), begun_us);
            (Arc::clone(story), place)
        });
        Observation {
            live: Arc::clone(&route.live),
            worker: worker.index,
            clock,
            expiry: Arc::clone(&worker.expiry),
            begun_us,
            bounds: Bounds {
                idle_us: route.traffic.waits.idle_us,
                end_us: exchange.deadline.end_us,
                end_is_told: exchange.deadline.is_told,
                len_max: match route.traffic.sizes.response_body_len_max {
                    0 => u64::MAX,
                    max => max,
                },
            },
            class: Class::Own,
            outcome: End::Abandoned,
            is_told: false,
            awaits_status: false,
            answered_us: None,
            slot: None,
            endpoint: None,
            connection: None,
            by,
            moved: None,
            concludes: None,
            story,
            over_us: None,
        }
    }

    /// The story that this is part of.
    pub(crate) fn story(&self) -> Option<&Arc<Story>> {
        self.story.as_ref().map(|(story, _)| story)
    }

    /// Says in the head of what is sent whose trace it belongs to, if anybody records it.
    pub(crate) fn tell(&self, head: &mut HeaderMap) {
        if let Some((story, place)) = &self.story {
            story.tell(*place, head);
        }
    }

    /// What is to be noted of the whole request when this is over.
    pub(crate) fn conclude(&mut self, conclusion: &Conclusion<'_>) {
        let arrived_us = conclusion
            .of
            .as_ref()
            .map_or(self.begun_us, |(_, arrived_us)| *arrived_us);
        self.concludes = Some((conclusion.kind, arrived_us));
    }

    /// What it being over means for the request.
    fn meaning(&self) -> Outcome {
        match self.outcome {
            End::Completed | End::CompletedInError => self.by,
            End::Abandoned => Outcome::Gone,
            End::Failed | End::Cut | End::Unanswered => Outcome::Failed,
        }
    }

    /// The service whose it is.
    pub fn live(&self) -> &Arc<ServiceLive> {
        &self.live
    }

    /// When it was given away, in microseconds of the proxy's clock.
    pub fn begun_us(&self) -> u64 {
        self.begun_us
    }

    /// The answer's head came; `endpoint` keeps its connection when its body has ended.
    pub fn answered(&mut self, head: &response::Parts, endpoint: Option<Arc<EndpointLive>>) {
        self.endpoint = endpoint;
        if let Some((story, place)) = &self.story {
            story.heard(*place, head.status);
        }
        if head.status.is_server_error() {
            self.outcome = End::CompletedInError;
        }
        let is_call = is_answer_to_call(&head.headers);
        let grpc = is_call.then(|| grpc_status(&head.headers)).flatten();
        let is_probe = self.slot.as_ref().is_some_and(Slot::is_probe);
        // A call's status comes behind its messages. What comes of a probe is waited for by others.
        self.awaits_status =
            is_call && grpc.is_none() && head.status == StatusCode::OK && !is_probe;
        if !self.awaits_status {
            self.tell_circuit(Verdict::of(head.status, grpc));
        }
    }

    /// What stands behind the answer's body.
    pub fn trailers(&mut self, trailers: &HeaderMap) {
        if std::mem::take(&mut self.awaits_status) {
            self.tell_circuit(Verdict::of(StatusCode::OK, grpc_status(trailers)));
        }
    }

    /// Tells the endpoint's circuit.
    fn tell_circuit(&mut self, verdict: Verdict) {
        if let Some(slot) = &self.slot {
            self.is_told = true;
            let circuit = &slot.endpoint().circuit;
            circuit.answered(self.worker, verdict, slot.is_probe(), self.clock);
        }
    }

    /// An endpoint took a TCP connection; that is all that can be said of it.
    pub fn connected(&mut self) {
        self.tell_circuit(Verdict::Good);
    }

    /// The connection speaks another protocol from now on. It keeps its slot until it ends, but how long that takes says
    /// nothing of how fast the endpoint answers.
    pub fn switched(&mut self) {
        self.answered_us = Some(self.clock.now_us());
    }

    /// A TCP connection broke off; which side did it is not known.
    pub fn cut(mut self) {
        self.outcome = End::Cut;
    }

    /// The answer ended as it should, on a connection that can be used again.
    pub fn completed(mut self, connection: Option<Connection>) -> Over {
        self.connection = connection;
        if self.awaits_status {
            self.tell_circuit(Verdict::Good);
        }
        if self.outcome == End::Abandoned {
            self.outcome = End::Completed;
        }
        let at_us = self.clock.now_us();
        self.over_us = Some(at_us);
        Over {
            at_us,
            outcome: self.by,
        }
    }

    /// The connection to whoever serves it broke.
    pub fn failed(mut self) {
        self.outcome = End::Failed;
    }

    /// It was not answered, and that is the fault of whoever should.
    pub fn unanswered(mut self) {
        self.outcome = End::Unanswered;
    }

    /// A limit ended the answer.
    pub fn limited(mut self, limit: Limit) {
        self.live.worker(self.worker).counters.limit(limit);
        self.outcome = match limit {
            Limit::IdleTimeout | Limit::StreamTimeout => End::Failed,
            _ => End::Cut,
        };
    }

    /// Largest body of the answer, in bytes.
    pub fn body_len_max(&self) -> u64 {
        self.bounds.len_max
    }

    /// Waits for the next piece of the answer's body; `None` when it may take for ever.
    pub fn watch(&self, waker: &Waker) -> Option<(Arc<Expiry>, u32)> {
        let Bounds {
            idle_us, end_us, ..
        } = self.bounds;
        if idle_us == NEVER_US && end_us == NEVER_US {
            return None;
        }
        let now_us = self.clock.now_us();
        let key = self.expiry.watch(idle_us, end_us, now_us, waker);
        Some((Arc::clone(&self.expiry), key))
    }

    /// Which limit a body that is late has reached.
    pub fn late_limit(&self) -> Limit {
        match self.clock.now_us() >= self.bounds.end_us {
            true if self.bounds.end_is_told => Limit::Deadline,
            true => Limit::StreamTimeout,
            false => Limit::IdleTimeout,
        }
    }
}

/// `grpc-status`: in a head, of a call without an answer; else in the trailers.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    let value = headers.get(headers::GRPC_STATUS)?;
    value.to_str().ok()?.parse().ok()
}

impl Drop for Observation {
    fn drop(&mut self) {
        let now_us = self.over_us.unwrap_or_else(|| self.clock.now_us());
        let answered_us = self.answered_us.unwrap_or(now_us);
        let latency_us = answered_us.saturating_sub(self.begun_us);
        let counters = &self.live.worker(self.worker).counters;
        let completed = matches!(self.outcome, End::Completed | End::CompletedInError);
        let errored = matches!(self.outcome, End::Failed | End::Cut | End::CompletedInError);
        if errored && self.class == Class::Own {
            counters.failed.fetch_add(1, Relaxed);
        }
        if let Some(moved) = self.moved.as_ref().filter(|_| completed) {
            moved.duration.note(latency_us);
        }
        if let Some((kind, arrived_us)) = self.concludes {
            let cells = &self.live.worker(self.worker).golden;
            cells.note(
                kind.with(self.meaning()),
                answered_us.saturating_sub(arrived_us),
            );
        }
        if let Some((story, place)) = self.story.take() {
            story.tried(place, now_us, completed);
        }
        if let (Some(endpoint), Some(connection)) = (&self.endpoint, self.connection.take()) {
            endpoint.keep(self.worker, connection, now_us);
        }
        let Some(slot) = self.slot.take() else {
            return;
        };
        bump(&counters.ended, 1);
        bump(&counters.ended_us_sum, now_us);
        let circuit = &slot.endpoint().circuit;
        if completed {
            bump(&counters.completed, 1);
            bump(&counters.latency_sum_us, latency_us);
            if latency_us < counters.latency_min_us.load(Relaxed) {
                counters.latency_min_us.fetch_min(latency_us, Relaxed);
            }
            self.live.note_latency(latency_us);
            slot.endpoint().note_latency(latency_us, true, now_us);
            circuit.completed(self.worker, latency_us);
        }
        match self.outcome {
            End::Unanswered | End::Failed => {
                slot.endpoint().note_latency(latency_us, false, now_us);
                circuit.failed(self.worker, slot.is_probe() && !self.is_told, self.clock);
            }
            _ if !self.is_told => circuit.abandoned(slot.is_probe()),
            _ => {}
        }
        drop(slot);
    }
}
