//! The Gateway API's precedence, read off its text: every match that fits, sorted, the first taken.

use std::cmp::Reverse;
use std::sync::Arc;

use http::request::Parts;
use isobar_mesh_api::resource::route::{
    HttpMatch, PathMatchType, ValueMatch, ValueMatchType, whole_regex,
};
use isobar_mesh_api::route::Route;

use crate::route::path;

pub fn found(
    routes: &[Arc<Route>],
    services: &[(&str, &[&str])],
    host: Option<&str>,
    head: &Parts,
) -> String {
    let host = host.unwrap_or_default();
    let Ok(path) = path::plain(head.uri.path()) else {
        return "Path".to_owned();
    };
    let mut fitting = Vec::new();
    for route in routes {
        for name in names(route) {
            let Some(host_rank) = host_rank(&name, host) else {
                continue;
            };
            for (place, rule) in route.rules().iter().enumerate() {
                let all = vec![HttpMatch::default()];
                let matches = if rule.matches.is_empty() {
                    &all
                } else {
                    &rule.matches
                };
                for (at, one) in matches.iter().enumerate() {
                    if let Some(path_rank) = path_rank(one, &path).filter(|_| fits(one, head)) {
                        let counts = (Reverse(one.headers.len()), Reverse(one.query_params.len()));
                        let age = (
                            route.created().to_owned(),
                            route.key().name.clone(),
                            place,
                            at,
                        );
                        let rank = (host_rank, path_rank, one.method.is_none(), counts, age);
                        fitting.push((rank, format!("{}/{place}", route.key().name.name())));
                    }
                }
            }
        }
    }
    // Services' own names, where no route has the same one, come after all rules of that rank.
    let named: Vec<String> = routes.iter().flat_map(|r| names(r)).collect();
    let mut best_service = None;
    for (place, (_, hosts)) in services.iter().enumerate() {
        for name in hosts.iter().filter(|n| !named.contains(&n.to_string())) {
            if let Some(rank) = host_rank(name, host)
                && best_service.as_ref().is_none_or(|(best, _)| rank < *best)
            {
                best_service = Some((rank, place));
            }
        }
    }
    fitting.sort();
    match (fitting.first(), best_service) {
        (Some((rank, rule)), service) if service.is_none_or(|(s, _)| rank.0 <= s) => rule.clone(),
        (_, Some((_, place))) => format!("service {place}"),
        (_, None) if named.iter().any(|name| host_rank(name, host).is_some()) => "Rule".to_owned(),
        _ => "Host".to_owned(),
    }
}

fn names(route: &Route) -> Vec<String> {
    match route.hostnames() {
        [] => vec!["*".to_owned()],
        names => names.to_vec(),
    }
}

fn host_rank(name: &str, host: &str) -> Option<(u8, Reverse<usize>)> {
    if name == "*" {
        return Some((2, Reverse(0)));
    }
    match name.strip_prefix('*') {
        Some(suffix) => host.ends_with(suffix).then_some((1, Reverse(name.len()))),
        None => (name == host).then_some((0, Reverse(name.len()))),
    }
}

fn path_rank(one: &HttpMatch, path: &str) -> Option<(u8, Reverse<usize>)> {
    let value = one.path.value.as_str();
    match one.path.kind {
        PathMatchType::Exact => (value == path).then_some((0, Reverse(value.len()))),
        PathMatchType::RegularExpression => {
            let fits = whole_regex(value).unwrap().is_match(path);
            fits.then_some((1, Reverse(value.len())))
        }
        PathMatchType::PathPrefix => {
            let value = value.strip_suffix('/').unwrap_or(value);
            let wanted: Vec<&str> = value.split('/').collect();
            let given: Vec<&str> = path.split('/').collect();
            given
                .starts_with(&wanted)
                .then_some((2, Reverse(value.len())))
        }
    }
}

fn fits(one: &HttpMatch, head: &Parts) -> bool {
    let value = |written: &ValueMatch, given: Option<&str>| match (given, written.kind) {
        (None, _) => false,
        (Some(given), ValueMatchType::Exact) => given == written.value,
        (Some(given), ValueMatchType::RegularExpression) => {
            whole_regex(&written.value).unwrap().is_match(given)
        }
    };
    let header = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok());
    let query = |name: &str| {
        let pairs = head.uri.query().unwrap_or_default().split('&');
        pairs
            .filter_map(|p| p.split_once('='))
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v)
    };
    one.method
        .is_none_or(|m| m.as_str() == head.method.as_str())
        && one.headers.iter().all(|h| value(h, header(&h.name)))
        && one.query_params.iter().all(|q| value(q, query(&q.name)))
}
