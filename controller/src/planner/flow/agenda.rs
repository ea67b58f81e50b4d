//! Which node is next: a priority queue with one place per node.
//!
//! Keys of nodes change far more often than nodes come first; a queue that kept outdated entries would hold mostly those.

/// Not in the queue.
const ABSENT: u32 = u32::MAX;
/// Children per entry: half the height of a binary heap, and four entries of 16 bytes are one cache line.
const FANOUT: usize = 4;

/// A queue of nodes by (key, node), least first.
#[derive(Clone, Debug)]
pub(super) struct Agenda {
    heap: Vec<(i64, u32)>,
    /// Place in `heap` of every node.
    place: Vec<u32>,
}

impl Agenda {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            heap: Vec::new(),
            place: vec![ABSENT; nodes],
        }
    }

    /// Adds a node or changes its key.
    pub(super) fn set(&mut self, node: u32, key: i64) {
        let place = self.place[node as usize];
        if place == ABSENT {
            self.heap.push((key, node));
            self.rise(self.heap.len() - 1);
        } else if (key, node) < self.heap[place as usize] {
            self.heap[place as usize].0 = key;
            self.rise(place as usize);
        } else {
            self.heap[place as usize].0 = key;
            self.sink(place as usize);
        }
    }

    /// Takes a node out if it is in.
    pub(super) fn remove(&mut self, node: u32) {
        let place = std::mem::replace(&mut self.place[node as usize], ABSENT);
        if place == ABSENT {
            return;
        }
        let place = place as usize;
        let last = self.heap.pop();
        if let Some(last) = last.filter(|_| place < self.heap.len()) {
            self.heap[place] = last;
            self.place[last.1 as usize] = place as u32;
            self.rise(place);
            self.sink(self.place[last.1 as usize] as usize);
        }
    }

    /// The first node and its key.
    pub(super) fn first(&self) -> Option<(i64, u32)> {
        self.heap.first().copied()
    }

    pub(super) fn clear(&mut self) {
        for &(_, node) in &self.heap {
            self.place[node as usize] = ABSENT;
        }
        self.heap.clear();
    }

    fn rise(&mut self, mut at: usize) {
        let entry = self.heap[at];
        while at > 0 {
            let above = (at - 1) / FANOUT;
            if self.heap[above] <= entry {
                break;
            }
            self.put(at, self.heap[above]);
            at = above;
        }
        self.put(at, entry);
    }

    fn sink(&mut self, mut at: usize) {
        let entry = self.heap[at];
        loop {
            let first = at * FANOUT + 1;
            let below = first..(first + FANOUT).min(self.heap.len());
            let Some(least) = below.min_by_key(|&child| self.heap[child]) else {
                break;
            };
            if entry <= self.heap[least] {
                break;
            }
            self.put(at, self.heap[least]);
            at = least;
        }
        self.put(at, entry);
    }

    fn put(&mut self, at: usize, entry: (i64, u32)) {
        self.heap[at] = entry;
        self.place[entry.1 as usize] = at as u32;
    }
}
