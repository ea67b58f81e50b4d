//! Families of counts that are no more than a list.

use metrics::{Counter, Gauge, Histogram};

/// Time of a tick, by phase.
pub struct TickSeconds {
    /// Reports that waited are read into the load book.
    pub inbox: Histogram,
    /// Filter, estimate, solve, damp, compare.
    pub plan: Histogram,
    /// Changed rows are put into the streams' queues.
    pub push: Histogram,
}

/// Streams that ended, by cause.
pub struct StreamsEnded {
    /// The proxy ended it, or its connection broke.
    pub closed: Counter,
    /// The proxy did not read what was pushed.
    pub slow: Counter,
    /// The node opened another.
    pub replaced: Counter,
    /// A line longer than the protocol allows.
    pub too_long: Counter,
}

/// What a controller that does not lead passes on.
pub struct Relayed {
    /// Reports of proxies.
    pub reports: Counter,
    /// Snapshots and deltas for proxies.
    pub pushes: Counter,
    /// Enrolments.
    pub enrolments: Counter,
    /// Requests to the REST API.
    pub requests: Counter,
    /// Streams that are passed on now.
    pub streams: Gauge,
}

impl Relayed {
    pub(super) fn new(by: impl Fn(&'static str) -> Counter, streams: Gauge) -> Relayed {
        Relayed {
            reports: by("report"),
            pushes: by("push"),
            enrolments: by("enrolment"),
            requests: by("request"),
            streams,
        }
    }
}

/// Requests to the REST API that were not let in, by cause.
pub struct RestRefused {
    /// No token.
    pub missing: Counter,
    /// Not a token, or not a right one.
    pub wrong: Counter,
    /// Too many wrong ones.
    pub guessing: Counter,
    /// A role that is too small.
    pub role: Counter,
    /// Another namespace.
    pub namespace: Counter,
    /// A right token that has ended.
    pub expired: Counter,
    /// Kubernetes could not be asked.
    pub away: Counter,
}

impl RestRefused {
    pub(super) fn new(by: impl Fn(&'static str) -> Counter) -> RestRefused {
        RestRefused {
            missing: by("missing"),
            wrong: by("wrong"),
            guessing: by("guessing"),
            role: by("role"),
            namespace: by("namespace"),
            expired: by("expired"),
            away: by("away"),
        }
    }
}
