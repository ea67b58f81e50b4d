//! Other clusters of one mesh: their nodes, and the endpoints that they have of services.
//!
//! On the edge a site is often a cluster of its own. Its nodes are called `NODE.CLUSTER` in the mesh. A service of one namespace and name is
//! one service, whichever clusters have endpoints of it: that is what lets sites carry each other's peaks.
//!
//! **Invariant**: a cluster that is away erases nothing, also over the controller's own restart: what the mesh was told of it is carried over
//! until it is listed anew. Only the operator's word does, who takes its `Secret` away.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::cluster::{Cluster, Object, Watched};
use super::declare::Declaration;
use super::{nodes, services};
use crate::problem::FieldProblem;
use crate::resource_text::{Declared, Key, Kind, decode};

/// The label of a `Secret` that is a remote cluster's kubeconfig, in its field `kubeconfig`: the cluster's name. Also the label, in the mesh,
/// of what came from there.
pub const REMOTE: &str = "isobar.dev/remote-cluster";
/// Most remote clusters; further ones are complained about.
pub const CLUSTERS_MAX: usize = 256;

/// What of a remote cluster is watched.
pub const KINDS: [Watched; 5] = [
    Watched::Node,
    Watched::Namespace,
    Watched::Service,
    Watched::EndpointSlice,
    Watched::MeshNode,
];

/// The kubeconfigs, by cluster. What is no usable one is complained about and not among them.
pub(super) fn kubeconfigs(
    cluster: &Cluster,
    declaration: &mut Declaration,
) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for secret in cluster.all(Watched::RemoteCluster) {
        match kubeconfig(secret) {
            Ok((name, text)) if found.len() < CLUSTERS_MAX && !found.contains_key(&name) => {
                found.insert(name, text);
            }
            Ok((name, _)) => {
                let message = format!(
                    "another Secret is for {name}, or there are more than {CLUSTERS_MAX}; this one is not used"
                );
                declaration.complain(Watched::RemoteCluster, secret, "NotUsed", message);
            }
            Err(message) => {
                declaration.complain(Watched::RemoteCluster, secret, "BadKubeconfig", message)
            }
        }
    }
    found
}

fn kubeconfig(secret: &Object) -> Result<(String, Vec<u8>), String> {
    let name = secret.labels.get(REMOTE).cloned().unwrap_or_default();
    let is_label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || name.len() > 63 || !name.bytes().all(is_label) {
        return Err(format!(
            "the label {REMOTE} is {name:?}; write a name of a-z, 0-9 and '-'"
        ));
    }
    let text = secret.body["data"]["kubeconfig"].as_str();
    let text = text.ok_or("it has no field kubeconfig in its data")?;
    // The API's own form of bytes.
    let bytes: k8s_openapi::ByteString = serde_json::from_value(json!(text))
        .map_err(|_| "its field kubeconfig is not base64".to_owned())?;
    let read: Value = serde_saphyr::from_str(&String::from_utf8_lossy(&bytes.0))
        .map_err(|error| format!("its kubeconfig is not YAML: {error}"))?;
    check(&read)?;
    Ok((name, bytes.0))
}

/// That a kubeconfig has all it needs in itself: who may write a Secret may not name programs and files of the controller.
fn check(read: &Value) -> Result<(), String> {
    let each = |list: &str, of: &str, refused: &[&str]| -> Result<(), String> {
        for entry in read[list].as_array().into_iter().flatten() {
            if let Some(field) = refused.iter().find(|field| !entry[of][**field].is_null()) {
                return Err(format!(
                    "its kubeconfig has {list}[].{of}.{field}, which is not used here; put certificates and tokens into it"
                ));
            }
        }
        Ok(())
    };
    let users = [
        "exec",
        "auth-provider",
        "tokenFile",
        "client-certificate",
        "client-key",
    ];
    each("users", "user", &users)?;
    each(
        "clusters",
        "cluster",
        &["certificate-authority", "proxy-url"],
    )
}

/// Adds what a cluster says to what the mesh is to have.
pub(super) fn add(declaration: &mut Declaration, name: &str, cluster: &Cluster) {
    let mut of = Declaration::default();
    nodes::declare(cluster, &mut of);
    services::declare(cluster, &mut of);
    for complaint in &of.complaints {
        // It is no object of the cluster that events are written to.
        tracing::debug!(cluster = name, kind = complaint.kind.api().kind, about = %complaint.name, "{}", complaint.message);
    }
    let held = of.held.into_iter().filter(|key| key.kind == Kind::Node);
    declaration.held.extend(held.map(|key| Key {
        name: format!("{}.{name}", key.name),
        ..key
    }));
    for declared in of.resources.into_values() {
        if let Ok(renamed) = renamed(&declared, name) {
            merge(declaration, renamed);
        }
    }
}

/// Adds what the mesh was told of a cluster before, where that is not known anew.
pub(super) fn carry(declaration: &mut Declaration, name: &str, told: &BTreeMap<Key, Declared>) {
    for declared in told.values() {
        match declared.key.kind {
            Kind::Node if of_cluster(declared) == Some(name) => {
                let key = declared.key.clone();
                declaration
                    .resources
                    .entry(key)
                    .or_insert_with(|| declared.clone());
            }
            Kind::Service => {
                let Some(mut value) = value(declared) else {
                    continue;
                };
                let is_there = |endpoint: &Value| {
                    endpoint["node"]
                        .as_str()
                        .is_some_and(|node| is_node_of(node, name))
                };
                if let Some(endpoints) = value["spec"]["endpoints"].as_array_mut() {
                    endpoints.retain(is_there);
                    if !endpoints.is_empty()
                        && let Ok(kept) = decode(value)
                    {
                        merge(declaration, kept);
                    }
                }
            }
            _ => {}
        }
    }
}

/// The clusters that anything is of that the mesh was told.
pub(super) fn told_of(told: &BTreeMap<Key, Declared>) -> BTreeSet<String> {
    told.values()
        .filter_map(of_cluster)
        .map(str::to_owned)
        .collect()
}

fn of_cluster(declared: &Declared) -> Option<&str> {
    declared
        .resource
        .metadata()
        .labels
        .get(REMOTE)
        .map(String::as_str)
}

/// Names of clusters have no points, those of nodes may.
fn is_node_of(node: &str, cluster: &str) -> bool {
    node.rsplit_once('.').is_some_and(|(_, of)| of == cluster)
}

fn value(declared: &Declared) -> Option<Value> {
    serde_json::to_value(&*declared.resource).ok()
}

/// A resource of a cluster, as the mesh calls it.
fn renamed(declared: &Declared, cluster: &str) -> Result<Declared, FieldProblem> {
    let mut value = value(declared).unwrap_or_default();
    let with = |name: &Value| json!(format!("{}.{cluster}", name.as_str().unwrap_or_default()));
    match declared.key.kind {
        Kind::Node => {
            value["metadata"]["name"] = with(&value["metadata"]["name"]);
            value["metadata"]["labels"][REMOTE] = json!(cluster);
        }
        _ => {
            let endpoints = value["spec"]["endpoints"].as_array_mut();
            for endpoint in endpoints.into_iter().flatten() {
                endpoint["node"] = with(&endpoint["node"]);
            }
        }
    }
    decode(value)
}

/// Adds a node, or the endpoints of a service; what the own cluster says of both counts more.
fn merge(declaration: &mut Declaration, declared: Declared) {
    let Some(had) = declaration.resources.get(&declared.key) else {
        declaration.resources.insert(declared.key.clone(), declared);
        return;
    };
    let (Some(mut all), Some(new)) = (value(had), value(&declared)) else {
        return;
    };
    let new = new["spec"]["endpoints"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    if let Some(endpoints) = all["spec"]["endpoints"].as_array_mut() {
        endpoints.extend(new);
        // More endpoints than a service may have are complained about by what has them; the first stay.
        if let Ok(both) = decode(all) {
            declaration.resources.insert(both.key.clone(), both);
        }
    }
}

#[cfg(test)]
mod tests;
