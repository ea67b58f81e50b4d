//! What happens next: a calendar queue.
//!
//! ```text
//! ring of buckets, each a fixed span of time:   [..][..][now][..][..]
//! beyond the ring:                              a binary heap
//! ```
//!
//! Most events lie a few milliseconds ahead, so pushing is an append to a
//! bucket and taking is a pop from a short sorted one (Brown 1988, calendar
//! queues). A binary heap of the same few thousand events costs about three
//! times as much, all of it cache misses and wrong guesses.
//!
//! Ties are broken by the order in which events were pushed as far as the
//! sort keeps it, which depends on nothing but the pushes: the same run
//! always takes them the same way.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Buckets of the ring; a power of two.
const BUCKETS: usize = 1 << 13;
/// Events per bucket that the width is chosen for.
const EVENTS_PER_BUCKET: f64 = 2.0;

/// What kind of thing happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum What {
    /// A client's request enters at a node.
    Arrive,
    /// An endpoint has finished a request.
    Done,
    /// A moved request reaches its node.
    Land,
    /// The answer to a moved request reaches its home.
    Back,
    /// A question about load reaches a node, for a request that waits for it.
    Ask,
    /// The answer to the question reaches the home.
    Answer,
    /// Something of the policy's own.
    Policy,
    /// Time to look at weights and load.
    Sample,
}

/// One thing that will happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Event {
    /// When, in nanoseconds since the run's start.
    pub(crate) at_ns: u64,
    /// What.
    pub(crate) what: What,
    /// To whom: a node, a request, or the policy's own number.
    pub(crate) id: u32,
}

/// Events by time.
#[derive(Debug)]
pub(crate) struct Calendar {
    ring: Vec<Vec<Event>>,
    /// log2 of a bucket's span in nanoseconds.
    width_log2: u32,
    /// The bucket being taken from, counted since the start; it is sorted, last first.
    open: u64,
    /// Events in the ring.
    near: usize,
    far: BinaryHeap<Reverse<Event>>,
}

impl Calendar {
    /// An empty calendar at time 0 for about that many events per second.
    pub(crate) fn new(events_per_s: f64) -> Calendar {
        let width_ns = (EVENTS_PER_BUCKET * 1e9 / events_per_s.max(1.0)).clamp(1024.0, 1e8);
        Calendar {
            ring: vec![Vec::new(); BUCKETS],
            width_log2: width_ns.log2() as u32,
            open: 0,
            near: 0,
            far: BinaryHeap::new(),
        }
    }

    /// Notes an event; one in the past happens at once.
    pub(crate) fn push(&mut self, event: Event) {
        let bucket = (event.at_ns >> self.width_log2).max(self.open);
        if bucket >= self.open + BUCKETS as u64 {
            self.far.push(Reverse(event));
            return;
        }
        let slot = &mut self.ring[bucket as usize % BUCKETS];
        if bucket == self.open {
            let place = slot.partition_point(|other| other.at_ns > event.at_ns);
            slot.insert(place, event);
        } else {
            slot.push(event);
        }
        self.near += 1;
    }

    /// Takes the next event.
    pub(crate) fn pop(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ring[self.open as usize % BUCKETS].pop() {
                self.near -= 1;
                return Some(event);
            }
            self.advance()?;
        }
    }

    /// Opens the next bucket that may hold something.
    fn advance(&mut self) -> Option<()> {
        if self.near == 0 {
            let Reverse(first) = self.far.peek()?;
            self.open = (first.at_ns >> self.width_log2).max(self.open);
        } else {
            self.open += 1;
        }
        while let Some(Reverse(event)) = self.far.peek() {
            let bucket = event.at_ns >> self.width_log2;
            if bucket >= self.open + BUCKETS as u64 {
                break;
            }
            self.ring[bucket.max(self.open) as usize % BUCKETS].push(*event);
            self.far.pop();
            self.near += 1;
        }
        let slot = &mut self.ring[self.open as usize % BUCKETS];
        if slot.len() > 1 {
            slot.sort_unstable_by_key(|event| Reverse(event.at_ns));
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn events_come_in_order_and_none_is_lost(
            delays in prop::collection::vec((0_u64..3_000_000_000, 0_u8..4), 1..300),
            rate in 10.0_f64..1e6,
        ) {
            let mut calendar = Calendar::new(rate);
            let event = |at_ns, id| Event { at_ns, what: What::Arrive, id };
            let (mut now_ns, mut pushed, mut seen) = (0, 0_u32, Vec::new());
            for (delay_ns, pops) in delays {
                calendar.push(event(now_ns + delay_ns, pushed));
                pushed += 1;
                for _ in 0..pops {
                    if let Some(next) = calendar.pop() {
                        prop_assert!(next.at_ns >= now_ns);
                        now_ns = next.at_ns;
                        seen.push(next.id);
                    }
                }
            }
            while let Some(next) = calendar.pop() {
                prop_assert!(next.at_ns >= now_ns);
                now_ns = next.at_ns;
                seen.push(next.id);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..pushed).collect::<Vec<_>>());
        }
    }
}
