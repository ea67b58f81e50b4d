//! Who may serve whom: arcs from supplies to facilities, stored by row and by column.

use super::FlowError;

/// Most nodes of one problem.
pub const NODES_MAX: usize = 1 << 22;

/// Most arcs of one problem, home arcs included.
pub const ARCS_MAX: usize = 1 << 30;

/// Largest cost of one arc, in nanoseconds (4.29 s). Larger and negative inputs are clamped to the range.
pub const ARC_COST_NS_MAX: i64 = u32::MAX as i64;

/// The arcs of a problem. Arc numbers run through the rows; the first arc of every row is the home arc, cost 0.
#[derive(Clone, Debug)]
pub struct Arcs {
    pub(super) rows: Incidence,
    pub(super) cols: Incidence,
    /// Row of each arc.
    pub(super) tail: Vec<u32>,
    /// Place of each arc in `cols`.
    place: Vec<u32>,
}

/// Arcs grouped by one of their ends: the group of node i is `start[i]..start[i + 1]`.
#[derive(Clone, Debug, Default)]
pub(super) struct Incidence {
    pub(super) start: Vec<u32>,
    pub(super) link: Vec<Link>,
    /// Arc number of each link; empty in rows, where it is the place itself.
    pub(super) arc: Vec<u32>,
}

/// The other end of an arc and what it costs to cross. Eight bytes, so that a row of eight is one or two cache lines.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    pub(super) node: u32,
    pub(super) cost_ns: u32,
}

impl Arcs {
    /// Makes the arcs of `neighbours.len()` nodes; `neighbours[i]` lists (node, cost in ns) that may serve load of i.
    /// Costs are clamped to 0..=[`ARC_COST_NS_MAX`]. Home arcs are added.
    ///
    /// # Errors
    /// [`FlowError::TooLarge`] beyond [`NODES_MAX`] or [`ARCS_MAX`]; [`FlowError::ArcRange`], [`FlowError::ArcSelf`] or
    /// [`FlowError::ArcTwice`] for an arc to no node, to its own node, or listed twice.
    pub fn new(neighbours: &[Vec<(u32, i64)>]) -> Result<Self, FlowError> {
        let nodes = neighbours.len();
        let arcs = nodes + neighbours.iter().map(Vec::len).sum::<usize>();
        if nodes > NODES_MAX || arcs > ARCS_MAX {
            return Err(FlowError::TooLarge { nodes, arcs });
        }
        let mut rows = Incidence::default();
        let mut tail = Vec::with_capacity(arcs);
        let mut listed_by = vec![u32::MAX; nodes];
        rows.link.reserve_exact(arcs);
        rows.start.push(0);
        for (from, list) in (0_u32..).zip(neighbours) {
            rows.link.push(Link {
                node: from,
                cost_ns: 0,
            });
            for &(to, cost_ns) in list {
                let seen = listed_by
                    .get_mut(to as usize)
                    .ok_or(FlowError::ArcRange { from, to })?;
                if to == from {
                    return Err(FlowError::ArcSelf { node: from });
                }
                if std::mem::replace(seen, from) == from {
                    return Err(FlowError::ArcTwice { from, to });
                }
                rows.link.push(Link {
                    node: to,
                    cost_ns: clamp_cost(cost_ns),
                });
            }
            tail.resize(rows.link.len(), from);
            rows.start.push(rows.link.len() as u32);
        }
        let (cols, place) = transpose(&rows, &tail);
        Ok(Self {
            rows,
            cols,
            tail,
            place,
        })
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.rows.start.len() - 1
    }

    /// Number of arcs, home arcs included.
    pub fn len(&self) -> usize {
        self.tail.len()
    }

    /// Whether there is no node at all.
    pub fn is_empty(&self) -> bool {
        self.tail.is_empty()
    }

    /// Sets the cost on both sides.
    pub(super) fn set_cost(&mut self, arc: u32, cost_ns: i64) {
        let cost_ns = clamp_cost(cost_ns);
        self.rows.link[arc as usize].cost_ns = cost_ns;
        self.cols.link[self.place[arc as usize] as usize].cost_ns = cost_ns;
    }

    pub(super) fn head(&self, arc: u32) -> usize {
        self.rows.link[arc as usize].node as usize
    }

    pub(super) fn tail(&self, arc: u32) -> usize {
        self.tail[arc as usize] as usize
    }

    pub(super) fn cost_ns(&self, arc: u32) -> i64 {
        i64::from(self.rows.link[arc as usize].cost_ns)
    }
}

impl Incidence {
    pub(super) fn group(&self, node: usize) -> std::ops::Range<usize> {
        self.start[node] as usize..self.start[node + 1] as usize
    }
}

/// Groups the same arcs by head, in order of arc number; also each arc's place there.
fn transpose(rows: &Incidence, tail: &[u32]) -> (Incidence, Vec<u32>) {
    let mut start = vec![0_u32; rows.start.len()];
    for link in &rows.link {
        start[link.node as usize + 1] += 1;
    }
    for node in 1..start.len() {
        start[node] += start[node - 1];
    }
    let mut next = start.clone();
    let mut cols = Incidence {
        start,
        link: vec![Link::default(); tail.len()],
        arc: vec![0; tail.len()],
    };
    let mut place = Vec::with_capacity(tail.len());
    for ((arc, link), &from) in (0_u32..).zip(&rows.link).zip(tail) {
        let at = next[link.node as usize];
        next[link.node as usize] += 1;
        cols.link[at as usize] = Link {
            node: from,
            cost_ns: link.cost_ns,
        };
        cols.arc[at as usize] = arc;
        place.push(at);
    }
    (cols, place)
}

fn clamp_cost(cost_ns: i64) -> u32 {
    cost_ns.clamp(0, ARC_COST_NS_MAX) as u32
}
