//! What an operator must see of the mesh itself, as events on the cluster's objects: a node whose proxy is not heard of, a service that
//! refuses requests because nobody has room. Pure; each is told when it begins.

use std::collections::{BTreeMap, BTreeSet};

use isobar_mesh_api::names::{NodeId, ServiceName};

use super::cluster::{Cluster, ObjectName, Watched};
use super::declare::Complaint;
use crate::control_loop::{MeshView, NodeView, Presence};

/// A service must be seen refusing in so many looks before it is told of: one window is a peak that spill has not met yet.
const SHEDS_SEEN_MIN: u32 = 2;

/// What was told and goes on.
#[derive(Debug, Default)]
pub struct Notices {
    silent: BTreeSet<NodeId>,
    /// In how many looks each service was refusing, one after the other.
    shedding: BTreeMap<ServiceName, u32>,
}

impl Notices {
    /// One look. Returns what has begun since the one before.
    pub fn on_view(&mut self, view: &MeshView, cluster: &Cluster) -> Vec<Complaint> {
        let mut begun = Vec::new();
        let is_silent = |node: &&NodeView| matches!(node.presence, Presence::Silent);
        let silent: BTreeSet<NodeId> = view
            .nodes
            .iter()
            .filter(is_silent)
            .map(|node| node.node.clone())
            .collect();
        for node in silent.difference(&self.silent) {
            let message = "its proxy is not heard of; it keeps its last plan, and nobody moves load to it. Look at the pod of isobar-proxy on it, and at the way from there to the controller's port 7401";
            begun.extend(complaint(
                cluster,
                Watched::Node,
                ("", node.as_str()),
                "ProxySilent",
                message.to_owned(),
            ));
        }
        self.silent = silent;
        let before = std::mem::take(&mut self.shedding);
        for service in &view.services {
            let shed_rps: f64 = service.nodes.iter().map(|seat| seat.shed_rps).sum();
            if shed_rps <= 0.0 {
                continue;
            }
            let looks = before
                .get(&service.service)
                .map_or(1, |looks| looks.saturating_add(1));
            self.shedding.insert(service.service.clone(), looks);
            if looks == SHEDS_SEEN_MIN {
                let message = format!(
                    "{shed_rps:.0} requests/s are refused: neither home nor neighbours have room. Add endpoints, or let more neighbours help (WeightPolicy)"
                );
                let name = (service.service.namespace(), service.service.name());
                begun.extend(complaint(
                    cluster,
                    Watched::Service,
                    name,
                    "Shedding",
                    message,
                ));
            }
        }
        begun
    }
}

/// On an object that the cluster has.
fn complaint(
    cluster: &Cluster,
    kind: Watched,
    (namespace, name): (&str, &str),
    reason: &'static str,
    message: String,
) -> Option<Complaint> {
    let name = ObjectName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    cluster.get(kind, &name)?;
    Some(Complaint {
        kind,
        name,
        reason,
        message,
    })
}

#[cfg(test)]
mod tests {
    use isobar_mesh_api::resource::Algorithm;
    use isobar_mesh_api::snapshot::{PlanId, Row};

    use super::*;
    use crate::capacity::Obtained;
    use crate::control_loop::{SeatView, ServiceView};
    use crate::kubernetes::cluster::{Change, Object};

    fn node(presence: Presence) -> NodeView {
        NodeView {
            node: NodeId::new("edge-1").unwrap(),
            position: None,
            site: None,
            region: None,
            mesh_address: String::new(),
            cordoned: false,
            drained: false,
            connected: false,
            presence,
            age_ms: None,
            cpu_ratio: None,
            reports: Default::default(),
            sent: PlanId::default(),
            acked: None,
            nacks: 0,
        }
    }

    fn service(shed_rps: f64) -> ServiceView {
        let seat = SeatView {
            node: NodeId::new("edge-1").unwrap(),
            demand_rps: 0.0,
            capacity_rps: 0.0,
            capacity_obtained: Obtained::Assumed,
            planned_rps: 0.0,
            planned_utilisation: 0.0,
            planned_moved_in_rps: 0.0,
            entered_rps: 0.0,
            completed_rps: 0.0,
            moved_out_plan_rps: 0.0,
            moved_out_spill_rps: 0.0,
            moved_in_rps: 0.0,
            refused_in_rps: 0.0,
            shed_rps,
            failed_rps: 0.0,
            row: Row::home(),
        };
        ServiceView {
            service: ServiceName::new("shop/cart").unwrap(),
            policy: "default".to_owned(),
            algorithm: Algorithm::Convex,
            nodes: vec![seat],
        }
    }

    #[test]
    fn what_begins_is_told_once_and_again_when_it_was_over() {
        let mut cluster = Cluster::default();
        for (kind, namespace, name) in [
            (Watched::Node, "", "edge-1"),
            (Watched::Service, "shop", "cart"),
        ] {
            let object = Object {
                name: ObjectName {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                },
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
                generation: 1,
                created: String::new(),
                version: "v1",
                resource_version: String::new(),
                body: serde_json::Value::Null,
            };
            cluster.take(kind, Change::Applied(Box::new(object)));
        }
        let mut notices = Notices::default();
        let mut look = |cluster: &Cluster, presence, shed_rps| {
            let view = MeshView {
                plan: PlanId::default(),
                period_ms: 1_000,
                nodes: vec![node(presence)],
                services: vec![service(shed_rps)],
            };
            let begun = notices.on_view(&view, cluster);
            begun.iter().map(|one| one.reason).collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        assert_eq!(
            look(&cluster, Presence::Live, 3.0),
            none,
            "one look is none"
        );
        assert_eq!(
            look(&cluster, Presence::Silent, 3.0),
            ["ProxySilent", "Shedding"]
        );
        assert_eq!(look(&cluster, Presence::Silent, 3.0), none);
        assert_eq!(look(&cluster, Presence::Live, 0.0), none);
        assert_eq!(look(&cluster, Presence::Silent, 1.0), ["ProxySilent"]);
        assert_eq!(look(&cluster, Presence::Silent, 1.0), ["Shedding"]);
        // What the cluster has not gets no event.
        assert_eq!(look(&Cluster::default(), Presence::Live, 1.0), none);
        assert_eq!(look(&Cluster::default(), Presence::Silent, 1.0), none);
    }
}
