//! How requests are treated: the spec of a `TrafficPolicy`.
//!
//! Every field has a default, and a service that no policy selects gets the
//! defaults of all of them: they bound every wait, repeat only what is safe to
//! repeat, and take endpoints that do not answer out of use for a while.
//! `docs/traffic-policy.md` is the page for operators.
//!
//! A span of `"0s"` and a count of 0 mean "no such limit" where the field says
//! so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::span::Span;
use crate::names::ServiceName;

mod check;
mod endpoints;

pub use check::RATE_LIMITS_MAX;
pub use endpoints::{
    Balance, EndpointProtocol, Endpoints, HashKey, HealthCheck, HealthProtocol, KeyOf,
    LoadBalancing, Outlier, TellClient,
};

/// The spec of a `TrafficPolicy`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TrafficPolicySpec {
    /// Services it is for, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceName>,
    /// Services it is for, by label: those that carry all of these. With neither names nor labels
    /// it is for all.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How endpoints are spoken to.
    #[serde(skip_serializing_if = "is_default")]
    pub endpoints: Endpoints,
    /// How long things may take.
    #[serde(skip_serializing_if = "is_default")]
    pub timeouts: Timeouts,
    /// What is tried again.
    #[serde(skip_serializing_if = "is_default")]
    pub retries: Retries,
    /// When an endpoint is left alone, and how much it gets at most.
    #[serde(skip_serializing_if = "is_default")]
    pub circuit: Circuit,
    /// When an endpoint is so much worse than its siblings that it is left alone.
    #[serde(skip_serializing_if = "is_default")]
    pub outlier: Outlier,
    /// Whether endpoints are asked how they are; absent: only requests tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Which endpoint of a node gets a request.
    #[serde(skip_serializing_if = "is_default")]
    pub load_balancing: LoadBalancing,
    /// The queue before the endpoints.
    #[serde(skip_serializing_if = "is_default")]
    pub queue: Queue,
    /// How many requests endpoints work on at once.
    #[serde(skip_serializing_if = "is_default")]
    pub concurrency: Concurrency,
    /// How large things may be.
    #[serde(skip_serializing_if = "is_default")]
    pub sizes: Sizes,
    /// How many requests are let in, by whom.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rate_limits: Vec<RateLimit>,
}

/// How long things may take; `"0s"` is no limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Opening a connection to an endpoint, `"1ms"` to `"1m"`. Default `"1s"`.
    pub connect: Span,
    /// One try: from sending the request until the head of its answer. Default none.
    pub per_try: Span,
    /// The request: from its arrival until the head of its answer, with all waits, tries and pauses.
    /// Default `"1m"`.
    pub request: Span,
    /// A body on its way, either direction, of which nothing came. Default `"5m"`.
    pub idle: Span,
    /// All of it, until the last byte of the answer. Default none; a `grpc-timeout` is one.
    pub stream: Span,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect: Span::from_secs(1),
            per_try: Span::ZERO,
            request: Span::from_secs(60),
            idle: Span::from_secs(300),
            stream: Span::ZERO,
        }
    }
}

/// What may be wrong with a try so that another is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// No connection: the request was not sent, so any method is tried again.
    ConnectFailure,
    /// It was sent and the connection broke before anything of the answer came.
    Reset,
    /// It took longer than `per_try`.
    Timeout,
    /// The endpoint answered 502, 503 or 504.
    GatewayError,
    /// The endpoint answered 429 or 503 with `Retry-After`.
    RetryAfter,
    /// The endpoint answered any 5xx.
    ServerError,
    /// gRPC status `UNAVAILABLE` (14), in the answer's head.
    GrpcUnavailable,
    /// gRPC status `RESOURCE_EXHAUSTED` (8), in the answer's head.
    GrpcResourceExhausted,
}

/// What is tried again. What was sent is only tried again with a method that may be repeated (GET, HEAD,
/// OPTIONS, TRACE, PUT, DELETE; RFC 9110, section 9.2.2), unless `unsafe_methods` says otherwise, and
/// only while nothing of an answer has gone to the client and the body can be sent from its beginning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Retries {
    /// Tries in all, the first included, 1 to 10; 1 is no retry. Default 2.
    pub attempts: u32,
    /// After what. Default `connect_failure` and `reset`.
    pub on: Vec<RetryOn>,
    /// Whether POST and PATCH, gRPC among them, are repeated too. Default false.
    pub unsafe_methods: bool,
    /// Retries per first attempt over the last ten seconds, 0 to 1. Default 0.2.
    pub budget_ratio: f64,
    /// Retries/s that are allowed however few first attempts there are, 0 to 1000. Default 10.
    pub budget_min_rps: u32,
    /// Retries under way at once on a node, 0 = no limit. Default 0.
    pub concurrent_max: u32,
    /// Pause before the first retry; a random part of it, and twice as much each time. Default `"25ms"`.
    pub backoff_base: Span,
    /// The longest such pause. Default `"250ms"`.
    pub backoff_max: Span,
    /// Longest pause that an endpoint's `Retry-After` is followed for; when it asks for more, its answer
    /// is passed on. Default `"1s"`.
    pub retry_after_max: Span,
}

impl Default for Retries {
    fn default() -> Retries {
        Retries {
            attempts: 2,
            on: vec![RetryOn::ConnectFailure, RetryOn::Reset],
            unsafe_methods: false,
            budget_ratio: 0.2,
            budget_min_rps: 10,
            concurrent_max: 0,
            backoff_base: Span::from_millis(25),
            backoff_max: Span::from_millis(250),
            retry_after_max: Span::from_secs(1),
        }
    }
}

/// When an endpoint is left alone because it fails, and how much it gets at most. A failure is: no connection,
/// a connection that broke, a timeout, 502, 503, 504, gRPC `UNAVAILABLE`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Circuit {
    /// Failures in a row that open the circuit, 0 = they do not. Default 5.
    pub consecutive_failures: u32,
    /// Share of failures that opens it, 0 to 1, 0 = it does not. Default 0.5.
    pub failure_ratio: f64,
    /// Over this long, `"1s"` to `"10m"`. Default `"10s"`.
    pub window: Span,
    /// With fewer requests in the window the share says nothing. Default 20.
    pub window_requests_min: u32,
    /// Open for this long the first time, then twice as long each time. Default `"1s"`.
    pub open_base: Span,
    /// The longest time. Default `"1m"`.
    pub open_max: Span,
    /// Probes that must succeed one after another before it closes, 1 to 100. Default 2.
    pub half_open_probes: u32,
}

impl Default for Circuit {
    fn default() -> Circuit {
        Circuit {
            consecutive_failures: 5,
            failure_ratio: 0.5,
            window: Span::from_secs(10),
            window_requests_min: 20,
            open_base: Span::from_secs(1),
            open_max: Span::from_secs(60),
            half_open_probes: 2,
        }
    }
}

/// The queue before the endpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// Most requests waiting per request that the endpoints work on at once, 0 to 10 000. Default 50.
    pub per_worker_max: u32,
    /// Longest wait; who would wait longer is refused at once. Default `"1s"`.
    pub wait_max: Span,
    /// The header that names a request's class; absent: all are equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue {
            per_worker_max: 50,
            wait_max: Span::from_secs(1),
            priority: None,
        }
    }
}

/// Classes of requests. When there is no room, the last class is refused first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Priority {
    /// The header.
    pub header: String,
    /// Its values, the most important first, 1 to 4.
    pub classes: Vec<String>,
    /// The class of a request whose header is absent or says something else. Default: the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// How many requests a node's endpoints of the service are given at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Concurrency {
    /// Whether that is learned from latency, starting from the endpoints' workers. Default false: it is their workers.
    pub adaptive: bool,
    /// The fewest, all endpoints together, 1 to 10 000. Default 1.
    pub min: u32,
    /// The most, all endpoints together, 1 to 100 000. Default 1000.
    pub max: u32,
    /// Latency over its minimum that is still taken for the endpoints' own, 1 to 10. Default 1.2.
    pub tolerance: f64,
}

impl Default for Concurrency {
    fn default() -> Concurrency {
        Concurrency {
            adaptive: false,
            min: 1,
            max: 1000,
            tolerance: 1.2,
        }
    }
}

/// How large things may be, in bytes; 0 is no limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Sizes {
    /// Head of a request, up to what the proxy reads at all (64 KiB); larger is a 431. Default 0.
    pub request_head_len_max: u32,
    /// Body of a request; larger is a 413. Default 0.
    pub request_body_len_max: u64,
    /// Body of an answer; larger is a 502, or breaks off when it is noticed too late. Default 0.
    pub response_body_len_max: u64,
    /// Of a request's body, as much is kept so that the request can be sent again. Default 64 KiB.
    pub buffer_len_max: u32,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes {
            request_head_len_max: 0,
            request_body_len_max: 0,
            response_body_len_max: 0,
            buffer_len_max: 64 * 1024,
        }
    }
}

/// Whose requests share a rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum RateOf {
    /// All of the service.
    #[default]
    Service,
    /// Those of one matched route.
    Route,
    /// Those of one client's address.
    Source,
    /// Those of one workload, by its identity; requests without one are those of their address.
    Identity,
    /// Those with one value of a header; requests without it are one more such value.
    Header,
}

/// Where a rate holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum RateScope {
    /// On every node for itself.
    #[default]
    Node,
    /// On all nodes together: each gets a share by its demand, anew each control period. Only for `by: service`.
    Mesh,
}

/// How many requests are let in. Beyond it they are refused with 429 and `Retry-After`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Its name, in metrics and answers; unique in the policy.
    pub name: String,
    /// So many requests …
    pub requests: u32,
    /// … in so long, `"1ms"` to `"24h"`. Default `"1s"`.
    #[serde(default = "second")]
    pub per: Span,
    /// So many at once when there were none for a while. Default: `requests`.
    #[serde(default)]
    pub burst: u32,
    /// Whose requests share it. Default `service`.
    #[serde(default)]
    pub by: RateOf,
    /// The header, for `by: header`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub header: String,
    /// Only requests whose path, as the service gets it, begins with this; empty: all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path_prefix: String,
    /// Where it holds. Default `node`.
    #[serde(default)]
    pub scope: RateScope,
}

fn second() -> Span {
    Span::from_secs(1)
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl TrafficPolicySpec {
    /// Whether the policy is for a service with this name and these labels.
    pub fn selects(&self, service: &ServiceName, labels: &BTreeMap<String, String>) -> bool {
        if self.is_for_all() || self.services.contains(service) {
            return true;
        }
        let carries = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        !self.labels.is_empty() && self.labels.iter().all(carries)
    }

    /// Whether it names nobody, and so is for all.
    pub fn is_for_all(&self) -> bool {
        self.services.is_empty() && self.labels.is_empty()
    }
}

#[cfg(test)]
mod tests;
