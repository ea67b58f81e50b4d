//! Ranges and lengths of routes: the Gateway API's own, and what is not supported here by name.

use regex_lite::{Regex, RegexBuilder};

use super::{
    BACKENDS_MAX, BackendRef, CookieLifetime, GATEWAY_GROUP, GATEWAY_NAME, GrpcRouteSpec,
    HEADER_NAME_LEN_MAX, HEADER_VALUE_LEN_MAX, HEADERS_MAX, HOSTNAMES_MAX, HttpMatch, HttpMethod,
    HttpRouteSpec, HttpRule, MATCHES_MAX, PATTERN_LEN_MAX, ParentRef, PathMatch, PathMatchType,
    ROUTE_MATCHES_MAX, RULES_MAX, ServiceRef, SessionPersistence, SessionType, TcpRouteSpec,
    Timeouts, ValueMatch, ValueMatchType, WEIGHT_MAX,
};
use crate::names::{NodeId, ServiceName};

mod filters;

/// Largest compiled regular expression, in bytes; a larger one is refused.
const REGEX_LEN_MAX: usize = 64 * 1024;

/// A field of a route that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} {problem}")]
pub struct FieldError {
    /// Where it stands in the spec: names and places, separated by slashes.
    pub path: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

/// Why a text is not a regular expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not a regular expression: {0}")]
pub struct RegexError(String);

/// Most parents of a route.
const PARENTS_MAX: usize = 32;
/// Longest name of a listener, in bytes.
const SECTION_LEN_MAX: usize = 253;

type Checked = Result<(), FieldError>;

fn wrong(path: impl Into<String>, problem: impl Into<String>) -> FieldError {
    FieldError {
        path: path.into(),
        problem: problem.into(),
    }
}

fn fail(path: impl Into<String>, problem: impl Into<String>) -> Checked {
    Err(wrong(path, problem))
}

fn at_most(path: &str, len: usize, max: usize) -> Checked {
    match len > max {
        true => fail(
            path,
            format!("has {len} entries, at most {max} are allowed"),
        ),
        false => Ok(()),
    }
}

/// Compiles a pattern that must match the whole text. Matching takes time linear in the text.
///
/// # Errors
/// Not a regular expression of this crate's syntax, or one that would take too much memory.
pub fn whole_regex(pattern: &str) -> Result<Regex, RegexError> {
    let compile = |pattern: &str| {
        let mut builder = RegexBuilder::new(pattern);
        let compiled = builder.size_limit(REGEX_LEN_MAX).build();
        compiled.map_err(|error| RegexError(error.to_string()))
    };
    // By itself first: `a)|(?:b` must not become one by what is put around it.
    compile(pattern)?;
    compile(&format!("^(?:{pattern})$"))
}

/// Checks an `HTTPRoute`.
///
/// # Errors
/// The first field out of its range.
pub fn check_http(spec: &HttpRouteSpec) -> Checked {
    parents(&spec.parent_refs)?;
    no_sections(&spec.parent_refs)?;
    hostnames(&spec.hostnames)?;
    rules(&spec.rules)
}

/// Checks a `TCPRoute`.
///
/// # Errors
/// The first field out of its range.
pub fn check_tcp(spec: &TcpRouteSpec) -> Checked {
    at_most("parentRefs", spec.parent_refs.len(), PARENTS_MAX)?;
    if spec.parent_refs.is_empty() {
        let problem = "must name a listener by its sectionName, or a Service";
        return fail("parentRefs", problem);
    }
    for (at, parent) in spec.parent_refs.iter().enumerate() {
        if parent.is_service() {
            parent_service(at, parent)?;
            continue;
        }
        the_gateway(at, parent)?;
        let name = parent.section_name.as_deref().unwrap_or_default();
        if name.is_empty() || name.len() > SECTION_LEN_MAX {
            let problem = format!("must be the name of a listener, 1 to {SECTION_LEN_MAX} bytes");
            return fail(format!("parentRefs/{at}/sectionName"), problem);
        }
    }
    let [rule] = spec.rules.as_slice() else {
        return fail("rules", "must be exactly one");
    };
    if let Some(at) = rule.backend_refs.iter().position(|b| !b.filters.is_empty()) {
        let problem = "must be empty: nothing of a connection can be changed";
        return fail(format!("rules/0/backendRefs/{at}/filters"), problem);
    }
    rules(&[rule.to_http()])
}

fn parent_service(at: usize, parent: &ParentRef) -> Checked {
    if parent.section_name.is_some() {
        let problem = "must be absent: a service has one port in the mesh";
        return fail(format!("parentRefs/{at}/sectionName"), problem);
    }
    let namespace = parent.namespace.as_deref().unwrap_or("default");
    match ServiceName::new(&format!("{namespace}/{}", parent.name)) {
        Ok(_) => Ok(()),
        Err(error) => fail(format!("parentRefs/{at}/name"), error.to_string()),
    }
}

fn no_sections(parents: &[ParentRef]) -> Checked {
    match parents
        .iter()
        .position(|parent| parent.section_name.is_some())
    {
        Some(at) => {
            let problem = "must be absent: this kind is for all listeners";
            fail(format!("parentRefs/{at}/sectionName"), problem)
        }
        None => Ok(()),
    }
}

/// Checks a `GRPCRoute`.
///
/// # Errors
/// The first field out of its range.
pub fn check_grpc(spec: &GrpcRouteSpec) -> Checked {
    parents(&spec.parent_refs)?;
    no_sections(&spec.parent_refs)?;
    hostnames(&spec.hostnames)?;
    for (at, rule) in spec.rules.iter().enumerate().take(RULES_MAX) {
        for (place, one) in rule.matches.iter().enumerate() {
            let path = format!("rules/{at}/matches/{place}/method");
            if let Some(method) = &one.method {
                grpc_method(&path, method)?;
            }
        }
        filters::only_grpc(&format!("rules/{at}/filters"), &rule.filters)?;
    }
    let http: Vec<HttpRule> = spec.rules.iter().map(super::GrpcRule::to_http).collect();
    rules(&http)
}

fn grpc_method(path: &str, method: &super::GrpcMethodMatch) -> Checked {
    let parts = [("service", &method.service), ("method", &method.method)];
    if parts.iter().all(|(_, part)| part.is_none()) {
        return fail(path, "needs service or method");
    }
    for (name, part) in parts {
        let (path, Some(text)) = (format!("{path}/{name}"), part) else {
            continue;
        };
        match method.kind {
            ValueMatchType::RegularExpression => regex(&path, text)?,
            ValueMatchType::Exact => {
                let dots = name == "service";
                let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || (dots && b == b'.');
                if text.is_empty() || text.len() > PATTERN_LEN_MAX || !text.bytes().all(fine) {
                    return fail(path, "must be a name of letters, digits and '_'");
                }
            }
        }
    }
    Ok(())
}

fn parents(parents: &[ParentRef]) -> Checked {
    at_most("parentRefs", parents.len(), PARENTS_MAX)?;
    let mut each = parents.iter().enumerate();
    each.try_for_each(|(at, parent)| the_gateway(at, parent))
}

fn the_gateway(at: usize, parent: &ParentRef) -> Checked {
    let is = |field: &Option<String>, only: &str| field.as_deref().is_none_or(|f| f == only);
    let only = |field: &str, only: &str| {
        let problem =
            format!("must be {only:?}: the one Gateway of the mesh is its proxies' client ports");
        fail(format!("parentRefs/{at}/{field}"), problem)
    };
    if !is(&parent.group, GATEWAY_GROUP) {
        return only("group", GATEWAY_GROUP);
    }
    if !is(&parent.kind, "Gateway") {
        return only("kind", "Gateway");
    }
    match parent.name == GATEWAY_NAME {
        true => Ok(()),
        false => only("name", GATEWAY_NAME),
    }
}

fn hostnames(hostnames: &[String]) -> Checked {
    at_most("hostnames", hostnames.len(), HOSTNAMES_MAX)?;
    for (at, hostname) in hostnames.iter().enumerate() {
        let name = hostname.strip_prefix("*.").unwrap_or(hostname);
        if !is_hostname(name) {
            let problem = "must be a host name of lower-case letters, digits, '-' and '.', without a port, or \"*.\" before one";
            return fail(format!("hostnames/{at}"), problem);
        }
        if hostnames[..at].contains(hostname) {
            return fail(
                format!("hostnames/{at}"),
                format!("{hostname} is named twice"),
            );
        }
    }
    Ok(())
}

/// A DNS name (RFC 1123) that is not an IP address.
fn is_hostname(name: &str) -> bool {
    let label = |label: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        label.len() <= 63 && edge(label.chars().next()) && edge(label.chars().last())
    };
    NodeId::new(name).is_ok()
        && name.split('.').all(label)
        && name.parse::<std::net::IpAddr>().is_err()
}

fn rules(rules: &[HttpRule]) -> Checked {
    at_most("rules", rules.len(), RULES_MAX)?;
    let mut matches = 0;
    for (at, rule) in rules.iter().enumerate() {
        self::rule(&format!("rules/{at}"), rule)?;
        matches += rule.matches.len().max(1);
    }
    match matches > ROUTE_MATCHES_MAX {
        true => fail(
            "rules",
            format!("have {matches} matches together, at most {ROUTE_MATCHES_MAX} are allowed"),
        ),
        false => Ok(()),
    }
}

fn rule(path: &str, rule: &HttpRule) -> Checked {
    if rule
        .name
        .as_ref()
        .is_some_and(|name| NodeId::new(name).is_err())
    {
        return fail(
            format!("{path}/name"),
            "must be lower-case letters, digits, '-' and '.'",
        );
    }
    at_most(&format!("{path}/matches"), rule.matches.len(), MATCHES_MAX)?;
    for (at, one) in rule.matches.iter().enumerate() {
        one_match(&format!("{path}/matches/{at}"), one)?;
    }
    filters::of_rule(&format!("{path}/filters"), rule)?;
    at_most(
        &format!("{path}/backendRefs"),
        rule.backend_refs.len(),
        BACKENDS_MAX,
    )?;
    for (at, backend) in rule.backend_refs.iter().enumerate() {
        self::backend(&format!("{path}/backendRefs/{at}"), backend)?;
    }
    if let Some(sessions) = &rule.session_persistence {
        session(&format!("{path}/sessionPersistence"), sessions)?;
    }
    match &rule.timeouts {
        Some(spans) => timeouts(&format!("{path}/timeouts"), spans),
        None => Ok(()),
    }
}

fn session(path: &str, sessions: &SessionPersistence) -> Checked {
    let name = sessions.session_name.as_deref();
    if name.is_some_and(|name| !filters::is_token(name) || name.len() > HEADER_NAME_LEN_MAX) {
        return fail(
            format!("{path}/sessionName"),
            "must be the name of a cookie or header",
        );
    }
    if sessions.idle_timeout.is_some() {
        return fail(
            format!("{path}/idleTimeout"),
            "is not supported by this version",
        );
    }
    let cookie = sessions.cookie_config.unwrap_or_default();
    let is_kept =
        sessions.kind == SessionType::Cookie && cookie.lifetime_type == CookieLifetime::Permanent;
    match (sessions.absolute_timeout, is_kept) {
        (None, true) => fail(
            format!("{path}/absoluteTimeout"),
            "is needed for a cookie with lifetimeType Permanent",
        ),
        (Some(_), false) => fail(
            format!("{path}/absoluteTimeout"),
            "is only supported for a cookie with lifetimeType Permanent",
        ),
        _ => Ok(()),
    }
}

fn timeouts(path: &str, timeouts: &Timeouts) -> Checked {
    let (Some(request), Some(backend)) = (timeouts.request, timeouts.backend_request) else {
        return Ok(());
    };
    match backend > request && !request.is_zero() {
        true => fail(
            format!("{path}/backendRequest"),
            format!("{backend} must not be longer than request, {request}"),
        ),
        false => Ok(()),
    }
}

fn one_match(path: &str, one: &HttpMatch) -> Checked {
    path_match(&format!("{path}/path"), &one.path)?;
    if one.method == Some(HttpMethod::Connect) {
        return fail(
            format!("{path}/method"),
            "CONNECT is not supported: a tunnel has no path to route by",
        );
    }
    let headers = format!("{path}/headers");
    let lower = |name: &str| name.to_ascii_lowercase();
    values(&headers, &one.headers, lower, filters::is_token)?;
    let query = format!("{path}/queryParams");
    values(&query, &one.query_params, str::to_owned, |name| {
        !name.is_empty()
    })
}

fn values(
    path: &str,
    matches: &[ValueMatch],
    same: impl Fn(&str) -> String,
    is_name: impl Fn(&str) -> bool,
) -> Checked {
    at_most(path, matches.len(), HEADERS_MAX)?;
    for (at, one) in matches.iter().enumerate() {
        let base = format!("{path}/{at}");
        if !is_name(&one.name) || one.name.len() > HEADER_NAME_LEN_MAX {
            return fail(format!("{base}/name"), "is not a name");
        }
        let name = same(&one.name);
        if matches[..at].iter().any(|other| same(&other.name) == name) {
            return fail(
                format!("{base}/name"),
                format!("{} is named twice", one.name),
            );
        }
        let base = format!("{base}/value");
        match one.kind {
            ValueMatchType::RegularExpression => regex(&base, &one.value)?,
            ValueMatchType::Exact if one.value.len() > HEADER_VALUE_LEN_MAX => {
                return fail(
                    base,
                    format!("must be at most {HEADER_VALUE_LEN_MAX} bytes"),
                );
            }
            ValueMatchType::Exact => {}
        }
    }
    Ok(())
}

fn path_match(path: &str, one: &PathMatch) -> Checked {
    let base = format!("{path}/value");
    match one.kind {
        PathMatchType::RegularExpression => regex(&base, &one.value),
        PathMatchType::Exact | PathMatchType::PathPrefix => path_value(&base, &one.value),
    }
}

/// A path that a request can have after it was made plain.
fn path_value(base: &str, value: &str) -> Checked {
    if value.len() > PATTERN_LEN_MAX {
        return fail(base, format!("must be at most {PATTERN_LEN_MAX} bytes"));
    }
    if !value.starts_with('/') {
        return fail(base, "must begin with '/'");
    }
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let fine = match byte {
            b'%' => {
                let hex = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_hexdigit());
                hex(rest.next()) && hex(rest.next())
            }
            _ => byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte),
        };
        if !fine {
            return fail(
                base,
                "has a character that a path does not have; escape it as %XX",
            );
        }
    }
    let lower = value.to_ascii_lowercase();
    for never in ["//", "/./", "/../", "%2f", "%5c", "%00"] {
        if lower.contains(never) {
            return fail(base, format!("must not contain {never:?}"));
        }
    }
    match value.ends_with("/.") || value.ends_with("/..") {
        true => fail(base, "must not end with \"/.\" or \"/..\""),
        false => Ok(()),
    }
}

fn regex(path: &str, pattern: &str) -> Checked {
    if pattern.is_empty() || pattern.len() > PATTERN_LEN_MAX {
        return fail(path, format!("must have 1 to {PATTERN_LEN_MAX} bytes"));
    }
    let compiled = whole_regex(pattern);
    compiled
        .map(|_| ())
        .map_err(|error| wrong(path, error.to_string()))
}

fn backend(path: &str, backend: &BackendRef) -> Checked {
    service(path, &backend.service())?;
    if backend.weight > WEIGHT_MAX {
        return fail(
            format!("{path}/weight"),
            format!("must be from 0 to {WEIGHT_MAX}"),
        );
    }
    filters::of_backend(&format!("{path}/filters"), &backend.filters)
}

fn service(path: &str, service: &ServiceRef) -> Checked {
    if service
        .group
        .as_deref()
        .is_some_and(|group| !group.is_empty())
    {
        return fail(
            format!("{path}/group"),
            "must be empty: a backend is a Service of the mesh",
        );
    }
    if service
        .kind
        .as_deref()
        .is_some_and(|kind| kind != "Service")
    {
        return fail(format!("{path}/kind"), "must be \"Service\"");
    }
    if service.port.is_some() {
        let problem =
            "is not supported: a service's endpoints have addresses with ports; leave it out";
        return fail(format!("{path}/port"), problem);
    }
    let namespace = service.namespace.as_deref().unwrap_or("default");
    match ServiceName::new(&format!("{namespace}/{}", service.name)) {
        Ok(_) => Ok(()),
        Err(error) => fail(format!("{path}/name"), error.to_string()),
    }
}
