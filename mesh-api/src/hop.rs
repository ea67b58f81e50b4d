//! Headers of a request between two proxies.
//!
//! They are trusted on the mesh port alone, from an authenticated node, and
//! stripped from any client. A request with [`HOP`] is never moved again.

use std::fmt;

/// Present, with the value `1`, on a moved request.
pub const HOP: &str = "isobar-hop";
/// The home of a moved request.
pub const HOME: &str = "isobar-home";
/// The service of a moved request, `namespace/name`.
pub const SERVICE: &str = "isobar-service";
/// On a 503 of a receiver that did not take a moved request; the value says why.
pub const REFUSED: &str = "isobar-refused";
/// On every answer of a receiver: how busy it is, a [`LoadHint`].
pub const LOAD: &str = "isobar-load";
/// On a moved TCP connection: whom it came from and whom it was for, `<address>:<port> <address>:<port>`.
pub const CLIENT: &str = "isobar-client";
/// What keeps a moved request on one endpoint, a hash in hexadecimal digits.
pub const KEY: &str = "isobar-key";
/// The request path that a proxy probes a neighbour with, on the mesh port.
pub const PROBE_PATH: &str = "/.isobar/probe";

/// On a request to a peer or an endpoint that must be answered in time: milliseconds left, as the
/// sender's clock has it. gRPC has `grpc-timeout` instead.
pub const TIMEOUT: &str = "isobar-timeout";

/// All headers that a client must not set.
pub const RESERVED: [&str; 8] = [HOP, HOME, SERVICE, REFUSED, LOAD, TIMEOUT, CLIENT, KEY];

/// How busy a node is with one service: the value of [`LOAD`],
/// `<in flight>/<workers>;<latency µs>`, for example `6/4;31000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadHint {
    /// Requests at its endpoints or waiting for them.
    pub in_flight: u32,
    /// Requests its endpoints work on at once.
    pub workers: u32,
    /// Smoothed time an endpoint takes, in microseconds; 0 when unknown.
    pub latency_us: u32,
}

impl LoadHint {
    /// Reads a header value; `None` when it is not one.
    pub fn parse(text: &str) -> Option<LoadHint> {
        let (load, latency) = text.split_once(';')?;
        let (in_flight, workers) = load.split_once('/')?;
        Some(LoadHint {
            in_flight: in_flight.parse().ok()?,
            workers: workers.parse().ok()?,
            latency_us: latency.parse().ok()?,
        })
    }
}

impl fmt::Display for LoadHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{};{}", self.in_flight, self.workers, self.latency_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hints_read_back(in_flight: u32, workers: u32, latency_us: u32) {
            let hint = LoadHint { in_flight, workers, latency_us };
            prop_assert_eq!(LoadHint::parse(&hint.to_string()), Some(hint));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = LoadHint::parse(&text);
        }
    }
}
