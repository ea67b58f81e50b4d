//! Routes of the Gateway API, for the mesh's gateway and for services inside it.
//!
//! A route whose parent is the Gateway `isobar` is for clients of the proxies' ports, as by REST. One whose parents are Services (GAMMA) is
//! for requests to these: it becomes a route for their host names. Ports of backends are dropped when they are the ports that the
//! services are served at, and refused otherwise. Routes of other gateways are none of ours and get no status from us.

use isobar_mesh_api::names::ServiceName;
use isobar_mesh_api::resource::route::{GATEWAY_GROUP, GATEWAY_NAME};
use serde_json::{Value, json};

use super::cluster::{Cluster, Object, ObjectName, Watched};
use super::declare::{Declaration, Verdict, as_resource, spec_of};
use super::services;
use crate::problem::FieldProblem;
use crate::resource_text::{Declared, Key, Kind, Meaning, decode};

/// Whether one of a route's parents is ours: a Service, or the mesh's Gateway.
pub fn is_ours(parent: &Value) -> bool {
    is_service(parent) || is_gateway(parent) && parent["name"] == GATEWAY_NAME
}

fn text<'a>(value: &'a Value, field: &str, default: &'a str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or(default)
}

fn is_service(parent: &Value) -> bool {
    text(parent, "group", GATEWAY_GROUP).is_empty() && text(parent, "kind", "Gateway") == "Service"
}

fn is_gateway(parent: &Value) -> bool {
    text(parent, "group", GATEWAY_GROUP) == GATEWAY_GROUP
        && text(parent, "kind", "Gateway") == "Gateway"
}

pub(super) fn declare(cluster: &Cluster, declaration: &mut Declaration) {
    for (kind, means) in [
        (Watched::HttpRoute, Kind::HttpRoute),
        (Watched::GrpcRoute, Kind::GrpcRoute),
    ] {
        for route in cluster.all(kind) {
            let spec = spec_of(route);
            let parents = spec["parentRefs"].as_array().cloned().unwrap_or_default();
            if !parents.iter().any(is_ours) {
                continue;
            }
            let read = in_our_words(cluster, route, spec, &parents)
                .and_then(|spec| decode(as_resource(route, kind.api().kind, spec)));
            let missing = read.as_ref().map(|read| missing(read, declaration));
            let missing = missing.unwrap_or_default();
            declaration.judge(kind, route, means, read);
            if let Some(Verdict { missing: of, .. }) = declaration.verdicts.last_mut() {
                *of = missing;
            }
        }
    }
}

/// Services that a route names and that the cluster does not declare.
fn missing(read: &Declared, declaration: &Declaration) -> Vec<ServiceName> {
    let Meaning::Route(route) = &read.meaning else {
        return Vec::new();
    };
    let is_there = |service: &ServiceName| {
        declaration.resources.contains_key(&Key {
            kind: Kind::Service,
            name: service.to_string(),
        })
    };
    let mut missing: Vec<ServiceName> = route.services().filter(|s| !is_there(s)).collect();
    missing.sort();
    missing.dedup();
    missing
}

/// The spec as REST would have it.
fn in_our_words(
    cluster: &Cluster,
    route: &Object,
    mut spec: Value,
    parents: &[Value],
) -> Result<Value, FieldProblem> {
    let ours: Vec<(usize, &Value)> = parents
        .iter()
        .enumerate()
        .filter(|(_, parent)| is_ours(parent))
        .collect();
    let services = ours.iter().filter(|(_, parent)| is_service(parent)).count();
    if services > 0 && services < ours.len() {
        let detail = "has Services and a Gateway, which is not supported; write two routes";
        return Err(FieldProblem::new("#/spec/parentRefs", detail));
    }
    if services > 0 {
        let mut hostnames = Vec::new();
        for (at, parent) in ours {
            let pointer = format!("#/spec/parentRefs/{at}");
            hostnames.extend(parent_hosts(cluster, route, parent, &pointer)?);
        }
        spec["hostnames"] = json!(hostnames);
        spec["parentRefs"] = json!([]);
    } else {
        spec["parentRefs"] = ours.into_iter().map(|(_, parent)| parent.clone()).collect();
    }
    for (at, rule) in each(&mut spec, "rules") {
        let base = format!("#/spec/rules/{at}");
        for (place, backend) in each(rule, "backendRefs") {
            drop_port(
                cluster,
                route,
                backend,
                &format!("{base}/backendRefs/{place}"),
            )?;
        }
        for (place, filter) in each(rule, "filters") {
            if let Some(backend) = filter.pointer_mut("/requestMirror/backendRef") {
                let pointer = format!("{base}/filters/{place}/requestMirror/backendRef");
                drop_port(cluster, route, backend, &pointer)?;
            }
        }
    }
    Ok(spec)
}

fn each<'a>(value: &'a mut Value, field: &str) -> impl Iterator<Item = (usize, &'a mut Value)> {
    let list = value.get_mut(field).and_then(Value::as_array_mut);
    list.into_iter().flatten().enumerate()
}

/// The host names of the Service that a route is for.
fn parent_hosts(
    cluster: &Cluster,
    route: &Object,
    parent: &Value,
    pointer: &str,
) -> Result<Vec<String>, FieldProblem> {
    if text(parent, "namespace", &route.name.namespace) != route.name.namespace {
        let detail =
            "must be the route's own: routes for callers of one namespace alone are not supported";
        return Err(FieldProblem::new(format!("{pointer}/namespace"), detail));
    }
    if parent.get("sectionName").is_some() {
        let detail = "is not supported: a service has one port in the mesh";
        return Err(FieldProblem::new(format!("{pointer}/sectionName"), detail));
    }
    let name = ObjectName {
        namespace: route.name.namespace.clone(),
        name: text(parent, "name", "").to_owned(),
    };
    let Some(service) = cluster.get(Watched::Service, &name) else {
        let detail = format!("there is no Service {name}");
        return Err(FieldProblem::new(format!("{pointer}/name"), detail));
    };
    check_port(service, parent, pointer)?;
    Ok(services::hosts(service))
}

/// The Gateway API asks for a port where the mesh knows it already.
fn drop_port(
    cluster: &Cluster,
    route: &Object,
    backend: &mut Value,
    pointer: &str,
) -> Result<(), FieldProblem> {
    let namespace = text(backend, "namespace", &route.name.namespace);
    if namespace != route.name.namespace {
        let detail = "is another namespace than the route's, which is not supported";
        return Err(FieldProblem::new(format!("{pointer}/namespace"), detail));
    }
    let name = ObjectName {
        namespace: namespace.to_owned(),
        name: text(backend, "name", "").to_owned(),
    };
    if let Some(service) = cluster.get(Watched::Service, &name) {
        check_port(service, backend, pointer)?;
    }
    if let Some(fields) = backend.as_object_mut() {
        fields.remove("port");
    }
    Ok(())
}

fn check_port(service: &Object, reference: &Value, pointer: &str) -> Result<(), FieldProblem> {
    let served = services::port_of(service);
    let named = reference.get("port").and_then(Value::as_u64);
    match (named, served) {
        (Some(named), Some(served)) if named != u64::from(served) => Err(FieldProblem::new(
            format!("{pointer}/port"),
            format!(
                "is {named}, and {} is served at its port {served} in the mesh; the annotation {} chooses another",
                service.name,
                services::PORT
            ),
        )),
        _ => Ok(()),
    }
}
