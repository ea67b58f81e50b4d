//! Where clients reach a gateway: at the load balancer before the proxies, or at the nodes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::{refuse, text};
use crate::kubernetes::cluster::{Cluster, Object, Watched};
use crate::kubernetes::declare::Refusal;

/// The label of the proxies' pods, by which a Service selects them.
const PODS_LABEL: &str = "app.kubernetes.io/name";
/// See [`PODS_LABEL`].
const PODS: &str = "isobar-proxy";
/// Most addresses that a gateway's status may have.
const ADDRESSES_MAX: usize = 16;

/// The addresses that a gateway can have.
pub(super) struct Addresses {
    /// Of load balancers before the proxies.
    balanced: Vec<String>,
    /// Of the nodes.
    nodes: Vec<String>,
}

impl Addresses {
    /// All that a cluster says.
    pub(super) fn of(cluster: &Cluster) -> Addresses {
        Addresses {
            balanced: balanced(cluster),
            nodes: of_nodes(cluster),
        }
    }

    /// The addresses of a gateway: those that it asks for, else the load balancers', else the nodes'.
    ///
    /// # Errors
    /// It asks for what there is not.
    pub(super) fn for_gateway(&self, gateway: &Object) -> Result<Vec<String>, Refusal> {
        let known = || self.balanced.iter().chain(&self.nodes);
        let asked = gateway.body["spec"]["addresses"].as_array();
        let asked = asked.into_iter().flatten();
        // One without a value is for any.
        let asked = asked.map(|one| text(one, "value", ""));
        let asked: Vec<&str> = asked.filter(|value| !value.is_empty()).collect();
        if let Some(strange) = asked.iter().find(|one| !known().any(|known| known == *one)) {
            let message = format!(
                "spec.addresses has {strange:?}, which is no address of a node or of a load balancer before the proxies"
            );
            return Err(refuse("AddressNotUsable", message));
        }
        let asked = asked.into_iter().map(str::to_owned);
        let mut chosen: Vec<String> = asked.collect();
        if chosen.is_empty() {
            let any = [&self.balanced, &self.nodes];
            let any = any.into_iter().find(|some| !some.is_empty());
            chosen = any.cloned().unwrap_or_default();
        }
        chosen.truncate(ADDRESSES_MAX);
        match chosen.is_empty() {
            true => Err(refuse(
                "AddressNotAssigned",
                "no node says its address (status.addresses of type ExternalIP or InternalIP)",
            )),
            false => Ok(chosen),
        }
    }
}

/// What the load balancers before the proxies are reached at: Services of this type that select their pods, beside the controller. One that has
/// no address yet has none.
fn balanced(cluster: &Cluster) -> Vec<String> {
    let is_before = |service: &&Object| {
        let spec = &service.body["spec"];
        service.name.namespace == cluster.namespace()
            && text(spec, "type", "") == "LoadBalancer"
            && text(&spec["selector"], PODS_LABEL, "") == PODS
    };
    let services = cluster.all(Watched::Service).filter(is_before);
    let points = services.flat_map(|service| {
        let points = service.body["status"]["loadBalancer"]["ingress"].as_array();
        points.into_iter().flatten()
    });
    let points = points.filter_map(|point| match text(point, "ip", "") {
        "" => point["hostname"].as_str().filter(|name| !name.is_empty()),
        ip => ip.parse::<IpAddr>().is_ok().then_some(ip),
    });
    once(points.map(str::to_owned))
}

/// An address of each node, one that is for outside where it has one. The first by nodes' names.
fn of_nodes(cluster: &Cluster) -> Vec<String> {
    let of_node = |node: &Object| {
        let all = node.body["status"]["addresses"].as_array()?;
        let of = |kind: &str| {
            let is = |address: &&Value| text(address, "type", "") == kind;
            Some(text(all.iter().find(is)?, "address", "").to_owned())
        };
        let found = of("ExternalIP").or_else(|| of("InternalIP"))?;
        found.parse::<IpAddr>().is_ok().then_some(found)
    };
    once(cluster.all(Watched::Node).filter_map(of_node))
}

fn once(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    all.filter(|address| seen.insert(address.clone())).collect()
}
