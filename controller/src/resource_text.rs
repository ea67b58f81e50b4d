//! Reads resources from JSON and YAML, and checks them, once, at the edge.
//!
//! ```text
//! bytes ─▶ Value ─▶ kind ─▶ metadata, spec ─▶ ranges ─▶ Declared (what the rest of the controller knows)
//! ```
//!
//! The detour over a plain value is what lets every error name its field: serde's own tagged
//! enums forget where in the text they are.

use std::sync::Arc;

use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::resource::{
    AccessPolicySpec, GrpcRouteSpec, HttpRouteSpec, Metadata, NodeSpec, Resource, ServiceSpec,
    TcpRouteSpec, TrafficPolicySpec, WeightPolicySpec,
};
use isobar_mesh_api::route::{Route, RouteKind};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::problem::FieldProblem;
use crate::store::Tree;

mod check;

pub use check::{check_endpoint, check_hello};

/// Longest text of one resource or of a file of resources, in bytes.
pub const TEXT_LEN_MAX: usize = 4 << 20;

/// The label of resources that a cluster's objects are the source of, and its value.
pub const SOURCE_LABEL: &str = "isobar.dev/source";
/// See [`SOURCE_LABEL`].
pub const SOURCE_CLUSTER: &str = "kubernetes";
/// The value of [`SOURCE_LABEL`] on what a followed directory of files declares.
pub const SOURCE_FILES: &str = "files";
/// The value of [`SOURCE_LABEL`] on services that DNS or Consul name and nobody declares.
pub const SOURCE_DISCOVERY: &str = "discovery";

/// The kinds an operator can write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One edge server.
    Node,
    /// What clients ask for.
    Service,
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
    /// Where connections of a listener go.
    TcpRoute,
}

impl Kind {
    /// All kinds, in the order in which they are restored.
    pub const ALL: [Kind; 8] = [
        Kind::Node,
        Kind::Service,
        Kind::WeightPolicy,
        Kind::TrafficPolicy,
        Kind::AccessPolicy,
        Kind::HttpRoute,
        Kind::GrpcRoute,
        Kind::TcpRoute,
    ];

    /// As written in `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Node => "Node",
            Kind::Service => "Service",
            Kind::WeightPolicy => "WeightPolicy",
            Kind::TrafficPolicy => "TrafficPolicy",
            Kind::AccessPolicy => "AccessPolicy",
            Kind::HttpRoute => RouteKind::Http.as_str(),
            Kind::GrpcRoute => RouteKind::Grpc.as_str(),
            Kind::TcpRoute => RouteKind::Tcp.as_str(),
        }
    }

    /// Where the store keeps it.
    pub fn tree(self) -> Tree {
        match self {
            Kind::Node => Tree::Nodes,
            Kind::Service => Tree::Services,
            Kind::WeightPolicy => Tree::Policies,
            Kind::TrafficPolicy => Tree::TrafficPolicies,
            Kind::AccessPolicy => Tree::AccessPolicies,
            Kind::HttpRoute => Tree::HttpRoutes,
            Kind::GrpcRoute => Tree::GrpcRoutes,
            Kind::TcpRoute => Tree::TcpRoutes,
        }
    }
}

/// Which resource: its kind and its name, `namespace/name` for services.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// What it is.
    pub kind: Kind,
    /// Which.
    pub name: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

/// A checked resource. Cloning is a reference count.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// Which it is.
    pub key: Key,
    /// What was written, with the namespace filled in.
    pub resource: Arc<Resource>,
    /// What it means.
    pub meaning: Meaning,
}

/// Whose spec it is, with names as types.
#[derive(Debug, Clone, PartialEq)]
pub enum Meaning {
    /// A node of this name.
    Node(NodeId),
    /// A service of this name.
    Service(ServiceName),
    /// A policy; its name is the key's.
    WeightPolicy,
    /// A policy; its name is the key's.
    TrafficPolicy,
    /// An access policy.
    AccessPolicy,
    /// A route, as proxies get it.
    Route(Arc<Route>),
}

/// Whether a resource is what an object of a cluster says.
pub fn is_of_cluster(resource: &Resource) -> bool {
    let labels = &resource.metadata().labels;
    labels
        .get(SOURCE_LABEL)
        .is_some_and(|by| by == SOURCE_CLUSTER)
}

/// How a text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// RFC 8259.
    Json,
    /// YAML 1.2; read as the JSON it stands for.
    Yaml,
}

/// Reads a text into a plain value.
///
/// # Errors
/// Not of this format; the pointer is `#`, the whole body.
pub fn parse(text: &[u8], format: Format) -> Result<Value, FieldProblem> {
    let wrong = |what: &str, error: String| {
        // YAML errors come with an excerpt; the first line has place and cause.
        let line = error.lines().next().unwrap_or_default();
        let line = line.trim_start_matches("error: ");
        FieldProblem::new("#", format!("is not {what}: {line}"))
    };
    match format {
        Format::Json => serde_json::from_slice(text).map_err(|e| wrong("JSON", e.to_string())),
        Format::Yaml => {
            let text = std::str::from_utf8(text).map_err(|e| wrong("YAML", e.to_string()))?;
            // A node may be called `no`: words of YAML 1.1 are no booleans here.
            let options = serde_saphyr::options! { strict_booleans: true };
            serde_saphyr::from_str_with_options(text, options)
                .map_err(|e| wrong("YAML", e.to_string()))
        }
    }
}

/// Reads and checks one resource of any kind.
///
/// # Errors
/// The first field found missing, unknown or out of range.
pub fn decode(value: Value) -> Result<Declared, FieldProblem> {
    let Value::Object(mut fields) = value else {
        return Err(FieldProblem::new("#", "must be an object"));
    };
    let kind = match fields.remove("kind") {
        Some(Value::String(kind)) => kind,
        Some(_) => return Err(FieldProblem::new("#/kind", "must be a string")),
        None => return Err(FieldProblem::new("#/kind", "is missing")),
    };
    let metadata = fields.remove("metadata");
    let metadata = metadata.ok_or_else(|| FieldProblem::new("#/metadata", "is missing"))?;
    let metadata: Metadata = field("#/metadata", metadata)?;
    let spec = fields.remove("spec");
    let spec = spec.ok_or_else(|| FieldProblem::new("#/spec", "is missing"))?;
    if kind.ends_with("Route") {
        check_version(&kind, fields.remove("apiVersion"))?;
    }
    // Status is ours; what is read from the API can be written back.
    fields.remove("status");
    if let Some((unknown, _)) = fields.into_iter().next() {
        let pointer = format!("#/{}", escape(&unknown));
        let detail = "is not a field; there are kind, metadata, spec and status";
        return Err(FieldProblem::new(pointer, detail));
    }
    let resource = match kind.as_str() {
        "Node" => Resource::Node {
            metadata,
            spec: field::<NodeSpec>("#/spec", spec)?,
        },
        "Service" => Resource::Service {
            metadata,
            spec: field::<ServiceSpec>("#/spec", spec)?,
        },
        "WeightPolicy" => Resource::WeightPolicy {
            metadata,
            spec: field::<WeightPolicySpec>("#/spec", spec)?,
        },
        "TrafficPolicy" => Resource::TrafficPolicy {
            metadata,
            spec: field::<Box<TrafficPolicySpec>>("#/spec", spec)?,
        },
        "AccessPolicy" => Resource::AccessPolicy {
            metadata,
            spec: field::<Box<AccessPolicySpec>>("#/spec", spec)?,
        },
        "HTTPRoute" => Resource::HttpRoute {
            metadata,
            spec: field::<HttpRouteSpec>("#/spec", spec)?,
        },
        "GRPCRoute" => Resource::GrpcRoute {
            metadata,
            spec: field::<GrpcRouteSpec>("#/spec", spec)?,
        },
        "TCPRoute" => Resource::TcpRoute {
            metadata,
            spec: field::<TcpRouteSpec>("#/spec", spec)?,
        },
        other => {
            let other: String = other.chars().take(64).collect();
            let known = Kind::ALL.map(Kind::as_str).join(", ");
            let detail = format!("is {other:?}; known are {known}");
            return Err(FieldProblem::new("#/kind", detail));
        }
    };
    declare(resource)
}

/// A route may say which of the Gateway API's versions it is written in.
fn check_version(kind: &str, version: Option<Value>) -> Result<(), FieldProblem> {
    let route = RouteKind::ALL.into_iter().find(|one| one.as_str() == kind);
    match (version, route.map(RouteKind::api_versions)) {
        (Some(version), Some(can)) if !can.iter().any(|known| version == *known) => {
            let detail = format!("must be {}", can.join(" or "));
            Err(FieldProblem::new("#/apiVersion", detail))
        }
        _ => Ok(()),
    }
}

/// Checks a resource that is already typed.
///
/// # Errors
/// The first field out of range.
pub fn declare(mut resource: Resource) -> Result<Declared, FieldProblem> {
    if let Resource::Service { metadata, .. }
    | Resource::HttpRoute { metadata, .. }
    | Resource::GrpcRoute { metadata, .. }
    | Resource::TcpRoute { metadata, .. } = &mut resource
        && metadata.namespace.is_empty()
    {
        metadata.namespace = "default".to_owned();
    }
    let (key, meaning) = check::check(&resource)?;
    Ok(Declared {
        key,
        resource: Arc::new(resource),
        meaning,
    })
}

/// Reads and checks a list of resources, or a single one.
///
/// # Errors
/// The first field found wrong; its pointer begins with the resource's place in the list.
pub fn decode_list(value: Value) -> Result<Vec<Declared>, FieldProblem> {
    let Value::Array(items) = value else {
        return Ok(vec![decode(value)?]);
    };
    let with_place = |(place, item): (usize, Value)| {
        decode(item).map_err(|problem| {
            let below = problem.pointer.trim_start_matches('#');
            FieldProblem::new(format!("#/{place}{below}"), problem.detail)
        })
    };
    items.into_iter().enumerate().map(with_place).collect()
}

/// Reads a typed body that is no resource.
///
/// # Errors
/// The first field found wrong.
pub fn typed<T: DeserializeOwned>(value: Value) -> Result<T, FieldProblem> {
    field("#", value)
}

/// Reads one typed part of a body; errors point below `base`.
pub(crate) fn field<T: DeserializeOwned>(base: &str, value: Value) -> Result<T, FieldProblem> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let mut pointer = base.to_owned();
        for segment in error.path() {
            use serde_path_to_error::Segment;
            match segment {
                Segment::Map { key } => pointer = format!("{pointer}/{}", escape(key)),
                Segment::Seq { index } => pointer = format!("{pointer}/{index}"),
                Segment::Enum { .. } | Segment::Unknown => {}
            }
        }
        let detail = error.inner().to_string();
        match quoted_after(&detail, "missing field `") {
            Some(name) => FieldProblem::new(format!("{pointer}/{name}"), "is missing"),
            None => FieldProblem::new(pointer, detail),
        }
    })
}

fn quoted_after<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    text.strip_prefix(prefix)?.split('`').next()
}

/// Writes a key as a segment of a JSON pointer (RFC 6901, section 3).
pub(crate) fn escape(key: &str) -> String {
    let short: String = key.chars().take(128).collect();
    short.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests;
