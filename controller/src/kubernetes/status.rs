//! Status conditions, as Kubernetes and the Gateway API have them.
//!
//! **Invariant**: a status that says it already is not written again, so that two readings of one cluster end.

use isobar_mesh_api::names::ServiceName;
use isobar_mesh_api::resource::route::GATEWAY_GROUP;
use serde_json::{Value, json};

use super::cluster::{Object, Watched};
use super::declare::{ListenerVerdict, Refusal, Verdict};

/// Who says so, as the Gateway API names controllers.
pub const CONTROLLER_NAME: &str = "isobar.dev/controller";
/// Most missing services that a message names.
const NAMED_MAX: usize = 8;
/// Longest message, in characters; the Gateway API allows 32 768.
const MESSAGE_LEN_MAX: usize = 2_000;

/// The merge patch that brings an object's status up to date; none when it is. `now` is RFC 3339, UTC.
pub fn patch(object: &Object, verdict: &Verdict, now: &str) -> Option<Value> {
    let before = object.body.get("status").unwrap_or(&Value::Null);
    let status = match verdict.kind {
        Watched::HttpRoute | Watched::GrpcRoute | Watched::TcpRoute => {
            of_route(object, verdict, before, now)
        }
        Watched::GatewayClass => json!({
            "conditions": [accepted(object, &verdict.accepted, &before["conditions"], now)],
        }),
        Watched::Gateway => of_gateway(object, verdict, before, now),
        _ => json!({
            "observedGeneration": object.generation,
            "conditions": [accepted(object, &verdict.accepted, &before["conditions"], now)],
        }),
    };
    let is_said = status
        .as_object()
        .into_iter()
        .flatten()
        .all(|(field, value)| before.get(field) == Some(value));
    // With the version, so that what another controller has just written into the same list is not lost.
    let metadata = json!({"resourceVersion": object.resource_version});
    (!is_said).then(|| json!({"metadata": metadata, "status": status}))
}

/// What other controllers say of their parents, and our word on each of ours.
fn of_route(object: &Object, verdict: &Verdict, before: &Value, now: &str) -> Value {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let had = list(&before["parents"]);
    let is_by_us = |entry: &&Value| entry["controllerName"] == CONTROLLER_NAME;
    let mut parents: Vec<Value> = had.iter().filter(|e| !is_by_us(e)).cloned().collect();
    for (parent, said) in &verdict.parents {
        let same = |entry: &&Value| is_by_us(entry) && entry["parentRef"] == *parent;
        let conditions = had.iter().find(same).map(|entry| &entry["conditions"]);
        let conditions = conditions.unwrap_or(&Value::Null);
        parents.push(json!({
            "parentRef": parent,
            "controllerName": CONTROLLER_NAME,
            "conditions": [
                accepted(object, said, conditions, now),
                resolved(object, verdict, conditions, now),
            ],
        }));
    }
    json!({"parents": parents})
}

/// A gateway, and each of its listeners.
fn of_gateway(object: &Object, verdict: &Verdict, before: &Value, now: &str) -> Value {
    let had = before["listeners"].as_array().cloned().unwrap_or_default();
    let listeners = verdict.listeners.iter().map(|listener| {
        let same = had.iter().find(|had| had["name"] == listener.name.as_str());
        let before = same.map_or(&Value::Null, |had| &had["conditions"]);
        let kind = |kind: &&str| json!({"group": GATEWAY_GROUP, "kind": kind});
        let kinds: Vec<Value> = listener.kinds.iter().map(kind).collect();
        let resolved = match listener.asks_for_others {
            true => (
                "False",
                "InvalidRouteKinds",
                "allowedRoutes.kinds has kinds that a listener of this protocol cannot have"
                    .to_owned(),
            ),
            false => (
                "True",
                "ResolvedRefs",
                "it names nothing that is not there".to_owned(),
            ),
        };
        json!({
            "name": listener.name,
            "supportedKinds": kinds,
            "attachedRoutes": listener.attached,
            "conditions": [
                accepted(object, &listener.accepted, before, now),
                programmed(object, &listener.accepted, before, now),
                condition("ResolvedRefs", resolved, object, before, now),
                conflicted(object, listener, before, now),
            ],
        })
    });
    let listeners: Vec<Value> = listeners.collect();
    let before = &before["conditions"];
    let none = Vec::new();
    let addresses = match &verdict.accepted {
        Ok(()) => verdict.addresses.as_ref().unwrap_or(&none),
        Err(_) => &none,
    };
    let address = |value: &String| {
        let is_ip = value.parse::<std::net::IpAddr>().is_ok();
        let kind = if is_ip { "IPAddress" } else { "Hostname" };
        json!({"type": kind, "value": value})
    };
    let reached = match (&verdict.accepted, &verdict.addresses) {
        (Ok(()), Err(Refusal { reason, message })) => {
            let said = ("False", *reason, message.clone());
            condition("Programmed", said, object, before, now)
        }
        _ => programmed(object, &verdict.accepted, before, now),
    };
    json!({
        "addresses": addresses.iter().map(address).collect::<Vec<Value>>(),
        "conditions": [in_part(object, verdict, before, now), reached],
        "listeners": listeners,
    })
}

/// Whether a gateway is accepted. One of which some listeners are not is accepted for the others, and says so.
fn in_part(object: &Object, verdict: &Verdict, before: &Value, now: &str) -> Value {
    let names = |are_accepted: bool| {
        let of = verdict.listeners.iter();
        let of = of.filter(|listener| listener.accepted.is_ok() == are_accepted);
        let of: Vec<&str> = of.map(|listener| listener.name.as_str()).collect();
        of.join(", ")
    };
    let refused = names(false);
    if verdict.accepted.is_err() || refused.is_empty() {
        return accepted(object, &verdict.accepted, before, now);
    }
    let message = format!(
        "in force with the listeners {}; not accepted, as their conditions say: {refused}",
        names(true)
    );
    let said = ("True", "ListenersNotValid", message);
    condition("Accepted", said, object, before, now)
}

/// Whether a listener clashes with another of its gateway.
fn conflicted(object: &Object, listener: &ListenerVerdict, before: &Value, now: &str) -> Value {
    let said = match &listener.conflict {
        Some(Refusal { reason, message }) => ("True", *reason, message.clone()),
        None => (
            "False",
            "NoConflicts",
            "no other listener is in its way".to_owned(),
        ),
    };
    condition("Conflicted", said, object, before, now)
}

fn accepted(object: &Object, said: &Result<(), Refusal>, before: &Value, now: &str) -> Value {
    let said = match said {
        Ok(()) => ("True", "Accepted", "in force".to_owned()),
        Err(Refusal { reason, message }) => ("False", *reason, message.clone()),
    };
    condition("Accepted", said, object, before, now)
}

/// Proxies are told at once, and a proxy that is away keeps what it has.
fn programmed(object: &Object, said: &Result<(), Refusal>, before: &Value, now: &str) -> Value {
    let said = match said {
        Ok(()) => ("True", "Programmed", "sent to every proxy".to_owned()),
        Err(_) => ("False", "Invalid", "it is not accepted".to_owned()),
    };
    condition("Programmed", said, object, before, now)
}

fn resolved(object: &Object, verdict: &Verdict, before: &Value, now: &str) -> Value {
    let some = |names: &[&str]| {
        let more = match names.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let named = &names[..names.len().min(NAMED_MAX)];
        format!(
            "{}{more}; its share of requests is answered with 500",
            named.join(", ")
        )
    };
    let not_permitted: Vec<&str> = verdict.not_permitted.iter().map(String::as_str).collect();
    let missing = verdict.missing.iter().map(ServiceName::as_str);
    let missing: Vec<&str> = missing.collect();
    let no_services: Vec<&str> = verdict.no_services.iter().map(String::as_str).collect();
    let said = if !no_services.is_empty() {
        let message = format!("not a Service: {}", some(&no_services));
        ("False", "InvalidKind", message)
    } else if !not_permitted.is_empty() {
        let message = format!(
            "no ReferenceGrant of its namespace lets this route name {}",
            some(&not_permitted)
        );
        ("False", "RefNotPermitted", message)
    } else if !missing.is_empty() {
        let message = format!("no such service: {}", some(&missing));
        ("False", "BackendNotFound", message)
    } else {
        let message = "every service it names is there".to_owned();
        ("True", "ResolvedRefs", message)
    };
    condition("ResolvedRefs", said, object, before, now)
}

/// One condition. The instant of its last transition stays while its status does.
fn condition(
    kind: &str,
    (status, reason, message): (&str, &str, String),
    object: &Object,
    before: &Value,
    now: &str,
) -> Value {
    let had = before.as_array().into_iter().flatten();
    let mut had = had.filter(|condition| condition["type"] == kind);
    let since = had
        .find(|condition| condition["status"] == status)
        .and_then(|condition| condition["lastTransitionTime"].as_str());
    let message: String = message.chars().take(MESSAGE_LEN_MAX).collect();
    json!({
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": object.generation,
        "lastTransitionTime": since.unwrap_or(now),
    })
}
