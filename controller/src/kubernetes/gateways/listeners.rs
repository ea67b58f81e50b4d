//! What a gateway's listeners can be: by themselves, and beside each other.
//!
//! Listeners that clash are refused, all of them: none is picked as the winner (Gateway API, `GatewaySpec.listeners`, "Handling indistinct
//! Listeners"). The others of their gateway stay in force.

use isobar_mesh_api::resource::route::GATEWAY_GROUP;
use serde_json::Value;

use super::{INGRESS_PORT, refuse, text};
use crate::kubernetes::cluster::Object;
use crate::kubernetes::declare::Refusal;

/// Ports that proxies have for themselves: clients, peers, local applications, administration.
const PROXY_PORTS: [u64; 4] = [INGRESS_PORT, 7411, 7412, 7419];

/// A listener, as it is written, and what became of it.
pub(super) struct Judged<'a> {
    /// As it is written.
    pub(super) written: &'a Value,
    /// In force, or why not.
    pub(super) accepted: Result<(), Refusal>,
    /// With whom it clashes, if it does.
    pub(super) conflict: Option<Refusal>,
}

/// All listeners of a gateway, as they are written.
fn written(gateway: &Object) -> impl Iterator<Item = &Value> {
    gateway.body["spec"]["listeners"]
        .as_array()
        .into_iter()
        .flatten()
}

/// All listeners of a gateway.
pub(super) fn judge(gateway: &Object) -> Vec<Judged<'_>> {
    let judged = written(gateway).map(|written| {
        let conflict = conflict(gateway, written);
        let clash = conflict
            .as_ref()
            .map_or(Ok(()), |with| Err(refuse("Invalid", with.message.clone())));
        Judged {
            written,
            accepted: check(written).and(clash),
            conflict,
        }
    });
    judged.collect()
}

/// Whether proxies can do what a listener asks for.
pub(super) fn check(listener: &Value) -> Result<(), Refusal> {
    let port = port_of(listener);
    match text(listener, "protocol", "") {
        "HTTP" if port != INGRESS_PORT => {
            let message =
                format!("port is {port}; proxies serve clients at {INGRESS_PORT} of every node");
            Err(refuse("PortUnavailable", message))
        }
        "TCP" if PROXY_PORTS.contains(&port) => {
            let message = format!("port {port} is one that proxies have for something else");
            Err(refuse("PortUnavailable", message))
        }
        "HTTP" | "TCP" => Ok(()),
        protocol => {
            let message = format!(
                "protocol is {protocol:?}; proxies' ingress port speaks HTTP, those of TCP are in the proxies' own configuration, and so is where TLS ends"
            );
            Err(refuse("UnsupportedProtocol", message))
        }
    }
}

fn port_of(listener: &Value) -> u64 {
    listener["port"].as_u64().unwrap_or_default()
}

/// With which listener of its gateway one clashes, and in what: the first that there is, other protocols before other names.
fn conflict(gateway: &Object, listener: &Value) -> Option<Refusal> {
    let others = || {
        let others = written(gateway).filter(|other| !std::ptr::eq(*other, listener));
        others.filter(|other| shares_socket(listener, other))
    };
    let (port, name) = (port_of(listener), |other| text(other, "name", ""));
    let own = family(listener);
    if let Some(other) = others().find(|other| family(other) != own) {
        let message = format!(
            "listener {:?} has port {port} for protocol {}, which does not go together with {}; give one of them another port",
            name(other),
            text(other, "protocol", ""),
            text(listener, "protocol", "")
        );
        return Some(refuse("ProtocolConflict", message));
    }
    let is_same = |other: &&Value| {
        let same = |field| text(other, field, "") == text(listener, field, "");
        // Only what TLS or HTTP says tells connections to one port apart.
        same("protocol") && (own == "TCP" || own == "UDP" || same("hostname"))
    };
    let other = others().find(is_same)?;
    let message = format!(
        "listener {:?} has port {port}, protocol and hostname as well; give one of them another hostname, or leave one away",
        name(other)
    );
    Some(refuse("HostnameConflict", message))
}

/// Whether two listeners are at one port of one transport.
fn shares_socket(one: &Value, other: &Value) -> bool {
    let is_udp = |listener| text(listener, "protocol", "") == "UDP";
    port_of(one) == port_of(other) && is_udp(one) == is_udp(other)
}

/// Listeners of one family can share a port: HTTPS and TLS both begin with the name that is asked for.
fn family(listener: &Value) -> &str {
    match text(listener, "protocol", "") {
        "HTTPS" => "TLS",
        protocol => protocol,
    }
}

/// Kinds of routes that may attach to a listener, of those that its protocol can have; and whether it asks for others.
pub(super) fn kinds(listener: &Value) -> (Vec<&'static str>, bool) {
    let can: &[&'static str] = match (check(listener), text(listener, "protocol", "")) {
        (Ok(()), "TCP") => &["TCPRoute"],
        (Ok(()), _) => &["HTTPRoute", "GRPCRoute"],
        (Err(_), _) => &[],
    };
    let asked = listener["allowedRoutes"]["kinds"].as_array();
    let Some(asked) = asked.filter(|kinds| !kinds.is_empty()) else {
        return (can.to_vec(), false);
    };
    let is = |kind: &str, one: &Value| {
        text(one, "group", GATEWAY_GROUP) == GATEWAY_GROUP && text(one, "kind", "") == kind
    };
    let wanted = can.iter().copied();
    let wanted = wanted.filter(|kind| asked.iter().any(|one| is(kind, one)));
    let is_strange = |one: &Value| !can.iter().any(|kind| is(kind, one));
    (wanted.collect(), asked.iter().any(is_strange))
}
