//! Nodes of the mesh out of a cluster's: where they are, and what site and region they belong to.
//!
//! A position comes, in this order, from the `MeshNode` of the node's name, the node's annotations, the table of sites (a row of the
//! node's name, its site's or its zone's), or the middle of the nodes of its zone that say where they are. A node that has none is
//! served and is never a target by distance.

use std::collections::BTreeMap;

use isobar_geo_data::position::Position;
use isobar_geo_data::read::{Input, read_sites};
use isobar_geo_data::site::Site;
use serde_json::{Value, json};

use super::cluster::{Cluster, Object, Watched};
use super::declare::{Declaration, Verdict, as_resource, spec_of};
use crate::resource_text::{Kind, decode};

/// Annotations that say where a node is, in degrees.
pub const LATITUDE: &str = "isobar.dev/latitude";
/// See [`LATITUDE`].
pub const LONGITUDE: &str = "isobar.dev/longitude";
/// The label with a node's site.
pub const SITE: &str = "isobar.dev/site";
/// The labels of Kubernetes for failure domains.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// See [`ZONE`].
pub const REGION: &str = "topology.kubernetes.io/region";

pub(super) fn declare(cluster: &Cluster, declaration: &mut Declaration) {
    let sites = sites(cluster, declaration);
    let zones = zones(cluster);
    for node in cluster.all(Watched::Node) {
        let spec = node_spec(node, &sites, &zones, declaration);
        let said = cluster.get(Watched::MeshNode, &node.name);
        let spec = lay_over(spec, said.map(spec_of));
        let is_placed = !spec["location"].is_null();
        match decode(as_resource(node, "Node", spec)) {
            Ok(declared) => {
                declaration.resources.insert(declared.key.clone(), declared);
                if !is_placed {
                    let message = format!(
                        "has no position: it is served and is never a target by distance; annotate it with {LATITUDE} and {LONGITUDE}"
                    );
                    declaration.complain(Watched::Node, node, "NoPosition", message);
                }
            }
            // The node's own words were checked: what is wrong is its MeshNode, which gets the verdict.
            Err(problem) => drop(declaration.hold(node, Kind::Node, &problem)),
        }
    }
    for said in cluster.all(Watched::MeshNode) {
        let read = decode(as_resource(said, "Node", spec_of(said)));
        match (read, cluster.get(Watched::Node, &said.name)) {
            // It was laid over the node's own words.
            (Ok(_), Some(_)) => {
                let verdict = Verdict::new(Watched::MeshNode, said, Ok(()));
                declaration.verdicts.push(verdict);
            }
            (read, _) => declaration.judge(Watched::MeshNode, said, Kind::Node, read),
        }
    }
}

/// The table of sites, by id; empty when there is none or it cannot be read.
fn sites(cluster: &Cluster, declaration: &mut Declaration) -> BTreeMap<String, Site> {
    let mut all = BTreeMap::new();
    for map in cluster.all(Watched::Sites) {
        let data = map.body.get("data").and_then(Value::as_object);
        for (name, text) in data.into_iter().flatten() {
            let text = text.as_str().unwrap_or_default();
            match read_sites(Input::new(name, text.as_bytes())) {
                Ok(sites) => all.extend(sites.into_iter().map(|site| (site.id.clone(), site))),
                Err(error) => {
                    declaration.complain(Watched::Sites, map, "Unreadable", error.to_string());
                }
            }
        }
    }
    all
}

/// The middle of each zone's nodes that are annotated with a position.
fn zones(cluster: &Cluster) -> BTreeMap<String, Position> {
    let mut placed: BTreeMap<String, Vec<Position>> = BTreeMap::new();
    for node in cluster.all(Watched::Node) {
        if let (Some(zone), Ok(Some(position))) = (node.labels.get(ZONE), annotated(node)) {
            placed.entry(zone.clone()).or_default().push(position);
        }
    }
    let middles = placed.into_iter();
    middles
        .filter_map(|(zone, positions)| Some((zone, middle(&positions)?)))
        .collect()
}

/// The point under the mean of the positions' unit vectors; none when they cancel out.
fn middle(positions: &[Position]) -> Option<Position> {
    let mut sum = [0.0_f64; 3];
    for position in positions {
        let (lat, lon) = (
            position.lat_deg().to_radians(),
            position.lon_deg().to_radians(),
        );
        let unit = [lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()];
        sum.iter_mut()
            .zip(unit)
            .for_each(|(sum, part)| *sum += part);
    }
    let flat = sum[0].hypot(sum[1]);
    if flat.hypot(sum[2]) < 1e-9 * positions.len() as f64 {
        return None;
    }
    let (lat, lon) = (sum[2].atan2(flat), sum[1].atan2(sum[0]));
    Position::new(lat.to_degrees(), lon.to_degrees()).ok()
}

/// A `NodeSpec` of what the node itself and the tables say.
fn node_spec(
    node: &Object,
    sites: &BTreeMap<String, Site>,
    zones: &BTreeMap<String, Position>,
    declaration: &mut Declaration,
) -> Value {
    let own = annotated(node).unwrap_or_else(|message| {
        declaration.complain(Watched::Node, node, "BadPosition", message);
        None
    });
    let zone = node.labels.get(ZONE);
    let named = [Some(&node.name.name), node.labels.get(SITE), zone];
    let row = named.iter().flatten().find_map(|name| sites.get(*name));
    let by_zone = || zone.and_then(|zone| zones.get(zone)).copied();
    let position = own.or(row.map(|row| row.position)).or_else(by_zone);
    let mut spec = json!({});
    if let Some(position) = position {
        spec["location"] = json!({"lat_deg": position.lat_deg(), "lon_deg": position.lon_deg()});
    }
    // A zone can be large: it is a site only for nodes that have no position of their own.
    let in_zone = own.is_none().then_some(zone).flatten();
    if let Some(site) = node.labels.get(SITE).or(in_zone) {
        spec["site"] = json!(name_of(site));
    }
    // Who drains a machine for the cluster does not want it to be busy with others' load.
    if node.body["spec"]["unschedulable"] == true {
        spec["cordoned"] = json!(true);
    }
    let region = node.labels.get(REGION);
    if let Some(region) = region.or(row.and_then(|row| row.region.as_ref())) {
        spec["region"] = json!(name_of(region));
    }
    spec
}

/// Label values may have capitals and underscores, names of the mesh have not.
fn name_of(label: &str) -> String {
    label.to_ascii_lowercase().replace('_', "-")
}

/// What a node's annotations say of its position.
fn annotated(node: &Object) -> Result<Option<Position>, String> {
    let read = |name: &'static str| match node.annotations.get(name) {
        None => Ok(None),
        Some(text) => match text.trim().parse::<f64>() {
            Ok(degrees) => Ok(Some(degrees)),
            Err(_) => Err(format!("{name} is {text:?}, must be degrees like 45.46")),
        },
    };
    match (read(LATITUDE)?, read(LONGITUDE)?) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(format!("has {LATITUDE} and no {LONGITUDE}")),
        (None, Some(_)) => Err(format!("has {LONGITUDE} and no {LATITUDE}")),
        (Some(lat), Some(lon)) => match Position::new(lat, lon) {
            Ok(position) => Ok(Some(position)),
            Err(error) if Position::new(lon, lat).is_ok() => {
                Err(format!("{error}; {LATITUDE} and {LONGITUDE} look swapped"))
            }
            Err(error) => Err(error.to_string()),
        },
    }
}

/// What the operator's `MeshNode` says, over what the node itself does.
fn lay_over(mut spec: Value, said: Option<Value>) -> Value {
    if let Some(Value::Object(fields)) = said {
        let usable = decode(json!({"kind": "Node", "metadata": {"name": "n"}, "spec": fields}));
        if usable.is_ok() {
            fields
                .into_iter()
                .for_each(|(field, value)| spec[field] = value);
        }
    }
    spec
}
