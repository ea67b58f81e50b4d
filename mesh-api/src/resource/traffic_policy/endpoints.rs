//! Which endpoints of a node get requests: not those that are ill, and of the others whom balancing chooses.

use serde::{Deserialize, Serialize};

use crate::resource::span::Span;

/// What endpoints speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum EndpointProtocol {
    /// HTTP/1.1; gRPC calls go over HTTP/2 all the same.
    #[default]
    Http1,
    /// HTTP/2 without TLS, by prior knowledge (`kubernetes.io/h2c`).
    Http2,
}

/// Whether endpoints are told by the PROXY protocol whom a connection comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TellClient {
    /// They are not.
    #[default]
    Off,
    /// By a line, version 1.
    V1,
    /// By a binary header, version 2.
    V2,
}

/// How endpoints are spoken to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Endpoints {
    /// What they speak. Default `http1`.
    pub protocol: EndpointProtocol,
    /// Whether they are told by the PROXY protocol whom a connection comes from. Each HTTP request then has a
    /// connection of its own. Not with `http2`. Default `off`.
    pub proxy_protocol: TellClient,
}

/// When an endpoint is so much worse than its siblings on the same node that it is left alone. Compared once
/// in `interval`, and looked at as soon as it gives many errors in a row; a service with one endpoint here has
/// no outlier. An error is any 5xx and gRPC `UNKNOWN`, `INTERNAL`, `UNAVAILABLE`, `DATA_LOSS`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Outlier {
    /// How often, `"1s"` to `"10m"`; `"0s"` = never. Default `"10s"`.
    pub interval: Span,
    /// Errors in a row that make it an outlier at once, 0 = they do not. Default 0.
    pub consecutive_errors: u32,
    /// Failures in a row (as the circuit counts them: no connection, a broken one, a timeout, 502, 503, 504, gRPC
    /// `UNAVAILABLE`) that make it one at once, 0 = they do not. Below `circuit.consecutive_failures` this comes first,
    /// and unlike the circuit it keeps to `ejected_max`. Default 0.
    pub consecutive_gateway_errors: u32,
    /// An endpoint with fewer answers in the interval is not compared. Default 20.
    pub requests_min: u32,
    /// Share of errors by which it must exceed its siblings' together, 0 to 1, 0 = errors do not matter. Default 0.3.
    pub error_excess: f64,
    /// Mean latency, as a multiple of its siblings', that makes it an outlier, 0 = latency does not matter.
    /// Default 0.
    pub latency_ratio: f64,
    /// Most of the endpoints, as a share, that are left alone as outliers at once, 0 to 1; one may always
    /// be, the last one never. Default 0.3.
    pub ejected_max: f64,
    /// Left alone for this long the first time, then twice as long each time. Default `"30s"`.
    pub ejection_base: Span,
    /// The longest time. Default `"5m"`.
    pub ejection_max: Span,
}

impl Default for Outlier {
    fn default() -> Outlier {
        Outlier {
            interval: Span::from_secs(10),
            consecutive_errors: 0,
            consecutive_gateway_errors: 0,
            requests_min: 20,
            error_excess: 0.3,
            latency_ratio: 0.0,
            ejected_max: 0.3,
            ejection_base: Span::from_secs(30),
            ejection_max: Span::from_secs(300),
        }
    }
}

/// How an endpoint is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum HealthProtocol {
    /// `GET path`; healthy is any 2xx.
    #[default]
    Http,
    /// A connection is enough.
    Tcp,
    /// `grpc.health.v1.Health/Check`; healthy is `SERVING`.
    Grpc,
}

/// Endpoints are asked how they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheck {
    /// How. Default `http`.
    pub protocol: HealthProtocol,
    /// For `http`. Default `/`.
    pub path: String,
    /// `Host` of the question, and `:authority` for `grpc`; empty: the endpoint's address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// For `grpc`: the service asked about; empty for the whole server.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub grpc_service: String,
    /// Time between two questions, `"100ms"` to `"10m"`. Default `"5s"`.
    pub interval: Span,
    /// Longest wait for an answer. Default `"1s"`.
    pub timeout: Span,
    /// Failures in a row after which it is unhealthy, 1 to 100. Default 3.
    pub unhealthy_after: u32,
    /// Successes in a row after which it is healthy again, 1 to 100. Default 2.
    pub healthy_after: u32,
}

impl Default for HealthCheck {
    fn default() -> HealthCheck {
        HealthCheck {
            protocol: HealthProtocol::Http,
            path: "/".to_owned(),
            host: String::new(),
            grpc_service: String::new(),
            interval: Span::from_secs(5),
            timeout: Span::from_secs(1),
            unhealthy_after: 3,
            healthy_after: 2,
        }
    }
}

/// Who among the endpoints of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// One after another.
    RoundRobin,
    /// Any.
    Random,
    /// In proportion to their workers, spread evenly.
    Weighted,
    /// The one with fewer requests per worker, of two.
    LeastRequest,
    /// The one with the smaller product of requests and recent peak latency, of two.
    #[default]
    PeakEwma,
    /// By hash of a key, on a ring.
    RingHash,
    /// By hash of a key, from a table (Eisenbud et al. 2016).
    Maglev,
}

/// What of a request is its key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum KeyOf {
    /// A cookie; the proxy sets one where there is none.
    #[default]
    Cookie,
    /// A header's value.
    Header,
    /// The client's address.
    SourceAddress,
}

/// The key of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct HashKey {
    /// What it is. Default `cookie`.
    pub of: KeyOf,
    /// The cookie's or header's name. Default `isobar-session`.
    pub name: String,
    /// Life of a cookie that the proxy sets; `"0s"` = as long as the browser is open. Default `"0s"`.
    pub ttl: Span,
}

impl Default for HashKey {
    fn default() -> HashKey {
        HashKey {
            of: KeyOf::Cookie,
            name: "isobar-session".to_owned(),
            ttl: Span::ZERO,
        }
    }
}

/// Which endpoint of a node gets a request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct LoadBalancing {
    /// How. Default `peak_ewma`.
    pub algorithm: Balance,
    /// The key for `ring_hash` and `maglev`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<HashKey>,
    /// Keeps requests with one key on one node and one endpoint, whatever the algorithm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<HashKey>,
    /// A new or returned endpoint gets its full share only after this long. Default `"0s"`: at once.
    pub slow_start: Span,
}
