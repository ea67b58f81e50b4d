//! What `HTTPRoute`, `GRPCRoute` and `TCPRoute` have in common: the Gateway API's own shapes (`v1`), in its own camel case.
//!
//! What is not supported is refused by name, never ignored: unknown fields and values are errors, and so
//! are known ones that mean nothing here (a backend's `port`: endpoints have addresses). Besides the Gateway
//! API's filters there is one of ours, `Fault`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

mod check;
mod filter;
mod grpc;
mod http;
mod tcp;

pub use super::span::Span;
pub use check::{FieldError, RegexError, check_grpc, check_http, check_tcp, whole_regex};
pub use filter::{
    Fault, FaultAbort, FaultDelay, Fraction, Header, HeaderModifier, HttpFilter, PathModifier,
    RequestMirror, RequestRedirect, Scheme, UrlRewrite, share_ppm,
};
pub use grpc::{GrpcMatch, GrpcMethodMatch, GrpcRouteSpec, GrpcRule};
pub use http::{HttpMatch, HttpMethod, HttpRouteSpec, HttpRule, PathMatch, PathMatchType};
pub use tcp::{TcpRouteSpec, TcpRule};

/// The one Gateway there is: the client ports of all proxies of the mesh.
pub const GATEWAY_NAME: &str = "isobar";
/// The group and version of `HTTPRoute` and `GRPCRoute`, as `apiVersion` has it.
pub const GATEWAY_API_VERSION: &str = "gateway.networking.k8s.io/v1";
/// The same of `TCPRoute`.
pub const GATEWAY_API_ALPHA: &str = "gateway.networking.k8s.io/v1alpha2";
/// The group of [`GATEWAY_API_VERSION`].
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// Most host names of a route.
pub const HOSTNAMES_MAX: usize = 16;
/// Most rules of a route.
pub const RULES_MAX: usize = 16;
/// Most matches of one rule.
pub const MATCHES_MAX: usize = 64;
/// Most matches of all rules of a route together.
pub const ROUTE_MATCHES_MAX: usize = 128;
/// Most filters of one rule or backend.
pub const FILTERS_MAX: usize = 16;
/// Most backends of one rule.
pub const BACKENDS_MAX: usize = 16;
/// Most conditions on headers, or on query parameters, of one match; most headers of one modifier's list.
pub const HEADERS_MAX: usize = 16;
/// Longest path or regular expression, in bytes.
pub const PATTERN_LEN_MAX: usize = 1024;
/// Longest header value, in bytes.
pub const HEADER_VALUE_LEN_MAX: usize = 4096;
/// Longest name of a header or query parameter, in bytes.
pub const HEADER_NAME_LEN_MAX: usize = 256;
/// Highest weight of a backend.
pub const WEIGHT_MAX: u32 = 1_000_000;
/// Longest delay that a fault may add.
pub const FAULT_DELAY_MAX: Duration = Duration::from_secs(60);

/// To what a route is attached. There is one Gateway, [`GATEWAY_NAME`]; naming it is allowed and changes nothing. A `TCPRoute` may name
/// a service instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ParentRef {
    /// [`GATEWAY_GROUP`], also by default; empty for a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `Gateway`, also by default, or `Service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Any: the one Gateway is for all namespaces. A service's is by default the route's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// [`GATEWAY_NAME`], or the service's.
    pub name: String,
    /// For a `TCPRoute`: the name of a listener of proxies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

impl ParentRef {
    /// Whether it names a service.
    pub fn is_service(&self) -> bool {
        self.group.as_deref() == Some("") && self.kind.as_deref() == Some("Service")
    }
}

/// How a header or query parameter is compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ValueMatchType {
    /// Byte for byte.
    #[default]
    Exact,
    /// The whole value matches a regular expression.
    RegularExpression,
}

/// A condition on a header, or on a query parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueMatch {
    /// How the value is compared.
    #[serde(default, rename = "type", skip_serializing_if = "is_default")]
    pub kind: ValueMatchType,
    /// A header's name in any case; a query parameter's as it is.
    pub name: String,
    /// What it is compared with.
    pub value: String,
}

/// A service, as a route names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRef {
    /// Empty, also by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `Service`, also by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The service's name.
    pub name: String,
    /// Its namespace; by default the route's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Read to be refused with a reason: an endpoint's address has its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u32>,
}

/// Where a part of a rule's requests goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendRef {
    /// As in [`ServiceRef`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// As in [`ServiceRef`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The service's name.
    pub name: String,
    /// Its namespace; by default the route's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// As in [`ServiceRef`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u32>,
    /// Its part of the sum of all weights, 0 to [`WEIGHT_MAX`].
    #[serde(default = "weight_default", skip_serializing_if = "is_weight_default")]
    pub weight: u32,
    /// What is changed on requests that go there, after the rule's own filters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<HttpFilter>,
}

fn weight_default() -> u32 {
    1
}

fn is_weight_default(weight: &u32) -> bool {
    *weight == weight_default()
}

impl BackendRef {
    /// The service alone.
    pub fn service(&self) -> ServiceRef {
        ServiceRef {
            group: self.group.clone(),
            kind: self.kind.clone(),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            port: self.port,
        }
    }
}

/// How long a request may take; 0 = for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Timeouts {
    /// From its arrival to the answer's head, with all tries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Span>,
    /// One try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<Span>,
}

/// Requests of one session go to the same endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SessionPersistence {
    /// The name of the cookie or header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_name: Option<String>,
    /// A session ends then, however busy it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absolute_timeout: Option<Span>,
    /// A session ends when it was idle for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Span>,
    /// What carries it.
    #[serde(default, rename = "type", skip_serializing_if = "is_default")]
    pub kind: SessionType,
    /// More about the cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie_config: Option<CookieConfig>,
}

/// What carries a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionType {
    /// A cookie.
    #[default]
    Cookie,
    /// A header.
    Header,
}

/// A session's cookie.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CookieConfig {
    /// How long a browser keeps it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lifetime_type: CookieLifetime,
}

/// How long a browser keeps a cookie.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CookieLifetime {
    /// Until it is closed.
    #[default]
    Session,
    /// For [`SessionPersistence::absolute_timeout`].
    Permanent,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests;
