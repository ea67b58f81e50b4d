//! A route as it crosses the wire: checked, its kind's differences resolved.
//!
//! A `GRPCRoute` is sent as the HTTP rules that it means, and every backend with its namespace, so that a proxy
//! compiles one shape.

use serde::{Deserialize, Serialize};

use crate::names::{NameError, ServiceName};
use crate::resource::Metadata;
use crate::resource::route::{
    FieldError, GATEWAY_API_ALPHA, GATEWAY_API_VERSION, GrpcRouteSpec, GrpcRule, HttpFilter,
    HttpRouteSpec, HttpRule, TcpRouteSpec, TcpRule, check_grpc, check_http, check_tcp,
};

/// Largest route, in bytes of its JSON: it must fit a line of the control stream with room to spare.
pub const ROUTE_LEN_MAX: usize = 256 * 1024;

/// What a route was written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RouteKind {
    /// For any HTTP request.
    #[serde(rename = "HTTPRoute")]
    Http,
    /// For gRPC calls.
    #[serde(rename = "GRPCRoute")]
    Grpc,
    /// For connections.
    #[serde(rename = "TCPRoute")]
    Tcp,
}

impl RouteKind {
    /// All kinds.
    pub const ALL: [RouteKind; 3] = [RouteKind::Http, RouteKind::Grpc, RouteKind::Tcp];

    /// As may be written in `apiVersion`: the Gateway API's `TCPRoute` was in `v1alpha2` before it was in `v1`.
    pub fn api_versions(self) -> &'static [&'static str] {
        match self {
            RouteKind::Http | RouteKind::Grpc => &[GATEWAY_API_VERSION],
            RouteKind::Tcp => &[GATEWAY_API_VERSION, GATEWAY_API_ALPHA],
        }
    }

    /// As written in `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            RouteKind::Http => "HTTPRoute",
            RouteKind::Grpc => "GRPCRoute",
            RouteKind::Tcp => "TCPRoute",
        }
    }
}

/// Which route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RouteKey {
    /// What it was written as.
    pub kind: RouteKind,
    /// `namespace/name`; the same rules as for a service's.
    pub name: ServiceName,
}

impl std::fmt::Display for RouteKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

/// One route. Its rules were checked when it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Text")]
pub struct Route {
    /// Which.
    #[serde(flatten)]
    key: RouteKey,
    /// When it was first written (RFC 3339, UTC): of two that fit alike the older wins. Empty = first of all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    created: String,
    /// Host names it is for; empty for any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hostnames: Vec<String>,
    /// Names of the listeners whose connections it is for; only of a `TCPRoute`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    listeners: Vec<String>,
    /// Services whose connections it is for; only of a `TCPRoute`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parents: Vec<ServiceName>,
    /// What happens to which requests.
    #[serde(default)]
    rules: Vec<HttpRule>,
}

/// A route before it is checked.
#[derive(Deserialize)]
struct Text {
    kind: RouteKind,
    name: ServiceName,
    #[serde(default)]
    created: String,
    #[serde(default)]
    hostnames: Vec<String>,
    #[serde(default)]
    listeners: Vec<String>,
    #[serde(default)]
    parents: Vec<ServiceName>,
    #[serde(default)]
    rules: Vec<HttpRule>,
}

impl TryFrom<Text> for Route {
    type Error = FieldError;
    fn try_from(text: Text) -> Result<Route, FieldError> {
        let spec = HttpRouteSpec {
            parent_refs: Vec::new(),
            hostnames: text.hostnames,
            rules: text.rules,
        };
        check_http(&spec)?;
        Ok(Route {
            key: RouteKey {
                kind: text.kind,
                name: text.name,
            },
            created: text.created,
            hostnames: spec.hostnames,
            listeners: text.listeners,
            parents: text.parents,
            rules: spec.rules,
        })
    }
}

/// Why a resource is not a route.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// Its name or namespace.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Its spec.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// Longer than [`ROUTE_LEN_MAX`].
    #[error("the route takes {0} bytes, at most {ROUTE_LEN_MAX} are allowed")]
    TooLong(usize),
}

impl Route {
    /// An `HTTPRoute`.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn from_http(metadata: &Metadata, spec: &HttpRouteSpec) -> Result<Route, RouteError> {
        check_http(spec)?;
        Route::new(
            RouteKind::Http,
            metadata,
            &spec.hostnames,
            spec.rules.clone(),
        )
    }

    /// A `GRPCRoute`.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn from_grpc(metadata: &Metadata, spec: &GrpcRouteSpec) -> Result<Route, RouteError> {
        check_grpc(spec)?;
        let rules = spec.rules.iter().map(GrpcRule::to_http).collect();
        Route::new(RouteKind::Grpc, metadata, &spec.hostnames, rules)
    }

    /// A `TCPRoute`.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn from_tcp(metadata: &Metadata, spec: &TcpRouteSpec) -> Result<Route, RouteError> {
        check_tcp(spec)?;
        let rules = spec.rules.iter().map(TcpRule::to_http).collect();
        let mut route = Route::new(RouteKind::Tcp, metadata, &[], rules)?;
        route.listeners = spec.listeners();
        route.parents = spec.parents(route.key.name.namespace());
        Ok(route)
    }

    fn new(
        kind: RouteKind,
        metadata: &Metadata,
        hostnames: &[String],
        mut rules: Vec<HttpRule>,
    ) -> Result<Route, RouteError> {
        let name = crate::resource::service_name(metadata)?;
        for rule in &mut rules {
            for backend in &mut rule.backend_refs {
                backend
                    .namespace
                    .get_or_insert_with(|| name.namespace().to_owned());
            }
            for filter in &mut rule.filters {
                if let HttpFilter::RequestMirror(mirror) = filter {
                    let namespace = &mut mirror.backend_ref.namespace;
                    namespace.get_or_insert_with(|| name.namespace().to_owned());
                }
            }
        }
        let route = Route {
            key: RouteKey { kind, name },
            created: metadata.creation_timestamp.clone().unwrap_or_default(),
            hostnames: hostnames.to_vec(),
            listeners: Vec::new(),
            parents: Vec::new(),
            rules,
        };
        let len = serde_json::to_vec(&route).map_or(usize::MAX, |json| json.len());
        match len > ROUTE_LEN_MAX {
            true => Err(RouteError::TooLong(len)),
            false => Ok(route),
        }
    }

    /// Which it is.
    pub fn key(&self) -> &RouteKey {
        &self.key
    }

    /// When it was first written.
    pub fn created(&self) -> &str {
        &self.created
    }

    /// Host names it is for, lower case, exact or `*.suffix`; empty for any.
    pub fn hostnames(&self) -> &[String] {
        &self.hostnames
    }

    /// Names of the listeners whose connections it is for; only of a `TCPRoute`.
    pub fn listeners(&self) -> &[String] {
        &self.listeners
    }

    /// Services whose connections it is for; only of a `TCPRoute`.
    pub fn parents(&self) -> &[ServiceName] {
        &self.parents
    }

    /// What happens to which requests.
    pub fn rules(&self) -> &[HttpRule] {
        &self.rules
    }

    /// Every service that it names, backends and mirrors, in order.
    pub fn services(&self) -> impl Iterator<Item = ServiceName> {
        self.rules.iter().flat_map(|rule| {
            let mirrors = rule.filters.iter().filter_map(|filter| match filter {
                HttpFilter::RequestMirror(mirror) => {
                    service(&mirror.backend_ref.namespace, &mirror.backend_ref.name)
                }
                _ => None,
            });
            let backends = rule
                .backend_refs
                .iter()
                .filter_map(|b| service(&b.namespace, &b.name));
            backends.chain(mirrors)
        })
    }
}

/// The service that a checked reference of a route means.
pub fn service(namespace: &Option<String>, name: &str) -> Option<ServiceName> {
    let namespace = namespace.as_deref().unwrap_or("default");
    ServiceName::new(&format!("{namespace}/{name}")).ok()
}
