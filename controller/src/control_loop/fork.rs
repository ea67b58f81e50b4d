//! What would be: a copy of the loop, changed and planned at once, beside the one that acts.
//!
//! A fork has everything that the planner reads and nothing that a stream is waiting for. Two forks of one loop, one of
//! them changed, differ by the change alone: both are planned anew and followed at once, so neither the hold on small
//! differences nor the steps homeward hide what the change does.

use isobar_mesh_api::names::{NodeId, ServiceName};

use super::ControlLoop;
use super::push::Due;
use super::stored::{Expected, Waiting};
use crate::load_book::Page;

impl ControlLoop {
    /// A copy to try something on.
    pub fn fork(&self) -> ControlLoop {
        ControlLoop {
            plan: self.plan,
            period: self.period,
            ticked_at: self.ticked_at,
            nodes: self.nodes.clone(),
            services: self.services.iter().map(|s| s.fork()).collect(),
            places: self.places.clone(),
            policies: self.policies.clone(),
            traffic_policies: self.traffic_policies.clone(),
            access_policies: self.access_policies.clone(),
            routes: self.routes.clone(),
            geography_stale: true,
            ranked: self.ranked,
            waiting: Waiting::new(),
            waiting_until: None,
            expected: Expected::default(),
            due: Due::default(),
        }
    }

    /// Plans everything anew, as of the last tick, and follows it at once. Nothing is pushed.
    pub fn plan_at_once(&mut self) {
        self.age(self.ticked_at);
        for service in &mut self.services {
            service.planning.arcs_stale = true;
            service.planning.obey = true;
        }
        self.plan_services();
    }

    /// Supposes that so much enters at a node. Returns whether there is such a service and node.
    pub fn suppose_demand(&mut self, service: &ServiceName, node: &NodeId, rps: f64) -> bool {
        let Some(number) = self.nodes.find(node) else {
            return false;
        };
        match self.places.get(service) {
            Some(&place) => {
                self.services[place].sit(number).demand.suppose(rps);
                true
            }
            None => false,
        }
    }

    /// Supposes that every demand for a service is `times` what it is. Returns whether there is such a service.
    pub fn suppose_demand_times(&mut self, service: &ServiceName, times: f64) -> bool {
        let Some(&place) = self.places.get(service) else {
            return false;
        };
        for seat in &mut self.services[place].seats {
            let rps = seat.demand.held_rps() * times;
            seat.demand.suppose(rps);
        }
        true
    }

    /// Supposes that a node is gone: nothing enters there and nobody moves load to it. Returns whether it is known.
    pub fn suppose_failed(&mut self, node: &NodeId) -> bool {
        let number = self.nodes.find(node);
        match number.and_then(|number| self.nodes.get_mut(number)) {
            Some(node) => {
                node.page = Page::default();
                true
            }
            None => false,
        }
    }

    /// Whether a node of this name is known.
    pub fn has_node(&self, node: &NodeId) -> bool {
        self.nodes.find(node).is_some()
    }
}
