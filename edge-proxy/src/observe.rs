//! What is noted of one request, from when it is given to whoever serves it
//! until its answer has ended.
//!
//! An [`Observation`] travels with the answer's body. However the request
//! ends, dropping it does the book-keeping once: counters first, then the
//! connection goes back to its pool, then the slot to the queue.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::clock::Clock;
use crate::endpoint::{Connection, EndpointLive};
use crate::gate::{Class, Slot};
use crate::live::ServiceLive;

/// One request with whoever serves it.
#[derive(Debug)]
pub struct Observation {
    live: Arc<ServiceLive>,
    worker: usize,
    clock: Clock,
    begun_us: u64,
    class: Class,
    outcome: Outcome,
    /// With an endpoint of this node: its slot and, when answered, the connection.
    slot: Option<Slot>,
    connection: Option<(Arc<EndpointLive>, Connection)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The client went away, or the request was given to someone else.
    Abandoned,
    Completed,
    /// Answered in full, with an error of the endpoint (5xx).
    CompletedInError,
    Failed,
}

impl Observation {
    /// A request that an endpoint of this node gets now.
    pub fn at_home(
        live: &Arc<ServiceLive>,
        worker: usize,
        clock: Clock,
        class: Class,
        slot: Slot,
    ) -> Observation {
        let begun_us = clock.now_us();
        let counters = &live.worker(worker).counters;
        counters.begun.fetch_add(1, Relaxed);
        counters.begun_us_sum.fetch_add(begun_us, Relaxed);
        Observation {
            live: Arc::clone(live),
            worker,
            clock,
            begun_us,
            class,
            outcome: Outcome::Abandoned,
            slot: Some(slot),
            connection: None,
        }
    }

    /// A request that another node or the upstream of last resort gets now.
    pub fn away(live: &Arc<ServiceLive>, worker: usize, clock: Clock) -> Observation {
        Observation {
            live: Arc::clone(live),
            worker,
            clock,
            begun_us: clock.now_us(),
            class: Class::Own,
            outcome: Outcome::Abandoned,
            slot: None,
            connection: None,
        }
    }

    /// The answer's head came, on a connection that can be used again when its body has ended.
    pub fn answered(
        &mut self,
        status: http::StatusCode,
        connection: Option<(Arc<EndpointLive>, Connection)>,
    ) {
        self.connection = connection;
        if status.is_server_error() {
            self.outcome = Outcome::CompletedInError;
        }
    }

    /// The answer ended as it should.
    pub fn completed(mut self) {
        if self.outcome == Outcome::Abandoned {
            self.outcome = Outcome::Completed;
        }
    }

    /// The connection to whoever serves it broke.
    pub fn failed(mut self) {
        self.outcome = Outcome::Failed;
        self.connection = None;
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let now_us = self.clock.now_us();
        let latency_us = now_us.saturating_sub(self.begun_us);
        let counters = &self.live.worker(self.worker).counters;
        let completed = matches!(self.outcome, Outcome::Completed | Outcome::CompletedInError);
        let errored = matches!(self.outcome, Outcome::Failed | Outcome::CompletedInError);
        if errored && self.class == Class::Own {
            counters.failed.fetch_add(1, Relaxed);
        }
        if completed && self.class == Class::Own {
            self.live.duration.record(latency_us as f64 / 1e6);
        }
        if completed && let Some((endpoint, connection)) = self.connection.take() {
            endpoint.keep(self.worker, connection, now_us);
        }
        let Some(slot) = self.slot.take() else {
            return;
        };
        counters.ended.fetch_add(1, Relaxed);
        counters.ended_us_sum.fetch_add(now_us, Relaxed);
        if completed {
            counters.completed.fetch_add(1, Relaxed);
            counters.latency_sum_us.fetch_add(latency_us, Relaxed);
            counters.latency_min_us.fetch_min(latency_us, Relaxed);
            self.live.note_latency(latency_us);
        }
        drop(slot);
    }
}
