//! The queue before a service's endpoints on this node.
//!
//! Each endpoint works on so many requests at once; more are not given to it,
//! so that the backlog stands here, where it is known and bounded. Own
//! requests go before moved-in ones, among them the more important before the
//! less important, otherwise first come, first served. When the queue is full,
//! a more important newcomer takes the place of the last of the least
//! important.
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
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use isobar_mesh_api::snapshot::QueueLimits;
use tokio::sync::oneshot;

use crate::balancer::{Balancer, Wish};
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
    /// Its priority class, from 0, the most important, to [`RANKS`] − 1.
    pub rank: u8,
}

/// Priority classes.
pub const RANKS: usize = 4;

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
    waiting_own: Waiters,
    waiting_moved: Waiters,
    /// Entries of the queue, also of those that gave up.
    queued: AtomicU32,
    /// Slots taken since the start; wraps.
    taken: AtomicU64,
    queue: Mutex<Queue>,
}

/// Requests waiting, of one kind.
#[derive(Debug, Default)]
struct Waiters {
    all: AtomicU32,
    by_rank: [AtomicU32; RANKS],
}

#[derive(Debug, Default)]
struct Queue {
    /// `None` before there are endpoints.
    balancer: Option<Arc<Balancer>>,
    own: Line,
    moved: Line,
    turns: Turns,
}

/// Who waits, of one kind: the most important class first, within a class by arrival.
#[derive(Debug, Default)]
struct Line([VecDeque<oneshot::Sender<Slot>>; RANKS]);

/// The right to give one request to one endpoint. Dropping it lets the next one in.
#[derive(Debug)]
pub struct Slot {
    gate: Arc<Gate>,
    endpoint: Arc<EndpointLive>,
    is_probe: bool,
}

impl Gate {
    /// Replaces the endpoints that waiting requests may get.
    pub fn set_balancer(self: &Arc<Self>, balancer: Arc<Balancer>) {
        self.lock().balancer = Some(balancer);
        // There may be more room than before.
        self.let_in();
    }

    /// Requests at the endpoints.
    pub fn active(&self) -> u32 {
        self.active.load(SeqCst)
    }

    /// Requests waiting for one.
    pub fn waiting(&self) -> u32 {
        let own = self.waiting_own.all.load(SeqCst);
        own.saturating_add(self.waiting_moved.all.load(SeqCst))
    }

    /// A slot, if there is one now and nobody waits for it, as the request would like it.
    pub fn try_enter(self: &Arc<Self>, balancer: &Balancer, wish: Wish<'_>) -> Option<Slot> {
        match self.queued.load(SeqCst) {
            0 => self.take_slot(balancer, wish),
            _ => None,
        }
    }

    /// Waits for a slot. Who had to wait takes the first that is free, whatever it would like.
    ///
    /// # Errors
    /// The queue is full, or the wait is expected to be, or is, too long.
    pub async fn enter(
        self: &Arc<Self>,
        class: Class,
        balancer: &Balancer,
        wish: Wish<'_>,
        terms: Terms,
    ) -> Result<Slot, NoRoom> {
        if let Some(slot) = self.try_enter(balancer, wish) {
            return Ok(slot);
        }
        let wait_us = self.expected_wait_us(class, terms);
        let limit = Duration::from_millis(terms.limits.wait_ms_max);
        // Who gets a slot too late for an answer in time need not wait for it.
        let left_us = terms.left_us.saturating_sub(terms.latency_us.into());
        let limit = limit.min(Duration::from_micros(left_us));
        let room = terms.workers.saturating_mul(terms.limits.per_worker_max);
        let too_long = u128::from(wait_us) > limit.as_micros();
        if too_long || (self.waiting() >= room && !self.turn_away(terms.rank)) {
            return Err(NoRoom { wait_us });
        }
        let _waiting = Waiting::new(self, class, terms.rank);
        let (sender, receiver) = oneshot::channel();
        self.join_queue(class, terms.rank, sender, room);
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
            Class::Own => self.waiting_own.before(terms.rank),
            Class::Moved => {
                let own = self.waiting_own.all.load(SeqCst);
                own.saturating_add(self.waiting_moved.before(terms.rank))
            }
        };
        let work_us = (u64::from(before) + 1) * u64::from(terms.latency_us);
        work_us / u64::from(terms.workers.max(1))
    }

    /// Makes room for a request of a class by turning away the last of those that are less important; whether there was
    /// one.
    fn turn_away(&self, rank: u8) -> bool {
        let mut queue = self.lock();
        for worse in (usize::from(rank) + 1..RANKS).rev() {
            let Queue { own, moved, .. } = &mut *queue;
            for line in [moved, own] {
                while let Some(waiter) = line.0[worse].pop_back() {
                    // Letting go of it is telling it.
                    if !waiter.is_closed() {
                        return true;
                    }
                }
            }
        }
        false
    }

    fn join_queue(&self, class: Class, rank: u8, sender: oneshot::Sender<Slot>, room: u32) {
        let mut queue = self.lock();
        if queue.len() >= room as usize {
            // Only those that gave up can have made it so long.
            queue.own.forget_closed();
            queue.moved.forget_closed();
        }
        let line = match class {
            Class::Own => &mut queue.own,
            Class::Moved => &mut queue.moved,
        };
        line.0[usize::from(rank).min(RANKS - 1)].push_back(sender);
        self.queued.store(queue.len() as u32, SeqCst);
    }

    /// Gives free slots to the first in the queue. Whoever leaves does; somebody else must when a
    /// circuit's time is over.
    pub fn let_in(self: &Arc<Self>) {
        let mut spare = None;
        {
            let mut queue = self.lock();
            let balancer = queue.balancer.clone();
            let free = || {
                let balancer = balancer.as_ref()?;
                self.take_slot(balancer, balancer.wish_of_now())
            };
            while queue.len() > 0 {
                let Some(mut slot) = spare.take().or_else(free) else {
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

    fn take_slot(self: &Arc<Self>, balancer: &Balancer, wish: Wish<'_>) -> Option<Slot> {
        let turn = self.taken.fetch_add(1, Relaxed);
        let wish = Wish { turn, ..wish };
        let taken = balancer.take(wish, &mut fastrand::Rng::new());
        let Taken { endpoint, is_probe } = taken?;
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
            true => self.own.pop(),
            false => self.moved.pop(),
        }
    }
}

impl Line {
    fn len(&self) -> usize {
        self.0.iter().map(VecDeque::len).sum()
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(VecDeque::is_empty)
    }

    fn pop(&mut self) -> Option<oneshot::Sender<Slot>> {
        self.0.iter_mut().find_map(VecDeque::pop_front)
    }

    fn forget_closed(&mut self) {
        for waiters in &mut self.0 {
            waiters.retain(|waiter| !waiter.is_closed());
        }
    }
}

impl Waiters {
    /// Those that go before a newcomer of this class.
    fn before(&self, rank: u8) -> u32 {
        let same_or_better = self.by_rank.iter().take(usize::from(rank) + 1);
        same_or_better.map(|count| count.load(SeqCst)).sum()
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
struct Waiting<'a> {
    all: &'a AtomicU32,
    same: &'a AtomicU32,
}

impl<'a> Waiting<'a> {
    fn new(gate: &'a Gate, class: Class, rank: u8) -> Waiting<'a> {
        let waiters = match class {
            Class::Own => &gate.waiting_own,
            Class::Moved => &gate.waiting_moved,
        };
        let same = &waiters.by_rank[usize::from(rank).min(RANKS - 1)];
        waiters.all.fetch_add(1, SeqCst);
        same.fetch_add(1, SeqCst);
        Waiting {
            all: &waiters.all,
            same,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(1, SeqCst);
        self.same.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests;
