//! The Gateway API's gateways: which are ours, what their listeners can be, which routes may attach to them.
//!
//! The mesh has one gateway, the ingress port of every proxy, for plain HTTP. A `GatewayClass` that names this controller makes every
//! `Gateway` of the class another name for it, with the limits that its listeners set. A parent named `isobar` is it even without an object.

use isobar_mesh_api::resource::route::{GATEWAY_GROUP, GATEWAY_NAME};
use serde_json::Value;

use super::cluster::{Cluster, Object, ObjectName, Watched};
use super::declare::{Declaration, ListenerVerdict, Refusal, Verdict};
use super::status::CONTROLLER_NAME;

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

fn listeners(gateway: &Object) -> impl Iterator<Item = &Value> {
    gateway.body["spec"]["listeners"]
        .as_array()
        .into_iter()
        .flatten()
}

fn refuse(reason: &'static str, message: impl Into<String>) -> Refusal {
    Refusal {
        reason,
        message: message.into(),
    }
}

/// Whether proxies can do what a listener asks for.
fn check_listener(listener: &Value) -> Result<(), Refusal> {
    let protocol = text(listener, "protocol", "");
    if protocol != "HTTP" {
        let message = format!(
            "protocol is {protocol:?}; proxies' ingress port speaks HTTP, and TLS ends at a listener of the proxies' own configuration"
        );
        return Err(refuse("UnsupportedProtocol", message));
    }
    let port = listener["port"].as_u64().unwrap_or_default();
    if port != INGRESS_PORT {
        let message =
            format!("port is {port}; proxies serve clients at {INGRESS_PORT} of every node");
        return Err(refuse("PortUnavailable", message));
    }
    Ok(())
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
    for gateway in cluster
        .all(Watched::Gateway)
        .filter(|g| is_ours(cluster, g))
    {
        let of = listeners(gateway).map(|listener| ListenerVerdict {
            name: text(listener, "name", "").to_owned(),
            accepted: check_listener(listener),
            attached: 0,
        });
        let of: Vec<ListenerVerdict> = of.collect();
        let accepted = match of.iter().any(|listener| listener.accepted.is_ok()) {
            true => Ok(()),
            false => Err(refuse(
                "ListenersNotValid",
                "no listener is accepted; their conditions say why",
            )),
        };
        let mut verdict = Verdict::new(Watched::Gateway, gateway, accepted);
        verdict.listeners = of;
        declaration.verdicts.push(verdict);
    }
}

/// What a route gets of a gateway: the host names of its own that the gateway's listeners let through, and which listeners these are.
///
/// # Errors
/// It gets none, and why, in the Gateway API's words.
pub(super) fn attach(
    cluster: &Cluster,
    gateway: &Object,
    route: &Object,
    parent: &Value,
) -> Result<(Vec<String>, Vec<String>), Refusal> {
    let wanted = parent["sectionName"].as_str();
    let port = parent["port"].as_u64();
    let named = listeners(gateway).filter(|listener| {
        wanted.is_none_or(|wanted| text(listener, "name", "") == wanted)
            && port.is_none_or(|port| listener["port"].as_u64() == Some(port))
    });
    let named: Vec<&Value> = named.collect();
    if named.is_empty() {
        return Err(refuse(
            "NoMatchingParent",
            "the gateway has no listener of this sectionName and port",
        ));
    }
    let usable: Vec<&Value> = named
        .into_iter()
        .filter(|l| check_listener(l).is_ok())
        .collect();
    if usable.is_empty() {
        return Err(refuse(
            "NoMatchingParent",
            "the gateway accepts none of these listeners; its status says why",
        ));
    }
    let open: Vec<&Value> = usable
        .into_iter()
        .filter(|l| allows(cluster, gateway, l, route))
        .collect();
    if open.is_empty() {
        return Err(refuse(
            "NotAllowedByListeners",
            "the listeners' allowedRoutes do not let this route attach",
        ));
    }
    let found = let_through(&open, route);
    match found.1.is_empty() {
        true => Err(refuse(
            "NoMatchingListenerHostname",
            "no listener's hostname and none of the route's hostnames fit together",
        )),
        false => Ok(found),
    }
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
fn allows(cluster: &Cluster, gateway: &Object, listener: &Value, route: &Object) -> bool {
    let allowed = &listener["allowedRoutes"];
    // Without a kind of ours among those it lists nothing of ours may attach; that both routes of ours are HTTP's is enough here.
    let kinds = allowed["kinds"]
        .as_array()
        .filter(|kinds| !kinds.is_empty());
    let is_route = |kind: &Value| matches!(text(kind, "kind", ""), "HTTPRoute" | "GRPCRoute");
    if kinds.is_some_and(|kinds| !kinds.iter().any(is_route)) {
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
            let labels = selector["matchLabels"].as_object();
            // An expression that is not understood lets nobody in.
            let is_understood = selector["matchExpressions"]
                .as_array()
                .is_none_or(Vec::is_empty);
            let of = cluster.get(Watched::Namespace, &name);
            let fits = of.is_some_and(|namespace| {
                let mut wanted = labels.into_iter().flatten();
                wanted.all(|(key, value)| {
                    namespace.labels.get(key).map(String::as_str) == value.as_str()
                })
            });
            is_understood && fits
        }
        _ => false,
    }
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

/// The verdict on routes for TCP, whose fields no proxy acts on yet.
pub(super) fn declare_tcp(cluster: &Cluster, declaration: &mut Declaration) {
    for route in cluster.all(Watched::TcpRoute) {
        let parents = route.body["spec"]["parentRefs"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let ours: Vec<Value> = parents
            .into_iter()
            .filter(|parent| parent_of(cluster, route, parent).is_some())
            .collect();
        if ours.is_empty() {
            continue;
        }
        let message = "kind TCPRoute is not supported: name the service in a listener of the proxies' own configuration (listeners.service, listeners.by_destination)";
        let refusal = refuse("UnsupportedValue", message);
        let mut verdict = Verdict::new(Watched::TcpRoute, route, Err(refusal.clone()));
        verdict.parents = ours
            .into_iter()
            .map(|parent| (parent, Err(refusal.clone())))
            .collect();
        declaration.verdicts.push(verdict);
    }
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
