//! `isobar upgrade`: what installing with these options would change in a cluster.
//!
//! Of every object only what the manifests say is compared: what the API server or somebody else adds is theirs. What an installation
//! with other options left behind is named to be deleted.

use std::collections::BTreeSet;
use std::io::Write;

use clap::Args;
use serde_json::Value;

use crate::install::{InstallArguments, objects};
use crate::kubectl::{Cluster, NAMESPACE};
use crate::{Failure, Outcome};

/// Most fields of an object that are named.
const FIELDS_MAX: usize = 6;
/// Kinds that are installed: the path of their lists, and whether they are in the namespace.
const KINDS: [(&str, &str, bool); 15] = [
    ("Namespace", "/api/v1/namespaces", false),
    (
        "CustomResourceDefinition",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        false,
    ),
    ("ServiceAccount", "serviceaccounts", true),
    ("ConfigMap", "configmaps", true),
    ("Service", "services", true),
    (
        "ClusterRole",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        false,
    ),
    (
        "ClusterRoleBinding",
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        false,
    ),
    ("Role", "rbac.authorization.k8s.io/v1 roles", true),
    (
        "RoleBinding",
        "rbac.authorization.k8s.io/v1 rolebindings",
        true,
    ),
    ("StatefulSet", "apps/v1 statefulsets", true),
    ("DaemonSet", "apps/v1 daemonsets", true),
    (
        "PodDisruptionBudget",
        "policy/v1 poddisruptionbudgets",
        true,
    ),
    (
        "NetworkPolicy",
        "networking.k8s.io/v1 networkpolicies",
        true,
    ),
    (
        "MutatingWebhookConfiguration",
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
        false,
    ),
    (
        "APIService",
        "/apis/apiregistration.k8s.io/v1/apiservices",
        false,
    ),
];
/// Kinds of which what is named like ours and is not wanted is told of. Others have objects that the controller or the operator made.
const SWEPT: [&str; 8] = [
    "ServiceAccount",
    "Service",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "NetworkPolicy",
    "MutatingWebhookConfiguration",
];

/// With which options, and where.
#[derive(Debug, Args)]
#[command(
    after_help = "Nothing is changed. Exit status 0 when there is nothing to change, 1 when there is.

Examples:
  isobar upgrade --tag 0.2.0
  isobar upgrade --single-node --kubectl 'k3s kubectl'
  isobar install --tag 0.2.0 | kubectl apply --server-side -f -"
)]
pub struct UpgradeArguments {
    /// As for `isobar install`.
    #[command(flatten)]
    pub install: InstallArguments,
    /// How kubectl is called
    #[arg(long, value_name = "COMMAND", default_value = "kubectl")]
    pub kubectl: String,
}

/// Says what would change.
///
/// # Errors
/// [`Failure::Verdict`] when something would, [`Failure::Run`] when the cluster cannot be asked.
pub fn run(arguments: &UpgradeArguments) -> Outcome {
    let cluster = Cluster(&arguments.kubectl);
    let wanted = objects(&arguments.install)?;
    cluster.get("/version").map_err(Failure::Run)?;
    let mut lines = Vec::new();
    for object in &wanted {
        let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
        let of = text(&object["metadata"]["namespace"]);
        let Some(list) = list(kind, of) else {
            continue;
        };
        match cluster.get(&format!("{list}/{name}")) {
            Err(error) if format!("{error:#}").contains("NotFound") => {
                lines.push(format!("+ {kind} {name}"))
            }
            Err(error) => {
                return Err(Failure::Run(
                    error.context(format!("asking for {kind} {name}")),
                ));
            }
            Ok(is) => {
                let mut fields = Vec::new();
                differing(object, &is, "", &mut fields);
                if !fields.is_empty() {
                    let more = match fields.len().saturating_sub(FIELDS_MAX) {
                        0 => String::new(),
                        more => format!(" and {more} more"),
                    };
                    fields.truncate(FIELDS_MAX);
                    lines.push(format!("~ {kind} {name}: {}{more}", fields.join(", ")));
                }
            }
        }
    }
    let left = left_behind(&cluster, &wanted).map_err(Failure::Run)?;
    lines.extend(left);
    let mut out = std::io::stdout().lock();
    for line in &lines {
        // Who reads may have heard enough.
        let _ = writeln!(out, "{line}");
    }
    match lines.is_empty() {
        true => {
            let _ = writeln!(out, "nothing would change");
            Ok(())
        }
        false => Err(Failure::Verdict),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The path of a kind's list in a namespace; of ours when none is said.
fn list(kind: &str, namespace: &str) -> Option<String> {
    let (_, path, is_namespaced) = KINDS.iter().find(|(of, ..)| *of == kind)?;
    if !is_namespaced {
        return Some((*path).to_owned());
    }
    let namespace = if namespace.is_empty() {
        NAMESPACE
    } else {
        namespace
    };
    Some(match path.split_once(' ') {
        Some((group, plural)) => format!("/apis/{group}/namespaces/{namespace}/{plural}"),
        None => format!("/api/v1/namespaces/{namespace}/{path}"),
    })
}

/// The fields that are wanted and are otherwise, by their paths.
fn differing(wanted: &Value, is: &Value, path: &str, fields: &mut Vec<String>) {
    match (wanted, is) {
        (Value::Object(wanted), Value::Object(is)) => {
            for (name, value) in wanted {
                let path = match path {
                    "" => name.clone(),
                    path => format!("{path}.{name}"),
                };
                differing(value, is.get(name).unwrap_or(&Value::Null), &path, fields);
            }
        }
        (Value::Array(wanted), Value::Array(is)) if wanted.len() == is.len() => {
            for (at, (wanted, is)) in wanted.iter().zip(is).enumerate() {
                differing(wanted, is, &format!("{path}[{at}]"), fields);
            }
        }
        // What is wanted to be empty may be absent.
        (wanted, Value::Null) if is_empty(wanted) => {}
        (wanted, is) if wanted == is => {}
        _ => fields.push(path.to_owned()),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Null => true,
        Value::Bool(yes) => !yes,
        Value::String(text) => text.is_empty(),
        Value::Number(_) => false,
    }
}

/// What is named like ours and is not wanted.
fn left_behind(cluster: &Cluster<'_>, wanted: &[Value]) -> anyhow::Result<Vec<String>> {
    let named: BTreeSet<(&str, &str)> = wanted
        .iter()
        .map(|object| (text(&object["kind"]), text(&object["metadata"]["name"])))
        .collect();
    let mut lines = Vec::new();
    for kind in SWEPT {
        let Some(list) = list(kind, NAMESPACE) else {
            continue;
        };
        for object in cluster.items(&list)? {
            let name = text(&object["metadata"]["name"]);
            if name.starts_with("isobar-") && !named.contains(&(kind, name)) {
                lines.push(format!(
                    "- {kind} {name}: kubectl -n {NAMESPACE} delete {} {name}",
                    kind.to_lowercase()
                ));
            }
        }
    }
    Ok(lines)
}
