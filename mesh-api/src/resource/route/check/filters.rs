//! Which filters may stand where, and what they may say.

use super::{Checked, at_most, fail, is_hostname, path_value, service};
use crate::resource::route::{
    FAULT_DELAY_MAX, FILTERS_MAX, Fault, Fraction, HEADER_NAME_LEN_MAX, HEADER_VALUE_LEN_MAX,
    HEADERS_MAX, HeaderModifier, HttpFilter, HttpRule, PathMatchType, PathModifier,
    RequestRedirect,
};

/// Headers that frame a message, name its target or belong to a single connection: no filter touches them.
const UNTOUCHABLE: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Filters of a rule: each kind once, mirrors excepted.
pub(super) fn of_rule(path: &str, rule: &HttpRule) -> Checked {
    each_once(path, &rule.filters)?;
    let is = |wanted: &str| rule.filters.iter().any(|f| name(f) == wanted);
    if is("RequestRedirect") && is("URLRewrite") {
        return fail(path, "must not have both RequestRedirect and URLRewrite");
    }
    if is("RequestRedirect") && !rule.backend_refs.is_empty() {
        return fail(
            path,
            "has a RequestRedirect, so the rule must not have backendRefs",
        );
    }
    let all_prefixes = rule
        .matches
        .iter()
        .all(|m| m.path.kind == PathMatchType::PathPrefix);
    for (at, filter) in rule.filters.iter().enumerate() {
        one(&format!("{path}/{at}"), filter, all_prefixes)?;
    }
    for (at, backend) in rule.backend_refs.iter().enumerate() {
        let base = path.trim_end_matches("filters");
        for (place, filter) in backend.filters.iter().enumerate() {
            let path = format!("{base}backendRefs/{at}/filters/{place}");
            one(&path, filter, all_prefixes)?;
        }
    }
    Ok(())
}

/// Filters of a backend: those that change head or answer.
pub(super) fn of_backend(path: &str, filters: &[HttpFilter]) -> Checked {
    each_once(path, filters)?;
    let foreign = |filter: &HttpFilter| {
        use HttpFilter::{Fault, RequestMirror, RequestRedirect};
        matches!(filter, RequestRedirect(_) | RequestMirror(_) | Fault(_))
    };
    match filters.iter().position(foreign) {
        Some(at) => fail(
            format!("{path}/{at}/type"),
            format!(
                "{} is for a rule, not for one of its backends",
                name(&filters[at])
            ),
        ),
        None => Ok(()),
    }
}

/// The Gateway API gives gRPC routes neither redirects nor rewrites.
pub(super) fn only_grpc(path: &str, filters: &[HttpFilter]) -> Checked {
    let foreign = |filter: &HttpFilter| {
        matches!(
            filter,
            HttpFilter::RequestRedirect(_) | HttpFilter::UrlRewrite(_)
        )
    };
    match filters.iter().position(foreign) {
        Some(at) => fail(
            format!("{path}/{at}/type"),
            format!("{} is not a filter of a GRPCRoute", name(&filters[at])),
        ),
        None => Ok(()),
    }
}

fn each_once(path: &str, filters: &[HttpFilter]) -> Checked {
    at_most(path, filters.len(), FILTERS_MAX)?;
    for (at, filter) in filters.iter().enumerate() {
        let again = filters[..at]
            .iter()
            .any(|other| name(other) == name(filter));
        if again && !matches!(filter, HttpFilter::RequestMirror(_)) {
            return fail(
                format!("{path}/{at}/type"),
                format!("{} is there twice", name(filter)),
            );
        }
    }
    Ok(())
}

fn name(filter: &HttpFilter) -> &'static str {
    match filter {
        HttpFilter::RequestHeaderModifier(_) => "RequestHeaderModifier",
        HttpFilter::ResponseHeaderModifier(_) => "ResponseHeaderModifier",
        HttpFilter::RequestRedirect(_) => "RequestRedirect",
        HttpFilter::UrlRewrite(_) => "URLRewrite",
        HttpFilter::RequestMirror(_) => "RequestMirror",
        HttpFilter::Fault(_) => "Fault",
    }
}

fn one(path: &str, filter: &HttpFilter, all_prefixes: bool) -> Checked {
    match filter {
        HttpFilter::RequestHeaderModifier(m) => {
            modifier(&format!("{path}/requestHeaderModifier"), m)
        }
        HttpFilter::ResponseHeaderModifier(m) => {
            modifier(&format!("{path}/responseHeaderModifier"), m)
        }
        HttpFilter::RequestRedirect(r) => {
            redirect(&format!("{path}/requestRedirect"), r, all_prefixes)
        }
        HttpFilter::UrlRewrite(rewrite) => {
            let path = format!("{path}/urlRewrite");
            hostname(&path, rewrite.hostname.as_deref())?;
            path_modifier(&path, rewrite.path.as_ref(), all_prefixes)
        }
        HttpFilter::RequestMirror(mirror) => {
            let path = format!("{path}/requestMirror");
            service(&format!("{path}/backendRef"), &mirror.backend_ref)?;
            share(&path, mirror.percent, mirror.fraction)
        }
        HttpFilter::Fault(f) => fault(&format!("{path}/fault"), f),
    }
}

fn modifier(path: &str, modifier: &HeaderModifier) -> Checked {
    for (list, headers) in [("set", &modifier.set), ("add", &modifier.add)] {
        at_most(&format!("{path}/{list}"), headers.len(), HEADERS_MAX)?;
        for (at, header) in headers.iter().enumerate() {
            header_name(&format!("{path}/{list}/{at}/name"), &header.name)?;
            let fine = |b: u8| b == b'\t' || (b >= b' ' && b != 127);
            let value = &header.value;
            let len = value.len();
            if len > HEADER_VALUE_LEN_MAX || !value.bytes().all(fine) || value.trim().len() != len {
                let problem = format!(
                    "must be at most {HEADER_VALUE_LEN_MAX} bytes without control characters or spaces around"
                );
                return fail(format!("{path}/{list}/{at}/value"), problem);
            }
        }
    }
    at_most(
        &format!("{path}/remove"),
        modifier.remove.len(),
        HEADERS_MAX,
    )?;
    for (at, name) in modifier.remove.iter().enumerate() {
        header_name(&format!("{path}/remove/{at}"), name)?;
    }
    Ok(())
}

fn header_name(path: &str, name: &str) -> Checked {
    if !is_token(name) || name.len() > HEADER_NAME_LEN_MAX {
        return fail(path, "is not a header's name");
    }
    let lower = name.to_ascii_lowercase();
    if lower == "host" {
        return fail(
            path,
            "host cannot be changed as a header; use the filter URLRewrite",
        );
    }
    match UNTOUCHABLE.contains(&lower.as_str()) || lower.starts_with("isobar-") {
        true => fail(
            path,
            format!("{lower} belongs to the connection or the mesh and cannot be changed"),
        ),
        false => Ok(()),
    }
}

/// RFC 9110, section 5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(fine)
}

fn redirect(path: &str, redirect: &RequestRedirect, all_prefixes: bool) -> Checked {
    hostname(path, redirect.hostname.as_deref())?;
    path_modifier(path, redirect.path.as_ref(), all_prefixes)?;
    if redirect.port == Some(0) {
        return fail(format!("{path}/port"), "must be from 1 to 65535");
    }
    match [301, 302, 303, 307, 308].contains(&redirect.status_code) {
        true => Ok(()),
        false => fail(
            format!("{path}/statusCode"),
            "must be 301, 302, 303, 307 or 308",
        ),
    }
}

fn hostname(path: &str, hostname: Option<&str>) -> Checked {
    match hostname.is_none_or(is_hostname) {
        true => Ok(()),
        false => fail(
            format!("{path}/hostname"),
            "must be a host name without a port",
        ),
    }
}

fn path_modifier(path: &str, modifier: Option<&PathModifier>, all_prefixes: bool) -> Checked {
    match modifier {
        None => Ok(()),
        Some(PathModifier::ReplaceFullPath(value)) => {
            path_value(&format!("{path}/path/replaceFullPath"), value)
        }
        Some(PathModifier::ReplacePrefixMatch(_)) if !all_prefixes => fail(
            format!("{path}/path/type"),
            "ReplacePrefixMatch wants a rule whose every match has a PathPrefix",
        ),
        // Empty takes the prefix away.
        Some(PathModifier::ReplacePrefixMatch(value)) if value.is_empty() => Ok(()),
        Some(PathModifier::ReplacePrefixMatch(value)) => {
            path_value(&format!("{path}/path/replacePrefixMatch"), value)
        }
    }
}

fn share(path: &str, percent: Option<u32>, fraction: Option<Fraction>) -> Checked {
    match (percent, fraction) {
        (Some(_), Some(_)) => fail(
            format!("{path}/fraction"),
            "must not be given beside percent",
        ),
        (Some(percent), None) if percent > 100 => {
            fail(format!("{path}/percent"), "must be from 0 to 100")
        }
        (None, Some(part)) if part.denominator == 0 || part.numerator > part.denominator => fail(
            format!("{path}/fraction"),
            "must have a numerator from 0 to its denominator, which must not be 0",
        ),
        _ => Ok(()),
    }
}

fn fault(path: &str, fault: &Fault) -> Checked {
    if fault.delay.is_none() && fault.abort.is_none() {
        return fail(path, "needs delay or abort");
    }
    if let Some(delay) = &fault.delay {
        let path = format!("{path}/delay");
        share(&path, delay.percent, delay.fraction)?;
        if delay.duration.as_duration() > FAULT_DELAY_MAX {
            let max_s = FAULT_DELAY_MAX.as_secs();
            return fail(
                format!("{path}/duration"),
                format!("must be at most {max_s}s"),
            );
        }
    }
    let Some(abort) = &fault.abort else {
        return Ok(());
    };
    let path = format!("{path}/abort");
    share(&path, abort.percent, abort.fraction)?;
    if !(400..=599).contains(&abort.http_status) {
        return fail(format!("{path}/httpStatus"), "must be from 400 to 599");
    }
    match abort
        .grpc_status
        .is_none_or(|status| (1..=16).contains(&status))
    {
        true => Ok(()),
        false => fail(format!("{path}/grpcStatus"), "must be from 1 to 16"),
    }
}
