//! What is wrong with a configuration, and what would be right.

use std::collections::BTreeSet;

use isobar_mesh_api::config_file::Problem;
use isobar_mesh_api::identity::SpiffeId;

use super::listener::{
    CERTIFICATES_MAX, DETECT_WAIT_MS_MAX, Intercept, LISTENERS_MAX, ListenerConfig,
    ListenerProtocol, ProxyProtocol,
};
use super::sources::{RANGES_MAX, Sources};
use super::{CONTROLLERS_MAX, Config, WORKERS_MAX, WORKLOADS_MAX, telemetry};

/// Everything that is wrong with it, in the order of its keys. Looks at no file and no socket.
pub fn problems(config: &Config) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut wrong = |key: &str, problem: &str| found.push(Problem::new(key, problem));
    if config.workers.is_some_and(|n| n == 0 || n > WORKERS_MAX) {
        wrong("workers", "must be from 1 to 256");
    }
    if !config.admin_listen.ip().is_loopback() && !config.admin_insecure {
        wrong(
            "admin_listen",
            "must be a loopback address: it asks for no password; admin_insecure = true allows others",
        );
    }
    let limits = &config.limits;
    for (key, value) in [
        ("limits.connections_max", limits.connections_max as u64),
        ("limits.head_wait_ms_max", limits.head_wait_ms_max),
        ("limits.idle_wait_ms_max", limits.idle_wait_ms_max),
        ("limits.body_wait_ms_max", limits.body_wait_ms_max),
        ("limits.handshake_wait_ms_max", limits.handshake_wait_ms_max),
        ("limits.tcp_idle_ms_max", limits.tcp_idle_ms_max),
        ("limits.handshakes_max", limits.handshakes_max as u64),
    ] {
        if value == 0 {
            wrong(key, "must not be 0");
        }
    }
    for (key, address) in [
        ("controller", &config.controller),
        ("mesh_advertise", &config.mesh_advertise),
    ] {
        if address
            .as_ref()
            .is_some_and(|address| !is_host_and_port(address))
        {
            wrong(key, "must be written host:port");
        }
    }
    for (node, address) in &config.peer_address {
        if !is_host_and_port(address) {
            wrong(
                &format!("peer_address.\"{node}\""),
                "must be written host:port",
            );
        }
    }
    controllers(config, &mut found);
    services(config, &mut found);
    traffic_policies(config, &mut found);
    let mut named = BTreeSet::new();
    for (index, route) in config.routes.iter().enumerate() {
        if !named.insert(route.route().key()) {
            let problem = "is the name of another route";
            found.push(Problem::new(
                format!("routes[{index}].metadata.name"),
                problem,
            ));
        }
    }
    sources(&config.trusted_sources, "trusted_sources", &mut found);
    workloads(config, &mut found);
    listeners(config, &mut found);
    if let Some(log) = &config.access_log {
        telemetry::access_log(log, &mut found);
    }
    if let Some(traces) = &config.traces {
        telemetry::traces(traces, &mut found);
    }
    found
}

fn workloads(config: &Config, found: &mut Vec<Problem>) {
    if config.workloads.len() > WORKLOADS_MAX {
        found.push(Problem::new("workloads", "has more than 1024 entries"));
    }
    for (index, workload) in config.workloads.iter().enumerate() {
        let key = format!("workloads[{index}]");
        let id = SpiffeId::parse(&workload.identity).ok();
        let is_ours =
            |id: SpiffeId| id.trust_domain == config.trust_domain && id.as_node().is_none();
        if !id.is_some_and(is_ours) {
            let domain = &config.trust_domain;
            let problem = format!("must be written spiffe://{domain}/ns/NAMESPACE/sa/ACCOUNT");
            found.push(Problem::new(format!("{key}.identity"), problem));
        }
        if workload.addresses.is_empty() {
            found.push(Problem::new(
                format!("{key}.addresses"),
                "must not be empty",
            ));
        }
        sources(&workload.addresses, &format!("{key}.addresses"), found);
    }
}

fn services(config: &Config, found: &mut Vec<Problem>) {
    let mut named = BTreeSet::new();
    for (index, service) in config.services.iter().enumerate() {
        let key = format!("services[{index}]");
        if !named.insert(&service.service) {
            let problem = format!(
                "{} is there twice; give each service once, with all its endpoints",
                service.service
            );
            found.push(Problem::new(format!("{key}.service"), problem));
        }
        for (index, endpoint) in service.endpoints.iter().enumerate() {
            let key = format!("{key}.endpoints[{index}]");
            if !is_host_and_port(&endpoint.address) {
                found.push(Problem::new(
                    format!("{key}.address"),
                    "must be written host:port",
                ));
            }
            if endpoint.workers == 0 {
                found.push(Problem::new(format!("{key}.workers"), "must be at least 1"));
            }
        }
    }
}

fn controllers(config: &Config, found: &mut Vec<Problem>) {
    if config.controllers.len() > CONTROLLERS_MAX {
        let problem = format!("must be at most {CONTROLLERS_MAX}");
        found.push(Problem::new("controllers", problem));
    }
    for (index, address) in config.controllers.iter().enumerate() {
        if !is_host_and_port(address) {
            let key = format!("controllers[{index}]");
            found.push(Problem::new(key, "must be written host:port"));
        }
    }
}

fn traffic_policies(config: &Config, found: &mut Vec<Problem>) {
    for (index, policy) in config.traffic_policies.iter().enumerate() {
        let key = format!("traffic_policies[{index}]");
        if !policy.labels.is_empty() {
            let problem = "need a controller: services here have none";
            found.push(Problem::new(format!("{key}.labels"), problem));
        }
        if let Err(error) = policy.check() {
            found.push(Problem::new(key, error.to_string()));
        }
    }
}

fn sources(sources: &Sources, key: &str, found: &mut Vec<Problem>) {
    if sources.len() > RANGES_MAX {
        found.push(Problem::new(
            key,
            format!("must have at most {RANGES_MAX} ranges"),
        ));
    }
}

fn listeners(config: &Config, found: &mut Vec<Problem>) {
    if config.listeners.len() > LISTENERS_MAX {
        found.push(Problem::new(
            "listeners",
            format!("must be at most {LISTENERS_MAX}"),
        ));
    }
    let mut names = BTreeSet::from(["ingress", "mesh", "outbound", "admin"]);
    let own = [
        ("listen", Some(config.listen)),
        ("mesh_listen", Some(config.mesh_listen)),
        ("outbound_listen", config.outbound_listen),
        ("admin_listen", Some(config.admin_listen)),
    ];
    let mut taken = Vec::new();
    for (key, address) in own {
        taken.extend(address.map(|address| (key.to_owned(), address)));
    }
    for (index, listener) in config.listeners.iter().enumerate() {
        let key = format!("listeners[{index}]");
        let mut wrong = |inner: &str, problem: String| {
            found.push(Problem::new(format!("{key}.{inner}"), problem))
        };
        if !is_name(&listener.name) {
            wrong("name", "must be 1 to 63 of a-z, 0-9 and '-'".to_owned());
        }
        if !names.insert(&listener.name) {
            wrong(
                "name",
                format!("{:?} is the name of another listener", listener.name),
            );
        }
        let clash = taken
            .iter()
            .find(|(_, other)| *other == listener.address && other.port() != 0);
        if let Some((other, _)) = clash {
            wrong(
                "address",
                format!("{} is taken by {other}", listener.address),
            );
        }
        taken.push((format!("{key}.address"), listener.address));
        one_listener(config, listener, &mut wrong);
        if let Some(trusted) = &listener.trusted_sources {
            sources(trusted, &format!("{key}.trusted_sources"), found);
        }
    }
}

fn one_listener(config: &Config, listener: &ListenerConfig, wrong: &mut dyn FnMut(&str, String)) {
    use ListenerProtocol::{Http, Https, Tcp, TlsPassthrough};
    let protocol = listener.protocol;
    let has_certificates = !listener.certificates.is_empty();
    match protocol {
        Https if !has_certificates => wrong("protocol", "\"https\" needs certificates".to_owned()),
        Http if has_certificates => wrong(
            "protocol",
            "must be \"https\" where there are certificates".to_owned(),
        ),
        TlsPassthrough if has_certificates => {
            let problem = "must be empty where TLS is passed through; protocol = \"https\" or \"tcp\" ends it here";
            wrong("certificates", problem.to_owned());
        }
        _ => {}
    }
    if listener.mesh_callers && !has_certificates {
        let problem =
            "asks TLS clients who they are, and TLS does not end here without certificates";
        wrong("mesh_callers", problem.to_owned());
    }
    if listener.certificates.len() > CERTIFICATES_MAX {
        wrong(
            "certificates",
            format!("must be at most {CERTIFICATES_MAX}"),
        );
    }
    let defaults = listener.certificates.iter().filter(|c| c.default).count();
    if defaults > 1 {
        wrong("certificates", "only one can be the default".to_owned());
    }
    let intercepts = listener.intercept != Intercept::Off;
    let has_service = listener.service.is_some();
    match protocol {
        Http | Https if has_service => wrong(
            "service",
            "HTTP's services are found by their hosts".to_owned(),
        ),
        Tcp if !has_service && !intercepts => {
            wrong("protocol", "\"tcp\" needs a service".to_owned())
        }
        TlsPassthrough if !has_service && !intercepts && listener.by_server_name.is_empty() => {
            wrong(
                "protocol",
                "\"tls-passthrough\" needs by_server_name or a service".to_owned(),
            );
        }
        _ => {}
    }
    http3(listener, wrong);
    names_of_listener(listener, wrong);
    let trusted = listener
        .trusted_sources
        .as_ref()
        .unwrap_or(&config.trusted_sources);
    if listener.proxy_protocol != ProxyProtocol::Off && trusted.is_empty() {
        let problem = "needs trusted_sources: nobody else's word counts";
        wrong("proxy_protocol", problem.to_owned());
    }
    if listener.detect_wait_ms_max == 0 || listener.detect_wait_ms_max > DETECT_WAIT_MS_MAX {
        let problem = format!("must be from 1 to {DETECT_WAIT_MS_MAX}");
        wrong("detect_wait_ms_max", problem);
    }
}

fn http3(listener: &ListenerConfig, wrong: &mut dyn FnMut(&str, String)) {
    if !listener.http3 {
        if listener.http3_port.is_some() {
            wrong("http3_port", "needs http3 = true".to_owned());
        }
        return;
    }
    let problem = if cfg!(not(feature = "http3")) {
        "is not in this program: build it with --features http3, or leave this out"
    } else if listener.protocol != ListenerProtocol::Https {
        "needs protocol = \"https\""
    } else if listener.proxy_protocol != ProxyProtocol::Off {
        "needs proxy_protocol = \"off\": over QUIC nobody says whom a connection comes from"
    } else if listener.intercept != Intercept::Off {
        "needs intercept = \"off\": QUIC is not intercepted"
    } else {
        return;
    };
    wrong("http3", problem.to_owned());
}

fn names_of_listener(listener: &ListenerConfig, wrong: &mut dyn FnMut(&str, String)) {
    use ListenerProtocol::{Detect, TlsPassthrough};
    let passes_tls = matches!(listener.protocol, TlsPassthrough | Detect);
    if !listener.by_server_name.is_empty() && !passes_tls {
        let problem = "needs protocol = \"tls-passthrough\" or \"detect\"";
        wrong("by_server_name", problem.to_owned());
    }
    for name in listener
        .by_server_name
        .keys()
        .filter(|name| !is_pattern(name))
    {
        let problem = "must be a host name in lower case, *.domain, or *".to_owned();
        wrong(&format!("by_server_name.\"{name}\""), problem);
    }
    for (index, certificate) in listener.certificates.iter().enumerate() {
        for (at, _) in certificate
            .names
            .iter()
            .enumerate()
            .filter(|(_, name)| !is_pattern(name))
        {
            let problem = "must be a host name in lower case, or *.domain".to_owned();
            wrong(&format!("certificates[{index}].names[{at}]"), problem);
        }
    }
    if !listener.by_destination.is_empty() && listener.intercept == Intercept::Off {
        wrong(
            "by_destination",
            "needs intercept = \"redirect\" or \"tproxy\"".to_owned(),
        );
    }
}

fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(fits)
}

fn is_pattern(pattern: &str) -> bool {
    let host = match pattern {
        "*" => return true,
        pattern => pattern.strip_prefix("*.").unwrap_or(pattern),
    };
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    (1..=253).contains(&host.len()) && host.bytes().all(fits)
}

fn is_host_and_port(address: &str) -> bool {
    let parts = address.rsplit_once(':');
    parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}
