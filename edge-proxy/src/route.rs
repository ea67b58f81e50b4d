//! Which rule a request follows.
//!
//! ```text
//! routes, services ─ compile ─▶ RouteTable        head ─▶ host ─▶ path ─▶ method, headers, query ─▶ Found
//!                    (once a snapshot)                   (a request: no allocation, whole strings hashed once)
//! ```
//!
//! The order is the Gateway API's. Of all matches that fit a request the first wins, by
//!
//! 1. its host name: exact, then the longest wildcard, then none;
//! 2. its path: exact, then regular expression (longest pattern), then the longest prefix;
//! 3. a method; 4. the most conditions on headers; 5. the most conditions on query parameters;
//! 6. the oldest route, then the first by namespace and name, then the first match in it.
//!
//! A service's own host names are rules of last resort: one that a route names as well, in the same words, is
//! the route's alone.
//!
//! **Invariant**: what is matched is what is forwarded. [`path::plain`] makes a path plain before rules look at it, and
//! the plain one goes on.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use http::request::Parts;
use isobar_mesh_api::names::ServiceName;

mod compile;
mod condition;
pub mod fault;
pub mod head;
mod lookup;
pub mod path;
pub mod rule;

pub use compile::Services;
use condition::Condition;
pub use condition::is_grpc;
use lookup::Lookup;
use path::Ambiguous;
use regex_lite::Regex;
pub use rule::Rule;

/// Longest host name that is looked up, in bytes (RFC 1035, section 2.3.4); a longer one is nobody's.
const HOST_LEN_MAX: usize = 253;

/// All rules of one snapshot.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// By whole host name.
    exact: Lookup<Host>,
    /// By what follows `*.`.
    suffixes: Lookup<Host>,
    /// For hosts that are not in either, or whose rules do not fit.
    any: Option<Host>,
    /// Every rule once, in order.
    rules: Vec<Arc<Rule>>,
    /// By a listener's name, where its connections go.
    tcp: BTreeMap<String, Arc<Rule>>,
    /// By a service's name, where connections go that were going to it.
    tcp_of: BTreeMap<ServiceName, Arc<Rule>>,
}

/// What a host name leads to.
#[derive(Debug)]
enum Host {
    /// A service's own host name; its place among the services.
    Service(usize),
    /// Rules.
    Rules(HostRules),
}

/// The rules of one host name, each list in order of precedence.
#[derive(Debug, Default)]
struct HostRules {
    exact: Lookup<Vec<Candidate>>,
    patterns: Vec<(Arc<Pattern>, Candidate)>,
    /// Lengths of the prefixes, longest first.
    prefix_lens: Vec<usize>,
    /// Without the slash at their end.
    prefixes: Lookup<Vec<Candidate>>,
}

#[derive(Debug)]
struct Pattern {
    text: String,
    regex: Regex,
}

/// One match of a rule, its host and path already found to fit.
#[derive(Debug, Clone)]
struct Candidate {
    condition: Arc<Condition>,
    rule: Arc<Rule>,
    /// Length of the prefix that matched; 0 for other paths.
    prefix_len: usize,
}

/// Where a request goes.
#[derive(Debug)]
pub enum Found<'a> {
    /// To the service of this place: its host name says so.
    Service(usize),
    /// By a rule.
    Rule {
        /// Which.
        rule: &'a Arc<Rule>,
        /// Length of the prefix that matched.
        prefix_len: usize,
        /// The path that was compared, when it is not the request's own.
        plain: Option<String>,
    },
}

/// Why a request goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// No service and no route has this host name.
    Host,
    /// The host has routes, and none fits.
    Rule,
    /// Its path could mean one thing here and another at the endpoint.
    Path,
}

impl From<Ambiguous> for Lost {
    fn from(_: Ambiguous) -> Lost {
        Lost::Path
    }
}

impl RouteTable {
    /// Every rule once.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// Where connections of a listener go, if a route says it.
    pub fn tcp(&self, listener: &str) -> Option<&Arc<Rule>> {
        self.tcp.get(listener)
    }

    /// Where connections go that were going to a service, if a route says it.
    pub fn tcp_of(&self, service: &ServiceName) -> Option<&Arc<Rule>> {
        self.tcp_of.get(service)
    }

    /// Where a request for `host` goes.
    ///
    /// # Errors
    /// Nowhere.
    pub fn find(&self, host: Option<&str>, head: &Parts) -> Result<Found<'_>, Lost> {
        let mut buffer = [0; HOST_LEN_MAX];
        let host = host.and_then(|host| lower_case(host, &mut buffer));
        let mut search = Search {
            head,
            path: None,
            lost: Lost::Host,
        };
        if let Some(name) = host {
            if let Some(host) = self.exact.get(name)
                && let Some(found) = search.look(host)?
            {
                return Ok(found);
            }
            // The longest suffix first; an asterisk stands for at least one label.
            let labels = name.bytes().enumerate().filter(|&(_, byte)| byte == b'.');
            for (dot, _) in labels.filter(|_| !self.suffixes.is_empty()) {
                if let Some(host) = self.suffixes.get(&name[dot + 1..])
                    && let Some(found) = search.look(host)?
                {
                    return Ok(found);
                }
            }
        }
        if let Some(host) = &self.any
            && let Some(found) = search.look(host)?
        {
            return Ok(found);
        }
        Err(search.lost)
    }
}

/// One request on its way through the hosts.
struct Search<'r> {
    head: &'r Parts,
    /// The plain path, once a rule wanted it.
    path: Option<Cow<'r, str>>,
    lost: Lost,
}

impl Search<'_> {
    fn look<'a>(&mut self, host: &'a Host) -> Result<Option<Found<'a>>, Lost> {
        let rules = match host {
            Host::Service(place) => return Ok(Some(Found::Service(*place))),
            Host::Rules(rules) => rules,
        };
        self.lost = Lost::Rule;
        let path = match self.path.take() {
            Some(path) => path,
            None => path::plain(self.head.uri.path())?,
        };
        let found = rules.find(&path, self.head);
        let Some(candidate) = found else {
            self.path = Some(path);
            return Ok(None);
        };
        Ok(Some(Found::Rule {
            rule: &candidate.rule,
            prefix_len: candidate.prefix_len,
            plain: match path {
                Cow::Borrowed(_) => None,
                Cow::Owned(path) => Some(path),
            },
        }))
    }
}

impl HostRules {
    fn find(&self, path: &str, head: &Parts) -> Option<&Candidate> {
        let fitting = |list: &'_ [Candidate]| list.iter().position(|c| c.condition.fits(head));
        if let Some(list) = self.exact.get(path)
            && let Some(at) = fitting(list)
        {
            return list.get(at);
        }
        // Matches of one pattern stand together: each pattern is tried once.
        let mut tried: Option<(&Arc<Pattern>, bool)> = None;
        for (pattern, candidate) in &self.patterns {
            let fits = match tried {
                Some((last, fits)) if Arc::ptr_eq(last, pattern) => fits,
                _ => pattern.regex.is_match(path),
            };
            tried = Some((pattern, fits));
            if fits && candidate.condition.fits(head) {
                return Some(candidate);
            }
        }
        for &len in &self.prefix_lens {
            let boundary = match path.as_bytes().get(len) {
                Some(&next) => next == b'/' || len == 0,
                None => path.len() == len,
            };
            if boundary
                && let Some(list) = self.prefixes.get(&path[..len])
                && let Some(at) = fitting(list)
            {
                return list.get(at);
            }
        }
        None
    }
}

/// A host name in lower case, without the dot that may end it. `None` when it is too long.
fn lower_case<'a>(host: &str, buffer: &'a mut [u8; HOST_LEN_MAX]) -> Option<&'a str> {
    let host = host.strip_suffix('.').unwrap_or(host).as_bytes();
    let lower = buffer.get_mut(..host.len())?;
    lower.copy_from_slice(host);
    lower.make_ascii_lowercase();
    // Letters of ASCII alone were changed.
    std::str::from_utf8(lower).ok()
}

#[cfg(test)]
mod tests;
