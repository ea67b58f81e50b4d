//! A traffic policy made ready for requests: numbers instead of texts, once per snapshot.

use std::sync::Arc;

use isobar_mesh_api::resource::TrafficPolicySpec;
use isobar_mesh_api::resource::span::Span;
use isobar_mesh_api::resource::traffic_policy::{EndpointProtocol, Sizes, Timeouts};
use isobar_mesh_api::snapshot::QueueLimits;

use crate::circuit;
use crate::expiry::NEVER_US;
use crate::outlier;
use crate::priority::Classes;
use crate::retry;
use crate::route::rule;

/// How requests of one service are treated.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// As it was written.
    pub spec: Arc<TrafficPolicySpec>,
    /// Whether the endpoints speak HTTP/2, whatever is asked.
    pub speaks_http2: bool,
    /// How long things may take.
    pub waits: Waits,
    /// What is tried again.
    pub retries: retry::Rules,
    /// When an endpoint is left alone.
    pub circuit: circuit::Rules,
    /// When it is so much worse than its siblings that it is.
    pub outlier: outlier::Rules,
    /// Which requests are more important than others; `None`: all are equal.
    pub priority: Option<Classes>,
    /// How large things may be.
    pub sizes: Sizes,
}

/// Longest waits, in microseconds; [`NEVER_US`] = no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// Until there is a connection.
    pub connect_us: u64,
    /// One try, until the head of its answer.
    pub per_try_us: u64,
    /// From arrival until the head of the answer.
    pub request_us: u64,
    /// For the next piece of a body.
    pub idle_us: u64,
    /// From arrival until the answer's end.
    pub stream_us: u64,
}

impl Waits {
    fn new(policy: &Timeouts) -> Waits {
        let limit = |span: Span| match span.is_zero() {
            true => NEVER_US,
            false => span.as_micros(),
        };
        Waits {
            connect_us: limit(policy.connect),
            per_try_us: limit(policy.per_try),
            request_us: limit(policy.request),
            idle_us: limit(policy.idle),
            stream_us: limit(policy.stream),
        }
    }

    /// The same under a route's rule: what the rule says counts.
    pub fn under(self, rule: &rule::Timeouts) -> Waits {
        Waits {
            request_us: rule.request_us.unwrap_or(self.request_us),
            per_try_us: rule.backend_request_us.unwrap_or(self.per_try_us),
            ..self
        }
    }
}

impl Traffic {
    /// Resolves a checked policy.
    pub fn new(spec: Arc<TrafficPolicySpec>) -> Traffic {
        Traffic {
            speaks_http2: spec.endpoints.protocol == EndpointProtocol::Http2,
            waits: Waits::new(&spec.timeouts),
            retries: retry::Rules::new(&spec.retries),
            circuit: circuit::Rules::new(&spec.circuit),
            outlier: outlier::Rules::new(&spec.outlier),
            priority: spec.queue.priority.as_ref().and_then(Classes::new),
            sizes: spec.sizes.clone(),
            spec,
        }
    }

    /// The limits of the queue.
    pub fn queue(&self) -> QueueLimits {
        QueueLimits {
            wait_ms_max: self.spec.queue.wait_max.as_millis(),
            per_worker_max: self.spec.queue.per_worker_max,
        }
    }
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic::new(Arc::default())
    }
}
