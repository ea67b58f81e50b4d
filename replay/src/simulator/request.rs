//! Requests under way, in a slab.

use std::ops::{Index, IndexMut};

/// No request.
pub(crate) const NONE: u32 = u32::MAX;

/// How a request left its home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Moved {
    /// Not at all.
    No,
    /// By weights.
    Plan,
    /// By the proxy's own correction.
    Spill,
    /// To the upstream of last resort.
    Cloud,
}

/// What became of the part of a request's life that ends at another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Fate {
    /// Under way or served.
    Served,
    /// Refused there at once; its home decides again.
    Refused,
    /// Waited too long there.
    Dropped,
}

/// One request under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    /// When it entered.
    pub(crate) entered_ns: u64,
    /// When it began to wait where it is.
    pub(crate) queued_ns: u64,
    /// How long it keeps a worker busy.
    pub(crate) service_ns: u32,
    /// Where it entered.
    pub(crate) home: u32,
    /// Where it is.
    pub(crate) at: u32,
    /// The next in its queue.
    pub(crate) next: u32,
    /// Requests at the answering node when it answered.
    pub(crate) heard_in_flight: u32,
    /// That node's smoothed service time, in microseconds.
    pub(crate) heard_latency_us: u32,
    /// How often it was refused by others.
    pub(crate) refusals: u8,
    /// How it left home.
    pub(crate) moved: Moved,
    /// What became of it away from home.
    pub(crate) fate: Fate,
    /// Whether its home was hot when it entered.
    pub(crate) hot: bool,
    /// Whether it left home though a worker there was idle.
    pub(crate) needless: bool,
}

/// All requests under way.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    slots: Vec<Request>,
    free: Vec<u32>,
}

impl Requests {
    pub(crate) fn insert(&mut self, request: Request) -> u32 {
        match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = request;
                id
            }
            None => {
                self.slots.push(request);
                (self.slots.len() - 1) as u32
            }
        }
    }

    pub(crate) fn remove(&mut self, id: u32) -> Request {
        self.free.push(id);
        self.slots[id as usize]
    }

    /// How many are under way.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

impl Index<u32> for Requests {
    type Output = Request;
    fn index(&self, id: u32) -> &Request {
        &self.slots[id as usize]
    }
}

impl IndexMut<u32> for Requests {
    fn index_mut(&mut self, id: u32) -> &mut Request {
        &mut self.slots[id as usize]
    }
}
