//! What a cluster's objects mean to the mesh: nodes, services, policies and routes as an operator would write them.
//!
//! ```text
//! Node, MeshNode, sites ──▶ nodes.rs ───┐
//! Service, EndpointSlice ─▶ services.rs ┼─▶ Declaration: resources, verdicts (statuses), complaints
//! policies, routes ───────▶ here, routes.rs, gateways.rs ┘
//! ```
//!
//! A pure function of everything that was seen: nothing is remembered from one time to the next.

use std::collections::{BTreeMap, BTreeSet};

use isobar_mesh_api::names::ServiceName;
use serde_json::{Map, Value, json};

use super::cluster::{Cluster, Object, ObjectName, Watched};
use super::{gateways, nodes, routes, services};
use crate::problem::FieldProblem;
use crate::resource_text::{Declared, Key, Kind, SOURCE_CLUSTER, SOURCE_LABEL, decode};

/// What became of an object that gets a status.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Its kind.
    pub kind: Watched,
    /// Which.
    pub name: ObjectName,
    /// Accepted, or why not.
    pub accepted: Result<(), Refusal>,
    /// Services that a route names and that are not there.
    pub missing: Vec<ServiceName>,
    /// Services of other namespaces that a route names and may not.
    pub not_permitted: Vec<String>,
    /// Of a route: each parent that is ours, as it is written, and whether the route is attached to it.
    pub parents: Vec<(Value, Result<(), Refusal>)>,
    /// What a route names as a backend and what is no Service.
    pub no_services: Vec<String>,
    /// Of a gateway: its listeners.
    pub listeners: Vec<ListenerVerdict>,
    /// Of a gateway: where clients reach it, or why nowhere.
    pub addresses: Result<Vec<String>, Refusal>,
}

/// What became of a gateway's listener.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerVerdict {
    /// Its name.
    pub name: String,
    /// Accepted, or why not.
    pub accepted: Result<(), Refusal>,
    /// With whom of its gateway it clashes, if it does.
    pub conflict: Option<Refusal>,
    /// Routes that are attached to it.
    pub attached: usize,
    /// Kinds of routes that may attach.
    pub kinds: Vec<&'static str>,
    /// Whether it lets in kinds that it cannot have.
    pub asks_for_others: bool,
}

impl Verdict {
    /// On an object, with nothing but whether it is accepted.
    pub(super) fn new(kind: Watched, object: &Object, accepted: Result<(), Refusal>) -> Verdict {
        Verdict {
            kind,
            name: object.name.clone(),
            accepted,
            missing: Vec::new(),
            not_permitted: Vec::new(),
            parents: Vec::new(),
            no_services: Vec::new(),
            listeners: Vec::new(),
            addresses: Ok(Vec::new()),
        }
    }
}

/// Why an object is not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// A word for programs, as Kubernetes conditions have it.
    pub reason: &'static str,
    /// Which field, what is wrong, what would be right.
    pub message: String,
}

/// What an operator must see of an object that gets no status from us.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    /// Its kind.
    pub kind: Watched,
    /// Which.
    pub name: ObjectName,
    /// A word for programs.
    pub reason: &'static str,
    /// What is wrong, what follows, what would be right.
    pub message: String,
}

/// What the cluster says, as a whole.
#[derive(Debug, Default)]
pub struct Declaration {
    /// What is to be in force.
    pub resources: BTreeMap<Key, Declared>,
    /// What stays as it is, if it is in force: its object cannot be used now.
    pub held: BTreeSet<Key>,
    /// For statuses.
    pub verdicts: Vec<Verdict>,
    /// For events and the log.
    pub complaints: Vec<Complaint>,
}

impl Declaration {
    /// All that the cluster's objects mean.
    pub fn of(cluster: &Cluster) -> Declaration {
        let mut declaration = Declaration::default();
        nodes::declare(cluster, &mut declaration);
        services::declare(cluster, &mut declaration);
        for (kind, means) in [
            (Watched::WeightPolicy, Kind::WeightPolicy),
            (Watched::TrafficPolicy, Kind::TrafficPolicy),
            (Watched::AccessPolicy, Kind::AccessPolicy),
        ] {
            for object in cluster.all(kind) {
                let resource = as_resource(object, kind.api().kind, spec_of(object));
                declaration.judge(kind, object, means, decode(resource));
            }
        }
        gateways::declare(cluster, &mut declaration);
        routes::declare(cluster, &mut declaration);
        declaration
    }

    /// Takes a resource that was read, or holds the one of its name, and notes the verdict.
    pub(super) fn judge(
        &mut self,
        kind: Watched,
        object: &Object,
        means: Kind,
        read: Result<Declared, FieldProblem>,
    ) {
        let accepted = match read {
            Ok(declared) => {
                self.resources.insert(declared.key.clone(), declared);
                Ok(())
            }
            Err(problem) => Err(self.hold(object, means, &problem)),
        };
        self.verdicts.push(Verdict::new(kind, object, accepted));
    }

    /// An object that cannot be used leaves in force what its name stands for.
    pub(super) fn hold(&mut self, object: &Object, means: Kind, problem: &FieldProblem) -> Refusal {
        self.held.insert(Key {
            kind: means,
            name: object.name.to_string(),
        });
        Refusal {
            reason: reason(problem),
            message: format!(
                "{problem}; what was last accepted of this name, if anything, stays in force"
            ),
        }
    }

    pub(super) fn complain(
        &mut self,
        kind: Watched,
        object: &Object,
        reason: &'static str,
        message: String,
    ) {
        self.complaints.push(Complaint {
            kind,
            name: object.name.clone(),
            reason,
            message,
        });
    }
}

/// The Gateway API has a word of its own for what is understood and not supported.
fn reason(problem: &FieldProblem) -> &'static str {
    let unknown = ["unknown field", "unknown variant", "not supported"];
    match unknown.iter().any(|word| problem.detail.contains(word)) {
        true => "UnsupportedValue",
        false => "Invalid",
    }
}

/// An object's spec; empty when it has none.
pub(super) fn spec_of(object: &Object) -> Value {
    let spec = object.body.get("spec").cloned();
    spec.unwrap_or_else(|| Value::Object(Map::new()))
}

/// The shape that REST and files have, with the cluster's name on it.
pub(super) fn as_resource(object: &Object, kind: &str, spec: Value) -> Value {
    let mut labels = object.labels.clone();
    labels.insert(SOURCE_LABEL.to_owned(), SOURCE_CLUSTER.to_owned());
    let mut metadata = json!({"name": object.name.name, "labels": labels});
    if !object.name.namespace.is_empty() {
        metadata["namespace"] = json!(object.name.namespace);
    }
    if kind.ends_with("Route") && !object.created.is_empty() {
        metadata["creationTimestamp"] = json!(object.created);
    }
    json!({"kind": kind, "metadata": metadata, "spec": spec})
}

#[cfg(test)]
mod tests;
