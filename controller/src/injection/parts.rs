//! What is added to a pod.

use serde_json::{Value, json};

use super::{
    AUDIENCE, CONFIG, INJECTED, INTERCEPT_NAME, Injection, PROXY_NAME, PROXY_UID, ROOTS, VOLUMES,
    config,
};

/// How long a token of the pod's account is good for, in seconds; the kubelet renews it at four fifths.
const TOKEN_LASTS_S: u64 = 3600;

/// Adds everything. The names are free, and what is changed is of the right type or absent.
pub(super) fn add(pod: &mut Value, injection: &Injection, ports: &[u16]) {
    let annotations = &mut pod["metadata"]["annotations"];
    annotations[INJECTED] = json!(injection.image);
    annotations[CONFIG] = json!(config(&injection.controller, ports));
    if let Some(roots) = &injection.roots_pem {
        annotations[ROOTS] = json!(roots);
    }
    let spec = &mut pod["spec"];
    let inits = spec["initContainers"].as_array().cloned();
    // Before the application's own: these may ask services too.
    let mut all = vec![intercept(injection), proxy(injection)];
    all.extend(inits.unwrap_or_default());
    spec["initContainers"] = Value::Array(all);
    let mut volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
    volumes.extend([files(injection), data()]);
    spec["volumes"] = Value::Array(volumes);
}

/// What every container of ours is told about the pod.
fn environment() -> Value {
    let of = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    json!([
        of("POD", "metadata.name"),
        of("NAMESPACE", "metadata.namespace"),
        of("NODE", "spec.nodeName"),
        of("ADDRESS", "status.podIP"),
    ])
}

fn mounts() -> Value {
    json!([
        {"name": VOLUMES[0], "mountPath": "/etc/isobar", "readOnly": true},
        {"name": VOLUMES[1], "mountPath": "/var/lib/isobar"},
    ])
}

/// It may change the pod's network and nothing else, and has ended before anything of the application begins.
fn intercept(injection: &Injection) -> Value {
    json!({
        "name": INTERCEPT_NAME,
        "image": injection.image,
        "args": ["intercept", "--config", "/etc/isobar/proxy.toml", "--exempt-uid", PROXY_UID.to_string()],
        "env": environment(),
        "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}, "limits": {"memory": "32Mi"}},
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": mounts(),
    })
}

/// A native sidecar: it starts before the application's own init containers, does not keep a job from ending, and ends last.
fn proxy(injection: &Injection) -> Value {
    json!({
        "name": PROXY_NAME,
        "image": injection.image,
        "args": ["--config", "/etc/isobar/proxy.toml"],
        "restartPolicy": "Always",
        "env": environment(),
        "ports": [{"name": "isobar-mesh", "containerPort": 7411}],
        "startupProbe": {"tcpSocket": {"port": 7411}, "periodSeconds": 1, "failureThreshold": 60},
        "livenessProbe": {"tcpSocket": {"port": 7411}, "periodSeconds": 10},
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": {
            "runAsUser": PROXY_UID,
            "runAsGroup": PROXY_UID,
            "runAsNonRoot": true,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": mounts(),
    })
}

/// Configuration, roots and token as files. The first two come out of annotations, so that nothing need be in the pod's namespace.
fn files(injection: &Injection) -> Value {
    let file = |path: &str, name: &str| json!({"path": path, "fieldRef": {"fieldPath": format!("metadata.annotations['{name}']")}});
    let mut items = vec![file("proxy.toml", CONFIG)];
    let mut sources = Vec::new();
    match injection.roots_pem {
        Some(_) => items.push(file("ca.pem", ROOTS)),
        None => sources.push(json!({"configMap": {"name": "isobar-roots"}})),
    }
    sources.push(json!({"downwardAPI": {"items": items}}));
    let token = json!({"audience": AUDIENCE, "expirationSeconds": TOKEN_LASTS_S, "path": "token"});
    sources.push(json!({"serviceAccountToken": token}));
    json!({"name": VOLUMES[0], "projected": {"sources": sources}})
}

fn data() -> Value {
    json!({"name": VOLUMES[1], "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}})
}
