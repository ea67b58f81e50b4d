//! One node's endpoint: workers and the queue before them.
//!
//! Own traffic is taken before moved-in traffic where the policy says so.
//! Queues are lists threaded through the requests, so waiting costs no
//! allocation.

use isobar_edge_proxy::turns::Turns;

use super::request::{NONE, Requests};

/// First in, first out, threaded through [`Requests`].
#[derive(Debug, Clone, Copy)]
struct Queue {
    head: u32,
    tail: u32,
}

impl Queue {
    const EMPTY: Queue = Queue {
        head: NONE,
        tail: NONE,
    };

    fn push(&mut self, id: u32, requests: &mut Requests) {
        requests[id].next = NONE;
        match self.tail {
            NONE => self.head = id,
            tail => requests[tail].next = id,
        }
        self.tail = id;
    }

    fn pop(&mut self, requests: &Requests) -> Option<u32> {
        if self.head == NONE {
            return None;
        }
        let id = self.head;
        self.head = requests[id].next;
        if self.head == NONE {
            self.tail = NONE;
        }
        Some(id)
    }
}

/// How much of the newest service time the smoothed one takes in.
const LATENCY_GAIN: f32 = 1.0 / 32.0;

/// What a report says of an endpoint over one window.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Window {
    pub(crate) completed: u64,
    pub(crate) latency_sum_us: u64,
    /// 0 when nothing completed.
    pub(crate) latency_min_us: u64,
    /// Busy workers summed over time, in worker nanoseconds.
    pub(crate) busy_ns: u64,
}

/// One node's endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Station {
    pub(crate) workers: u32,
    /// Requests being worked on.
    pub(crate) busy: u32,
    /// Requests waiting.
    pub(crate) waiting: u32,
    /// Of these, how many entered here.
    pub(crate) waiting_own: u32,
    /// Smoothed service time, in microseconds; 0 while unknown.
    pub(crate) latency_us: f32,
    /// Completed since the measurement last looked.
    pub(crate) completed_sample: u32,
    /// Served before `second`.
    first: Queue,
    second: Queue,
    turns: Turns,
    window: Window,
    busy_since_ns: u64,
}

impl Station {
    pub(crate) fn new(workers: u32) -> Station {
        Station {
            workers,
            busy: 0,
            waiting: 0,
            waiting_own: 0,
            latency_us: 0.0,
            completed_sample: 0,
            first: Queue::EMPTY,
            second: Queue::EMPTY,
            turns: Turns::default(),
            window: Window::default(),
            busy_since_ns: 0,
        }
    }

    /// Requests here, worked on or waiting.
    pub(crate) fn in_flight(&self) -> u32 {
        self.busy + self.waiting
    }

    /// A worker takes a request.
    pub(crate) fn begin(&mut self, now_ns: u64) {
        self.count_busy(now_ns);
        self.busy += 1;
    }

    /// A worker has finished a request.
    pub(crate) fn finish(&mut self, service_ns: u32, now_ns: u64) {
        self.count_busy(now_ns);
        self.busy -= 1;
        self.completed_sample += 1;
        let service_us = u64::from(service_ns / 1000);
        let window = &mut self.window;
        window.completed += 1;
        window.latency_sum_us += service_us;
        window.latency_min_us = match window.latency_min_us {
            0 => service_us.max(1),
            shortest => shortest.min(service_us.max(1)),
        };
        let gain = if self.latency_us == 0.0 {
            1.0
        } else {
            LATENCY_GAIN
        };
        self.latency_us += gain * (service_us as f32 - self.latency_us);
    }

    fn count_busy(&mut self, now_ns: u64) {
        self.window.busy_ns += u64::from(self.busy) * (now_ns - self.busy_since_ns);
        self.busy_since_ns = now_ns;
    }

    /// A request begins to wait.
    pub(crate) fn push(&mut self, id: u32, first: bool, requests: &mut Requests) {
        self.waiting += 1;
        self.waiting_own += u32::from(requests[id].home == requests[id].at);
        let queue = if first {
            &mut self.first
        } else {
            &mut self.second
        };
        queue.push(id, requests);
    }

    /// The request that has waited its turn.
    pub(crate) fn pop(&mut self, requests: &Requests) -> Option<u32> {
        let (own, moved) = (self.first.head != NONE, self.second.head != NONE);
        let queue = match self.turns.own_next(own, moved) {
            true => &mut self.first,
            false => &mut self.second,
        };
        let id = queue.pop(requests)?;
        self.waiting -= 1;
        self.waiting_own -= u32::from(requests[id].home == requests[id].at);
        Some(id)
    }

    /// Ends the report window at `now_ns` and begins the next.
    pub(crate) fn take_window(&mut self, now_ns: u64) -> Window {
        self.count_busy(now_ns);
        std::mem::take(&mut self.window)
    }
}
