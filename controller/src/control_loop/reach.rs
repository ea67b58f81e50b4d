//! Where a policy lets a home's load go, what it costs there, and what always goes there.

use isobar_mesh_api::resource::WeightPolicySpec;
use isobar_mesh_api::resource::weight_policy::Candidate;

use super::mesh::Nodes;
use super::planning::part_of_mrps;
use super::service::Service;
use crate::load_book::Standing;

/// What a policy says of a node, worked out once for all its pairs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    /// Its load may move.
    sends: bool,
    /// It may take load of others.
    takes: bool,
}

/// A part of a home's demand that always goes to one seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pin {
    /// The seat's place.
    pub to: u32,
    /// Parts per million.
    pub weight_ppm: u32,
}

impl Service {
    /// What the policy says of every seat.
    pub(super) fn reaches(&self, nodes: &Nodes) -> Vec<Reach> {
        let policy = &self.policy;
        let reach = |node: u32| match candidate(nodes, node) {
            Some(candidate) => Reach {
                sends: policy.homes.selects_or_all(candidate),
                takes: policy.targets.selects_or_all(candidate)
                    && !policy.targets_forbidden.selects(candidate),
            },
            None => Reach {
                sends: false,
                takes: false,
            },
        };
        self.seats.iter().map(|seat| reach(seat.node)).collect()
    }

    /// Whether load may move from one seat to another, as far as the policy's selectors go.
    pub(super) fn may_move(&self, nodes: &Nodes, reaches: &[Reach], from: u32, to: u32) -> bool {
        let reach = |at: u32| reaches.get(at as usize);
        if !reach(from).is_some_and(|r| r.sends) || !reach(to).is_some_and(|r| r.takes) {
            return false;
        }
        if !self.policy.own_region_only {
            return true;
        }
        let region = |at: u32| {
            let node = self.seats.get(at as usize)?.node;
            nodes.get(node)?.region()
        };
        region(from).is_some() && region(from) == region(to)
    }

    /// Why the policy lets no load move from one node to another; `None` when it does.
    pub(super) fn forbids(&self, nodes: &Nodes, from: u32, to: u32) -> Option<&'static str> {
        let policy = &self.policy;
        let (from, to) = (candidate(nodes, from)?, candidate(nodes, to)?);
        if !policy.homes.selects_or_all(from) {
            return Some("the home is not among the policy's homes");
        }
        if policy.targets_forbidden.selects(to) {
            return Some("it is among the policy's targets_forbidden");
        }
        if !policy.targets.selects_or_all(to) {
            return Some("it is not among the policy's targets");
        }
        let leaves = from.region.is_none() || from.region != to.region;
        (policy.own_region_only && leaves).then_some("the policy keeps load in its home's region")
    }

    /// What the policy adds to the round trip between two seats, nanoseconds.
    pub(super) fn extra_ns(&self, nodes: &Nodes, from: u32, to: u32) -> i64 {
        if self.policy.costs.is_empty() {
            return 0;
        }
        let at = |seat: u32| candidate(nodes, self.seats.get(seat as usize)?.node);
        let (Some(from), Some(to)) = (at(from), at(to)) else {
            return 0;
        };
        let costs = self.policy.costs.iter();
        let applies =
            costs.filter(|cost| cost.from.selects_or_all(from) && cost.to.selects_or_all(to));
        let sum_us: u64 = applies.map(|cost| cost.cost_us).sum();
        sum_us.min(u64::from(u32::MAX)) as i64 * 1000
    }

    /// The policy's pinned weights by seat, to seats that may serve.
    pub(super) fn pins(&self, nodes: &Nodes, serves: &dyn Fn(usize) -> bool) -> Vec<Vec<Pin>> {
        let mut pins = vec![Vec::new(); self.seats.len()];
        for (home, row) in &self.policy.pinned_weights {
            let Some(from) = nodes.find(home).and_then(|node| self.seat_at(node)) else {
                continue;
            };
            for (target, &weight_ppm) in row {
                let to = nodes.find(target).and_then(|node| self.seat_at(node));
                if let Some(to) = to.filter(|&to| to != from && serves(to)) {
                    let to = to as u32;
                    pins[from].push(Pin { to, weight_ppm });
                }
            }
        }
        pins
    }

    /// Load that pins of live homes put on others, by seat.
    pub(super) fn pinned_in_mrps(&self, nodes: &Nodes) -> Vec<i64> {
        let mut pinned_mrps = vec![0; self.seats.len()];
        for (home, pins) in self.planning.pins.iter().enumerate() {
            if self.seats[home].planned_as(nodes) != Standing::Live {
                continue;
            }
            for pin in pins {
                let mrps = part_of_mrps(self.planning.demand_mrps[home], pin.weight_ppm);
                pinned_mrps[pin.to as usize] += mrps;
            }
        }
        pinned_mrps
    }

    /// What of a home's demand its pins carry away.
    pub(super) fn pinned_out_mrps(&self, home: usize) -> i64 {
        let pins = self.planning.pins.get(home).into_iter().flatten();
        pins.map(|pin| part_of_mrps(self.planning.demand_mrps[home], pin.weight_ppm))
            .sum()
    }
}

/// What of a home's demand stays there whatever is planned.
pub(super) fn kept_mrps(policy: &WeightPolicySpec, demand_mrps: i64) -> i64 {
    let by_share = (demand_mrps as f64 * (1.0 - policy.move_max)) as i64;
    let by_rate = (policy.keep_home_min_rps * 1e3) as i64;
    by_share.max(by_rate.min(demand_mrps))
}

/// What a policy may know of a node.
fn candidate(nodes: &Nodes, number: u32) -> Option<Candidate<'_>> {
    let node = nodes.get(number)?;
    Some(Candidate {
        node: nodes.id(number)?,
        region: node.region(),
        labels: &node.seat.labels,
    })
}
