//! What would be if: a copy of what is declared and planned, for dry runs and "what if".
//!
//! The copy is made by the control task in one go; everything else is done by who asked, so that
//! the control task never waits for it.

use std::collections::BTreeSet;
use std::time::Duration;

use isobar_mesh_api::names::{NodeId, ServiceName};

use super::change::Asked;
use super::desired::Desired;
use super::handle::ControlError;
use crate::control_loop::{ControlLoop, MeshView, PlanDifference, difference};

/// A copy of the mesh as it was at one instant.
pub struct Hypothesis {
    pub(super) control_loop: ControlLoop,
    pub(super) desired: Desired,
    /// Nodes with an open stream.
    pub(super) connected: BTreeSet<NodeId>,
    before: Option<MeshView>,
}

impl Hypothesis {
    pub(super) fn new(
        control_loop: ControlLoop,
        desired: Desired,
        connected: BTreeSet<NodeId>,
    ) -> Hypothesis {
        Hypothesis {
            control_loop,
            desired,
            connected,
            before: None,
        }
    }

    /// Plans the copy as it is, to compare with; call it before anything is supposed.
    pub fn remember(&mut self) {
        self.control_loop.plan_at_once();
        self.before = Some(self.control_loop.view());
    }

    /// Makes changes, all or none.
    ///
    /// # Errors
    /// As those that are made for good.
    pub fn change(&mut self, asked: &Asked) -> Result<(), ControlError> {
        self.desired.check(asked)?;
        let mut changes = asked.changes.clone();
        if asked.prune {
            changes.extend(self.desired.others(asked));
        }
        for change in changes {
            let is_open = |node: &NodeId| self.connected.contains(node);
            let (now, control_loop) = (Duration::ZERO, &mut self.control_loop);
            self.desired.make(change, now, is_open, control_loop)?;
        }
        self.desired.settle_endpoints(&mut self.control_loop);
        Ok(())
    }

    /// Supposes that so much enters at a node, requests/s. Returns whether there is such a place.
    pub fn demand(&mut self, service: &ServiceName, node: &NodeId, rps: f64) -> bool {
        self.control_loop.suppose_demand(service, node, rps)
    }

    /// Supposes that every demand for a service is `times` what it is. Returns whether there is such a service.
    pub fn demand_times(&mut self, service: &ServiceName, times: f64) -> bool {
        self.control_loop.suppose_demand_times(service, times)
    }

    /// Supposes that a node is gone. Returns whether it is known.
    pub fn fail(&mut self, node: &NodeId) -> bool {
        self.control_loop.suppose_failed(node)
    }

    /// How the plan differs from what [`Hypothesis::remember`] found.
    pub fn difference(mut self) -> PlanDifference {
        self.control_loop.plan_at_once();
        let after = self.control_loop.view();
        let before = self.before.unwrap_or_else(|| after.clone());
        difference(&before, &after)
    }
}
