//! Rate limits of the whole mesh: each node's part of them, divided anew every tick.

use std::collections::BTreeMap;
use std::time::Duration;

use isobar_mesh_api::report::RateDemand;
use isobar_mesh_api::resource::traffic_policy::{RateLimit, RateScope};
use isobar_mesh_api::snapshot::RateShare;

use super::mesh::Nodes;
use super::service::{Seat, Service};
use crate::rate_share::{self, Demand};

/// One limit at one node.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Part {
    demand: Demand,
    share_ppm: u32,
    told_ppm: u32,
}

/// A node's parts, by the limits' names.
pub(super) type Parts = BTreeMap<String, Part>;

impl Service {
    /// Divides its limits among the nodes that are there. A node that is silent has no part: it goes on with the one it had.
    pub(super) fn divide_rates(&mut self, nodes: &Nodes) {
        let Some(traffic) = self.traffic.clone() else {
            return self.seats.iter_mut().for_each(|seat| seat.rates.clear());
        };
        let limits = traffic.rate_limits.iter();
        let limits: Vec<&RateLimit> = limits.filter(|l| l.scope == RateScope::Mesh).collect();
        for seat in &mut self.seats {
            seat.rates
                .retain(|name, _| limits.iter().any(|l| l.name == *name));
        }
        for limit in limits {
            let per_s = limit.per.as_micros() as f64 / 1e6;
            let limit_rps = f64::from(limit.requests) / per_s.max(1e-3);
            let is_there = |seat: &&mut Seat| {
                nodes
                    .get(seat.node)
                    .is_some_and(|n| n.standing().is_present())
            };
            let mut seats: Vec<&mut Seat> = self.seats.iter_mut().filter(is_there).collect();
            let parts = seats
                .iter_mut()
                .map(|seat| seat.rates.entry(limit.name.clone()).or_default());
            let demand_rps: Vec<f64> = parts.map(|part| part.demand.rps).collect();
            let shares = rate_share::divide(limit_rps, &demand_rps);
            for (seat, share_ppm) in seats.into_iter().zip(shares) {
                let part = seat.rates.entry(limit.name.clone()).or_default();
                part.share_ppm = share_ppm;
                seat.changed |= rate_share::is_due(share_ppm, part.told_ppm);
            }
        }
    }
}

impl Seat {
    /// Takes up what one report says was asked.
    pub(super) fn observe_rates(&mut self, asked: &[RateDemand], window: Duration) {
        let window_s = window.as_secs_f64().max(1e-3);
        for RateDemand { limit, asked } in asked {
            if let Some(part) = self.rates.get_mut(limit) {
                part.demand.observe(*asked as f64 / window_s);
            }
        }
    }

    /// What the node is told of its parts.
    pub(super) fn rate_shares(&self) -> Vec<RateShare> {
        let parts = self.rates.iter().filter(|(_, part)| part.share_ppm > 0);
        let share = |(limit, part): (&String, &Part)| RateShare {
            limit: limit.clone(),
            share_ppm: part.share_ppm,
        };
        parts.map(share).collect()
    }

    /// The node was told.
    pub(super) fn told_rates(&mut self) {
        self.rates
            .values_mut()
            .for_each(|part| part.told_ppm = part.share_ppm);
    }
}
