//! A request's place in a trace, and which traces are recorded.
//!
//! ```text
//! client's span ─► SERVER, ingress at A ─┬─► CLIENT, a try at an endpoint ─► the endpoint's own spans
//!                                        └─► CLIENT, the hop ─► SERVER, mesh at B ─► CLIENT, a try at an endpoint
//! ```
//!
//! A TCP connection has the same place, told of when it ends; one that moves carries it in the mesh's own `CONNECT`.
//!
//! A trace that begins here is recorded by its share; one that goes on, as whoever sent it says ([`ParentRule`]). What a home
//! decided holds at the other node too. Beside that a proxy tells its own spans of a request that failed or was slow: that
//! is known when it ends, so while such requests are wanted every request has its place in a trace and remembers its tries.
//!
//! - [`context`]: headers; `span`: what a collector gets.

use std::sync::Arc;

use http::HeaderMap;
use http::header::HeaderValue;
use isobar_mesh_api::names::NodeId;

use crate::config::telemetry::{ParentRule, TracesConfig};
use crate::golden::Direction;
use crate::spool::Spool;
use crate::story::{Ended, Picks};

pub mod context;
mod span;

use context::{Context, TRACEPARENT, TRACESTATE, Told};

/// Longest `tracestate` that is told to a collector, in bytes (W3C Trace Context, section 3.3.1.5).
const STATE_LEN_MAX: usize = 512;

/// A request's place in a trace.
#[derive(Debug)]
pub struct Trace {
    /// Its trace, and this proxy's span of it.
    pub own: Context,
    /// The span that it was sent in; 0 = the trace begins here.
    parent: u64,
    state: Option<HeaderValue>,
    sampled: bool,
    /// Whether that is decided when it ends.
    is_open: bool,
}

impl Trace {
    /// The place of a request whose trace is known and of no concern to this proxy.
    pub(crate) fn known(headers: &HeaderMap) -> Option<Trace> {
        let own = Told::by(headers).parent?;
        Some(Trace {
            own,
            parent: own.span,
            state: None,
            sampled: false,
            is_open: false,
        })
    }

    /// Whether anybody may hear of its spans.
    pub(crate) fn may_be_recorded(&self) -> bool {
        self.sampled || self.is_open
    }

    /// This proxy's span, if it may be told of.
    pub(crate) fn span(&self) -> Option<u64> {
        self.may_be_recorded().then_some(self.own.span)
    }

    /// A span for a try; 0 when nobody may hear of it.
    pub(crate) fn another_span(&self) -> u64 {
        match self.may_be_recorded() {
            true => random_span(),
            false => 0,
        }
    }

    /// Puts a span of this trace into the head of what is sent in it.
    pub(crate) fn tell(&self, span: u64, head: &mut HeaderMap) {
        let context = Context {
            trace: self.own.trace,
            span,
        };
        head.insert(TRACEPARENT, context.header(self.sampled));
        // What others added to another trace is not this one's.
        if self.parent == 0 {
            head.remove(TRACESTATE);
        }
    }
}

fn random_span() -> u64 {
    fastrand::u64(1..)
}

/// Decides which traces are recorded, and makes spans of requests.
#[derive(Debug)]
pub struct Tracer {
    share: f64,
    follows: bool,
    picks: Picks,
    spool: Arc<Spool>,
}

impl Tracer {
    /// As the configuration says; spans go to `spool`.
    pub fn new(config: &TracesConfig, spool: Arc<Spool>) -> Tracer {
        Tracer {
            share: config.share,
            follows: config.parent == ParentRule::Follow,
            picks: Picks::new(&config.always, config.slow_ms),
            spool,
        }
    }

    /// The place of a request that came with these headers.
    pub(crate) fn place(&self, headers: &HeaderMap, direction: Direction) -> Option<Trace> {
        let told = Told::by(headers);
        let trace = told
            .parent
            .map_or_else(|| fastrand::u128(1..), |parent| parent.trace);
        let sampled = match (direction, told.sampled) {
            (Direction::Mesh, said) => said.unwrap_or(false),
            (_, Some(said)) if self.follows => said,
            _ => context::is_in_share(trace, self.share),
        };
        let is_open = !self.picks.are_none();
        if !sampled && !is_open {
            return Trace::known(headers);
        }
        Some(Trace {
            own: Context {
                trace,
                span: random_span(),
            },
            parent: told.parent.map_or(0, |parent| parent.span),
            state: headers
                .get(TRACESTATE)
                .filter(|state| told.parent.is_some() && state.len() <= STATE_LEN_MAX)
                .cloned(),
            sampled,
            is_open,
        })
    }

    /// Tells of a finished request, if its trace is recorded or it is one that is always told of.
    pub(crate) fn hear(&self, node: &NodeId, ended: &Ended<'_>) {
        let Some(trace) = ended.trace.filter(|trace| trace.may_be_recorded()) else {
            return;
        };
        if trace.sampled || self.picks.have(ended) {
            span::all(node, trace, ended, &self.spool);
        }
    }
}

#[cfg(test)]
mod tests;
