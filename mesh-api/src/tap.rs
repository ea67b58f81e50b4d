//! A tap: single requests as they end, seen by an operator while they happen.
//!
//! The controller tells proxies what to look for; each answers with the requests that entered at its own node and match,
//! so that a moved request is told once, by its home. Bodies and query strings are never told, headers by name alone,
//! and none that may hold a secret ([`is_secret`]).

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::{NodeId, ServiceName};

/// Most headers that a tap may name.
pub const HEADERS_MAX: usize = 8;
/// Longest value of a header that is told, in bytes; the rest is cut off.
pub const VALUE_LEN_MAX: usize = 128;
/// Longest path that is told, in bytes; the rest is cut off.
pub const PATH_LEN_MAX: usize = 256;
/// Most requests a second that one proxy tells of one tap.
pub const LINES_PER_S_MAX: u32 = 500;
/// What stands in the place of a method for a TCP connection.
pub const TCP: &str = "TCP";
/// What stands for a value that is not told.
pub const REDACTED: &str = "(redacted)";

/// Parts of the names of headers that hold secrets.
const SECRET: [&str; 12] = [
    "auth",
    "cookie",
    "token",
    "secret",
    "passw",
    "api-key",
    "apikey",
    "credential",
    "session",
    "signature",
    "assertion",
    "private",
];

/// Whether a header of that name, in small letters, may hold a secret: its value is never told.
pub fn is_secret(name: &str) -> bool {
    SECRET.iter().any(|part| name.contains(part))
}

/// What a proxy is to look for, for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// Which; the same number again begins its lifetime anew.
    pub tap: u64,
    /// It ends by itself so long after it was last told, in milliseconds.
    pub lifetime_ms: u64,
    /// Requests a second that are told at most, up to [`LINES_PER_S_MAX`]; further ones are counted.
    pub lines_per_s_max: u32,
    /// Which requests.
    pub filter: Filter,
    /// Headers that are told, of request and answer, in small letters; at most [`HEADERS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
}

/// Which requests; all that is said must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// For this service; absent: for none that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// With this method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// With a path that begins so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Answered so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Statuses>,
    /// Served elsewhere than at home.
    #[serde(default, skip_serializing_if = "is_false")]
    pub moved: bool,
    /// Served by this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<NodeId>,
}

impl Filter {
    /// Whether a request for `service`, or for none, that has ended is one of those.
    pub fn holds(&self, service: Option<&ServiceName>, seen: &Tapped) -> bool {
        self.service.as_ref() == service
            && self.method.as_ref().is_none_or(|m| *m == seen.method)
            && self.path.as_ref().is_none_or(|p| seen.path.starts_with(p))
            && self.status.is_none_or(|s| s.contain(seen.status))
            && (!self.moved || seen.moved.is_some())
            && (self.to.is_none() || self.to == seen.served)
    }
}

/// Statuses from one to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statuses {
    /// The first.
    pub from: u16,
    /// The last.
    pub to: u16,
}

impl Statuses {
    /// Whether `status` is one of them.
    pub fn contain(self, status: u16) -> bool {
        (self.from..=self.to).contains(&status)
    }
}

/// Why a text names no statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a status such as 503, a class such as 5xx, or a range such as 500-503")]
pub struct NoStatuses;

impl FromStr for Statuses {
    type Err = NoStatuses;

    /// `503`, `5xx` or `500-503`.
    fn from_str(text: &str) -> Result<Statuses, NoStatuses> {
        let status = |text: &str| {
            let status = text.parse().map_err(|_| NoStatuses);
            status.and_then(|s| match (100..=599).contains(&s) {
                true => Ok(s),
                false => Err(NoStatuses),
            })
        };
        let (from, to) = match (text.strip_suffix("xx"), text.split_once('-')) {
            (Some(class), _) => {
                let from = status(&format!("{class}00"))?;
                (from, from + 99)
            }
            (None, Some((from, to))) => (status(from)?, status(to)?),
            (None, None) => (status(text)?, status(text)?),
        };
        match from <= to {
            true => Ok(Statuses { from, to }),
            false => Err(NoStatuses),
        }
    }
}

/// Requests of one tap that have ended at one home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TappedLines {
    /// [`Tap::tap`].
    pub tap: u64,
    /// The requests, in the order of their ends.
    pub requests: Vec<Tapped>,
    /// Requests that matched since the last message and are not told: beyond the rate, or what waits to be sent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

/// One request that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tapped {
    /// When it entered, by its home's clock, milliseconds since 1970.
    pub at_ms: u64,
    /// The node that served it; absent when no node did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<NodeId>,
    /// Why it was served elsewhere; absent when it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<MoveCause>,
    /// Its method; [`TCP`] for a connection.
    pub method: String,
    /// Its path without the query, at most [`PATH_LEN_MAX`] bytes.
    pub path: String,
    /// What it was answered; 0 when the client went away before, and for a connection.
    pub status: u16,
    /// From its head to the end of its answer, in microseconds; how long a connection lasted.
    pub latency_us: u64,
    /// Bytes that came from the client, of a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_len: Option<u64>,
    /// Bytes that went to the client, of a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_len: Option<u64>,
    /// Headers of the request that the tap names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// Headers of the answer that the tap names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answer_headers: Vec<(String, String)>,
}

/// Why a request was served elsewhere than at home.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveCause {
    /// The weights said so.
    Plan,
    /// Home was full at that instant.
    Spill,
    /// By the upstream of last resort.
    Cloud,
}

fn is_false(is: &bool) -> bool {
    !is
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read() {
        let read = |text: &str| text.parse::<Statuses>().map(|s| (s.from, s.to));
        assert_eq!(read("503"), Ok((503, 503)));
        assert_eq!(read("5xx"), Ok((500, 599)));
        assert_eq!(read("400-404"), Ok((400, 404)));
        for wrong in [
            "", "xx", "6xx", "99", "600", "5x", "404-400", "-", "5xx-6xx",
        ] {
            assert_eq!(read(wrong), Err(NoStatuses), "{wrong}");
        }
    }

    #[test]
    fn all_that_is_said_must_hold() {
        let service = ServiceName::new("shop/cart").unwrap();
        let all = Filter {
            service: Some(service.clone()),
            method: None,
            path: None,
            status: None,
            moved: false,
            to: None,
        };
        let seen = Tapped {
            at_ms: 1,
            served: NodeId::new("b").ok(),
            moved: Some(MoveCause::Spill),
            method: "GET".into(),
            path: "/x/1".into(),
            status: 503,
            latency_us: 5,
            received_len: None,
            sent_len: None,
            headers: Vec::new(),
            answer_headers: Vec::new(),
        };
        let check = |change: &dyn Fn(&mut Filter), holds: bool| {
            let mut filter = all.clone();
            change(&mut filter);
            assert_eq!(filter.holds(Some(&service), &seen), holds, "{filter:?}");
            assert!(!filter.holds(None, &seen), "{filter:?}");
        };
        check(&|_| {}, true);
        check(&|f| f.service = ServiceName::new("shop/other").ok(), false);
        check(&|f| f.method = Some("GET".into()), true);
        check(&|f| f.method = Some("PUT".into()), false);
        check(&|f| f.path = Some("/x".into()), true);
        check(&|f| f.path = Some("/y".into()), false);
        check(&|f| f.status = "5xx".parse().ok(), true);
        check(&|f| f.status = "404".parse().ok(), false);
        check(&|f| f.moved = true, true);
        check(&|f| f.to = NodeId::new("b").ok(), true);
        check(&|f| f.to = NodeId::new("c").ok(), false);
    }

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in [
            "authorization",
            "cookie",
            "set-cookie",
            "x-api-key",
            "x-auth-request",
            "proxy-authorization",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["user-agent", "content-type", "x-request-id", "traceparent"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
