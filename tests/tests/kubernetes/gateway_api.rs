//! Definitions of the Gateway API's kinds, for a cluster that has none: the fields whose defaults matter, and everything else let through.

use serde_json::{Value, json};

const GROUP: &str = "gateway.networking.k8s.io";

fn definition(kind: &str, plural: &str, version: &str, scope: &str, spec: Value) -> Value {
    let mut fields = json!({"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}, "spec": spec});
    let has_status = kind != "ReferenceGrant";
    if has_status {
        fields["status"] = any();
    }
    if kind == "Gateway" {
        let pending = |kind: &str| json!({"type": kind, "status": "Unknown", "reason": "Pending", "message": "Waiting for controller", "lastTransitionTime": "1970-01-01T00:00:00Z"});
        fields["status"]["default"] =
            json!({"conditions": [pending("Accepted"), pending("Programmed")]});
    }
    let mut version = json!({"name": version, "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": fields}}});
    if has_status {
        version["subresources"] = json!({"status": {}});
    }
    json!({
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{GROUP}"),
            // Without it the API server takes no definition of a group under k8s.io.
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests of Isobar"},
        },
        "spec": {
            "group": GROUP,
            "scope": scope,
            "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase()},
            "versions": [version],
        },
    })
}

fn any() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn object(fields: Value) -> Value {
    let mut object = any();
    object["properties"] = fields;
    object
}

fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn word(default: &str) -> Value {
    json!({"type": "string", "default": default})
}

/// A route's spec, as the Gateway API fills it in.
fn route(has_matches: bool) -> Value {
    let parent = object(json!({"group": word(GROUP), "kind": word("Gateway")}));
    let backend = object(
        json!({"group": word(""), "kind": word("Service"), "weight": {"type": "integer", "default": 1}}),
    );
    let mut rule = object(json!({"backendRefs": list(backend)}));
    if has_matches {
        let mut matches = list(any());
        matches["default"] = json!([{"path": {"type": "PathPrefix", "value": "/"}}]);
        rule["properties"]["matches"] = matches;
    }
    object(json!({"parentRefs": list(parent), "rules": list(rule)}))
}

/// All kinds that the controller follows.
pub fn definitions() -> Vec<Value> {
    let namespaces = object(json!({"from": word("Same")}));
    let mut allowed = object(json!({"namespaces": namespaces}));
    allowed["properties"]["namespaces"]["default"] = json!({"from": "Same"});
    allowed["default"] = json!({"namespaces": {"from": "Same"}});
    let gateway = object(json!({"listeners": list(object(json!({"allowedRoutes": allowed})))}));
    let namespaced =
        |kind, plural, version, spec| definition(kind, plural, version, "Namespaced", spec);
    vec![
        definition("GatewayClass", "gatewayclasses", "v1", "Cluster", any()),
        namespaced("Gateway", "gateways", "v1", gateway),
        namespaced("HTTPRoute", "httproutes", "v1", route(true)),
        namespaced("GRPCRoute", "grpcroutes", "v1", route(false)),
        namespaced("TCPRoute", "tcproutes", "v1alpha2", route(false)),
        namespaced("ReferenceGrant", "referencegrants", "v1beta1", any()),
    ]
}
