//! What each arc carries, and which arcs of a node carry anything.
//!
//! Of a node's nine arcs only one or two carry flow, and a search along flow asks for those alone. So the carrying arcs
//! of every row and of every column are chained.

use super::arcs::Arcs;

/// End of a chain.
const END: u32 = u32::MAX;

/// Flow of all arcs, with the chains of those above 0. Nodes are supplies 0..n (rows), then facilities n..2n (columns).
#[derive(Clone, Debug)]
pub(super) struct Carried {
    mrps: Vec<i64>,
    /// First carrying arc of each node.
    first: Vec<u32>,
    /// Per arc its neighbours in the chain of its row and in that of its column; valid while it carries.
    links: Vec<[Link; 2]>,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
}

impl Carried {
    pub(super) fn new(arcs: &Arcs) -> Self {
        let unlinked = Link {
            previous: END,
            next: END,
        };
        Self {
            mrps: vec![0; arcs.len()],
            first: vec![END; 2 * arcs.nodes()],
            links: vec![[unlinked; 2]; arcs.len()],
        }
    }

    pub(super) fn get(&self, arc: u32) -> i64 {
        self.mrps[arc as usize]
    }

    pub(super) fn clear(&mut self) {
        self.mrps.fill(0);
        self.first.fill(END);
    }

    /// Changes the flow of an arc; returns what it is then.
    pub(super) fn add(&mut self, arcs: &Arcs, arc: u32, mrps: i64) -> i64 {
        let before_mrps = self.mrps[arc as usize];
        let after_mrps = before_mrps + mrps;
        self.mrps[arc as usize] = after_mrps;
        if (before_mrps == 0) != (after_mrps == 0) {
            let ends = [arcs.tail(arc), arcs.nodes() + arcs.head(arc)];
            for (side, node) in ends.into_iter().enumerate() {
                if before_mrps == 0 {
                    self.chain(arc, side, node);
                } else {
                    self.unchain(arc, side, node);
                }
            }
        }
        after_mrps
    }

    /// First carrying arc of a node.
    pub(super) fn first(&self, node: usize) -> Option<u32> {
        not_end(self.first[node])
    }

    /// The carrying arc after this one in its row (`side` 0) or column (1).
    pub(super) fn after(&self, arc: u32, side: usize) -> Option<u32> {
        not_end(self.links[arc as usize][side].next)
    }

    fn chain(&mut self, arc: u32, side: usize, node: usize) {
        let next = std::mem::replace(&mut self.first[node], arc);
        self.links[arc as usize][side] = Link {
            previous: END,
            next,
        };
        if next != END {
            self.links[next as usize][side].previous = arc;
        }
    }

    fn unchain(&mut self, arc: u32, side: usize, node: usize) {
        let Link { previous, next } = self.links[arc as usize][side];
        if previous == END {
            self.first[node] = next;
        } else {
            self.links[previous as usize][side].next = next;
        }
        if next != END {
            self.links[next as usize][side].previous = previous;
        }
    }
}

fn not_end(arc: u32) -> Option<u32> {
    (arc != END).then_some(arc)
}
