//! What a Kubernetes API server checks of its own kinds, as far as what we write could meet it.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::Value;

/// Most endpoints of one slice.
const SLICE_ENDPOINTS_MAX: usize = 1_000;
/// Longest note of an event, in bytes.
const NOTE_BYTES_MAX: usize = 1_024;

/// Checks a name, and by kind what only this kind must have.
///
/// # Errors
/// The first field that is wrong, as the API server words it.
pub fn check(kind: &str, object: &Value) -> Result<(), String> {
    let name = text(&object["metadata"]["name"]);
    let is_role = kind.contains("Role");
    let fine =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    if !is_role && (name.len() > 253 || !name.bytes().all(fine) || name.ends_with('-')) {
        return invalid("metadata.name", name, "a lowercase RFC 1123 subdomain");
    }
    labels(&object["metadata"])?;
    match kind {
        "Namespace" => label_name("metadata.name", name),
        "EndpointSlice" => slice(object),
        "Event" => event(object),
        "Lease" => lease(&object["spec"]),
        "Service" => label_name("metadata.name", name).and_then(|()| service(&object["spec"])),
        "MutatingWebhookConfiguration" => each(&object["webhooks"]).try_for_each(webhook),
        "APIService" => api_service(name, &object["spec"]),
        "ConfigMap" | "Secret" => keys(&object["data"]),
        "Pod" => pod(&object["spec"]),
        _ => Ok(()),
    }
}

/// At most 63 letters, digits and `-`, as names of namespaces and services are.
fn label_name(field: &str, name: &str) -> Result<(), String> {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let ends = !name.starts_with('-') && !name.ends_with('-');
    match !name.is_empty() && name.len() <= 63 && ends && name.bytes().all(fine) {
        true => Ok(()),
        false => invalid(field, name, "must be a lowercase RFC 1123 label"),
    }
}

/// Keys of labels and annotations, and values of labels.
fn labels(metadata: &Value) -> Result<(), String> {
    let word = |text: &str| {
        let ends = |at: Option<&u8>| at.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        let fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        text.len() <= 63 && ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(fine)
    };
    let all = |field: &str| metadata[field].as_object().into_iter().flatten();
    for (key, _) in all("labels").chain(all("annotations")) {
        let (prefix, name) = key.rsplit_once('/').unwrap_or(("a", key));
        if !word(name) || prefix.is_empty() || prefix.len() > 253 {
            return invalid("metadata.labels", key, "must be a qualified name");
        }
    }
    for (_, value) in all("labels") {
        match value.as_str() {
            Some(value) if value.is_empty() || word(value) => {}
            _ => return invalid("metadata.labels", value, "a valid label"),
        }
    }
    Ok(())
}

/// Keys of what a map holds.
fn keys(data: &Value) -> Result<(), String> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let mut all = data.as_object().into_iter().flatten();
    match all.find(|(key, _)| key.len() > 253 || !key.bytes().all(fine)) {
        None => Ok(()),
        Some((key, _)) => invalid("data", key, "a valid config key"),
    }
}

fn webhook(hook: &Value) -> Result<(), String> {
    let name = text(&hook["name"]);
    if name.split('.').filter(|part| !part.is_empty()).count() < 3 {
        return invalid(
            "webhooks.name",
            name,
            "should be a domain with at least three segments",
        );
    }
    if !["None", "NoneOnDryRun"].contains(&text(&hook["sideEffects"])) {
        return Err("webhooks.sideEffects: Required value".to_owned());
    }
    if each(&hook["admissionReviewVersions"]).count() == 0 {
        return Err("webhooks.admissionReviewVersions: Required value".to_owned());
    }
    let (url, service) = (
        &hook["clientConfig"]["url"],
        &hook["clientConfig"]["service"],
    );
    match (url.as_str(), service.is_object()) {
        (Some(url), false) if url.starts_with("https://") => Ok(()),
        (Some(url), false) => invalid(
            "webhooks.clientConfig.url",
            url,
            "'https' is the only allowed URL scheme",
        ),
        (None, true) => by_service("webhooks.clientConfig.service", service),
        _ => Err(
            "webhooks.clientConfig: Required value: exactly one of url or service is required"
                .to_owned(),
        ),
    }
}

fn api_service(name: &str, spec: &Value) -> Result<(), String> {
    let is_named = name == format!("{}.{}", text(&spec["version"]), text(&spec["group"]));
    if !is_named {
        return invalid(
            "metadata.name",
            name,
            "must be `spec.version+\".\"+spec.group`",
        );
    }
    for field in ["groupPriorityMinimum", "versionPriority"] {
        if !spec[field]
            .as_i64()
            .is_some_and(|priority| (1..=20_000).contains(&priority))
        {
            return invalid(
                &format!("spec.{field}"),
                &spec[field],
                "must be positive and less than 20000",
            );
        }
    }
    by_service("spec.service", &spec["service"])
}

fn by_service(field: &str, service: &Value) -> Result<(), String> {
    match text(&service["name"]).is_empty() || text(&service["namespace"]).is_empty() {
        true => Err(format!("{field}: Required value: name, namespace")),
        false => Ok(()),
    }
}

fn invalid(field: &str, value: impl std::fmt::Display, problem: &str) -> Result<(), String> {
    Err(format!("{field}: Invalid value: \"{value}\": {problem}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn slice(slice: &Value) -> Result<(), String> {
    if each(&slice["endpoints"]).count() > SLICE_ENDPOINTS_MAX {
        return Err(format!(
            "endpoints: Too many: must have at most {SLICE_ENDPOINTS_MAX} items"
        ));
    }
    let kind = text(&slice["addressType"]);
    if !["IPv4", "IPv6", "FQDN"].contains(&kind) {
        return Err(format!("addressType: Unsupported value: {kind:?}"));
    }
    let mut names = std::collections::BTreeSet::new();
    for port in each(&slice["ports"]) {
        if !port["port"].is_null()
            && !port["port"]
                .as_u64()
                .is_some_and(|port| (1..65_536).contains(&port))
        {
            return invalid(
                "ports.port",
                &port["port"],
                "must be between 1 and 65535, inclusive",
            );
        }
        if !names.insert(text(&port["name"])) {
            return Err(format!("ports.name: Duplicate value: {}", port["name"]));
        }
    }
    for endpoint in each(&slice["endpoints"]) {
        // At most 100, each once.
        let addresses: Vec<&str> = each(&endpoint["addresses"]).map(text).collect();
        let distinct: std::collections::BTreeSet<&&str> = addresses.iter().collect();
        if !(1..=100).contains(&addresses.len()) || distinct.len() < addresses.len() {
            return Err("endpoints.addresses: Required value, at most 100, each once".to_owned());
        }
        for address in each(&endpoint["addresses"]).map(text) {
            let problem = match kind {
                "IPv4" => address
                    .parse()
                    .map_or(Some("must be an IPv4 address"), four),
                "IPv6" => address.parse().map_or(Some("must be an IPv6 address"), six),
                _ => None,
            };
            if let Some(problem) = problem {
                return invalid("endpoints.addresses", address, problem);
            }
        }
    }
    Ok(())
}

fn four(address: Ipv4Addr) -> Option<&'static str> {
    match address {
        a if a.is_unspecified() => Some("may not be unspecified (0.0.0.0)"),
        a if a.is_loopback() => Some("may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        a if a.is_link_local() => Some("may not be in the link-local range"),
        a if a.octets()[..3] == [224, 0, 0] => Some("may not be in the link-local multicast range"),
        _ => None,
    }
}

fn six(address: Ipv6Addr) -> Option<&'static str> {
    match address {
        a if a.is_unspecified() => Some("may not be unspecified (::)"),
        a if a.is_loopback() => Some("may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        a if a.is_unicast_link_local() => Some("may not be in the link-local range"),
        _ => None,
    }
}

/// Of `events.k8s.io/v1`.
fn event(event: &Value) -> Result<(), String> {
    for field in [
        "eventTime",
        "action",
        "reason",
        "reportingController",
        "reportingInstance",
        "type",
    ] {
        if text(&event[field]).is_empty() {
            return Err(format!("{field}: Required value"));
        }
    }
    if !text(&event["reportingController"]).contains(['.', '/'])
        || text(&event["reportingInstance"]).len() > 128
    {
        return Err("reportingController, reportingInstance: Invalid value".to_owned());
    }
    if text(&event["note"]).len() > NOTE_BYTES_MAX {
        return Err(format!("note: can have at most {NOTE_BYTES_MAX} bytes"));
    }
    is_micro_time("eventTime", &event["eventTime"])?;
    let (own, about) = (
        text(&event["metadata"]["namespace"]),
        text(&event["regarding"]["namespace"]),
    );
    match own == about || about.is_empty() && own == "default" {
        true => Ok(()),
        false => invalid(
            "involvedObject.namespace",
            about,
            "does not match event.namespace",
        ),
    }
}

fn lease(spec: &Value) -> Result<(), String> {
    if spec["leaseDurationSeconds"]
        .as_i64()
        .is_some_and(|seconds| seconds <= 0)
    {
        return invalid(
            "spec.leaseDurationSeconds",
            &spec["leaseDurationSeconds"],
            "must be greater than 0",
        );
    }
    if spec["leaseTransitions"]
        .as_i64()
        .is_some_and(|count| count < 0)
    {
        return invalid(
            "spec.leaseTransitions",
            &spec["leaseTransitions"],
            "must be greater than or equal to 0",
        );
    }
    is_micro_time("spec.renewTime", &spec["renewTime"])?;
    is_micro_time("spec.acquireTime", &spec["acquireTime"])
}

/// `2006-01-02T15:04:05.000000Z`, with exactly six digits.
fn is_micro_time(field: &str, value: &Value) -> Result<(), String> {
    let Some(time) = value.as_str() else {
        return Ok(());
    };
    let fraction = time.strip_suffix('Z').and_then(|time| time.split_once('.'));
    match fraction.is_some_and(|(_, digits)| digits.len() == 6) {
        true => Ok(()),
        false => invalid(
            field,
            time,
            "cannot be parsed as 2006-01-02T15:04:05.000000Z07:00",
        ),
    }
}

fn pod(spec: &Value) -> Result<(), String> {
    let mut containers = each(&spec["containers"]).chain(each(&spec["initContainers"]));
    if each(&spec["containers"]).count() == 0 {
        return Err("spec.containers: Required value".to_owned());
    }
    let is_whole = |one: &Value| !text(&one["name"]).is_empty() && !text(&one["image"]).is_empty();
    match containers.all(is_whole) {
        true => Ok(()),
        false => Err("spec.containers[0]: Required value: name, image".to_owned()),
    }
}

fn service(spec: &Value) -> Result<(), String> {
    let ports: Vec<&Value> = each(&spec["ports"]).collect();
    if ports.is_empty()
        && text(&spec["clusterIP"]) != "None"
        && text(&spec["type"]) != "ExternalName"
    {
        return Err("spec.ports: Required value".to_owned());
    }
    if ports.len() > 1 && ports.iter().any(|port| text(&port["name"]).is_empty()) {
        return Err("spec.ports[0].name: Required value".to_owned());
    }
    let mut seen = std::collections::BTreeSet::new();
    for port in ports {
        let number = port["port"].as_u64();
        if !number.is_some_and(|port| (1..65_536).contains(&port)) {
            return invalid(
                "spec.ports.port",
                &port["port"],
                "must be between 1 and 65535, inclusive",
            );
        }
        if !seen.insert((number, port["protocol"].as_str().unwrap_or("TCP"))) {
            return Err(format!("spec.ports: Duplicate value: {port}"));
        }
    }
    Ok(())
}
