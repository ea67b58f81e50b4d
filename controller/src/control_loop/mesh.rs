//! The nodes, under dense numbers.
//!
//! A name enters once and is a number from then on; a number is given away again only after everything that was
//! known under it is gone.

use std::collections::BTreeMap;
use std::time::Duration;

use isobar_geo_data::position::Position;
use isobar_mesh_api::message::Hello;
use isobar_mesh_api::names::{NodeId, RegionName, SiteName};
use isobar_mesh_api::snapshot::{Neighbour, PlanId};

use super::view::Presence;
use crate::load_book::{Page, Standing};

/// What the operator says of a node. What is missing here, the node's own hello may say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeSeat {
    /// Where it is.
    pub position: Option<Position>,
    /// Its site; nodes of one site stand at one place.
    pub site: Option<SiteName>,
    /// Its region.
    pub region: Option<RegionName>,
    /// Its mesh port, `host:port`; empty when unknown. The proxy's own word replaces it.
    pub mesh_address: String,
    /// Whether it takes no load from others; its own is still served.
    pub cordoned: bool,
    /// Whether its endpoints get no load at all.
    pub drained: bool,
    /// Its labels; policies may select by them.
    pub labels: BTreeMap<String, String>,
}

/// One node.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    pub seat: NodeSeat,
    pub hello: Option<Hello>,
    pub page: Page,
    pub stream: Stream,
    /// As of the last tick.
    pub standing: Option<Standing>,
    /// A measured round trip changed since the last tick.
    pub rtt_changed: bool,
}

/// What a node's stream has carried.
#[derive(Debug, Clone, Default)]
pub(super) struct Stream {
    pub connected: bool,
    /// The next push must be a whole snapshot.
    pub whole: bool,
    /// The plan of the last push.
    pub sent: PlanId,
    pub acked: Option<PlanId>,
    pub nacks: u64,
    pub neighbours: Vec<Neighbour>,
}

impl Node {
    pub fn standing(&self) -> Standing {
        self.standing.unwrap_or(Standing::Absent)
    }

    pub fn mesh_address(&self) -> &str {
        match &self.hello {
            Some(hello) if !hello.mesh_address.is_empty() => &hello.mesh_address,
            _ => &self.seat.mesh_address,
        }
    }

    pub fn site(&self) -> Option<&SiteName> {
        let said = || self.hello.as_ref().and_then(|h| h.site.as_ref());
        self.seat.site.as_ref().or_else(said)
    }

    pub fn region(&self) -> Option<&RegionName> {
        let said = || self.hello.as_ref().and_then(|h| h.region.as_ref());
        self.seat.region.as_ref().or_else(said)
    }

    /// Whether it is heard of.
    pub fn presence(&self) -> Presence {
        match self.standing() {
            Standing::Absent => Presence::Absent,
            Standing::Live => Presence::Live,
            Standing::Stale { .. } => Presence::Stale,
            Standing::Silent => Presence::Silent,
        }
    }

    /// Where it is, by the operator's word or its own.
    pub fn own_position(&self) -> Option<Position> {
        let said = || {
            let location = self.hello.as_ref().and_then(|h| h.location)?;
            Position::new(location.lat_deg, location.lon_deg).ok()
        };
        self.seat.position.or_else(said)
    }

    /// Whether load of others may be planned onto the node, as far as the node itself goes.
    pub fn takes_load(&self) -> bool {
        self.standing().is_present() && !self.seat.cordoned && !self.mesh_address().is_empty()
    }
}

/// All nodes.
#[derive(Debug, Clone, Default)]
pub(super) struct Nodes {
    slots: Vec<Option<(NodeId, Node)>>,
    free: Vec<u32>,
    by_id: BTreeMap<NodeId, u32>,
    /// By number; nodes of one site share the place of its first node.
    places: Vec<Option<Position>>,
}

impl Nodes {
    /// The number of a name, if it is known.
    pub fn find(&self, id: &NodeId) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    /// The number of a name, a new one if need be. `None` when there are `max` nodes already.
    pub fn intern(&mut self, id: &NodeId, max: usize) -> Option<u32> {
        if let Some(number) = self.find(id) {
            return Some(number);
        }
        if self.by_id.len() >= max {
            return None;
        }
        let entry = Some((id.clone(), Node::default()));
        let number = match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = entry;
                number
            }
            None => {
                self.slots.push(entry);
                (self.slots.len() - 1) as u32
            }
        };
        self.by_id.insert(id.clone(), number);
        Some(number)
    }

    /// Takes a node out; its number may be given away again.
    pub fn remove(&mut self, id: &NodeId) -> Option<u32> {
        let number = self.by_id.remove(id)?;
        self.slots[number as usize] = None;
        self.free.push(number);
        for (_, node) in self.slots.iter_mut().flatten() {
            node.page.forget(number);
        }
        Some(number)
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn get(&self, number: u32) -> Option<&Node> {
        Some(&self.slots.get(number as usize)?.as_ref()?.1)
    }

    pub fn get_mut(&mut self, number: u32) -> Option<&mut Node> {
        Some(&mut self.slots.get_mut(number as usize)?.as_mut()?.1)
    }

    pub fn id(&self, number: u32) -> Option<&NodeId> {
        Some(&self.slots.get(number as usize)?.as_ref()?.0)
    }

    /// All nodes with their numbers, by number.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &NodeId, &Node)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(at, slot)| slot.as_ref().map(|(id, node)| (at as u32, id, node)))
    }

    /// All nodes with their numbers, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Node)> {
        let slots = self.slots.iter_mut().enumerate();
        slots.filter_map(|(at, slot)| slot.as_mut().map(|(_, node)| (at as u32, node)))
    }

    /// All nodes with their numbers, by name.
    pub fn by_name(&self) -> impl Iterator<Item = (u32, &NodeId)> {
        self.by_id.iter().map(|(id, &number)| (number, id))
    }

    /// Where a node stands, as of the last [`Nodes::place`].
    pub fn position(&self, number: u32) -> Option<Position> {
        self.places.get(number as usize).copied().flatten()
    }

    /// Finds all places anew.
    pub fn place(&mut self) {
        let mut sites: BTreeMap<SiteName, Position> = BTreeMap::new();
        for (_, node) in self.slots.iter().flatten() {
            if let (Some(site), Some(position)) = (node.site(), node.own_position()) {
                sites.entry(site.clone()).or_insert(position);
            }
        }
        let stands = |node: &Node| {
            let of_site = node.site().and_then(|site| sites.get(site)).copied();
            of_site.or_else(|| node.own_position())
        };
        // Nobody of the site says where it is: it may be a node's name, as a proxy in a pod has its machine's for a site.
        let named = |site: &SiteName| {
            let number = self.find(&NodeId::new(site.as_str()).ok()?)?;
            stands(self.get(number)?)
        };
        let place = |node: &Node| stands(node).or_else(|| node.site().and_then(named));
        let slots = self.slots.iter();
        self.places = slots
            .map(|slot| slot.as_ref().and_then(|(_, node)| place(node)))
            .collect();
    }

    /// Brings every standing up to date. Calls `moved` for nodes that became present or ceased to be.
    pub fn age(&mut self, now: Duration, period: Duration, mut moved: impl FnMut(u32)) {
        for (number, node) in self.iter_mut() {
            let standing = node.page.standing(now, period);
            if standing.is_present() != node.standing().is_present() {
                moved(number);
            }
            node.standing = Some(standing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_that_is_a_nodes_name_is_where_that_node_is() {
        let mut nodes = Nodes::default();
        let mut add = |name: &str, site: Option<&str>, position: Option<Position>| {
            let number = nodes.intern(&NodeId::new(name).unwrap(), 10).unwrap();
            let node = nodes.get_mut(number).unwrap();
            node.seat.site = site.map(|site| SiteName::new(site).unwrap());
            node.seat.position = position;
            number
        };
        let here = Position::new(45.0, 9.0).ok();
        let edge = add("edge-1", None, here);
        let sited = add("edge-2", Some("quay"), here);
        let in_pod = add("cart-1.shop", Some("edge-1"), None);
        let of_sited = add("cart-2.shop", Some("edge-2"), None);
        let lost = add("cart-3.shop", Some("edge-9"), None);
        nodes.place();
        assert_eq!(nodes.position(in_pod), nodes.position(edge));
        assert_eq!(nodes.position(of_sited), nodes.position(sited));
        assert!(nodes.position(edge).is_some() && nodes.position(sited).is_some());
        assert_eq!(nodes.position(lost), None);
    }
}
