//! Balancing: all excess at once is sent along paths of reduced cost zero, and where none is left, prices rise.
//!
//! A forest grows from the nodes with excess (the roots) over all nodes they can reach by residual arcs of reduced cost
//! zero. The prices of the forest's nodes rise together, by `now_ns` since the start; all others stand still. So exactly
//! these things can happen next, and an agenda knows which is first:
//!
//! - an arc out of the forest becomes as cheap as the prices at its ends say: its head joins;
//! - a facility of the forest reaches the price of its next segment, or a supply that of the exit: flow is sent there
//!   from the root. It may end because the segment is full (the facility waits for its next one), because the root has
//!   no excess left (its tree falls apart), or because an arc of the path lost all its flow (the subtree behind it
//!   falls off, see [`kin`]).
//!
//! This is the primal-dual method with all sources at once (Ford and Fulkerson 1962; the growing forest as in Kuhn's
//! Hungarian method): the same optimum as successive shortest paths, but the forest outlives the single path.
//!
//! Deficits are drawn from the sink by the mirrored method: facilities and supplies change places, prices fall. One code
//! does both (`DRAW`); it speaks of the *leading* side (supplies when sending, facilities when drawing), whose nodes reach
//! over all their arcs when these become tight, and the *following* side, whose nodes reach over the arcs with flow only,
//! and those are tight already. *Level* is the price when sending, minus the price when drawing: levels always rise.

mod kin;

use super::Flow;
use super::agenda::Agenda;
use super::arcs::{Incidence, Link};
use kin::{Kin, ORPHAN, ROOT, Raft};

/// Level of a following node while it is in the forest: no arc into it becomes tight.
const FAR: i64 = 1 << 60;
/// No event at or beyond this level.
const NEVER: i64 = 1 << 59;

/// Roots of one forest; if there are more, forests follow each other. Where neighbours have near numbers, a forest
/// then works on one district at a time, which stays in the cache.
const ROOTS_MAX: usize = 512;

/// The forest and its working memory, kept between solves. Supplies are nodes 0..n, facilities n..2n; all are outside
/// between solves.
#[derive(Clone, Debug)]
pub(super) struct Forest {
    /// Level − `now_ns` of each node inside; `-FAR` outside.
    base_ns: Vec<i64>,
    kin: Vec<Kin>,
    pub(super) agenda: Agenda,
    /// Nodes that joined and have not reached out yet.
    joined: Vec<u32>,
    /// Nodes that joined since the forest began.
    known: Vec<u32>,
    /// Nodes that lost their parent.
    orphans: Vec<u32>,
    /// Trees that fell off and may come back, by number.
    rafts: Vec<Raft>,
    /// Rafts without crew.
    spare: Vec<u32>,
    /// Of the raft being launched: nodes by which it may be reached, each after a moment before which it is not.
    shore: Vec<(i64, u32)>,
    now_ns: i64,
    roots: usize,
    augmentations: u64,
    scans: u64,
    scans_max: u64,
}

impl Forest {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            base_ns: vec![-FAR; 2 * nodes],
            kin: vec![Kin::OUTSIDE; 2 * nodes],
            agenda: Agenda::new(2 * nodes),
            joined: Vec::new(),
            known: Vec::new(),
            orphans: Vec::new(),
            rafts: Vec::new(),
            spare: Vec::new(),
            shore: Vec::new(),
            now_ns: 0,
            roots: 0,
            augmentations: 0,
            scans: 0,
            scans_max: u64::MAX,
        }
    }

    /// A solve begins that may take so many scans.
    pub(super) fn begin(&mut self, scans_max: u64) {
        (self.augmentations, self.scans) = (0, 0);
        self.scans_max = scans_max;
    }

    fn is_spent(&self) -> bool {
        self.scans >= self.scans_max
    }

    pub(super) fn counts(&self) -> (u64, u64) {
        (self.augmentations, self.scans)
    }

    fn holds(&self, node: usize) -> bool {
        self.base_ns[node] != -FAR
    }

    /// Sets when something happens at a node next.
    fn schedule(&mut self, node: usize, key_ns: i64) {
        let due_ns = key_ns.clamp(self.now_ns, NEVER);
        let before_ns = std::mem::replace(&mut self.kin[node].due_ns, due_ns);
        if due_ns < NEVER {
            self.agenda.set(node as u32, due_ns);
        } else if before_ns < NEVER {
            self.agenda.remove(node as u32);
        }
    }

    /// Sets when something happens at a node next, unless it is due earlier.
    fn hasten(&mut self, node: usize, key_ns: i64) {
        if key_ns < self.kin[node].due_ns {
            self.schedule(node, key_ns);
        }
    }
}

impl Flow {
    /// Sends the excess of the given nodes to the sink or to deficits, or, with `DRAW`, draws their deficits from the
    /// sink. Nodes without any are passed over, and so are all when the effort is spent.
    pub(super) fn balance<const DRAW: bool>(&mut self, nodes: &[u32]) {
        for roots in nodes.chunks(ROOTS_MAX) {
            if self.forest.is_spent() {
                return;
            }
            self.grow_from::<DRAW>(roots);
        }
    }

    /// Grows one forest until all its roots are balanced, or the effort is spent.
    fn grow_from<const DRAW: bool>(&mut self, nodes: &[u32]) {
        self.forest.agenda.clear();
        self.forest.now_ns = 0;
        self.forest.roots = 0;
        for &node in nodes {
            if sign::<DRAW>() * self.excess_mrps[node as usize] > 0 {
                self.forest.roots += 1;
                self.join::<DRAW>(node as usize, ROOT);
            }
        }
        self.reach::<DRAW>();
        while self.forest.roots > 0 {
            // Excess can always leave by the exit and deficits have load to draw from, so there is always an event.
            let Some((key_ns, node)) = self.forest.agenda.first() else {
                break;
            };
            if self.forest.is_spent() {
                self.fell::<DRAW>(nodes);
                break;
            }
            self.forest.now_ns = key_ns;
            self.happen::<DRAW>(node as usize);
        }
        self.forest.forget();
    }

    /// Takes the whole forest down between two events: all its nodes keep the prices they have reached.
    fn fell<const DRAW: bool>(&mut self, nodes: &[u32]) {
        for &node in nodes {
            let root = node as usize;
            if self.forest.holds(root) && self.forest.kin[root].parent == ROOT {
                self.forest.orphan(root);
            }
        }
        self.forest.roots = 0;
        self.settle_orphans::<DRAW>();
    }

    /// What a node waited for is due: send what it can take now and reach out again, or, outside the forest, join.
    fn happen<const DRAW: bool>(&mut self, node: usize) {
        if !self.forest.holds(node) {
            return self.come_back::<DRAW>(node);
        }
        while self.forest.holds(node) {
            let (level_ns, room_mrps) = self.outlet::<DRAW>(node);
            if level_ns - self.forest.base_ns[node] > self.forest.now_ns {
                self.forest.joined.push(node as u32);
                break;
            }
            self.augment::<DRAW>(node, room_mrps);
        }
        self.reach::<DRAW>();
    }

    /// Takes a node into the forest at its present level.
    fn join<const DRAW: bool>(&mut self, node: usize, parent: u32) {
        if self.forest.kin[node].is_adrift() {
            return self.rehang::<DRAW>(node, parent);
        }
        self.forest.known.push(node as u32);
        let level_ns = sign::<DRAW>() * self.price_ns[node];
        self.forest.base_ns[node] = level_ns - self.forest.now_ns;
        self.forest.kin[node] = Kin::OUTSIDE;
        self.adopt::<DRAW>(node, parent);
        if !self.leads::<DRAW>(node) {
            self.price_ns[node] = sign::<DRAW>() * FAR;
        }
        self.forest.joined.push(node as u32);
    }

    /// Takes in all that the nodes that joined can reach now, and schedules what they can reach later.
    fn reach<const DRAW: bool>(&mut self) {
        // First come, first served: so paths stay short where many arcs are tight at once.
        let mut next = 0;
        while let Some(&node) = self.forest.joined.get(next) {
            next += 1;
            self.forest.scans += 1;
            let node = node as usize;
            let (outlet_ns, _) = self.outlet::<DRAW>(node);
            let level_ns = if self.leads::<DRAW>(node) {
                self.reach_tight::<DRAW>(node).min(outlet_ns)
            } else {
                self.reach_carrying::<DRAW>(node);
                outlet_ns
            };
            self.forest.kin[node].next_ns = level_ns;
            let key_ns = level_ns - self.forest.base_ns[node];
            self.forest.schedule(node, key_ns);
        }
        self.forest.joined.clear();
    }

    /// Takes in the following nodes over tight arcs; returns the level at which the next arc becomes tight.
    fn reach_tight<const DRAW: bool>(&mut self, node: usize) -> i64 {
        let now_level_ns = self.forest.base_ns[node] + self.forest.now_ns;
        let mut nearest_ns = FAR;
        for at in self.leading::<DRAW>().group(self.place(node)) {
            let (other, link) = self.follower::<DRAW>(at);
            let level_ns = i64::from(link.cost_ns) + sign::<DRAW>() * self.price_ns[other];
            if level_ns <= now_level_ns {
                self.join::<DRAW>(other, arc_at(self.leading::<DRAW>(), at));
            } else {
                nearest_ns = nearest_ns.min(level_ns);
            }
        }
        nearest_ns
    }

    /// Takes in the leading nodes whose flow to this following node can be taken back.
    fn reach_carrying<const DRAW: bool>(&mut self, node: usize) {
        let mut carrying = self.carried.first(node);
        while let Some(arc) = carrying {
            let other = self.across(node, arc);
            if !self.forest.holds(other) {
                self.join::<DRAW>(other, arc);
            } else if self.forest.kin[other].parent != arc && self.forest.kin[node].parent != arc {
                self.forest.kin[other].is_looped = true;
                self.forest.kin[node].is_looped = true;
            }
            carrying = self.carried.after(arc, self.side(node));
        }
    }

    /// The level at which flow can leave the network here, and how much.
    fn outlet<const DRAW: bool>(&self, node: usize) -> (i64, i64) {
        let opposite_mrps = -sign::<DRAW>() * self.excess_mrps[node];
        if opposite_mrps > 0 {
            return (-FAR, opposite_mrps);
        }
        let place = self.place(node);
        let step = match (self.is_supply(node), DRAW) {
            (true, false) => return (self.exit_ns, i64::MAX),
            (true, true) if self.exit_mrps[node] > 0 => {
                return (-self.exit_ns, self.exit_mrps[node]);
            }
            (true, true) => None,
            (false, false) => self.curve.room(self.facility[place], self.load_at(place)),
            (false, true) => self.curve.held(self.facility[place], self.load_at(place)),
        };
        step.map_or((FAR, 0), |step| (sign::<DRAW>() * step.slope_ns, step.mrps))
    }

    /// Sends flow from the root of a node to the node and out of the network there: as much as root, path and
    /// `room_mrps` allow. What it uses up falls off the forest.
    fn augment<const DRAW: bool>(&mut self, node: usize, room_mrps: i64) {
        self.forest.augmentations += 1;
        let (mut root, mut sent_mrps) = (node, room_mrps);
        while let Some((arc, parent)) = self.parent(root) {
            if self.leads::<DRAW>(root) {
                sent_mrps = sent_mrps.min(self.carried.get(arc));
            }
            root = parent;
        }
        sent_mrps = sent_mrps.min(sign::<DRAW>() * self.excess_mrps[root]);

        self.leave::<DRAW>(node, sent_mrps);
        let mut at = node;
        while let Some((arc, parent)) = self.parent(at) {
            self.touched.mark(at.min(parent) as u32);
            if !self.leads::<DRAW>(at) {
                self.carried.add(&self.arcs, arc, sent_mrps);
            } else if self.carried.add(&self.arcs, arc, -sent_mrps) == 0 {
                self.forest.disown(parent, at);
                self.forest.part_inside(parent);
                self.forest.orphan(at);
            }
            at = parent;
        }
        self.excess_mrps[root] -= sign::<DRAW>() * sent_mrps;
        if self.excess_mrps[root] == 0 {
            self.forest.roots -= 1;
            self.forest.orphan(root);
        }
        self.settle_orphans::<DRAW>();
    }

    /// Lets flow out of the network.
    fn leave<const DRAW: bool>(&mut self, node: usize, mrps: i64) {
        if -sign::<DRAW>() * self.excess_mrps[node] > 0 {
            self.excess_mrps[node] += sign::<DRAW>() * mrps;
        } else if self.is_supply(node) {
            self.touched.mark(node as u32);
            self.exit_mrps[node] += sign::<DRAW>() * mrps;
        } else {
            let place = self.place(node);
            self.served_mrps[place] += sign::<DRAW>() * mrps;
        }
    }

    fn load_at(&self, place: usize) -> i64 {
        self.facility[place].fixed_mrps + self.served_mrps[place]
    }

    /// The arc to a node's parent and the parent; none for a root.
    pub(super) fn parent(&self, node: usize) -> Option<(u32, usize)> {
        let arc = self.forest.kin[node].parent;
        (arc < ORPHAN).then(|| (arc, self.forest.kin[node].above as usize))
    }

    /// The other end of an arc.
    fn across(&self, node: usize, arc: u32) -> usize {
        if self.is_supply(node) {
            self.nodes() + self.arcs.head(arc)
        } else {
            self.arcs.tail(arc)
        }
    }

    pub(super) fn is_supply(&self, node: usize) -> bool {
        node < self.nodes()
    }

    /// 0 for a supply, 1 for a facility: which chain of carrying arcs is its own.
    fn side(&self, node: usize) -> usize {
        usize::from(!self.is_supply(node))
    }

    fn leads<const DRAW: bool>(&self, node: usize) -> bool {
        self.is_supply(node) != DRAW
    }

    /// Number of the mesh node whose supply or facility this is.
    fn place(&self, node: usize) -> usize {
        if self.is_supply(node) {
            node
        } else {
            node - self.nodes()
        }
    }

    /// Arcs grouped by their leading end.
    fn leading<const DRAW: bool>(&self) -> &Incidence {
        if DRAW {
            &self.arcs.cols
        } else {
            &self.arcs.rows
        }
    }

    /// Arcs grouped by their following end.
    fn following<const DRAW: bool>(&self) -> &Incidence {
        if DRAW {
            &self.arcs.rows
        } else {
            &self.arcs.cols
        }
    }

    /// The following end of a link of `leading`.
    fn follower<const DRAW: bool>(&self, at: usize) -> (usize, Link) {
        let link = self.leading::<DRAW>().link[at];
        (
            link.node as usize + if DRAW { 0 } else { self.nodes() },
            link,
        )
    }

    /// The leading end of a link of `following`.
    fn leader<const DRAW: bool>(&self, at: usize) -> (usize, Link) {
        let link = self.following::<DRAW>().link[at];
        (
            link.node as usize + if DRAW { self.nodes() } else { 0 },
            link,
        )
    }
}

/// Arc number of a link: its own place in rows, listed in columns.
fn arc_at(side: &Incidence, at: usize) -> u32 {
    side.arc.get(at).copied().unwrap_or(at as u32)
}

/// What turns prices into levels and excess into what roots have.
const fn sign<const DRAW: bool>() -> i64 {
    if DRAW { -1 } else { 1 }
}
