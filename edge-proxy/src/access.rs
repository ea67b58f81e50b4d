//! Who may call a service: the access policies of a snapshot, made ready for requests. Decides and knows no socket.
//!
//! ```text
//! not shown who, where that is needed ─▶ refused     a deny rule fits ─▶ refused     an allow rule fits ─▶ let in     else the most specific default     else let in
//! ```
//!
//! A request is judged where it enters the mesh, by all that is known of it there. Where it is served it came from a node
//! whose certificate was checked; there only deny rules count, and what is not known of the client does not fit them. What comes
//! from the proxy of a workload is judged there in full, as that workload's, for that proxy is no more trusted than the workload.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderName};
use http::request::Parts;
use isobar_mesh_api::identity::{SpiffeId, Subject};
use isobar_mesh_api::names::{NodeId, RegionName, ServiceName};
use isobar_mesh_api::resource::access_policy::{
    AccessPolicy, Decision, MtlsMode, Rule, TokenCondition, TokenIssuer, What, Who, mtls_mode,
};
use isobar_mesh_api::snapshot::ServicePlan;
use serde_json::Value;

use crate::config::sources::{Range, Sources};

/// The claims of a token that was checked.
pub type Claims = serde_json::Map<String, Value>;

/// All policies that guard one service.
#[derive(Debug)]
pub struct Guard {
    /// What is enforced.
    enforced: Side,
    /// The same and the policies that only watch; `None` without any of those.
    watched: Option<Side>,
    /// Whose tokens are believed.
    pub issuers: Vec<Arc<TokenIssuer>>,
    /// Headers that only this proxy sets.
    pub claim_headers: Vec<HeaderName>,
    policies: Vec<Arc<AccessPolicy>>,
}

/// Rules of several policies together.
#[derive(Debug, Default)]
struct Side {
    deny: Vec<Compiled>,
    allow: Vec<Compiled>,
    default: Option<(u8, Decision, Arc<str>)>,
    /// The policies that say what callers must have shown.
    mtls: Vec<Arc<AccessPolicy>>,
    /// What they are for.
    service: Option<ServiceName>,
}

/// One rule of one policy.
#[derive(Debug)]
struct Compiled {
    policy: Arc<str>,
    rule: Rule,
    /// The ranges of each `from`.
    ranges: Vec<Sources>,
}

/// What is known of who calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caller<'a> {
    /// From its certificate, or by its address; `None`: it has not shown who it is.
    pub identity: Option<&'a SpiffeId>,
    /// It entered the mesh at a workload's proxy elsewhere, which alone knows in which region and at which port: an `allow` rule
    /// takes these two on its word.
    pub is_elsewhere: bool,
    /// The node where the call enters the mesh.
    pub node: Option<&'a NodeId>,
    /// That node's region.
    pub region: Option<&'a RegionName>,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// What the client's token says.
    pub claims: Option<&'a Claims>,
}

/// What is called.
#[derive(Debug, Clone, Copy)]
pub struct Called<'a> {
    /// The request's head; `None` for a TCP connection.
    pub head: Option<&'a Parts>,
    /// The host, with or without its port.
    pub host: Option<&'a str>,
    /// The path, made plain.
    pub path: Option<&'a str>,
    /// The port at which it enters.
    pub port: Option<u16>,
}

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is refused, and by which policy.
    pub refused: Option<Arc<str>>,
    /// Which policy that only watches would refuse it.
    pub would_refuse: Option<Arc<str>>,
}

/// What guards a service; what did so before, while its policies are the same.
pub fn guard(plan: &ServicePlan, before: Option<&Arc<Guard>>) -> Option<Arc<Guard>> {
    match before.filter(|guard| guard.policies == plan.access) {
        Some(guard) => Some(Arc::clone(guard)),
        None => Guard::new(&plan.service, &plan.access).map(Arc::new),
    }
}

impl Guard {
    /// The guard of a service; `None` when no policy selects it.
    pub fn new(service: &ServiceName, policies: &[Arc<AccessPolicy>]) -> Option<Guard> {
        let selects = |policy: &&Arc<AccessPolicy>| policy.spec.selects(service).is_some();
        let selecting: Vec<&Arc<AccessPolicy>> = policies.iter().filter(selects).collect();
        if selecting.is_empty() {
            return None;
        }
        let enforced = selecting.iter().filter(|policy| !policy.spec.audit);
        let watches = selecting.iter().any(|policy| policy.spec.audit);
        let issuers = selecting.iter().flat_map(|policy| &policy.spec.tokens);
        let mut guard = Guard {
            enforced: Side::new(service, enforced.copied()),
            watched: watches.then(|| Side::new(service, selecting.iter().copied())),
            issuers: Vec::new(),
            claim_headers: Vec::new(),
            policies: policies.to_vec(),
        };
        for issuer in issuers {
            // Of two policies that name an issuer, the first says which keys it has.
            if guard
                .issuers
                .iter()
                .any(|known| known.issuer == issuer.issuer)
            {
                continue;
            }
            let names = issuer.claims_to_headers.values();
            let names = names.filter_map(|name| HeaderName::try_from(name).ok());
            guard.claim_headers.extend(names);
            guard.issuers.push(Arc::new(issuer.clone()));
        }
        Some(guard)
    }

    /// Whether a call must come with a token.
    pub fn needs_token(&self) -> bool {
        self.issuers.iter().any(|issuer| issuer.required)
    }

    /// Judges a call that enters the mesh here, or at a workload's proxy elsewhere.
    pub fn judge(&self, caller: &Caller<'_>, called: &Called<'_>) -> Verdict {
        let refused = self.enforced.judge(caller, called);
        let watched = self.watched.as_ref();
        let would_refuse = watched.filter(|_| refused.is_none());
        Verdict {
            would_refuse: would_refuse.and_then(|side| side.judge(caller, called)),
            refused,
        }
    }

    /// Whether a call that enters here is counted by caller: nobody has shown who they are, and nobody has to.
    pub fn counts_plain(&self, caller: &Caller<'_>, called: &Called<'_>) -> bool {
        let asked = called.port.filter(|_| caller.identity.is_none());
        let mode = asked.and_then(|port| self.enforced.mtls(port));
        matches!(mode, Some((MtlsMode::Permissive, _)))
    }

    /// Judges a call that entered at another node: whether a deny rule fits.
    pub fn judge_moved(&self, caller: &Caller<'_>, called: &Called<'_>) -> Option<Arc<str>> {
        self.enforced.denies(caller, called)
    }
}

impl Side {
    fn new<'a>(
        service: &ServiceName,
        policies: impl Iterator<Item = &'a Arc<AccessPolicy>>,
    ) -> Side {
        let mut side = Side {
            service: Some(service.clone()),
            ..Side::default()
        };
        for policy in policies {
            if policy.spec.mtls.is_some() {
                side.mtls.push(Arc::clone(policy));
            }
            let name: Arc<str> = policy.name.as_str().into();
            let compile = |rule: &Rule| Compiled::new(&name, rule);
            side.deny.extend(policy.spec.deny.iter().map(compile));
            side.allow.extend(policy.spec.allow.iter().map(compile));
            let default = policy.spec.selects(service).zip(policy.spec.otherwise());
            let Some((weight, decision)) = default else {
                continue;
            };
            let rank = |weight: u8, decision| (weight, decision == Decision::Deny);
            let better = |(have, known, _): &(u8, Decision, Arc<str>)| {
                rank(weight, decision) > rank(*have, *known)
            };
            if side.default.as_ref().is_none_or(better) {
                side.default = Some((weight, decision, name));
            }
        }
        side
    }

    /// What is asked of callers at a port, and by which policy.
    fn mtls(&self, port: u16) -> Option<(MtlsMode, &str)> {
        let policies = self.mtls.iter().map(|policy| &**policy);
        mtls_mode(policies, self.service.as_ref()?, Some(port))
    }

    /// Which policy refuses a call.
    fn judge(&self, caller: &Caller<'_>, called: &Called<'_>) -> Option<Arc<str>> {
        let asked = called.port.filter(|_| caller.identity.is_none());
        if let Some((MtlsMode::Strict, policy)) = asked.and_then(|port| self.mtls(port)) {
            return Some(policy.into());
        }
        if let Some(policy) = self.denies(caller, called) {
            return Some(policy);
        }
        let is_known = !caller.is_elsewhere;
        let mut allow = self.allow.iter();
        if allow.any(|rule| rule.fits(caller, called, is_known)) {
            return None;
        }
        match &self.default {
            Some((_, Decision::Deny, policy)) => Some(Arc::clone(policy)),
            _ => None,
        }
    }

    fn denies(&self, caller: &Caller<'_>, called: &Called<'_>) -> Option<Arc<str>> {
        let rule = self
            .deny
            .iter()
            .find(|rule| rule.fits(caller, called, true));
        rule.map(|rule| Arc::clone(&rule.policy))
    }
}

impl Compiled {
    fn new(policy: &Arc<str>, rule: &Rule) -> Compiled {
        let ranges = |who: &Who| {
            let each = who.addresses.iter();
            // Checked before it came here; one that is no range is nobody's.
            let each = each.filter_map(|text| text.parse::<Range>().ok());
            Sources::new(each.collect())
        };
        Compiled {
            policy: Arc::clone(policy),
            ranges: rule.from.iter().map(ranges).collect(),
            rule: rule.clone(),
        }
    }

    /// Where it `is_known` where the call entered, region and port must fit; else they do.
    fn fits(&self, caller: &Caller<'_>, called: &Called<'_>, is_known: bool) -> bool {
        let Rule { from, to } = &self.rule;
        let mut who = from.iter().zip(&self.ranges);
        let is_from = |(who, ranges)| is_from(who, ranges, caller, is_known);
        (from.is_empty() || who.any(is_from))
            && (to.is_empty() || to.iter().any(|what| is_to(what, called, is_known)))
    }
}

fn is_from(who: &Who, ranges: &Sources, caller: &Caller<'_>, is_known: bool) -> bool {
    listed(&who.identities, caller.identity, |text, id| {
        starred(text, &id.to_string())
    }) && listed(&who.namespaces, caller.identity, |text, id| {
        match &id.subject {
            Subject::Workload { namespace, .. } => namespace == text,
            Subject::Node(_) | Subject::Controller(_) => false,
        }
    }) && listed(&who.nodes, caller.node, |one, node| one == node)
        && (!is_known || listed(&who.regions, caller.region, |one, region| one == region))
        && (ranges.is_empty() || caller.address.is_some_and(|ip| ranges.contain(ip)))
        && who
            .token
            .as_ref()
            .is_none_or(|asked| caller.claims.is_some_and(|claims| says(asked, claims)))
}

fn is_to(what: &What, called: &Called<'_>, is_known: bool) -> bool {
    let of_http = !(what.hosts.is_empty()
        && what.paths.is_empty()
        && what.methods.is_empty()
        && what.headers.is_empty());
    let http = || {
        called.head.is_some_and(|head| {
            listed(&what.hosts, called.host, |text, host| is_host(text, host))
                && listed(&what.paths, called.path, |text, path| starred(text, path))
                && listed(&what.methods, Some(&head.method), |text, method| {
                    method.as_str() == text
                })
                && what
                    .headers
                    .iter()
                    .all(|(name, value)| has_header(&head.headers, name, value))
        })
    };
    (!is_known || listed(&what.ports, called.port, |one, port| *one == port))
        && (!of_http || http())
}

/// Whether an empty list, or one of its entries, fits what is known.
fn listed<T, K: Copy>(list: &[T], known: Option<K>, fits: impl Fn(&T, K) -> bool) -> bool {
    list.is_empty() || known.is_some_and(|known| list.iter().any(|one| fits(one, known)))
}

/// Equal, or with `*` at the end, begins so.
fn starred(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(begin) => text.starts_with(begin),
        None => pattern == text,
    }
}

fn is_host(pattern: &str, host: &str) -> bool {
    let host = host.rsplit_once(':').map_or(host, |(name, port)| {
        match port.bytes().all(|b| b.is_ascii_digit()) {
            true => name,
            false => host,
        }
    });
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    match pattern.strip_prefix('*') {
        Some(below) => host.len() > below.len() && host.ends_with(below),
        None => host == pattern,
    }
}

/// A header that stands there several times fits when one of its values does.
fn has_header(headers: &HeaderMap, name: &str, value: &str) -> bool {
    let mut all = headers.get_all(name).iter();
    all.any(|have| value == "*" || have.as_bytes() == value.as_bytes())
}

fn says(asked: &TokenCondition, claims: &Claims) -> bool {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    listed(&asked.issuers, text("iss"), |one, issuer| one == issuer)
        && listed(&asked.subjects, text("sub"), |one, subject| one == subject)
        && asked.claims.iter().all(|(name, values)| {
            let said = claims.get(name);
            said.is_some_and(|said| values.iter().any(|value| claims_value(said, value)))
        })
}

fn claims_value(said: &Value, value: &str) -> bool {
    match said {
        Value::String(text) => text == value || text.split(' ').any(|word| word == value),
        Value::Array(all) => all.iter().any(|one| one.as_str() == Some(value)),
        Value::Bool(_) | Value::Number(_) => {
            let text = said.to_string();
            text == value
        }
        Value::Null | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests;
