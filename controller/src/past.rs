//! The last hour, coarsely: what the map showed, so that who opens it later sees where things come from.
//!
//! A picture every [`PERIODS`] control periods is kept in columns of half the width, names and places once for all pictures that
//! share them. What is kept is an hour and [`BYTES_MAX`], whichever is less: beyond, of the older half every second picture
//! goes, so that what is long ago becomes coarse before it is forgotten.
//!
//! **Invariant**: pictures stand in the order of their times, and together hold at most [`BYTES_MAX`] and the newest one.

use std::collections::VecDeque;
use std::sync::Arc;

use isobar_mesh_api::names::{NodeId, RegionName, SiteName};
use isobar_mesh_api::snapshot::PlanId;
use serde::Serialize;

use crate::control_loop::Presence;
use crate::picture::{Arcs, Nodes, Picture, ServiceSums};

/// Control periods from one picture that is kept to the next.
pub const PERIODS: u32 = 15;
/// How far back it goes, in milliseconds.
pub const SPAN_MS: u64 = 3_600_000;
/// What all of it holds at most, in bytes.
pub const BYTES_MAX: usize = 8 << 20;
/// Arcs that are kept of a picture, those that carry most.
pub const ARCS_MAX: usize = 2_000;
/// Services that are kept of a picture, the first by name.
pub const SERVICES_MAX: usize = 256;

/// What is kept of the past.
#[derive(Debug, Default)]
pub struct Past {
    kept: VecDeque<Arc<Kept>>,
}

/// A picture of the past.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PastPicture {
    /// When it was so, milliseconds since 1970.
    pub at_ms: u64,
    /// How it was.
    #[serde(flatten)]
    pub picture: Picture,
}

/// One picture as it is kept.
#[derive(Debug)]
pub struct Kept {
    at_ms: u64,
    plan: PlanId,
    period_ms: u64,
    ground: Arc<Ground>,
    nodes: Vec<Node>,
    nodes_left_out: usize,
    arcs: Vec<(u32, u32, f32)>,
    arcs_left_out: usize,
    services: Vec<ServiceSums>,
}

/// What does not change from one picture to the next.
#[derive(Debug, PartialEq)]
struct Ground {
    node: Vec<NodeId>,
    lat_deg: Vec<Option<f64>>,
    lon_deg: Vec<Option<f64>>,
    site: Vec<Option<SiteName>>,
    region: Vec<Option<RegionName>>,
}

/// What changes of a node.
#[derive(Debug, Clone, Copy)]
struct Node {
    presence: Presence,
    cordoned: bool,
    drained: bool,
    age_ms: Option<u32>,
    cpu_ratio: Option<f32>,
    /// Demand, capacity, load, moved in, moved out, shed.
    rps: [f32; 6],
}

impl Past {
    /// Keeps a picture of all services.
    pub fn add(&mut self, at_ms: u64, picture: Picture) {
        let before = self.kept.back().map(|kept| &kept.ground);
        let kept = Kept::new(at_ms, picture, before);
        self.kept.push_back(Arc::new(kept));
        let oldest_ms = at_ms.saturating_sub(SPAN_MS);
        while self.kept.front().is_some_and(|kept| kept.at_ms < oldest_ms) {
            self.kept.pop_front();
        }
        while self.bytes() > BYTES_MAX && self.kept.len() > 1 {
            self.thin();
        }
    }

    /// What all of it holds. Pictures that share names and places stand side by side; whichever of them go, these are counted once.
    fn bytes(&self) -> usize {
        let mut before = None;
        let each = self.kept.iter().map(|kept| {
            let is_same = before.is_some_and(|before| Arc::ptr_eq(before, &kept.ground));
            before = Some(&kept.ground);
            kept.len() + if is_same { 0 } else { kept.ground.len() }
        });
        each.sum()
    }

    /// The newest pictures from before a time, at most so many, the newest first.
    pub fn before(&self, at_ms: u64, count: usize) -> Vec<Arc<Kept>> {
        let older = self.kept.iter().rev().filter(|kept| kept.at_ms < at_ms);
        older.take(count).cloned().collect()
    }

    /// Of the older half every second picture goes; at least one.
    fn thin(&mut self) {
        let half = (self.kept.len() / 2).max(1);
        let mut at = 0;
        self.kept.retain(|_| {
            at += 1;
            at > half || at % 2 == 0
        });
    }
}

impl Kept {
    fn new(at_ms: u64, picture: Picture, before: Option<&Arc<Ground>>) -> Kept {
        let Picture {
            plan,
            period_ms,
            nodes,
            arcs,
            mut services,
            ..
        } = picture;
        services.truncate(SERVICES_MAX);
        let kept = changing(&nodes);
        let left_out = nodes.left_out;
        let ground = Ground {
            node: nodes.node,
            lat_deg: nodes.lat_deg,
            lon_deg: nodes.lon_deg,
            site: nodes.site,
            region: nodes.region,
        };
        let same = before.filter(|before| ***before == ground);
        let (flows, more) = strongest(&arcs);
        Kept {
            at_ms,
            plan,
            period_ms,
            ground: same.cloned().unwrap_or_else(|| Arc::new(ground)),
            nodes: kept,
            nodes_left_out: left_out,
            arcs: flows,
            arcs_left_out: arcs.left_out + more,
            services,
        }
    }

    /// About what it holds besides names and places, in bytes.
    fn len(&self) -> usize {
        size_of::<Kept>()
            + size_of_val(self.nodes.as_slice())
            + size_of_val(self.arcs.as_slice())
            + self.services.len() * (size_of::<ServiceSums>() + 64)
    }

    /// The picture that it was, rates to about seven digits.
    pub fn picture(&self) -> PastPicture {
        let each = |rate: usize| self.nodes.iter().map(|n| wide(n.rps[rate])).collect();
        let ground = &self.ground;
        let nodes = Nodes {
            node: ground.node.clone(),
            lat_deg: ground.lat_deg.clone(),
            lon_deg: ground.lon_deg.clone(),
            site: ground.site.clone(),
            region: ground.region.clone(),
            presence: self.nodes.iter().map(|n| n.presence).collect(),
            age_ms: self.nodes.iter().map(|n| n.age_ms.map(u64::from)).collect(),
            cordoned: self.nodes.iter().map(|n| n.cordoned).collect(),
            drained: self.nodes.iter().map(|n| n.drained).collect(),
            cpu_ratio: self.nodes.iter().map(|n| n.cpu_ratio.map(wide)).collect(),
            demand_rps: each(0),
            capacity_rps: each(1),
            load_rps: each(2),
            moved_in_rps: each(3),
            moved_out_rps: each(4),
            shed_rps: each(5),
            left_out: self.nodes_left_out,
        };
        let arcs = Arcs {
            from: self.arcs.iter().map(|arc| arc.0).collect(),
            to: self.arcs.iter().map(|arc| arc.1).collect(),
            rps: self.arcs.iter().map(|arc| wide(arc.2)).collect(),
            left_out: self.arcs_left_out,
        };
        PastPicture {
            at_ms: self.at_ms,
            picture: Picture {
                plan: self.plan,
                period_ms: self.period_ms,
                service: None,
                nodes,
                arcs,
                services: self.services.clone(),
            },
        }
    }
}

impl Ground {
    /// About what it holds, in bytes.
    fn len(&self) -> usize {
        let text = |text: &str| text.len() + 24;
        let names = self.node.iter().map(|name| text(name.as_str()));
        let sites = self.site.iter().flatten().map(|name| text(name.as_str()));
        let regions = self.region.iter().flatten().map(|name| text(name.as_str()));
        let fixed = self.node.len() * 80;
        fixed + names.chain(sites).chain(regions).sum::<usize>()
    }
}

fn changing(nodes: &Nodes) -> Vec<Node> {
    let node = |at: usize| Node {
        presence: nodes.presence[at],
        cordoned: nodes.cordoned[at],
        drained: nodes.drained[at],
        age_ms: nodes.age_ms[at].map(|age| u32::try_from(age).unwrap_or(u32::MAX)),
        cpu_ratio: nodes.cpu_ratio[at].map(|ratio| ratio as f32),
        rps: [
            &nodes.demand_rps,
            &nodes.capacity_rps,
            &nodes.load_rps,
            &nodes.moved_in_rps,
            &nodes.moved_out_rps,
            &nodes.shed_rps,
        ]
        .map(|column| column[at] as f32),
    };
    (0..nodes.node.len()).map(node).collect()
}

/// The arcs that carry most, in the order of their ends, and how many others there are.
fn strongest(arcs: &Arcs) -> (Vec<(u32, u32, f32)>, usize) {
    let ends = arcs.from.iter().zip(&arcs.to).zip(&arcs.rps);
    let mut all: Vec<(u32, u32, f32)> = ends
        .map(|((from, to), rps)| (*from, *to, *rps as f32))
        .collect();
    let more = all.len().saturating_sub(ARCS_MAX);
    if more > 0 {
        all.sort_by(|a, b| b.2.total_cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1))));
        all.truncate(ARCS_MAX);
        all.sort_by_key(|arc| (arc.0, arc.1));
        all.shrink_to_fit();
    }
    (all, more)
}

/// Back to thousandths.
fn wide(value: f32) -> f64 {
    (f64::from(value) * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(nodes: usize, arcs: usize, demand_rps: f64) -> Picture {
        let name = |n: usize| NodeId::new(&format!("node-{n}")).unwrap();
        let all = |value: f64| vec![value; nodes];
        Picture {
            plan: PlanId::default(),
            period_ms: 1000,
            service: None,
            nodes: Nodes {
                node: (0..nodes).map(name).collect(),
                lat_deg: vec![Some(45.5); nodes],
                lon_deg: vec![None; nodes],
                site: vec![None; nodes],
                region: vec![None; nodes],
                presence: vec![Presence::Live; nodes],
                age_ms: vec![Some(120); nodes],
                cordoned: vec![false; nodes],
                drained: vec![true; nodes],
                cpu_ratio: vec![Some(0.25); nodes],
                demand_rps: all(demand_rps),
                capacity_rps: all(50.0),
                load_rps: all(10.125),
                moved_in_rps: all(0.0),
                moved_out_rps: all(1.5),
                shed_rps: all(0.0),
                left_out: 0,
            },
            arcs: Arcs {
                from: (0..arcs).map(|n| n as u32).collect(),
                to: (0..arcs).map(|n| n as u32 + 1).collect(),
                rps: (0..arcs).map(|n| n as f64).collect(),
                left_out: 0,
            },
            services: Vec::new(),
        }
    }

    #[test]
    fn what_is_kept_is_what_was_there() {
        let mut past = Past::default();
        let whole = picture(3, 2, 12.345);
        past.add(7, whole.clone());
        let found = past.before(8, 10);
        assert_eq!(found.len(), 1);
        let again = found[0].picture();
        assert_eq!((again.at_ms, again.picture), (7, whole));
        assert!(past.before(7, 10).is_empty());
        // Of many arcs the strongest are left.
        past.add(8, picture(3, ARCS_MAX + 5, 1.0));
        let arcs = past.before(9, 1)[0].picture().picture.arcs;
        assert_eq!(
            (arcs.rps.len(), arcs.left_out, arcs.rps[0]),
            (ARCS_MAX, 5, 5.0)
        );
    }

    #[test]
    fn an_hour_is_kept_newest_first() {
        let mut past = Past::default();
        for step in 0..300 {
            past.add(step * 15_000, picture(2, 0, step as f64));
        }
        let all = past.before(u64::MAX, usize::MAX);
        assert_eq!(all.len(), 241);
        let times: Vec<u64> = all.iter().map(|kept| kept.at_ms).collect();
        assert!(times.is_sorted_by(|a, b| a > b));
        assert_eq!((times[0], times[240]), (299 * 15_000, 59 * 15_000));
        let next = past.before(times[9], 10);
        assert_eq!(next[0].at_ms, times[10]);
    }

    #[test]
    fn memory_is_bounded_and_the_old_becomes_coarse() {
        let mut past = Past::default();
        for step in 0..240 {
            past.add(step * 15_000, picture(2_000, 2_000, 1.0));
            assert!(past.bytes() <= BYTES_MAX, "{}", past.bytes());
        }
        let times: Vec<u64> = past
            .before(u64::MAX, usize::MAX)
            .iter()
            .map(|kept| kept.at_ms)
            .collect();
        assert!(times.len() > 20, "{times:?}");
        let gap = |at: usize| times[at] - times[at + 1];
        assert_eq!(gap(0), 15_000);
        assert!(gap(times.len() - 2) > gap(0), "{times:?}");
        // Names are counted as long as one picture has them, also when the first that had them is gone.
        let apart = past.kept.iter().map(|kept| kept.len()).sum::<usize>();
        assert_eq!(past.bytes(), apart + past.kept[0].ground.len());
        // One that is too large for all others is alone.
        past.add(240 * 15_000, picture(200_000, 0, 1.0));
        assert_eq!(past.before(u64::MAX, usize::MAX).len(), 1);
    }
}
