//! Parents and children in the forest, and rafts: what becomes of a tree that lost its root.
//!
//! A path that uses up an arc or its root cuts off the tree behind it: a *raft*. Its prices stand still until the forest
//! has risen far enough to reach one of its nodes over an arc. Nearly always the whole raft then comes back as it
//! was, only hung up by another node, and soon, and often: where load is scarce, a node goes through this some 250
//! times. So a raft keeps its tree, and coming back is not a search: parents turn round on the way from the entry to the
//! old top, and every node takes up the level it has. Where the entry will be is the one thing to find, by looking
//! over the arcs into the raft; each node remembers how near they were at best, so most need not be looked over again.
//!
//! **Invariant**: flow never joins a node inside to one outside, except between two events of one moment. In trees this
//! follows from how nodes join; flow beside the tree (costs tie, or two roots met) is marked (`is_looped`).

use super::{FAR, Flow, Forest, NEVER, arc_at, sign};

/// Parent of a root.
pub(super) const ROOT: u32 = u32::MAX - 1;
/// Parent of a node that has none. All arc numbers are below.
pub(super) const ORPHAN: u32 = u32::MAX - 2;

/// No child, no sibling, no raft.
const NOBODY: u32 = u32::MAX;

/// A node's relatives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kin {
    /// The arc to the parent, or `ROOT` or `ORPHAN`.
    pub(super) parent: u32,
    /// The node at the other end of that arc.
    pub(super) above: u32,
    /// First child.
    child: u32,
    sibling: u32,
    /// The raft that the node is on.
    raft: u32,
    /// Whether flow joins the node to another beside the tree.
    pub(super) is_looped: bool,
    /// No later than the level at which something happens at the node, as long as it is inside.
    pub(super) next_ns: i64,
    /// Of a following node: this and its level make a moment before which no leading node reaches it, parent and
    /// children apart. It stays true: levels outside stand still, and those inside never rise faster than time.
    apart_ns: i64,
    /// When the node is on the agenda.
    pub(super) due_ns: i64,
}

/// A tree that fell off the forest.
#[derive(Clone, Debug, Default)]
pub(super) struct Raft {
    /// Its nodes, the top first; none if the raft is spare.
    crew: Vec<u32>,
    /// The node by which the forest will reach it.
    entry: u32,
}

impl Kin {
    pub(super) const OUTSIDE: Self = Self {
        parent: ORPHAN,
        above: NOBODY,
        child: NOBODY,
        sibling: NOBODY,
        raft: NOBODY,
        is_looped: false,
        next_ns: 0,
        apart_ns: -FAR,
        due_ns: NEVER,
    };

    pub(super) fn is_adrift(self) -> bool {
        self.raft != NOBODY
    }
}

impl Forest {
    /// Marks a node that its parent disowned.
    pub(super) fn orphan(&mut self, node: usize) {
        self.kin[node].parent = ORPHAN;
        self.kin[node].above = NOBODY;
        self.orphans.push(node as u32);
    }

    /// Takes a node from the children of another.
    pub(super) fn disown(&mut self, above: usize, child: usize) {
        let next = self.kin[child].sibling;
        let mut at = self.kin[above].child;
        if at == child as u32 {
            self.kin[above].child = next;
            return;
        }
        while self.kin[at as usize].sibling != child as u32 {
            at = self.kin[at as usize].sibling;
        }
        self.kin[at as usize].sibling = next;
    }

    /// Notes that a following node inside and a leading one were neighbours in the tree up to this moment.
    pub(super) fn part_inside(&mut self, following: usize) {
        self.part(following, self.base_ns[following] + self.now_ns);
    }

    /// The same of a following node at any level.
    fn part(&mut self, following: usize, level_ns: i64) {
        let apart_ns = &mut self.kin[following].apart_ns;
        *apart_ns = (*apart_ns).min(self.now_ns - level_ns);
    }

    /// Adds the children of a node to a list.
    fn list_children(&self, node: usize, list: &mut Vec<u32>) {
        let mut child = self.kin[node].child;
        while child != NOBODY {
            list.push(child);
            child = self.kin[child as usize].sibling;
        }
    }

    /// Ends the forest.
    pub(super) fn forget(&mut self) {
        let mut known = std::mem::take(&mut self.known);
        for &node in &known {
            let raft = self.kin[node as usize].raft;
            self.kin[node as usize] = Kin::OUTSIDE;
            if raft != NOBODY && !self.rafts[raft as usize].crew.is_empty() {
                self.scuttle(raft);
            }
        }
        known.clear();
        self.known = known;
    }

    /// Makes a raft spare.
    fn scuttle(&mut self, raft: u32) {
        self.rafts[raft as usize].crew.clear();
        self.spare.push(raft);
    }
}

impl Flow {
    /// Makes a node a child over an arc, or a root.
    pub(super) fn adopt<const DRAW: bool>(&mut self, node: usize, parent: u32) {
        self.forest.kin[node].parent = parent;
        if parent < ORPHAN {
            let above = self.across(node, parent);
            self.forest.kin[node].above = above as u32;
            let sibling = std::mem::replace(&mut self.forest.kin[above].child, node as u32);
            self.forest.kin[node].sibling = sibling;
        }
    }

    /// Lets orphans and what is below them drift until the forest reaches them again.
    pub(super) fn settle_orphans<const DRAW: bool>(&mut self) {
        let mut orphans = std::mem::take(&mut self.forest.orphans);
        for orphan in &mut orphans {
            *orphan = self.cast_off::<DRAW>(*orphan);
        }
        if self.forest.roots > 0 {
            for &raft in &orphans {
                self.launch::<DRAW>(raft);
            }
        }
        orphans.clear();
        self.forest.orphans = orphans;
    }

    /// Takes the tree below a node out of the forest as one raft.
    fn cast_off<const DRAW: bool>(&mut self, top: u32) -> u32 {
        let raft = self.forest.spare.pop().unwrap_or_else(|| {
            self.forest.rafts.push(Raft::default());
            self.forest.rafts.len() as u32 - 1
        });
        let mut crew = std::mem::take(&mut self.forest.rafts[raft as usize].crew);
        crew.push(top);
        let mut next = 0;
        while let Some(&node) = crew.get(next) {
            next += 1;
            let node = node as usize;
            let level_ns = self.forest.base_ns[node] + self.forest.now_ns;
            self.price_ns[node] = sign::<DRAW>() * level_ns;
            self.forest.base_ns[node] = -FAR;
            self.forest.kin[node].raft = raft;
            self.forest.list_children(node, &mut crew);
        }
        self.forest.rafts[raft as usize].crew = crew;
        raft
    }

    /// Finds where and when the forest reaches a raft first.
    fn launch<const DRAW: bool>(&mut self, raft: u32) {
        let crew = std::mem::take(&mut self.forest.rafts[raft as usize].crew);
        let mut shore = std::mem::take(&mut self.forest.shore);
        let top = crew[0];
        // Half of a raft leads, and of these only what is looped can be an entry: one look at each node sorts them out.
        let (mut likely_ns, mut likely) = (NEVER, usize::MAX);
        for &node in &crew {
            let kin = &self.forest.kin[node as usize];
            if !self.leads::<DRAW>(node as usize) {
                let least_ns = kin.apart_ns + sign::<DRAW>() * self.price_ns[node as usize];
                if least_ns < likely_ns {
                    (likely_ns, likely) = (least_ns, shore.len());
                }
                shore.push((least_ns, node));
            } else if kin.is_looped {
                shore.push((-FAR, node));
            }
        }
        let (mut first_ns, mut entry) = (NEVER, top);
        // The likeliest entry is looked at first: it spares most others.
        if let Some(&(_, node)) = shore.get(likely) {
            let key_ns = self.reached_ns::<DRAW>(node as usize, raft);
            if key_ns < first_ns {
                (first_ns, entry) = (key_ns, node);
            }
            shore[likely].0 = NEVER;
        }
        for &(least_ns, node) in &shore {
            if least_ns >= first_ns {
                continue;
            }
            let key_ns = self.reached_ns::<DRAW>(node as usize, raft);
            if key_ns < first_ns {
                (first_ns, entry) = (key_ns, node);
            }
        }
        shore.clear();
        self.forest.shore = shore;
        self.forest.rafts[raft as usize] = Raft { crew, entry };
        self.forest.schedule(top as usize, first_ns);
    }

    /// When the forest reaches a node of a raft. Leading nodes of other rafts take note of it: they may be back before
    /// it is.
    fn reached_ns<const DRAW: bool>(&mut self, node: usize, raft: u32) -> i64 {
        if self.leads::<DRAW>(node) {
            let is_reached =
                self.forest.kin[node].is_looped && self.carrying_inside(node).is_some();
            return if is_reached {
                self.forest.now_ns
            } else {
                NEVER
            };
        }
        let level_ns = sign::<DRAW>() * self.price_ns[node];
        self.forest.scans += 1;
        let place = self.place(node);
        let shift = if DRAW { self.nodes() } else { 0 };
        let Flow {
            arcs,
            forest,
            price_ns,
            ..
        } = self;
        let side = if DRAW { &arcs.rows } else { &arcs.cols };
        let above = forest.kin[node].above;
        let (mut inside_ns, mut outside_ns) = (NEVER, NEVER);
        for link in &side.link[side.group(place)] {
            let (other, cost_ns) = (link.node as usize + shift, i64::from(link.cost_ns));
            let base_ns = forest.base_ns[other];
            if base_ns != -FAR {
                inside_ns = inside_ns.min(cost_ns - base_ns);
                continue;
            }
            let kin = &mut forest.kin[other];
            if other as u32 == above || kin.above == node as u32 {
                continue;
            }
            if kin.raft != raft {
                kin.next_ns = kin.next_ns.min(cost_ns + level_ns);
            }
            let base_ns = sign::<DRAW>() * price_ns[other] - forest.now_ns;
            outside_ns = outside_ns.min(cost_ns - base_ns);
        }
        self.forest.kin[node].apart_ns = inside_ns.min(outside_ns);
        level_ns + inside_ns
    }

    /// A node outside is due. With the top of a raft, the raft comes back if it is reached indeed; any other node is due
    /// no earlier than its raft.
    pub(super) fn come_back<const DRAW: bool>(&mut self, top: usize) {
        let raft = self.forest.kin[top].raft;
        let first = self.forest.rafts[raft as usize].crew[0] as usize;
        if first != top {
            let raft_ns = self.forest.kin[first].due_ns;
            let level_ns = sign::<DRAW>() * self.price_ns[top];
            let key_ns = self.forest.kin[top].next_ns - level_ns + raft_ns;
            let least_ns = raft_ns.max(self.forest.now_ns + 1);
            return self.forest.schedule(top, key_ns.max(least_ns));
        }
        let entry = self.forest.rafts[raft as usize].entry as usize;
        match self.parent_now::<DRAW>(entry) {
            Some(arc) => {
                self.rehang::<DRAW>(entry, arc);
                self.reach::<DRAW>();
            }
            None => self.launch::<DRAW>(raft),
        }
    }

    /// An arc with flow that joins a node to one inside.
    fn carrying_inside(&self, node: usize) -> Option<u32> {
        let mut carrying = self.carried.first(node);
        while let Some(arc) = carrying {
            if self.forest.holds(self.across(node, arc)) {
                return Some(arc);
            }
            carrying = self.carried.after(arc, self.side(node));
        }
        None
    }

    /// An arc over which the forest reaches a node outside now.
    fn parent_now<const DRAW: bool>(&self, node: usize) -> Option<u32> {
        if self.leads::<DRAW>(node) {
            return self.carrying_inside(node);
        }
        let level_ns = sign::<DRAW>() * self.price_ns[node];
        let mut group = self.following::<DRAW>().group(self.place(node));
        let tight = group.find(|&at| {
            let (other, link) = self.leader::<DRAW>(at);
            i64::from(link.cost_ns) + level_ns - self.forest.base_ns[other] <= self.forest.now_ns
        });
        tight.map(|at| arc_at(self.following::<DRAW>(), at))
    }

    /// Takes a node of a raft back into the forest, with all of the raft that can be reached from it.
    pub(super) fn rehang<const DRAW: bool>(&mut self, entry: usize, parent: u32) {
        let raft = self.forest.kin[entry].raft;
        let (mut node, mut arc) = (entry, parent);
        let is_whole = loop {
            let old = self.forest.kin[node].parent;
            if old >= ORPHAN {
                self.adopt::<DRAW>(node, arc);
                break true;
            }
            let above = self.forest.kin[node].above as usize;
            self.forest.disown(above, node);
            self.adopt::<DRAW>(node, arc);
            if !self.leads::<DRAW>(node) && self.carried.get(old) == 0 {
                // The old parent can only be reached against the arc if it carries.
                let level_ns = sign::<DRAW>() * self.price_ns[node];
                self.forest.part(node, level_ns);
                break false;
            }
            (node, arc) = (above, old);
        };
        let mut crew = std::mem::take(&mut self.forest.rafts[raft as usize].crew);
        self.forest.schedule(crew[0] as usize, NEVER);
        if is_whole {
            for &node in &crew {
                self.board::<DRAW>(node as usize);
            }
            self.forest.rafts[raft as usize].crew = crew;
            self.forest.scuttle(raft);
        } else {
            self.board_from::<DRAW>(entry, raft);
            crew.retain(|&node| self.forest.kin[node as usize].raft == raft);
            let is_empty = crew.is_empty();
            self.forest.rafts[raft as usize].crew = crew;
            if is_empty {
                self.forest.scuttle(raft);
            } else {
                self.launch::<DRAW>(raft);
            }
        }
    }

    /// Takes one node of a raft back into the forest at the level it has.
    fn board<const DRAW: bool>(&mut self, node: usize) {
        self.forest.kin[node].raft = NOBODY;
        let base_ns = sign::<DRAW>() * self.price_ns[node] - self.forest.now_ns;
        self.forest.base_ns[node] = base_ns;
        if !self.leads::<DRAW>(node) {
            self.price_ns[node] = sign::<DRAW>() * FAR;
            if self.forest.kin[node].is_looped {
                self.forest.joined.push(node as u32);
            }
        }
        let key_ns = self.forest.kin[node].next_ns - base_ns;
        self.forest.hasten(node, key_ns);
    }

    /// Takes back what is below a node of a raft.
    fn board_from<const DRAW: bool>(&mut self, entry: usize, raft: u32) {
        let mut list = vec![entry as u32];
        self.board::<DRAW>(entry);
        while let Some(node) = list.pop() {
            let node = node as usize;
            let first = list.len();
            self.forest.list_children(node, &mut list);
            for &child in &list[first..] {
                self.board::<DRAW>(child as usize);
            }
            if self.leads::<DRAW>(node) {
                continue;
            }
            // Where costs tie, flow can join what the tree does not.
            let mut carrying = self.carried.first(node);
            while let Some(arc) = carrying {
                let other = self.across(node, arc);
                if self.forest.kin[other].raft == raft {
                    let old = self.forest.kin[other].parent;
                    if old < ORPHAN {
                        let above = self.forest.kin[other].above as usize;
                        let level_ns = sign::<DRAW>() * self.price_ns[above];
                        self.forest.part(above, level_ns);
                        self.forest.disown(above, other);
                        self.forest.kin[other].is_looped = true;
                        self.forest.kin[above].is_looped = true;
                    }
                    self.adopt::<DRAW>(other, arc);
                    self.board::<DRAW>(other);
                    list.push(other as u32);
                }
                carrying = self.carried.after(arc, self.side(node));
            }
        }
    }
}
