//! The queue before a service's endpoints on this node.
//!
//! Each endpoint works on so many requests at once; more are not given to it,
//! so that the backlog stands here, where it is known and bounded. Own
//! requests go before moved-in ones, otherwise first come, first served.
//!
//! All workers share one gate. While there is room, entering and leaving are a
//! few atomic operations and take no lock. Only when requests wait does the
//! queue's lock come into play, and a leaving request hands its slot to the
//! first in the queue, which may wake another worker: at that point the
//! endpoints are the bottleneck, not the proxy.
//!
//! **Invariant**: nobody waits while a slot is free. A newcomer that finds no
//! slot announces itself (`queued`) and then tries once more; whoever leaves
//! frees the slot first and then looks at `queued`. Both are sequentially
//! consistent, so at least one of the two sees the other.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use isobar_mesh_api::snapshot::QueueLimits;
use tokio::sync::oneshot;

use crate::endpoint::{EndpointLive, Taken};
use crate::turns::Turns;

/// Whose request it is; own ones go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Entered the mesh here.
    Own,
    /// Came from its home.
    Moved,
}

/// What a request would meet in the queue, and what it may accept.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The service's limits.
    pub limits: QueueLimits,
    /// Requests that all endpoints together work on at once.
    pub workers: u32,
    /// Smoothed time an endpoint takes, in microseconds; 0 when unknown.
    pub latency_us: u32,
    /// Time that the request has left, in microseconds.
    pub left_us: u64,
}

/// There is no room and there will be none in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom {
    /// Expected time until there is, in microseconds.
    pub wait_us: u64,
}

/// The endpoints' slots and who waits for one.
#[derive(Debug, Default)]
pub struct Gate {
    /// At endpoints now.
    active: AtomicU32,
    /// Own requests waiting.
    waiting_own: AtomicU32,
    /// Moved-in requests waiting.
    waiting_moved: AtomicU32,
    /// Entries of the queue, also of those that gave up.
    queued: AtomicU32,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    endpoints: Arc<[Arc<EndpointLive>]>,
    own: VecDeque<oneshot::Sender<Slot>>,
    moved: VecDeque<oneshot::Sender<Slot>>,
    turns: Turns,
}

/// The right to give one request to one endpoint. Dropping it lets the next one in.
#[derive(Debug)]
pub struct Slot {
    gate: Arc<Gate>,
    endpoint: Arc<EndpointLive>,
    is_probe: bool,
}

impl Gate {
    /// Replaces the endpoints that waiting requests may get.
    pub fn set_endpoints(self: &Arc<Self>, endpoints: Arc<[Arc<EndpointLive>]>) {
        self.lock().endpoints = endpoints;
        // There may be more room than before.
        self.let_in();
    }

    /// Requests at the endpoints.
    pub fn active(&self) -> u32 {
        self.active.load(SeqCst)
    }

    /// Requests waiting for one.
    pub fn waiting(&self) -> u32 {
        let own = self.waiting_own.load(SeqCst);
        own.saturating_add(self.waiting_moved.load(SeqCst))
    }

    /// A slot, if there is one now and nobody waits for it; not of the endpoint to `avoid` if there is
    /// another.
    pub fn try_enter(
        self: &Arc<Self>,
        endpoints: &[Arc<EndpointLive>],
        avoid: Option<&Arc<EndpointLive>>,
    ) -> Option<Slot> {
        match self.queued.load(SeqCst) {
            0 => self.take_slot(endpoints, avoid),
            _ => None,
        }
    }

    /// Waits for a slot.
    ///
    /// # Errors
    /// The queue is full, or the wait is expected to be, or is, too long.
    pub async fn enter(
        self: &Arc<Self>,
        class: Class,
        endpoints: &[Arc<EndpointLive>],
        terms: Terms,
    ) -> Result<Slot, NoRoom> {
        if let Some(slot) = self.try_enter(endpoints, None) {
            return Ok(slot);
        }
        let wait_us = self.expected_wait_us(class, terms);
        let limit = Duration::from_millis(terms.limits.wait_ms_max);
        let limit = limit.min(Duration::from_micros(terms.left_us));
        let room = terms.workers.saturating_mul(terms.limits.per_worker_max);
        let too_long = u128::from(wait_us) > limit.as_micros();
        if too_long || self.waiting() >= room {
            return Err(NoRoom { wait_us });
        }
        let _waiting = Waiting::new(self, class);
        let (sender, receiver) = oneshot::channel();
        self.join_queue(class, sender, room);
        self.let_in();
        match tokio::time::timeout(limit, receiver).await {
            Ok(Ok(slot)) => Ok(slot),
            _ => Err(NoRoom { wait_us }),
        }
    }

    /// How long a newcomer would wait, in microseconds: those before it, one after another, over
    /// all workers.
    fn expected_wait_us(&self, class: Class, terms: Terms) -> u64 {
        let before = match class {
            Class::Own => self.waiting_own.load(SeqCst),
            Class::Moved => self.waiting(),
        };
        let work_us = (u64::from(before) + 1) * u64::from(terms.latency_us);
        work_us / u64::from(terms.workers.max(1))
    }

    fn join_queue(&self, class: Class, sender: oneshot::Sender<Slot>, room: u32) {
        let mut queue = self.lock();
        if queue.len() >= room as usize {
            // Only those that gave up can have made it so long.
            queue.own.retain(|waiter| !waiter.is_closed());
            queue.moved.retain(|waiter| !waiter.is_closed());
        }
        match class {
            Class::Own => queue.own.push_back(sender),
            Class::Moved => queue.moved.push_back(sender),
        }
        self.queued.store(queue.len() as u32, SeqCst);
    }

    /// Gives free slots to the first in the queue. Whoever leaves does; somebody else must when a
    /// circuit's time is over.
    pub fn let_in(self: &Arc<Self>) {
        let mut spare = None;
        {
            let mut queue = self.lock();
            let endpoints = Arc::clone(&queue.endpoints);
            while queue.len() > 0 {
                let Some(mut slot) = spare.take().or_else(|| self.take_slot(&endpoints, None))
                else {
                    break;
                };
                while let Some(waiter) = queue.pop() {
                    match waiter.send(slot) {
                        Ok(()) => break,
                        Err(back) => slot = back,
                    }
                    if queue.len() == 0 {
                        spare = Some(slot);
                        break;
                    }
                }
            }
            self.queued.store(queue.len() as u32, SeqCst);
        }
        // Outside the lock: giving it back comes here again.
        drop(spare);
    }

    fn take_slot(
        self: &Arc<Self>,
        endpoints: &[Arc<EndpointLive>],
        avoid: Option<&Arc<EndpointLive>>,
    ) -> Option<Slot> {
        let Taken { endpoint, is_probe } = EndpointLive::take(endpoints, avoid)?;
        self.active.fetch_add(1, SeqCst);
        Some(Slot {
            gate: Arc::clone(self),
            endpoint: Arc::clone(endpoint),
            is_probe,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn len(&self) -> usize {
        self.own.len() + self.moved.len()
    }

    fn pop(&mut self) -> Option<oneshot::Sender<Slot>> {
        let own_next = self
            .turns
            .own_next(!self.own.is_empty(), !self.moved.is_empty());
        match own_next {
            true => self.own.pop_front(),
            false => self.moved.pop_front(),
        }
    }
}

impl Slot {
    /// The endpoint to send to.
    pub fn endpoint(&self) -> &Arc<EndpointLive> {
        &self.endpoint
    }

    /// Whether the endpoint's circuit waits for what comes of the request.
    pub fn is_probe(&self) -> bool {
        self.is_probe
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.endpoint.leave();
        self.gate.active.fetch_sub(1, SeqCst);
        if self.gate.queued.load(SeqCst) > 0 {
            self.gate.let_in();
        }
    }
}

/// Counts one waiting request while it lives.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn new(gate: &'a Gate, class: Class) -> Waiting<'a> {
        let count = match class {
            Class::Own => &gate.waiting_own,
            Class::Moved => &gate.waiting_moved,
        };
        count.fetch_add(1, SeqCst);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests;
