//! Which node is next: a priority queue with one place per node.
//!
//! Keys of nodes change far more often than nodes come first; a queue that kept outdated entries would hold mostly those.

/// Not in the queue.
const ABSENT: u32 = u32::MAX;
/// Children per entry: half the height of a binary heap, and four entries of 16 bytes are one cache line.
const FANOUT: usize = 4;

/// Key and node in one number, so that comparing two entries takes no branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry(i128);

impl Entry {
    fn new(key: i64, node: u32) -> Self {
        Self(i128::from(key) << 32 | i128::from(node))
    }

    fn key(self) -> i64 {
        (self.0 >> 32) as i64
    }

    fn node(self) -> u32 {
        self.0 as u32
    }
}

/// A queue of nodes by (key, node), least first.
#[derive(Clone, Debug)]
pub(super) struct Agenda {
    heap: Vec<Entry>,
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
        let entry = Entry::new(key, node);
        let place = self.place[node as usize];
        if place == ABSENT {
            self.heap.push(entry);
            self.rise(self.heap.len() - 1, entry);
        } else if entry < self.heap[place as usize] {
            self.rise(place as usize, entry);
        } else {
            self.sink(place as usize, entry);
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
            if last < self.heap[place] {
                self.rise(place, last);
            } else {
                self.sink(place, last);
            }
        }
    }

    /// The first node and its key.
    pub(super) fn first(&self) -> Option<(i64, u32)> {
        self.heap.first().map(|entry| (entry.key(), entry.node()))
    }

    pub(super) fn clear(&mut self) {
        for entry in &self.heap {
            self.place[entry.node() as usize] = ABSENT;
        }
        self.heap.clear();
    }

    /// Puts an entry at a place or nearer to the front.
    fn rise(&mut self, mut at: usize, entry: Entry) {
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

    /// Puts an entry at a place or further from the front.
    fn sink(&mut self, mut at: usize, entry: Entry) {
        loop {
            let first = at * FANOUT + 1;
            let (least, child) = match self.heap.get(first..first + FANOUT) {
                Some(&[a, b, c, d]) => {
                    let (left, right) = (lesser((a, 0), (b, 1)), lesser((c, 2), (d, 3)));
                    lesser(left, right)
                }
                _ => {
                    let rest = self.heap.get(first..).unwrap_or_default();
                    match rest.iter().copied().zip(0..).min() {
                        Some(least) => least,
                        None => break,
                    }
                }
            };
            if entry <= least {
                break;
            }
            self.put(at, least);
            at = first + child;
        }
        self.put(at, entry);
    }

    fn put(&mut self, at: usize, entry: Entry) {
        self.heap[at] = entry;
        self.place[entry.node() as usize] = at as u32;
    }
}

fn lesser(a: (Entry, usize), b: (Entry, usize)) -> (Entry, usize) {
    if b.0 < a.0 { b } else { a }
}
