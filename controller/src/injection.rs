//! The proxy beside an application, in its pod: what is added to a pod, by the webhook and by `isobar inject` alike.
//!
//! ```text
//! init containers:  isobar-intercept (nftables: what leaves for these ports goes to the proxy)
//!                   isobar-proxy     (restartPolicy Always: there before the application, gone after it)
//! volumes:          isobar           (projected: configuration and roots out of the pod's annotations, a token of its account)
//!                   isobar-data      (in memory: key, certificate, the last plan)
//! ```
//!
//! In reading order: here what is wanted of a pod; `workload.rs`, where a pod stands in an object; `parts.rs`, what is added;
//! `review.rs`, the API server's question, and `patch.rs`, the difference as it wants to have it. All of it is pure.
//!
//! **Invariant**: what is added is first taken away. So twice is once, and a newer version replaces an older one.

use serde_json::{Map, Value, json};

mod parts;
mod patch;
mod review;
mod workload;

pub use patch::difference;
pub use review::{REVIEW_LEN_MAX, ReviewError, review};
pub use workload::{Outcome, inject_all, uninject_all};

/// On a namespace or pod, as a label: `enabled` asks for a proxy, `disabled` for none. On a pod also as an annotation.
pub const INJECT: &str = "isobar.dev/inject";
/// Annotation: which image was added. What has it was injected.
pub const INJECTED: &str = "isobar.dev/injected";
/// Annotation: the ports, separated by commas, whose connections go through the proxy.
pub const INTERCEPT_PORTS: &str = "isobar.dev/intercept-ports";
/// Annotation: the proxy's configuration, which it finds as a file.
pub const CONFIG: &str = "isobar.dev/proxy-config";
/// Annotation: the mesh's roots, PEM, which it finds as a file.
pub const ROOTS: &str = "isobar.dev/roots";
/// The audience of the token of a pod's account that the proxy enrols with.
pub const AUDIENCE: &str = "isobar";

/// The container that makes the rules.
pub const INTERCEPT_NAME: &str = "isobar-intercept";
/// The proxy's container.
pub const PROXY_NAME: &str = "isobar-proxy";
/// The volumes.
const VOLUMES: [&str; 2] = ["isobar", "isobar-data"];
/// Ports whose connections go through the proxy when a pod does not say.
const PORTS_DEFAULT: [u16; 1] = [80];
/// Most ports that a pod may name.
const PORTS_MAX: usize = 32;
/// The user that the proxy runs as; what it opens itself is not intercepted.
const PROXY_UID: u32 = 65532;

/// What is added, the same for all pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    /// The proxy's image.
    pub image: String,
    /// The controller's stream port, `host:port`.
    pub controller: String,
    /// The mesh's roots, PEM; without them the proxy finds them in the `ConfigMap` `isobar-roots` of the pod's own namespace.
    pub roots_pem: Option<String>,
}

/// Why a pod gets no proxy although nobody said that it should not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InjectionError {
    /// Not a pod.
    #[error("{0} is not there, or is not what a pod has there")]
    Shape(&'static str),
    /// A name that is needed is taken.
    #[error("has a {0} named {1}, which is not Isobar's; give it another name")]
    Taken(&'static str, String),
    /// An annotation that cannot be read.
    #[error(
        "the annotation {INTERCEPT_PORTS} is {0:?}; write at most {PORTS_MAX} ports from 1 to 65535, separated by commas"
    )]
    Ports(String),
}

/// Why a pod is left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It says so.
    OptedOut,
    /// It is on its node's own network, whose connections are not its own.
    HostNetwork,
}

impl Left {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Left::OptedOut => "isobar.dev/inject says disabled",
            Left::HostNetwork => {
                "it is on its node's network (hostNetwork), where rules would catch the connections of all others; the node's own proxy serves it"
            }
        }
    }
}

/// Adds the proxy to a pod or a pod's template: something with `metadata` and `spec`. Returns why it was left as it is, if it was.
///
/// # Errors
/// It is no pod, or has something in its place; it is as it was then.
pub fn inject(pod: &mut Value, injection: &Injection) -> Result<Option<Left>, InjectionError> {
    check_shape(pod)?;
    if is_opted_out(pod) {
        return Ok(Some(Left::OptedOut));
    }
    if pod["spec"]["hostNetwork"] == true {
        return Ok(Some(Left::HostNetwork));
    }
    let ports = ports(pod)?;
    let mut next = pod.clone();
    uninject(&mut next);
    check_names(&next)?;
    parts::add(&mut next, injection, &ports);
    *pod = next;
    Ok(None)
}

/// Takes the proxy off a pod or a pod's template, if Isobar put it there. Returns whether it did.
pub fn uninject(pod: &mut Value) -> bool {
    if annotation(pod, INJECTED).is_none() {
        return false;
    }
    for name in [INJECTED, CONFIG, ROOTS] {
        remove_empty(pod, &["metadata", "annotations"], name);
    }
    let ours = |part: &Value, names: &[&str]| {
        let name = part["name"].as_str();
        name.is_some_and(|name| names.contains(&name))
    };
    for (list, names) in [
        ("initContainers", &[INTERCEPT_NAME, PROXY_NAME][..]),
        ("volumes", &VOLUMES[..]),
    ] {
        let Some(spec) = pod["spec"].as_object_mut() else {
            continue;
        };
        if let Some(parts) = spec.get_mut(list).and_then(Value::as_array_mut) {
            parts.retain(|part| !ours(part, names));
            if parts.is_empty() {
                spec.remove(list);
            }
        }
    }
    true
}

/// Removes a field, and what held it when that is empty then.
fn remove_empty(object: &mut Value, path: &[&str], field: &str) {
    let Some((first, rest)) = path.split_first() else {
        if let Some(fields) = object.as_object_mut() {
            fields.remove(field);
        }
        return;
    };
    let Some(fields) = object.as_object_mut() else {
        return;
    };
    if let Some(inner) = fields.get_mut(*first) {
        remove_empty(inner, rest, field);
        if inner.as_object().is_some_and(Map::is_empty) {
            fields.remove(*first);
        }
    }
}

fn annotation<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    pod.get("metadata")?.get("annotations")?.get(name)?.as_str()
}

fn is_opted_out(pod: &Value) -> bool {
    let label = pod.pointer("/metadata/labels").and_then(|l| l.get(INJECT));
    let label = label.and_then(Value::as_str);
    label == Some("disabled") || annotation(pod, INJECT) == Some("disabled")
}

/// That nothing of a pod that is read or changed here is of another type than a pod's.
fn check_shape(pod: &Value) -> Result<(), InjectionError> {
    let is_map = |value: Option<&Value>| value.is_none_or(|v| v.is_null() || v.is_object());
    let is_list = |value: Option<&Value>| value.is_none_or(|v| v.is_null() || v.is_array());
    if !pod.get("spec").is_some_and(Value::is_object) {
        return Err(InjectionError::Shape("spec"));
    }
    if !pod["spec"]["containers"].is_array() {
        return Err(InjectionError::Shape("spec.containers"));
    }
    for (path, name) in [
        ("/metadata", "metadata"),
        ("/metadata/annotations", "metadata.annotations"),
        ("/metadata/labels", "metadata.labels"),
    ] {
        if !is_map(pod.pointer(path)) {
            return Err(InjectionError::Shape(name));
        }
    }
    for (path, name) in [
        ("/spec/initContainers", "spec.initContainers"),
        ("/spec/volumes", "spec.volumes"),
    ] {
        if !is_list(pod.pointer(path)) {
            return Err(InjectionError::Shape(name));
        }
    }
    Ok(())
}

/// That the names of what is added are free.
fn check_names(pod: &Value) -> Result<(), InjectionError> {
    let containers = [INTERCEPT_NAME, PROXY_NAME];
    for (list, what, names) in [
        ("containers", "container", &containers[..]),
        ("initContainers", "container", &containers[..]),
        ("volumes", "volume", &VOLUMES[..]),
    ] {
        for part in pod["spec"][list].as_array().into_iter().flatten() {
            let name = part["name"].as_str().unwrap_or_default();
            if names.contains(&name) {
                return Err(InjectionError::Taken(what, name.to_owned()));
            }
        }
    }
    Ok(())
}

/// The ports that a pod names, in order, each once.
fn ports(pod: &Value) -> Result<Vec<u16>, InjectionError> {
    let Some(text) = annotation(pod, INTERCEPT_PORTS) else {
        return Ok(PORTS_DEFAULT.to_vec());
    };
    let wrong = || InjectionError::Ports(text.chars().take(64).collect());
    let mut ports = Vec::new();
    for word in text.split(',') {
        match word.trim().parse::<u16>() {
            Ok(port) if port > 0 => ports.push(port),
            _ => return Err(wrong()),
        }
    }
    ports.sort_unstable();
    ports.dedup();
    match ports.len() <= PORTS_MAX {
        true => Ok(ports),
        false => Err(wrong()),
    }
}

/// The proxy's configuration in a pod. The proxy puts its environment in for `${…}`.
///
/// Its site is its node, so that it is where its node is, and the node's own proxy its nearest neighbour.
fn config(controller: &str, ports: &[u16]) -> String {
    format!(
        r#"node = "${{POD}}.${{NAMESPACE}}"
site = "${{NODE}}"
mesh_advertise = "${{ADDRESS}}:7411"
data_dir = "/var/lib/isobar"
controller = "{controller}"
ca_file = "/etc/isobar/ca.pem"
token_file = "/etc/isobar/token"
listen = "127.0.0.1:7410"

[[listeners]]
name = "intercepted"
address = "127.0.0.1:7413"
protocol = "detect"
intercept = "redirect"
intercept_ports = {}
"#,
        json!(ports)
    )
}

#[cfg(test)]
mod tests;
