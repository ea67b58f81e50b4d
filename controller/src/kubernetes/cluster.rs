//! What was seen of a Kubernetes cluster: the objects of every kind that is watched, as of the last that was heard.
//!
//! **Invariant**: silence erases nothing. An object goes when the API server says that it is deleted, or leaves it out of a list
//! that it finished; a watch that breaks, a list that stops half-way and a server that is gone leave all as it was.

use std::collections::BTreeMap;

use isobar_mesh_api::resource::route::GATEWAY_GROUP;
use serde_json::Value;

/// Most objects of one kind; further ones are left out and counted.
pub const OBJECTS_MAX: usize = 100_000;

/// The kinds that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watched {
    /// Machines: the mesh's nodes.
    Node,
    /// Which namespaces take part.
    Namespace,
    /// What clients ask for.
    Service,
    /// Where a service's instances are.
    EndpointSlice,
    /// The table of sites, the one `ConfigMap` that is read.
    Sites,
    /// What the operator says of a node.
    MeshNode,
    /// What may move.
    WeightPolicy,
    /// How requests are treated.
    TrafficPolicy,
    /// Who may call what.
    AccessPolicy,
    /// Where HTTP requests go.
    HttpRoute,
    /// Where gRPC calls go.
    GrpcRoute,
    /// Where TCP connections go.
    TcpRoute,
    /// Whose gateways are ours.
    GatewayClass,
    /// The mesh's gateway.
    Gateway,
    /// What routes of other namespaces may name.
    ReferenceGrant,
    /// Secrets with other clusters' kubeconfigs.
    RemoteCluster,
}

/// How the Kubernetes API names a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiName {
    /// Empty for the core group.
    pub group: &'static str,
    /// The versions that it may be served in, the one that is read first before others. Kinds of the Gateway API rise to `v1`, and
    /// their old versions go.
    pub versions: &'static [&'static str],
    /// Singular.
    pub kind: &'static str,
    /// As in paths.
    pub plural: &'static str,
}

/// The group of the custom resources.
pub const GROUP: &str = "isobar.dev";
/// Their version.
pub const VERSION: &str = "v1alpha1";

impl Watched {
    /// All of them.
    pub const ALL: [Watched; 16] = [
        Watched::Node,
        Watched::Namespace,
        Watched::Service,
        Watched::EndpointSlice,
        Watched::Sites,
        Watched::MeshNode,
        Watched::WeightPolicy,
        Watched::TrafficPolicy,
        Watched::AccessPolicy,
        Watched::HttpRoute,
        Watched::GrpcRoute,
        Watched::TcpRoute,
        Watched::GatewayClass,
        Watched::Gateway,
        Watched::ReferenceGrant,
        Watched::RemoteCluster,
    ];

    /// What the API calls it.
    pub fn api(self) -> ApiName {
        const V1: &[&str] = &["v1"];
        const OURS: &[&str] = &[VERSION];
        let named = |group, versions, kind, plural| ApiName {
            group,
            versions,
            kind,
            plural,
        };
        match self {
            Watched::Node => named("", V1, "Node", "nodes"),
            Watched::Namespace => named("", V1, "Namespace", "namespaces"),
            Watched::Service => named("", V1, "Service", "services"),
            Watched::EndpointSlice => {
                named("discovery.k8s.io", V1, "EndpointSlice", "endpointslices")
            }
            Watched::Sites => named("", V1, "ConfigMap", "configmaps"),
            Watched::MeshNode => named(GROUP, OURS, "MeshNode", "meshnodes"),
            Watched::WeightPolicy => named(GROUP, OURS, "WeightPolicy", "weightpolicies"),
            Watched::TrafficPolicy => named(GROUP, OURS, "TrafficPolicy", "trafficpolicies"),
            Watched::RemoteCluster => named("", V1, "Secret", "secrets"),
            Watched::AccessPolicy => named(GROUP, OURS, "AccessPolicy", "accesspolicies"),
            Watched::HttpRoute => named(GATEWAY_GROUP, V1, "HTTPRoute", "httproutes"),
            Watched::GrpcRoute => named(GATEWAY_GROUP, V1, "GRPCRoute", "grpcroutes"),
            Watched::TcpRoute => named(GATEWAY_GROUP, &["v1", "v1alpha2"], "TCPRoute", "tcproutes"),
            Watched::GatewayClass => named(GATEWAY_GROUP, V1, "GatewayClass", "gatewayclasses"),
            Watched::Gateway => named(GATEWAY_GROUP, V1, "Gateway", "gateways"),
            Watched::ReferenceGrant => named(
                GATEWAY_GROUP,
                &["v1", "v1beta1"],
                "ReferenceGrant",
                "referencegrants",
            ),
        }
    }

    /// Whether its objects get a status from us.
    pub fn has_status(self) -> bool {
        matches!(
            self,
            Watched::MeshNode
                | Watched::WeightPolicy
                | Watched::TrafficPolicy
                | Watched::AccessPolicy
                | Watched::HttpRoute
                | Watched::GrpcRoute
                | Watched::TcpRoute
                | Watched::GatewayClass
                | Watched::Gateway
        )
    }
}

/// Which object of its kind; the namespace is empty where a kind has none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace.as_str() {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// One object, as far as anybody here reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Which.
    pub name: ObjectName,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// How often its spec changed.
    pub generation: i64,
    /// When it was made (RFC 3339, UTC).
    pub created: String,
    /// In which of its kind's versions it is served.
    pub version: &'static str,
    /// Which state of it this is; only of kinds that get a status from us.
    pub resource_version: String,
    /// Everything but `metadata`.
    pub body: Value,
}

/// What a watch says.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A list begins.
    ListBegins,
    /// One object of it.
    Listed(Box<Object>),
    /// The list is whole: what it left out is gone.
    ListEnds,
    /// An object is new or changed.
    Applied(Box<Object>),
    /// An object is gone.
    Deleted(ObjectName),
    /// The API server does not know this kind: its definition is not installed.
    NotInstalled,
}

/// One kind's objects.
#[derive(Debug, Default)]
struct Shelf {
    objects: BTreeMap<ObjectName, Object>,
    /// A list that is being read.
    arriving: Option<BTreeMap<ObjectName, Object>>,
    is_whole: bool,
    is_installed: bool,
}

/// All that was seen.
#[derive(Debug, Default)]
pub struct Cluster {
    /// The controller's own; empty in a cluster that it does not run in.
    namespace: String,
    shelves: BTreeMap<Watched, Shelf>,
    left_out: u64,
}

impl Cluster {
    /// One of which nothing was seen, with the controller in this namespace.
    pub fn new(namespace: &str) -> Cluster {
        Cluster {
            namespace: namespace.to_owned(),
            ..Cluster::default()
        }
    }

    /// The namespace of the controller; empty in a cluster that it does not run in.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Takes up what a watch says. Returns whether anything is different.
    pub fn take(&mut self, kind: Watched, change: Change) -> bool {
        let shelf = self.shelves.entry(kind).or_default();
        let was_whole = shelf.is_whole;
        let differs = match change {
            Change::ListBegins => {
                shelf.arriving = Some(BTreeMap::new());
                false
            }
            Change::Listed(object) => {
                let arriving = shelf.arriving.get_or_insert_default();
                match arriving.len() < OBJECTS_MAX {
                    true => drop(arriving.insert(object.name.clone(), *object)),
                    false => self.left_out += 1,
                }
                false
            }
            Change::ListEnds => {
                shelf.is_whole = true;
                shelf.is_installed = true;
                let arrived = shelf.arriving.take().unwrap_or_default();
                let before = std::mem::replace(&mut shelf.objects, arrived);
                before != shelf.objects
            }
            Change::Applied(object) => {
                let has_room = shelf.objects.len() < OBJECTS_MAX;
                if !has_room && !shelf.objects.contains_key(&object.name) {
                    self.left_out += 1;
                    return false;
                }
                let before = shelf.objects.insert(object.name.clone(), (*object).clone());
                before != Some(*object)
            }
            Change::Deleted(name) => shelf.objects.remove(&name).is_some(),
            // Known and gone: somebody removed the definition. What came of its objects is kept.
            Change::NotInstalled => {
                shelf.is_whole = true;
                shelf.is_installed = false;
                false
            }
        };
        differs || !was_whole && shelf.is_whole
    }

    /// Whether each of these kinds was listed once, or is known not to be installed.
    pub fn is_whole(&self, kinds: &[Watched]) -> bool {
        let whole = |kind| self.shelves.get(kind).is_some_and(|shelf| shelf.is_whole);
        kinds.iter().all(whole)
    }

    /// Whether all of these kinds were listed: what is not among their objects is not there.
    pub fn is_known(&self, kinds: &[Watched]) -> bool {
        kinds.iter().all(|kind| {
            let shelf = self.shelves.get(kind);
            shelf.is_some_and(|shelf| shelf.is_whole && shelf.is_installed)
        })
    }

    /// Objects beyond [`OBJECTS_MAX`] that were left out.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The objects of a kind, by name.
    pub fn all(&self, kind: Watched) -> impl Iterator<Item = &Object> {
        let shelf = self.shelves.get(&kind).into_iter();
        shelf.flat_map(|shelf| shelf.objects.values())
    }

    /// One object.
    pub fn get(&self, kind: Watched, name: &ObjectName) -> Option<&Object> {
        self.shelves.get(&kind)?.objects.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str) -> Box<Object> {
        Box::new(Object {
            name: ObjectName {
                namespace: String::new(),
                name: name.to_owned(),
            },
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            generation: 1,
            created: String::new(),
            version: "v1",
            resource_version: String::new(),
            body: Value::Null,
        })
    }

    fn names(cluster: &Cluster) -> Vec<&str> {
        let all = cluster.all(Watched::Node);
        all.map(|object| object.name.name.as_str()).collect()
    }

    #[test]
    fn only_a_list_that_ends_erases() {
        let mut cluster = Cluster::default();
        let mut take = |change| cluster.take(Watched::Node, change);
        assert!(!take(Change::ListBegins));
        assert!(!take(Change::Listed(object("a"))));
        assert!(take(Change::ListEnds));
        assert!(take(Change::Applied(object("b"))));
        assert!(!take(Change::Applied(object("b"))), "nothing new");
        // A list that breaks off, and another from the start.
        assert!(!take(Change::ListBegins));
        assert!(!take(Change::Listed(object("c"))));
        assert!(!take(Change::ListBegins));
        assert!(!take(Change::NotInstalled));
        assert_eq!(names(&cluster), ["a", "b"]);
        let mut take = |change| cluster.take(Watched::Node, change);
        take(Change::ListBegins);
        take(Change::Listed(object("b")));
        assert!(take(Change::ListEnds));
        assert_eq!(names(&cluster), ["b"]);
    }

    #[test]
    fn what_was_never_listed_is_not_known() {
        let mut cluster = Cluster::default();
        for kind in Watched::ALL {
            assert!(!cluster.is_whole(&Watched::ALL));
            match kind {
                Watched::GrpcRoute => cluster.take(kind, Change::NotInstalled),
                _ => cluster.take(kind, Change::ListEnds),
            };
        }
        assert!(cluster.is_whole(&Watched::ALL));
        assert!(cluster.is_known(&[Watched::Node, Watched::Service]));
        assert!(!cluster.is_known(&[Watched::GrpcRoute]));
    }
}
