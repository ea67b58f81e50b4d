//! The shape that operators write: `kind`, `metadata`, `spec`, `status`.
//!
//! The same in REST, files and custom resources. Unknown fields are refused by
//! name: a misspelt limit must not be silently absent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::message::Location;
use crate::names::{NodeId, RegionName, ServiceName, SiteName};

pub mod access_policy;
pub mod route;
pub mod span;
pub mod traffic_policy;
pub mod weight_policy;

pub use access_policy::{AccessPolicy, AccessPolicySpec};
pub use route::{GrpcRouteSpec, HttpRouteSpec, TcpRouteSpec};
pub use span::Span;
pub use traffic_policy::{EndpointProtocol, TrafficPolicySpec};
pub use weight_policy::{Algorithm, CapacitySource, WeightPolicySpec};

/// Most labels one resource may carry.
pub const LABELS_MAX: usize = 64;

/// What every resource says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Unique per kind and namespace.
    pub name: String,
    /// Empty for kinds without namespaces.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Free key-value pairs to select by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When a route was first written (RFC 3339, UTC). The controller says it; what a client says is not heard.
    #[serde(
        default,
        rename = "creationTimestamp",
        skip_serializing_if = "Option::is_none"
    )]
    pub creation_timestamp: Option<String>,
}

/// What an operator writes; `kind` decides the spec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
#[allow(
    clippy::large_enum_variant,
    reason = "resources are kept behind reference counts, one allocation each whatever the kind"
)]
pub enum Resource {
    /// One edge server.
    Node {
        /// Its name and labels.
        metadata: Metadata,
        /// What it is.
        spec: NodeSpec,
    },
    /// What clients ask for.
    Service {
        /// Its name, namespace and labels.
        metadata: Metadata,
        /// What it is.
        spec: ServiceSpec,
    },
    /// What may move.
    WeightPolicy {
        /// Its name and labels.
        metadata: Metadata,
        /// What it says.
        spec: WeightPolicySpec,
    },
    /// Where HTTP requests go.
    #[serde(rename = "HTTPRoute")]
    HttpRoute {
        /// Its name, namespace and labels.
        metadata: Metadata,
        /// What it says.
        spec: HttpRouteSpec,
    },
    /// Where gRPC calls go.
    #[serde(rename = "GRPCRoute")]
    GrpcRoute {
        /// Its name, namespace and labels.
        metadata: Metadata,
        /// What it says.
        spec: GrpcRouteSpec,
    },
    /// Where connections of a listener go.
    #[serde(rename = "TCPRoute")]
    TcpRoute {
        /// Its name, namespace and labels.
        metadata: Metadata,
        /// What it says.
        spec: TcpRouteSpec,
    },
    /// How requests are treated.
    TrafficPolicy {
        /// Its name and labels.
        metadata: Metadata,
        /// What it says.
        spec: Box<TrafficPolicySpec>,
    },
    /// Who may call what.
    AccessPolicy {
        /// Its name and labels.
        metadata: Metadata,
        /// What it says.
        spec: Box<AccessPolicySpec>,
    },
}

impl Resource {
    /// Its name and labels.
    pub fn metadata(&self) -> &Metadata {
        match self {
            Resource::Node { metadata, .. }
            | Resource::Service { metadata, .. }
            | Resource::WeightPolicy { metadata, .. }
            | Resource::HttpRoute { metadata, .. }
            | Resource::GrpcRoute { metadata, .. }
            | Resource::TcpRoute { metadata, .. }
            | Resource::TrafficPolicy { metadata, .. }
            | Resource::AccessPolicy { metadata, .. } => metadata,
        }
    }

    /// The same, to be changed.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        match self {
            Resource::Node { metadata, .. }
            | Resource::Service { metadata, .. }
            | Resource::WeightPolicy { metadata, .. }
            | Resource::HttpRoute { metadata, .. }
            | Resource::GrpcRoute { metadata, .. }
            | Resource::TcpRoute { metadata, .. }
            | Resource::TrafficPolicy { metadata, .. }
            | Resource::AccessPolicy { metadata, .. } => metadata,
        }
    }

    /// Its kind, as written.
    pub fn kind(&self) -> &'static str {
        match self {
            Resource::Node { .. } => "Node",
            Resource::Service { .. } => "Service",
            Resource::WeightPolicy { .. } => "WeightPolicy",
            Resource::HttpRoute { .. } => "HTTPRoute",
            Resource::GrpcRoute { .. } => "GRPCRoute",
            Resource::TcpRoute { .. } => "TCPRoute",
            Resource::TrafficPolicy { .. } => "TrafficPolicy",
            Resource::AccessPolicy { .. } => "AccessPolicy",
        }
    }
}

/// One edge server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// Where it is; a node without a position is served but never a target by distance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// Its site; by default its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteName>,
    /// Its region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionName>,
    /// Its mesh port, `host:port`; a proxy's own word replaces it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh_address: Option<String>,
    /// Whether it takes no load from others; its own is still served.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cordoned: bool,
    /// Whether its endpoints get no load at all: what enters there moves to others. Implies `cordoned`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
}

/// What clients ask for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Host names that mean this service; `*` for any.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Its instances.
    #[serde(default)]
    pub endpoints: Vec<EndpointSpec>,
    /// What they speak; what its traffic policy says when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<EndpointProtocol>,
}

/// One instance of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EndpointSpec {
    /// On which node.
    pub node: NodeId,
    /// `host:port`, as that node's proxy reaches it.
    pub address: String,
    /// Requests it works on at once, 1 to 100 000.
    #[serde(default = "workers_default")]
    pub workers: u32,
    /// What it serves within its latency target, requests/s; learned when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_rps: Option<f64>,
}

fn workers_default() -> u32 {
    EndpointSpec::workers_default()
}

impl EndpointSpec {
    /// How many requests an endpoint works on at once, where nobody says.
    pub fn workers_default() -> u32 {
        16
    }
}

/// The service that a resource's namespace and name mean.
///
/// # Errors
/// A part that is not a name.
pub fn service_name(metadata: &Metadata) -> Result<ServiceName, crate::names::NameError> {
    let namespace = match metadata.namespace.as_str() {
        "" => "default",
        namespace => namespace,
    };
    ServiceName::new(&format!("{namespace}/{}", metadata.name))
}
