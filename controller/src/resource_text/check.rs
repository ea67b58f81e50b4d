//! Ranges and lengths of resources.

use std::collections::BTreeSet;
use std::sync::Arc;

use isobar_geo_data::position::{Position, PositionError};
use isobar_mesh_api::message::{Hello, Location};
use isobar_mesh_api::names::{NameError, NodeId, ServiceName};
use isobar_mesh_api::report::REPORT_SERVICES_MAX;
use isobar_mesh_api::resource::{
    EndpointSpec, LABELS_MAX, Metadata, NodeSpec, Resource, ServiceSpec, WeightPolicySpec,
    service_name,
};
use isobar_mesh_api::route::{Route, RouteError, RouteKind};
use isobar_mesh_api::snapshot::SNAPSHOT_ENDPOINTS_MAX;

use super::{Key, Kind, Meaning, escape};
use crate::problem::FieldProblem;

/// Most requests an endpoint may say it works on at once.
const WORKERS_MAX: u32 = 100_000;
/// Highest capacity that can be declared, requests/s.
const CAPACITY_RPS_MAX: f64 = 1e9;
/// Highest epoch that a proxy may say it has a plan of; each restart of a controller adds one.
const EPOCH_MAX: u64 = 1 << 53;
/// Longest label key or value, address or host name, in bytes.
const TEXT_LEN_MAX: usize = 320;

/// Checks a resource and says which it is.
pub(super) fn check(resource: &Resource) -> Result<(Key, Meaning), FieldProblem> {
    let metadata = resource.metadata();
    labels(metadata)?;
    let (kind, name, meaning) = match resource {
        Resource::Node { spec, .. } => {
            no_namespace(metadata)?;
            let node = name(&metadata.name)?;
            self::node(spec)?;
            (Kind::Node, node.to_string(), Meaning::Node(node))
        }
        Resource::Service { spec, .. } => {
            let service = service(metadata, spec)?;
            (
                Kind::Service,
                service.to_string(),
                Meaning::Service(service),
            )
        }
        Resource::WeightPolicy { spec, .. } => {
            no_namespace(metadata)?;
            let name = name(&metadata.name)?;
            policy(spec)?;
            (Kind::WeightPolicy, name.to_string(), Meaning::WeightPolicy)
        }
        Resource::TrafficPolicy { spec, .. } => {
            no_namespace(metadata)?;
            let name = name(&metadata.name)?;
            spec.check().map_err(|error| {
                FieldProblem::new(format!("#/spec/{}", error.field), error.problem)
            })?;
            (
                Kind::TrafficPolicy,
                name.to_string(),
                Meaning::TrafficPolicy,
            )
        }
        Resource::AccessPolicy { spec, .. } => {
            no_namespace(metadata)?;
            let name = name(&metadata.name)?;
            spec.check().map_err(|error| {
                FieldProblem::new(format!("#/spec/{}", error.field), error.problem)
            })?;
            (Kind::AccessPolicy, name.to_string(), Meaning::AccessPolicy)
        }
        Resource::HttpRoute { metadata, spec } => route(Route::from_http(metadata, spec))?,
        Resource::GrpcRoute { metadata, spec } => route(Route::from_grpc(metadata, spec))?,
        Resource::TcpRoute { metadata, spec } => route(Route::from_tcp(metadata, spec))?,
    };
    Ok((Key { kind, name }, meaning))
}

fn route(made: Result<Route, RouteError>) -> Result<(Kind, String, Meaning), FieldProblem> {
    let route = made.map_err(|error| match error {
        RouteError::Name(error) => FieldProblem::new("#/metadata/name", error.to_string()),
        RouteError::Field(error) => {
            FieldProblem::new(format!("#/spec/{}", error.path), error.problem)
        }
        RouteError::TooLong(_) => FieldProblem::new("#/spec", error.to_string()),
    })?;
    let kind = match route.key().kind {
        RouteKind::Http => Kind::HttpRoute,
        RouteKind::Grpc => Kind::GrpcRoute,
        RouteKind::Tcp => Kind::TcpRoute,
    };
    let name = route.key().name.to_string();
    Ok((kind, name, Meaning::Route(Arc::new(route))))
}

fn name(text: &str) -> Result<NodeId, FieldProblem> {
    NodeId::new(text).map_err(|error| FieldProblem::new("#/metadata/name", error.to_string()))
}

fn no_namespace(metadata: &Metadata) -> Result<(), FieldProblem> {
    if metadata.namespace.is_empty() {
        return Ok(());
    }
    let detail = "must be empty: this kind has no namespaces";
    Err(FieldProblem::new("#/metadata/namespace", detail))
}

fn labels(metadata: &Metadata) -> Result<(), FieldProblem> {
    if metadata.labels.len() > LABELS_MAX {
        let detail = format!("{} labels, at most {LABELS_MAX}", metadata.labels.len());
        return Err(FieldProblem::new("#/metadata/labels", detail));
    }
    let too_long = |(key, value): &(&String, &String)| {
        key.is_empty() || key.len() > TEXT_LEN_MAX || value.len() > TEXT_LEN_MAX
    };
    match metadata.labels.iter().find(too_long) {
        Some((key, _)) => Err(FieldProblem::new(
            format!("#/metadata/labels/{}", escape(key)),
            format!("key and value must be at most {TEXT_LEN_MAX} bytes, the key not empty"),
        )),
        None => Ok(()),
    }
}

/// Checks what a proxy says of itself, before anything else sees it. Pointers are into the hello.
///
/// # Errors
/// The first field found out of range.
pub fn check_hello(hello: &Hello) -> Result<(), FieldProblem> {
    address("#/mesh_address", &hello.mesh_address)?;
    location("#/location", hello.location)?;
    if hello.plan.is_some_and(|plan| plan.epoch > EPOCH_MAX) {
        let detail = format!("must be at most {EPOCH_MAX}");
        return Err(FieldProblem::new("#/plan/epoch", detail));
    }
    if hello.version.len() > TEXT_LEN_MAX {
        let detail = format!("must be at most {TEXT_LEN_MAX} bytes");
        return Err(FieldProblem::new("#/version", detail));
    }
    if hello.services.len() > REPORT_SERVICES_MAX {
        let detail = format!(
            "{} services, at most {REPORT_SERVICES_MAX}",
            hello.services.len()
        );
        return Err(FieldProblem::new("#/services", detail));
    }
    let mut seen = BTreeSet::new();
    for (at, local) in hello.services.iter().enumerate() {
        let base = format!("#/services/{at}");
        if !seen.insert(&local.service) {
            let detail = format!("{} is named twice", local.service);
            return Err(FieldProblem::new(format!("{base}/service"), detail));
        }
        hosts(&base, &local.hosts)?;
        capacity(&base, local.capacity_rps)?;
        if local.endpoints.len() > SNAPSHOT_ENDPOINTS_MAX {
            let detail = format!("more than {SNAPSHOT_ENDPOINTS_MAX} endpoints");
            return Err(FieldProblem::new(format!("{base}/endpoints"), detail));
        }
        for (at, endpoint) in local.endpoints.iter().enumerate() {
            let base = format!("{base}/endpoints/{at}");
            address(&format!("{base}/address"), &endpoint.address)?;
            workers(&base, endpoint.workers)?;
        }
    }
    Ok(())
}

fn location(base: &str, location: Option<Location>) -> Result<(), FieldProblem> {
    let Some(location) = location else {
        return Ok(());
    };
    let checked = Position::new(location.lat_deg, location.lon_deg);
    checked.map(|_| ()).map_err(|error| {
        let field = match &error {
            PositionError::NotFinite { field, .. } | PositionError::OutOfRange { field, .. } => {
                *field
            }
        };
        FieldProblem::new(format!("{base}/{field}"), error.to_string())
    })
}

fn node(spec: &NodeSpec) -> Result<(), FieldProblem> {
    location("#/spec/location", spec.location)?;
    match &spec.mesh_address {
        Some(text) => address("#/spec/mesh_address", text),
        None => Ok(()),
    }
}

fn service(metadata: &Metadata, spec: &ServiceSpec) -> Result<ServiceName, FieldProblem> {
    name(&metadata.name)?;
    let service = service_name(metadata)
        .map_err(|error: NameError| FieldProblem::new("#/metadata/namespace", error.to_string()))?;
    hosts("#/spec", &spec.hosts)?;
    endpoints(&spec.endpoints)?;
    Ok(service)
}

fn hosts(base: &str, hosts: &[String]) -> Result<(), FieldProblem> {
    if hosts.len() > SNAPSHOT_ENDPOINTS_MAX {
        let detail = format!("{} hosts, at most {SNAPSHOT_ENDPOINTS_MAX}", hosts.len());
        return Err(FieldProblem::new(format!("{base}/hosts"), detail));
    }
    let wrong = |host: &String| host != "*" && NodeId::new(&host.to_ascii_lowercase()).is_err();
    match hosts.iter().position(wrong) {
        Some(at) => Err(FieldProblem::new(
            format!("{base}/hosts/{at}"),
            "must be a host name without port, or \"*\" for any",
        )),
        None => Ok(()),
    }
}

fn workers(base: &str, workers: u32) -> Result<(), FieldProblem> {
    if (1..=WORKERS_MAX).contains(&workers) {
        return Ok(());
    }
    let detail = format!("must be from 1 to {WORKERS_MAX}");
    Err(FieldProblem::new(format!("{base}/workers"), detail))
}

fn capacity(base: &str, capacity_rps: Option<f64>) -> Result<(), FieldProblem> {
    match capacity_rps {
        Some(rps) if !(rps > 0.0 && rps <= CAPACITY_RPS_MAX) => Err(FieldProblem::new(
            format!("{base}/capacity_rps"),
            "must be more than 0 and at most 1 000 000 000 requests/s",
        )),
        _ => Ok(()),
    }
}

/// Checks one endpoint. Pointers are below `base`.
///
/// # Errors
/// The first field found out of range.
pub fn check_endpoint(base: &str, endpoint: &EndpointSpec) -> Result<(), FieldProblem> {
    address(&format!("{base}/address"), &endpoint.address)?;
    workers(base, endpoint.workers)?;
    capacity(base, endpoint.capacity_rps)
}

fn endpoints(endpoints: &[EndpointSpec]) -> Result<(), FieldProblem> {
    let mut seen = BTreeSet::new();
    let mut per_node = std::collections::BTreeMap::new();
    for (at, endpoint) in endpoints.iter().enumerate() {
        let base = format!("#/spec/endpoints/{at}");
        let wrong =
            |field: &str, detail: String| Err(FieldProblem::new(format!("{base}/{field}"), detail));
        check_endpoint(&base, endpoint)?;
        if !seen.insert((&endpoint.node, &endpoint.address)) {
            let detail = format!("{} of {} is named twice", endpoint.address, endpoint.node);
            return wrong("address", detail);
        }
        let here = per_node.entry(&endpoint.node).or_insert(0_usize);
        *here += 1;
        if *here > SNAPSHOT_ENDPOINTS_MAX {
            let detail = format!("has more than {SNAPSHOT_ENDPOINTS_MAX} endpoints");
            return wrong("node", detail);
        }
    }
    Ok(())
}

fn policy(spec: &WeightPolicySpec) -> Result<(), FieldProblem> {
    spec.check().map_err(|error| {
        FieldProblem::new(format!("#/spec/{}", error.field), error.problem.clone())
    })?;
    match &spec.cloud_address {
        Some(text) => address("#/spec/cloud_address", text),
        None => Ok(()),
    }
}

/// `host:port`, with a port that one can connect to. IPv6 addresses stand in brackets.
fn address(pointer: &str, text: &str) -> Result<(), FieldProblem> {
    let wrong = || Err(FieldProblem::new(pointer, "must be host:port"));
    let Some((host, port)) = text.rsplit_once(':') else {
        return wrong();
    };
    let v6 = |h: &str| h.parse::<std::net::Ipv6Addr>().is_ok();
    let host_ok = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(inner) => v6(inner),
        None => NodeId::new(&host.to_ascii_lowercase()).is_ok(),
    };
    if !host_ok || text.len() > TEXT_LEN_MAX || !port.parse::<u16>().is_ok_and(|p| p > 0) {
        return wrong();
    }
    Ok(())
}
