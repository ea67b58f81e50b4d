//! Status conditions, as Kubernetes and the Gateway API have them.
//!
//! **Invariant**: a status that says it already is not written again, so that two readings of one cluster end.

use isobar_mesh_api::names::ServiceName;
use serde_json::{Value, json};

use super::cluster::{Object, Watched};
use super::declare::{Refusal, Verdict};
use super::routes::is_ours;

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
        Watched::HttpRoute | Watched::GrpcRoute => of_route(object, verdict, before, now),
        _ => json!({
            "observedGeneration": object.generation,
            "conditions": [accepted(object, verdict, &before["conditions"], now)],
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
    let named = list(&object.body["spec"]["parentRefs"]);
    for parent in named.iter().filter(|parent| is_ours(parent)) {
        let same = |entry: &&Value| is_by_us(entry) && entry["parentRef"] == *parent;
        let conditions = had.iter().find(same).map(|entry| &entry["conditions"]);
        let conditions = conditions.unwrap_or(&Value::Null);
        parents.push(json!({
            "parentRef": parent,
            "controllerName": CONTROLLER_NAME,
            "conditions": [
                accepted(object, verdict, conditions, now),
                resolved(object, &verdict.missing, conditions, now),
            ],
        }));
    }
    json!({"parents": parents})
}

fn accepted(object: &Object, verdict: &Verdict, before: &Value, now: &str) -> Value {
    let (status, reason, message) = match &verdict.accepted {
        Ok(()) => ("True", "Accepted", "in force".to_owned()),
        Err(Refusal { reason, message }) => ("False", *reason, message.clone()),
    };
    condition("Accepted", status, reason, message, object, before, now)
}

fn resolved(object: &Object, missing: &[ServiceName], before: &Value, now: &str) -> Value {
    let (status, reason, message) = match missing {
        [] => (
            "True",
            "ResolvedRefs",
            "every service it names is there".to_owned(),
        ),
        missing => {
            let named = missing.iter().map(ServiceName::as_str).take(NAMED_MAX);
            let more = match missing.len().saturating_sub(NAMED_MAX) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let named: Vec<&str> = named.collect();
            let message = format!(
                "no such service: {}{more}; its share of requests is answered with 500",
                named.join(", ")
            );
            ("False", "BackendNotFound", message)
        }
    };
    condition("ResolvedRefs", status, reason, message, object, before, now)
}

/// One condition. The instant of its last transition stays while its status does.
fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
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
