//! Parents and children in the forest, and what becomes of a subtree that lost its root.
//!
//! Its nodes first look for another parent at the same level, as in the max-flow search of Boykov and Kolmogorov (2004):
//! equal costs are common (all nodes of one site), and then most find one. Those that find none leave the forest at
//! the price they have. Of these, leading nodes can only come back by the arcs they carry flow on; following nodes put
//! the moment at which the nearest leading node reaches them on the agenda.

use super::{FAR, Flow, Forest, NEVER, arc_at, sign};

/// Parent of a node outside the forest.
pub(super) const OUT: u32 = u32::MAX;
/// Parent of a root.
pub(super) const ROOT: u32 = u32::MAX - 1;
/// Parent of a node that lost its own and looks for another. All arc numbers are below.
pub(super) const ORPHAN: u32 = u32::MAX - 2;

/// No child, no sibling.
const NOBODY: u32 = u32::MAX;

/// A node's relatives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kin {
    /// The arc to the parent, or `OUT`, `ROOT` or `ORPHAN`.
    pub(super) parent: u32,
    /// Of a leading node its first child; of a following node its next sibling. Children of following nodes are found
    /// among the arcs that carry flow.
    child: u32,
    /// The last search for new parents that found this node connected to a root.
    rooted: u32,
}

impl Kin {
    pub(super) const OUTSIDE: Self = Self {
        parent: OUT,
        child: NOBODY,
        rooted: 0,
    };
}

impl Forest {
    /// Takes a node from its parent.
    pub(super) fn orphan(&mut self, node: usize) {
        self.kin[node].parent = ORPHAN;
        self.orphans.push(node as u32);
    }
}

impl Flow {
    /// Makes a node a child over an arc, or a root.
    pub(super) fn adopt<const DRAW: bool>(&mut self, node: usize, parent: u32) {
        self.forest.kin[node].parent = parent;
        if parent < ORPHAN && !self.leads::<DRAW>(node) {
            let above = self.across(node, parent);
            let sibling = std::mem::replace(&mut self.forest.kin[above].child, node as u32);
            self.forest.kin[node].child = sibling;
        }
    }

    /// Finds other parents for orphans and what is below them, those nearest to a root first, or lets them leave.
    pub(super) fn settle_orphans<const DRAW: bool>(&mut self) {
        let mut orphans = std::mem::take(&mut self.forest.orphans);
        let mut fallen = std::mem::take(&mut self.forest.fallen);
        self.forest.search = self.forest.search.wrapping_add(1).max(1);
        orphans.reverse();
        let mut next = 0;
        while next < orphans.len() {
            let node = orphans[next] as usize;
            next += 1;
            if !self.find_parent::<DRAW>(node) {
                self.abandon_children::<DRAW>(node, &mut orphans);
                let level_ns = self.forest.base_ns[node] + self.forest.now_ns;
                self.price_ns[node] = sign::<DRAW>() * level_ns;
                self.forest.base_ns[node] = -FAR;
                self.forest.kin[node] = Kin::OUTSIDE;
                self.forest.agenda.remove(node as u32);
                fallen.push(node as u32);
            }
        }
        for &node in &fallen {
            if !self.forest.holds(node as usize) {
                self.rejoin::<DRAW>(node as usize);
            }
        }
        orphans.clear();
        fallen.clear();
        self.forest.orphans = orphans;
        self.forest.fallen = fallen;
    }

    /// Makes the children of a node orphans.
    fn abandon_children<const DRAW: bool>(&mut self, node: usize, orphans: &mut Vec<u32>) {
        let first = orphans.len();
        if self.leads::<DRAW>(node) {
            let mut child = self.forest.kin[node].child;
            while child != NOBODY {
                orphans.push(child);
                child = self.forest.kin[child as usize].child;
            }
        } else {
            let mut carrying = self.carried.first(node);
            while let Some(arc) = carrying {
                let other = self.across(node, arc);
                if self.forest.kin[other].parent == arc {
                    orphans.push(other as u32);
                }
                carrying = self.carried.after(arc, self.side(node));
            }
        }
        for &child in &orphans[first..] {
            self.forest.kin[child as usize].parent = ORPHAN;
        }
    }

    /// Gives an orphan a parent that is still connected to a root and reaches it at its present level, if there is one.
    fn find_parent<const DRAW: bool>(&mut self, node: usize) -> bool {
        if self.leads::<DRAW>(node) {
            let mut carrying = self.carried.first(node);
            while let Some(arc) = carrying {
                if self.is_rooted(self.across(node, arc)) {
                    self.adopt::<DRAW>(node, arc);
                    return true;
                }
                carrying = self.carried.after(arc, self.side(node));
            }
            return false;
        }
        let base_ns = self.forest.base_ns[node];
        for at in self.following::<DRAW>().group(self.place(node)) {
            let (other, link) = self.leader::<DRAW>(at);
            let is_tight = i64::from(link.cost_ns) + base_ns == self.forest.base_ns[other];
            if is_tight && self.is_rooted(other) {
                self.adopt::<DRAW>(node, arc_at(self.following::<DRAW>(), at));
                return true;
            }
        }
        false
    }

    /// Whether a node is connected to a root, not to an orphan. Nodes found so are marked for the rest of the search.
    fn is_rooted(&mut self, node: usize) -> bool {
        let search = self.forest.search;
        let mut top = node;
        while self.forest.kin[top].rooted != search {
            match self.forest.kin[top].parent {
                OUT | ORPHAN => return false,
                ROOT => break,
                arc => top = self.across(top, arc),
            }
        }
        let mut seen = node;
        while seen != top {
            self.forest.kin[seen].rooted = search;
            seen = self.across(seen, self.forest.kin[seen].parent);
        }
        self.forest.kin[top].rooted = search;
        true
    }

    /// Takes a node back into the forest if it is reached now, or puts the moment on the agenda when it will be.
    pub(super) fn rejoin<const DRAW: bool>(&mut self, node: usize) {
        if self.leads::<DRAW>(node) {
            let mut carrying = self.carried.first(node);
            while let Some(arc) = carrying {
                if self.forest.holds(self.across(node, arc)) {
                    self.join::<DRAW>(node, arc);
                    return self.reach::<DRAW>();
                }
                carrying = self.carried.after(arc, self.side(node));
            }
            return;
        }
        let level_ns = sign::<DRAW>() * self.price_ns[node];
        let mut first_ns = NEVER;
        for at in self.following::<DRAW>().group(self.place(node)) {
            let (other, link) = self.leader::<DRAW>(at);
            let key_ns = i64::from(link.cost_ns) + level_ns - self.forest.base_ns[other];
            if key_ns <= self.forest.now_ns {
                self.join::<DRAW>(node, arc_at(self.following::<DRAW>(), at));
                return self.reach::<DRAW>();
            }
            first_ns = first_ns.min(key_ns);
        }
        self.forest.schedule(node, first_ns);
    }
}
