//! The Gateway API's gateways: which are ours, what their listeners can be, which routes may attach to them.
//!
//! The mesh has one gateway: the ingress port of every proxy, for plain HTTP, and the listeners for TCP that proxies' own configurations
//! name. A `GatewayClass` that names this controller makes every `Gateway` of the class another name for it, with the limits that its
//! listeners set. A parent named `isobar` is it even without an object.
//!
//! - `listeners`: which of them proxies can be, and which clash;
//! - `addresses`: where clients reach a gateway.

use isobar_mesh_api::resource::route::{GATEWAY_GROUP, GATEWAY_NAME};
use serde_json::Value;

use super::cluster::{Cluster, Object, ObjectName, Watched};
use super::declare::{Declaration, ListenerVerdict, Refusal, Verdict};
use super::status::CONTROLLER_NAME;

mod addresses;
mod listeners;

use addresses::Addresses;
use listeners::{Judged, judge, kinds};

/// The proxies' port for clients.
pub const INGRESS_PORT: u64 = 7410;

/// To what a route is attached, of what is ours.
pub(super) enum Parent<'a> {
    /// Requests to a service (GAMMA).
    Service,
    /// The proxies' ports, without more.
    Mesh,
    /// A gateway of our class.
    Gateway(&'a Object),
}

/// What a parent of a route is to us; none when it is somebody else's.
pub(super) fn parent_of<'a>(
    cluster: &'a Cluster,
    route: &Object,
    parent: &Value,
) -> Option<Parent<'a>> {
    let group = text(parent, "group", GATEWAY_GROUP);
    let kind = text(parent, "kind", "Gateway");
    if group.is_empty() && kind == "Service" {
        return Some(Parent::Service);
    }
    if group != GATEWAY_GROUP || kind != "Gateway" {
        return None;
    }
    let name = ObjectName {
        namespace: text(parent, "namespace", &route.name.namespace).to_owned(),
        name: text(parent, "name", "").to_owned(),
    };
    match cluster.get(Watched::Gateway, &name) {
        Some(gateway) => is_ours(cluster, gateway).then_some(Parent::Gateway(gateway)),
        None => (name.name == GATEWAY_NAME).then_some(Parent::Mesh),
    }
}

pub(super) fn text<'a>(value: &'a Value, field: &str, default: &'a str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or(default)
}

/// Whether a gateway's class names this controller.
fn is_ours(cluster: &Cluster, gateway: &Object) -> bool {
    let class = ObjectName {
        namespace: String::new(),
        name: text(&gateway.body["spec"], "gatewayClassName", "").to_owned(),
    };
    let class = cluster.get(Watched::GatewayClass, &class);
    class.is_some_and(|class| class.body["spec"]["controllerName"] == CONTROLLER_NAME)
}

fn refuse(reason: &'static str, message: impl Into<String>) -> Refusal {
    Refusal {
        reason,
        message: message.into(),
    }
}

/// Verdicts on classes and gateways of ours. Attached routes are counted when these are known.
pub(super) fn declare(cluster: &Cluster, declaration: &mut Declaration) {
    for class in cluster.all(Watched::GatewayClass) {
        if class.body["spec"]["controllerName"] == CONTROLLER_NAME {
            let accepted = match class.body["spec"]["parametersRef"].is_null() {
                true => Ok(()),
                false => Err(refuse(
                    "InvalidParameters",
                    "parametersRef is not supported; leave it away",
                )),
            };
            declaration
                .verdicts
                .push(Verdict::new(Watched::GatewayClass, class, accepted));
        }
    }
    let addresses = Addresses::of(cluster);
    for gateway in cluster
        .all(Watched::Gateway)
        .filter(|g| is_ours(cluster, g))
    {
        let of = judge(gateway).into_iter().map(|listener| {
            let (kinds, asks_for_others) = kinds(listener.written);
            ListenerVerdict {
                name: text(listener.written, "name", "").to_owned(),
                accepted: listener.accepted,
                conflict: listener.conflict,
                attached: 0,
                kinds,
                asks_for_others,
            }
        });
        let of: Vec<ListenerVerdict> = of.collect();
        let other_type = gateway.body["spec"]["addresses"].as_array();
        let other_type = other_type.into_iter().flatten();
        let mut other_type = other_type.map(|one| text(one, "type", "IPAddress"));
        let accepted = match of.iter().any(|listener| listener.accepted.is_ok()) {
            true => match other_type.find(|kind| *kind != "IPAddress") {
                Some(kind) => Err(refuse(
                    "UnsupportedAddress",
                    format!("spec.addresses has the type {kind:?}; only IPAddress is supported"),
                )),
                None => Ok(()),
            },
            false => Err(refuse(
                "ListenersNotValid",
                "no listener is accepted; their conditions say why",
            )),
        };
        let mut verdict = Verdict::new(Watched::Gateway, gateway, accepted);
        verdict.listeners = of;
        verdict.addresses = addresses.for_gateway(gateway);
        declaration.verdicts.push(verdict);
    }
}

/// What a route gets of a gateway.
pub(super) struct Attachment {
    /// The host names of its own that listeners let through; none for any.
    pub(super) hosts: Vec<String>,
    /// The listeners that let it in and are in force.
    pub(super) sections: Vec<String>,
    /// The listeners that let it in, in force or not: what is counted there.
    pub(super) counted: Vec<String>,
}

/// Attaches a route to a gateway.
///
/// # Errors
/// It gets nothing, and why, in the Gateway API's words.
pub(super) fn attach(
    cluster: &Cluster,
    gateway: &Object,
    (kind, route): (Watched, &Object),
    parent: &Value,
) -> Result<Attachment, Refusal> {
    let wanted = parent["sectionName"].as_str();
    let port = parent["port"].as_u64();
    let is_named = |listener: &Judged<'_>| {
        let written = listener.written;
        wanted.is_none_or(|wanted| text(written, "name", "") == wanted)
            && port.is_none_or(|port| written["port"].as_u64() == Some(port))
    };
    let mut named = judge(gateway);
    named.retain(is_named);
    if named.is_empty() {
        return Err(refuse(
            "NoMatchingParent",
            "the gateway has no listener of this sectionName and port",
        ));
    }
    if named.iter().all(|listener| listener.accepted.is_err()) {
        return Err(refuse(
            "NoMatchingParent",
            "the gateway accepts none of these listeners; its status says why",
        ));
    }
    named.retain(|listener| allows(cluster, gateway, listener.written, (kind, route)));
    let open: Vec<&Value> = named.iter().map(|listener| listener.written).collect();
    let in_force = named.iter().filter(|listener| listener.accepted.is_ok());
    let in_force: Vec<&Value> = in_force.map(|listener| listener.written).collect();
    if in_force.is_empty() {
        return Err(refuse(
            "NotAllowedByListeners",
            "the listeners' allowedRoutes do not let this route attach",
        ));
    }
    let (hosts, sections) = let_through(&in_force, route);
    if sections.is_empty() {
        return Err(refuse(
            "NoMatchingListenerHostname",
            "no listener's hostname and none of the route's hostnames fit together",
        ));
    }
    Ok(Attachment {
        hosts,
        sections,
        counted: let_through(&open, route).1,
    })
}

/// The host names of a route that listeners let through, none for any; and those of the listeners that let some.
fn let_through(listeners: &[&Value], route: &Object) -> (Vec<String>, Vec<String>) {
    let own = route.body["spec"]["hostnames"].as_array();
    let own = own.into_iter().flatten().filter_map(Value::as_str);
    let own: Vec<&str> = own.collect();
    let (mut hosts, mut sections) = (Vec::new(), Vec::new());
    // One listener that takes every host makes the others' limits void.
    let mut takes_any = false;
    for listener in listeners {
        let limit = listener["hostname"].as_str();
        let limit = limit.filter(|host| !host.is_empty());
        let through: Vec<String> = match limit {
            Some(limit) if own.is_empty() => vec![limit.to_owned()],
            Some(limit) => own.iter().filter_map(|host| both(limit, host)).collect(),
            None => own.iter().map(|host| (*host).to_owned()).collect(),
        };
        if limit.is_some() && through.is_empty() {
            continue;
        }
        sections.push(text(listener, "name", "").to_owned());
        takes_any |= through.is_empty();
        hosts.extend(through);
    }
    if takes_any {
        hosts.clear();
    }
    hosts.sort();
    hosts.dedup();
    (hosts, sections)
}

/// The more specific of two host names where every host of it is one of the other; none where they have nothing in common.
fn both(one: &str, other: &str) -> Option<String> {
    let covers = |wide: &str, narrow: &str| match wide.strip_prefix('*') {
        Some(end) => {
            narrow.ends_with(end) && narrow.trim_start_matches('*').len() > end.len()
                || wide == narrow
        }
        None => wide == narrow,
    };
    let narrow = match (covers(one, other), covers(other, one)) {
        (true, _) => other,
        (false, true) => one,
        (false, false) => return None,
    };
    Some(narrow.to_owned())
}

/// Whether a listener lets a route attach: by its namespace and kind.
fn allows(
    cluster: &Cluster,
    gateway: &Object,
    listener: &Value,
    (kind, route): (Watched, &Object),
) -> bool {
    let allowed = &listener["allowedRoutes"];
    if !kinds(listener).0.contains(&kind.api().kind) {
        return false;
    }
    match text(&allowed["namespaces"], "from", "Same") {
        "All" => true,
        "Same" => gateway.name.namespace == route.name.namespace,
        "Selector" => {
            let name = ObjectName {
                namespace: String::new(),
                name: route.name.namespace.clone(),
            };
            let selector = &allowed["namespaces"]["selector"];
            let of = cluster.get(Watched::Namespace, &name);
            of.is_some_and(|namespace| selects(selector, namespace))
        }
        _ => false,
    }
}

/// Whether a selector is for an object's labels. An expression that is not understood lets nobody in.
fn selects(selector: &Value, object: &Object) -> bool {
    let label = |key: &str| object.labels.get(key).map(String::as_str);
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let expressions = selector["matchExpressions"].as_array();
    let expressions = expressions.into_iter().flatten();
    labels
        .into_iter()
        .all(|(key, value)| label(key).is_some() && label(key) == value.as_str())
        && expressions.into_iter().all(|one| {
            let has = label(text(one, "key", ""));
            let values = one["values"].as_array().into_iter().flatten();
            let mut values = values.filter_map(Value::as_str);
            match text(one, "operator", "") {
                "In" => has.is_some_and(|has| values.any(|value| value == has)),
                "NotIn" => has.is_none_or(|has| !values.any(|value| value == has)),
                "Exists" => has.is_some(),
                "DoesNotExist" => has.is_none(),
                _ => false,
            }
        })
}

/// Whether a grant in a service's namespace lets a route name it.
pub(super) fn is_granted(
    cluster: &Cluster,
    kind: Watched,
    route: &Object,
    service: &ObjectName,
) -> bool {
    if service.namespace == route.name.namespace {
        return true;
    }
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let grants = cluster.all(Watched::ReferenceGrant);
    grants
        .filter(|grant| grant.name.namespace == service.namespace)
        .any(|grant| {
            let spec = &grant.body["spec"];
            let from = list(&spec["from"]).iter().any(|from| {
                text(from, "group", "?") == GATEWAY_GROUP
                    && text(from, "kind", "") == kind.api().kind
                    && text(from, "namespace", "") == route.name.namespace
            });
            let to = list(&spec["to"]).iter().any(|to| {
                text(to, "group", "?").is_empty()
                    && text(to, "kind", "") == "Service"
                    && to["name"]
                        .as_str()
                        .is_none_or(|name| name.is_empty() || name == service.name)
            });
            from && to
        })
}

#[cfg(test)]
mod tests {
    use super::both;

    #[test]
    fn what_two_host_names_have_in_common() {
        let cases = [
            ("a.example", "a.example", Some("a.example")),
            ("a.example", "b.example", None),
            ("*.example", "a.example", Some("a.example")),
            ("*.example", "b.a.example", Some("b.a.example")),
            ("*.example", "example", None),
            ("*.example", ".example", None),
            ("*.example", "*.a.example", Some("*.a.example")),
            ("*.example", "*.example", Some("*.example")),
            ("*.a.example", "*.b.example", None),
        ];
        for (one, other, wanted) in cases {
            assert_eq!(both(one, other).as_deref(), wanted, "{one} {other}");
            assert_eq!(both(other, one).as_deref(), wanted, "{other} {one}");
        }
    }
}
