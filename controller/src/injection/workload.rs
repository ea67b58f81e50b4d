//! Where pods stand in what people apply: pods, templates of workloads, lists of both.

use serde_json::Value;

use super::{Injection, InjectionError, Left, inject, uninject};

/// Most lists within lists that are looked into.
const LISTS_DEEP_MAX: usize = 4;

/// What became of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `kind name`, or `kind namespace/name`.
    pub about: String,
    /// Whether it was changed, or why it was not; nothing for what has no pod.
    pub result: Result<Option<Left>, InjectionError>,
    /// Whether it is something with a pod.
    pub has_pod: bool,
}

/// Where the pod stands in a kind; none for what has none.
fn place(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some(""),
        "Deployment"
        | "StatefulSet"
        | "DaemonSet"
        | "ReplicaSet"
        | "ReplicationController"
        | "Job" => Some("/spec/template"),
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

/// Adds the proxy to every pod in an object or list. Says what became of each.
pub fn inject_all(object: &mut Value, injection: &Injection) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    each(object, 0, &mut outcomes, &mut |pod| inject(pod, injection));
    outcomes
}

/// Takes the proxy off every pod in an object or list. What had none is left opted out.
pub fn uninject_all(object: &mut Value) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    each(object, 0, &mut outcomes, &mut |pod| {
        uninject(pod);
        Ok(None)
    });
    outcomes
}

fn each(
    object: &mut Value,
    deep: usize,
    outcomes: &mut Vec<Outcome>,
    change: &mut impl FnMut(&mut Value) -> Result<Option<Left>, InjectionError>,
) {
    let kind = object["kind"].as_str().unwrap_or("?").to_owned();
    if kind.ends_with("List") && deep < LISTS_DEEP_MAX && object["items"].is_array() {
        let items = object["items"].as_array_mut().into_iter().flatten();
        items.for_each(|item| each(item, deep + 1, outcomes, change));
        return;
    }
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let name = match text("name") {
        "" => text("generateName"),
        name => name,
    };
    let about = match text("namespace") {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    };
    let place = place(&kind);
    let result = match place {
        None => Ok(None),
        Some(place) => match object.pointer_mut(place) {
            Some(pod) => change(pod),
            None => Err(InjectionError::Shape("the pod's template")),
        },
    };
    outcomes.push(Outcome {
        about,
        result,
        has_pod: place.is_some(),
    });
}
