//! Routes of the Gateway API, for the mesh's gateway and for services inside it.
//!
//! A route whose parent is the Gateway `isobar`, or one of our class (`gateways.rs`), is for clients of the proxies' ports, as by REST. One whose parents are Services (GAMMA) is
//! for requests to these: it becomes a route for their host names. Ports of backends are dropped when they are the ports that the
//! services are served at, and refused otherwise. Routes of other gateways are none of ours and get no status from us.
//!
//! A `TCPRoute` is for the connections of listeners, or for those that were going to a Service; host names are nothing to it.

use isobar_mesh_api::names::ServiceName;
use isobar_mesh_api::resource::route::GATEWAY_NAME;
use serde_json::{Value, json};

use super::cluster::{Cluster, Object, ObjectName, Watched};
use super::declare::{Declaration, Refusal, Verdict, as_resource, spec_of};
use super::gateways::{self, Parent, parent_of, text};
use super::services;
use crate::problem::FieldProblem;
use crate::resource_text::{Declared, Key, Kind, Meaning, decode};

pub(super) fn declare(cluster: &Cluster, declaration: &mut Declaration) {
    for (kind, means) in [
        (Watched::HttpRoute, Kind::HttpRoute),
        (Watched::GrpcRoute, Kind::GrpcRoute),
        (Watched::TcpRoute, Kind::TcpRoute),
    ] {
        for route in cluster.all(kind) {
            one(cluster, declaration, (kind, means), route);
        }
    }
}

fn one(cluster: &Cluster, declaration: &mut Declaration, kinds: (Watched, Kind), route: &Object) {
    let (kind, means) = kinds;
    let mut spec = spec_of(route);
    let parents = spec["parentRefs"].as_array().cloned().unwrap_or_default();
    let ours = parents.iter().enumerate();
    let ours: Vec<Ours<'_>> = ours
        .filter_map(|(at, parent)| Some((at, parent, parent_of(cluster, route, parent)?)))
        .collect();
    if ours.is_empty() {
        return;
    }
    let mut attached = match attach(cluster, (kind, route), &ours) {
        Ok(attached) => attached,
        // Which one is wrong is in the text; the route as a whole is not in force.
        Err(problem) => {
            declaration.judge(kind, route, means, Err(problem));
            return for_all(declaration, &ours);
        }
    };
    let refused = refuse_backends(cluster, kind, route, &mut spec);
    if attached
        .verdicts
        .iter()
        .all(|(_, accepted)| accepted.is_err())
    {
        // No parent wants it: it is in force nowhere, whatever it was before.
        let first = attached.verdicts.first().and_then(|(_, a)| a.clone().err());
        let mut verdict = Verdict::new(kind, route, first.map_or(Ok(()), Err));
        verdict.parents = attached.verdicts;
        declaration.verdicts.push(verdict);
        return;
    }
    spec["parentRefs"] = json!(attached.parent_refs);
    match attached.hosts.as_slice() {
        [] => drop(
            spec.as_object_mut()
                .and_then(|spec| spec.remove("hostnames")),
        ),
        hosts => spec["hostnames"] = json!(hosts),
    }
    let read = in_our_words(cluster, route, spec)
        .and_then(|spec| decode(as_resource(route, kind.api().kind, spec)));
    let missing = read.as_ref().map(|read| missing(read, declaration));
    let missing = missing.unwrap_or_default();
    declaration.judge(kind, route, means, read);
    let accepted = declaration
        .verdicts
        .last()
        .map(|verdict| verdict.accepted.clone());
    if let Some(Err(refusal)) = &accepted {
        let told = attached.verdicts.iter_mut().filter(|(_, a)| a.is_ok());
        told.for_each(|(_, accepted)| *accepted = Err(refusal.clone()));
    } else {
        count(declaration, &attached.counted);
    }
    if let Some(verdict) = declaration.verdicts.last_mut() {
        verdict.parents = attached.verdicts;
        verdict.missing = missing;
        verdict.not_permitted = refused.not_permitted;
        verdict.no_services = refused.no_services;
    }
}

/// A parent that is ours: its place among the route's, as it is written, and what it is.
type Ours<'a> = (usize, &'a Value, Parent<'a>);

/// What came of a route's parents.
#[derive(Default)]
struct Attached {
    /// Host names that requests must have; none for any.
    hosts: Vec<String>,
    /// As REST would have them.
    parent_refs: Vec<Value>,
    /// For the status.
    verdicts: Vec<(Value, Result<(), Refusal>)>,
    /// Listeners that it is attached to, in force or not.
    counted: Vec<(ObjectName, String)>,
}

/// The last verdict is on all parents.
fn for_all(declaration: &mut Declaration, ours: &[Ours<'_>]) {
    if let Some(verdict) = declaration.verdicts.last_mut() {
        let accepted = verdict.accepted.clone();
        let of = ours
            .iter()
            .map(|(_, parent, _)| ((*parent).clone(), accepted.clone()));
        verdict.parents = of.collect();
    }
}

/// Asks each parent.
fn attach(
    cluster: &Cluster,
    (kind, route): (Watched, &Object),
    ours: &[Ours<'_>],
) -> Result<Attached, FieldProblem> {
    if kind == Watched::TcpRoute {
        return attach_tcp(cluster, route, ours);
    }
    let is_service = |(_, _, parent): &&Ours<'_>| matches!(parent, Parent::Service);
    let services = ours.iter().filter(is_service).count();
    if services > 0 && services < ours.len() {
        let detail = "has Services and a Gateway, which is not supported; write two routes";
        return Err(FieldProblem::new("#/spec/parentRefs", detail));
    }
    let mut attached = Attached::default();
    let own = route.body["spec"]["hostnames"]
        .as_array()
        .into_iter()
        .flatten();
    let own: Vec<String> = own.filter_map(Value::as_str).map(str::to_owned).collect();
    // A parent that takes any host makes the others' limits void.
    let mut takes_any = false;
    for (at, parent, what) in ours {
        let accepted = match what {
            Parent::Service => {
                let pointer = format!("#/spec/parentRefs/{at}");
                attached
                    .hosts
                    .extend(parent_hosts(cluster, route, parent, &pointer)?);
                Ok(())
            }
            Parent::Mesh => {
                takes_any |= own.is_empty();
                attached.hosts.extend(own.iter().cloned());
                Ok(())
            }
            Parent::Gateway(gateway) => gateways::attach(cluster, gateway, (kind, route), parent)
                .map(|found| {
                    takes_any |= found.hosts.is_empty();
                    attached.hosts.extend(found.hosts);
                    let of = found.counted.into_iter();
                    let of = of.map(|section| (gateway.name.clone(), section));
                    attached.counted.extend(of);
                }),
        };
        attached.verdicts.push(((*parent).clone(), accepted));
    }
    if takes_any {
        attached.hosts.clear();
    }
    let mut seen = std::collections::BTreeSet::new();
    attached.hosts.retain(|host| seen.insert(host.clone()));
    if services == 0 {
        attached.parent_refs.push(json!({"name": GATEWAY_NAME}));
    }
    Ok(attached)
}

/// Asks each parent of a route for TCP.
fn attach_tcp(
    cluster: &Cluster,
    route: &Object,
    ours: &[Ours<'_>],
) -> Result<Attached, FieldProblem> {
    let mut attached = Attached::default();
    let listener = |name: &str| json!({"name": GATEWAY_NAME, "sectionName": name});
    for (at, parent, what) in ours {
        let accepted = match what {
            Parent::Service => {
                parent_hosts(cluster, route, parent, &format!("#/spec/parentRefs/{at}"))?;
                let name = text(parent, "name", "");
                let reference = json!({"group": "", "kind": "Service", "name": name});
                attached.parent_refs.push(reference);
                Ok(())
            }
            Parent::Mesh => match parent["sectionName"].as_str() {
                Some(name) => {
                    attached.parent_refs.push(listener(name));
                    Ok(())
                }
                None => Err(Refusal {
                    reason: "NoMatchingParent",
                    message: "sectionName must be the name of a listener of the proxies' own configuration".to_owned(),
                }),
            },
            Parent::Gateway(gateway) => {
                let found = gateways::attach(cluster, gateway, (Watched::TcpRoute, route), parent);
                found.map(|found| {
                    let named = found.sections.iter().map(|section| listener(section));
                    attached.parent_refs.extend(named);
                    let of = found.counted.into_iter();
                    let of = of.map(|section| (gateway.name.clone(), section));
                    attached.counted.extend(of);
                })
            }
        };
        attached.verdicts.push(((*parent).clone(), accepted));
    }
    Ok(attached)
}

/// Counts a route at the listeners that it is attached to, once at each.
fn count(declaration: &mut Declaration, sections: &[(ObjectName, String)]) {
    let sections: std::collections::BTreeSet<_> = sections.iter().collect();
    for (gateway, section) in sections {
        let is =
            |verdict: &&mut Verdict| verdict.kind == Watched::Gateway && verdict.name == *gateway;
        let of = declaration.verdicts.iter_mut().find(is);
        let mut listeners = of.into_iter().flat_map(|verdict| &mut verdict.listeners);
        if let Some(listener) = listeners.find(|listener| listener.name == *section) {
            listener.attached += 1;
        }
    }
}

/// Backends that a route may not have.
#[derive(Default)]
struct RefusedBackends {
    /// Services of other namespaces.
    not_permitted: Vec<String>,
    /// Other kinds.
    no_services: Vec<String>,
}

/// Puts a name that no Service has in the place of everything that the route may not name. Says what this was.
fn refuse_backends(
    cluster: &Cluster,
    kind: Watched,
    route: &Object,
    spec: &mut Value,
) -> RefusedBackends {
    let mut refused = RefusedBackends::default();
    let mut check = |backend: &mut Value| {
        let name = named(route, backend);
        let (group, of) = (text(backend, "group", ""), text(backend, "kind", "Service"));
        if !group.is_empty() || of != "Service" {
            refused.no_services.push(format!("{of}.{group} {name}"));
            if let Some(fields) = backend.as_object_mut() {
                fields.retain(|field, _| field != "group" && field != "kind");
            }
            backend["name"] = json!(NOBODY);
        } else if !gateways::is_granted(cluster, kind, route, &name) {
            refused.not_permitted.push(name.to_string());
            backend["name"] = json!(NOBODY);
        }
    };
    for (_, rule) in each(spec, "rules") {
        each(rule, "backendRefs").for_each(|(_, backend)| check(backend));
        for (_, filter) in each(rule, "filters") {
            filter
                .pointer_mut("/requestMirror/backendRef")
                .into_iter()
                .for_each(&mut check);
        }
    }
    for names in [&mut refused.not_permitted, &mut refused.no_services] {
        names.sort();
        names.dedup();
    }
    refused
}

/// Names of Services have no dots.
const NOBODY: &str = "not.permitted";

/// The service that a backend names.
fn named(route: &Object, backend: &Value) -> ObjectName {
    ObjectName {
        namespace: text(backend, "namespace", &route.name.namespace).to_owned(),
        name: text(backend, "name", "").to_owned(),
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
fn in_our_words(cluster: &Cluster, route: &Object, mut spec: Value) -> Result<Value, FieldProblem> {
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
    let name = named(route, backend);
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
