//! From routes as they are written to rules as they are looked up.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderName, Method};
use isobar_mesh_api::names::ServiceName;
use isobar_mesh_api::resource::route::{
    HttpFilter, HttpMatch, HttpRule, PathMatchType, Span, ValueMatch, ValueMatchType, share_ppm,
    whole_regex,
};
use isobar_mesh_api::route::{Route, RouteKind, service};
use isobar_mesh_api::weight::apportion_ppm;

use super::condition::{Condition, Value};
use super::fault::Fault;
use super::head::{HeadChange, HeaderChange, Redirect};
use super::rule::{Backend, Rule, Timeouts, Turns};
use super::{Candidate, Host, HostRules, Lookup, Pattern, RouteTable, path};
use crate::balance::hash;
use crate::session;

/// What routes are compiled against.
#[derive(Debug, Clone, Copy)]
pub struct Services<'a> {
    /// Every service with its own host names, in the order that places count in.
    pub named: &'a [(&'a ServiceName, &'a [String])],
    /// Worker threads.
    pub threads: usize,
}

/// Where a match stands: first path, then method, headers, query, then age. Smaller = earlier.
type Rank = (
    PathRank,
    bool,
    std::cmp::Reverse<usize>,
    std::cmp::Reverse<usize>,
    usize,
);
/// Exact, pattern, prefix; each longest first.
type PathRank = (u8, std::cmp::Reverse<usize>);

/// One match, ready to be put in its place.
struct Match {
    rank: Rank,
    path: Path,
    candidate: Candidate,
}

enum Path {
    Exact(String),
    Pattern(Arc<Pattern>),
    Prefix(String),
}

impl RouteTable {
    /// Compiles routes. Turns of rules that `before` has as well go on.
    pub fn compile(
        routes: &[Arc<Route>],
        services: Services<'_>,
        before: Option<&RouteTable>,
    ) -> RouteTable {
        let places: BTreeMap<&ServiceName, usize> = services
            .named
            .iter()
            .enumerate()
            .map(|(place, (name, _))| (*name, place))
            .collect();
        let mut in_order: Vec<&Arc<Route>> = routes.iter().collect();
        in_order.sort_by(|a, b| {
            let age = |r: &Route| (r.created().to_owned(), r.key().name.clone(), r.key().kind);
            age(a).cmp(&age(b))
        });
        let kept = before.map_or(&[][..], |table| table.rules());
        let kept: BTreeMap<_, &Arc<Rule>> = kept.iter().map(|r| ((&r.route, r.place), r)).collect();
        let mut builder = Builder::default();
        let (mut rules, mut tcp, mut tcp_of) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for route in in_order {
            let is_tcp = route.key().kind == RouteKind::Tcp;
            if !is_tcp {
                builder.claim(route);
            }
            for (place, written) in route.rules().iter().enumerate() {
                let same = kept.get(&(route.key(), place));
                let turns = match same {
                    Some(rule) if rule.backends.len() == written.backend_refs.len() => {
                        Arc::clone(&rule.turns)
                    }
                    _ => Arc::new(Turns::new(services.threads, rules.len() as u64)),
                };
                let rule = Arc::new(compile_rule(route, place, written, &places, turns));
                rules.push(Arc::clone(&rule));
                if !is_tcp {
                    builder.add(route, written, &rule);
                }
                for listener in route.listeners().iter().filter(|_| is_tcp) {
                    // The oldest wins.
                    tcp.entry(listener.clone())
                        .or_insert_with(|| Arc::clone(&rule));
                }
                for service in route.parents().iter().filter(|_| is_tcp) {
                    let entry = tcp_of.entry(service.clone());
                    entry.or_insert_with(|| Arc::clone(&rule));
                }
            }
        }
        RouteTable {
            tcp,
            tcp_of,
            ..builder.finish(services.named, rules)
        }
    }
}

/// Collects the matches of every host name.
#[derive(Default)]
struct Builder {
    hosts: BTreeMap<String, Vec<Match>>,
    patterns: BTreeMap<String, Arc<Pattern>>,
    count: usize,
}

/// The host name that stands for any.
const ANY: &str = "*";

/// The host names of a route.
fn names(route: &Route) -> impl Iterator<Item = &str> {
    let any = route.hostnames().is_empty().then_some(ANY);
    route.hostnames().iter().map(String::as_str).chain(any)
}

impl Builder {
    /// A route's host names are its own, even if it has no rules.
    fn claim(&mut self, route: &Route) {
        for host in names(route) {
            self.hosts.entry(host.to_owned()).or_default();
        }
    }

    fn add(&mut self, route: &Route, written: &HttpRule, rule: &Arc<Rule>) {
        let all = [HttpMatch::default()];
        let matches = match written.matches.as_slice() {
            [] => &all[..],
            matches => matches,
        };
        for one in matches {
            self.count += 1;
            // Routes are checked where they are read, so there is no match that cannot be compiled.
            let (Some(path), Some(condition)) = (self.path(one), condition(route, one)) else {
                continue;
            };
            let condition = Arc::new(condition);
            for host in names(route) {
                let (class, len, prefix_len) = match &path {
                    Path::Exact(path) => (0, path.len(), 0),
                    Path::Pattern(pattern) => (1, pattern.text.len(), 0),
                    Path::Prefix(prefix) => (2, prefix.len(), prefix.len()),
                };
                let rank = (
                    (class, std::cmp::Reverse(len)),
                    one.method.is_none(),
                    std::cmp::Reverse(one.headers.len()),
                    std::cmp::Reverse(one.query_params.len()),
                    self.count,
                );
                let candidate = Candidate {
                    condition: Arc::clone(&condition),
                    rule: Arc::clone(rule),
                    prefix_len,
                };
                let matches = self.hosts.entry(host.to_owned()).or_default();
                let path = match &path {
                    Path::Exact(path) => Path::Exact(path.clone()),
                    Path::Pattern(pattern) => Path::Pattern(Arc::clone(pattern)),
                    Path::Prefix(prefix) => Path::Prefix(prefix.clone()),
                };
                matches.push(Match {
                    rank,
                    path,
                    candidate,
                });
            }
        }
    }

    /// `None` for a path that no request can have.
    fn path(&mut self, one: &HttpMatch) -> Option<Path> {
        let value = one.path.value.as_str();
        Some(match one.path.kind {
            PathMatchType::Exact => Path::Exact(path::plain(value).ok()?.into_owned()),
            PathMatchType::PathPrefix => {
                let plain = path::plain(value).ok()?;
                Path::Prefix(plain.strip_suffix('/').unwrap_or(&plain).to_owned())
            }
            PathMatchType::RegularExpression => {
                if let Some(known) = self.patterns.get(value) {
                    return Some(Path::Pattern(Arc::clone(known)));
                }
                let pattern = Arc::new(Pattern {
                    text: value.to_owned(),
                    regex: whole_regex(value).ok()?,
                });
                self.patterns.insert(value.to_owned(), Arc::clone(&pattern));
                Path::Pattern(pattern)
            }
        })
    }

    fn finish(self, services: &[(&ServiceName, &[String])], rules: Vec<Arc<Rule>>) -> RouteTable {
        let mut hosts: BTreeMap<String, Host> = BTreeMap::new();
        for (name, matches) in self.hosts {
            hosts.insert(name, Host::Rules(HostRules::new(matches)));
        }
        // A host name that a route has is the route's; of two services with one name the first has it.
        for (place, (_, names)) in services.iter().enumerate() {
            for name in *names {
                let host = hosts.entry(name.to_ascii_lowercase());
                host.or_insert(Host::Service(place));
            }
        }
        let any = hosts.remove(ANY);
        let (suffixes, exact): (Vec<_>, Vec<_>) = hosts
            .into_iter()
            .partition(|(name, _)| name.starts_with("*."));
        let suffixes = suffixes.into_iter();
        RouteTable {
            exact: Lookup::new(exact),
            suffixes: Lookup::new(suffixes.map(|(name, host)| (name[2..].to_owned(), host))),
            any,
            rules,
            tcp: BTreeMap::new(),
            tcp_of: BTreeMap::new(),
        }
    }
}

impl HostRules {
    fn new(mut matches: Vec<Match>) -> HostRules {
        matches.sort_by_key(|one| one.rank);
        let mut rules = HostRules::default();
        let (mut exact, mut prefixes) =
            (BTreeMap::<_, Vec<_>>::new(), BTreeMap::<_, Vec<_>>::new());
        for Match {
            path, candidate, ..
        } in matches
        {
            match path {
                Path::Exact(path) => exact.entry(path).or_default().push(candidate),
                Path::Pattern(pattern) => rules.patterns.push((pattern, candidate)),
                Path::Prefix(prefix) => {
                    if rules.prefix_lens.last() != Some(&prefix.len()) {
                        rules.prefix_lens.push(prefix.len());
                    }
                    prefixes.entry(prefix).or_default().push(candidate);
                }
            }
        }
        rules.exact = Lookup::new(exact);
        rules.prefixes = Lookup::new(prefixes);
        rules
    }
}

fn condition(route: &Route, one: &HttpMatch) -> Option<Condition> {
    let value = |written: &ValueMatch| match written.kind {
        ValueMatchType::Exact => Some(Value::Exact(written.value.clone())),
        ValueMatchType::RegularExpression => whole_regex(&written.value).ok().map(Value::Regex),
    };
    let header = |written: &ValueMatch| {
        let name: HeaderName = written.name.parse().ok()?;
        Some((name, value(written)?))
    };
    let query = |written: &ValueMatch| Some((written.name.clone(), value(written)?));
    let method = one
        .method
        .map(|method| Method::from_bytes(method.as_str().as_bytes()));
    Some(Condition {
        grpc: route.key().kind == RouteKind::Grpc,
        method: method.transpose().ok()?,
        headers: one.headers.iter().map(header).collect::<Option<_>>()?,
        query: one.query_params.iter().map(query).collect::<Option<_>>()?,
    })
}

fn compile_rule(
    route: &Route,
    place: usize,
    written: &HttpRule,
    places: &BTreeMap<&ServiceName, usize>,
    turns: Arc<Turns>,
) -> Rule {
    let place_of = |namespace: &Option<String>, name: &str| {
        let service = service(namespace, name)?;
        places.get(&service).copied()
    };
    let backends = written.backend_refs.iter().map(|backend| Backend {
        service: place_of(&backend.namespace, &backend.name),
        name: hash::of(backend.name.as_bytes()),
        change: change(&backend.filters),
    });
    let shares: Vec<f64> = written
        .backend_refs
        .iter()
        .map(|b| f64::from(b.weight))
        .collect();
    let weights_ppm = match shares.iter().any(|&share| share > 0.0) {
        true => apportion_ppm(&shares),
        false => Vec::new(),
    };
    let mut rule = Rule {
        route: route.key().clone(),
        place,
        change: change(&written.filters),
        redirect: None,
        fault: None,
        mirrors: Vec::new(),
        backends: backends.collect(),
        session: written
            .session_persistence
            .as_ref()
            .map(session::Rule::of_route),
        timeouts: Timeouts::default(),
        weights_ppm,
        turns,
    };
    for filter in &written.filters {
        match filter {
            HttpFilter::RequestRedirect(redirect) => rule.redirect = Some(Redirect::new(redirect)),
            HttpFilter::Fault(fault) => rule.fault = Some(Fault::new(fault)),
            HttpFilter::RequestMirror(mirror) => {
                // Nobody gets copies for a service that does not exist.
                let to = place_of(&mirror.backend_ref.namespace, &mirror.backend_ref.name);
                let share_ppm = share_ppm(mirror.percent, mirror.fraction);
                rule.mirrors.extend(to.map(|place| (place, share_ppm)));
            }
            // Changes of the head, made above.
            HttpFilter::RequestHeaderModifier(_)
            | HttpFilter::ResponseHeaderModifier(_)
            | HttpFilter::UrlRewrite(_) => {}
        }
    }
    if let Some(timeouts) = &written.timeouts {
        // Nought means for ever.
        let limit = |span: Span| match span.is_zero() {
            true => u64::MAX,
            false => span.as_micros(),
        };
        rule.timeouts = Timeouts {
            request_us: timeouts.request.map(limit),
            backend_request_us: timeouts.backend_request.map(limit),
        };
    }
    rule
}

fn change(filters: &[HttpFilter]) -> HeadChange {
    let mut change = HeadChange::default();
    for filter in filters {
        match filter {
            HttpFilter::RequestHeaderModifier(m) => change.request = HeaderChange::new(m),
            HttpFilter::ResponseHeaderModifier(m) => change.response = HeaderChange::new(m),
            HttpFilter::UrlRewrite(rewrite) => change.rewrite(rewrite),
            _ => {}
        }
    }
    change
}
