//! `isobar check` without a file: whether a cluster can have Isobar (`--pre`), and whether what is installed works.
//!
//! The cluster is asked through `kubectl`, whose credentials are the operator's. Each line has a code that docs/k3s.md explains.

use std::io::Write;

use clap::Args;
use serde_json::Value;

use crate::kubectl::{Cluster, NAMESPACE, names};
use crate::{Failure, Outcome};

mod health;

/// Oldest minor version of Kubernetes 1 that this is meant for.
const MINOR_MIN: u32 = 29;
/// Processors that there are programs for.
const ARCHITECTURES: [&str; 3] = ["amd64", "arm64", "arm"];
/// What installing creates: group and resource.
const CREATED: [(&str, &str); 14] = [
    ("", "namespaces"),
    ("", "serviceaccounts"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("", "services"),
    ("", "configmaps"),
    ("networking.k8s.io", "networkpolicies"),
    ("policy", "poddisruptionbudgets"),
    (
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
    ),
    ("apps", "daemonsets"),
    ("apps", "statefulsets"),
];

/// Which cluster, and when.
#[derive(Debug, Args)]
pub struct ClusterArguments {
    /// Before installing: whether the cluster can have it
    #[arg(long)]
    pub pre: bool,
    /// How kubectl is called
    #[arg(long, value_name = "COMMAND", default_value = "kubectl")]
    pub kubectl: String,
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grade {
    Ok,
    Warn,
    Fail,
}

/// One line: grade, code, what was seen, what to do.
struct Finding(Grade, &'static str, String, &'static str);

/// Asks and prints.
///
/// # Errors
/// [`Failure::Verdict`] when something is a FAIL, [`Failure::Input`] when kubectl cannot be called.
pub fn run(arguments: &ClusterArguments) -> Outcome {
    let cluster = Cluster(&arguments.kubectl);
    let findings = match cluster.get("/version") {
        Err(error) => vec![Finding(
            Grade::Fail,
            "K01",
            format!("the API server does not answer: {error:#}"),
            "check KUBECONFIG, and that the cluster runs",
        )],
        Ok(version) if arguments.pre => before(&cluster, &version),
        Ok(version) => installed(&cluster, &version),
    };
    let mut out = std::io::stdout().lock();
    for Finding(grade, code, seen, hint) in &findings {
        let grade_name = match grade {
            Grade::Ok => "ok  ",
            Grade::Warn => "WARN",
            Grade::Fail => "FAIL",
        };
        let hint = match grade {
            Grade::Ok => String::new(),
            _ => format!("; {hint}"),
        };
        // Who reads may have heard enough.
        let _ = writeln!(out, "{grade_name} {code} {seen}{hint}");
    }
    match findings.iter().any(|finding| finding.0 == Grade::Fail) {
        true => Err(Failure::Verdict),
        false => Ok(()),
    }
}

fn before(cluster: &Cluster<'_>, version: &Value) -> Vec<Finding> {
    vec![
        of_version(version),
        permissions(cluster),
        gateway_api(cluster),
        architectures(cluster),
        positions(cluster),
        health::clocks(cluster),
    ]
}

fn installed(cluster: &Cluster<'_>, version: &Value) -> Vec<Finding> {
    vec![
        of_version(version),
        positions(cluster),
        workload(cluster, "K06", "statefulsets", "isobar-controller"),
        workload(cluster, "K07", "daemonsets", "isobar-proxy"),
        refused(cluster),
        health::versions(cluster),
        health::certificates(cluster),
        health::clocks(cluster),
        health::conflicts(cluster),
        health::permissions(cluster),
        health::webhook(cluster),
    ]
}

fn of_version(version: &Value) -> Finding {
    let text = version["gitVersion"]
        .as_str()
        .unwrap_or("of unknown version");
    let minor = version["minor"].as_str().unwrap_or_default();
    let minor: u32 = minor.trim_end_matches('+').parse().unwrap_or(0);
    let grade = match minor >= MINOR_MIN {
        true => Grade::Ok,
        false => Grade::Fail,
    };
    let seen = format!("the API server is {text}");
    Finding(grade, "K01", seen, "Kubernetes 1.29 or later is needed")
}

fn permissions(cluster: &Cluster<'_>) -> Finding {
    let hint = "ask for a role that may, or have an administrator install";
    let mut missing = Vec::new();
    for (group, resource) in CREATED {
        match cluster.may_create(group, resource) {
            Ok(true) => {}
            Ok(false) => missing.push(resource),
            Err(error) => {
                return Finding(
                    Grade::Fail,
                    "K02",
                    format!("permissions are not known: {error:#}"),
                    hint,
                );
            }
        }
    }
    match missing.as_slice() {
        [] => Finding(
            Grade::Ok,
            "K02",
            "you may create what is installed".to_owned(),
            hint,
        ),
        missing => {
            let seen = format!("you may not create {}", missing.join(", "));
            Finding(Grade::Fail, "K02", seen, hint)
        }
    }
}

fn gateway_api(cluster: &Cluster<'_>) -> Finding {
    let found = cluster.get("/apis/gateway.networking.k8s.io/v1");
    match found {
        Ok(_) => Finding(Grade::Ok, "K03", "the Gateway API is there".to_owned(), ""),
        Err(_) => Finding(
            Grade::Warn,
            "K03",
            "the Gateway API is not installed".to_owned(),
            "routes can be written by REST alone until it is",
        ),
    }
}

fn architectures(cluster: &Cluster<'_>) -> Finding {
    let hint = "build the images for it, or keep the DaemonSet off these nodes with a nodeSelector";
    let of = |node: &Value| {
        let of = &node["status"]["nodeInfo"]["architecture"];
        !of.as_str().is_some_and(|of| ARCHITECTURES.contains(&of))
    };
    let other = match cluster.items("/api/v1/nodes") {
        Ok(nodes) => names(&nodes, of),
        Err(error) => {
            return Finding(
                Grade::Fail,
                "K04",
                format!("{error:#}"),
                "allow nodes to be listed",
            );
        }
    };
    match other {
        None => Finding(
            Grade::Ok,
            "K04",
            "there is an image for every node's processor".to_owned(),
            hint,
        ),
        Some(other) => Finding(
            Grade::Warn,
            "K04",
            format!("there is no image for {other}"),
            hint,
        ),
    }
}

fn positions(cluster: &Cluster<'_>) -> Finding {
    let hint =
        "annotate them with isobar.dev/latitude and isobar.dev/longitude, or install with --sites";
    let is_nowhere =
        |node: &Value| node["metadata"]["annotations"]["isobar.dev/latitude"].is_null();
    let nowhere = match cluster.items("/api/v1/nodes") {
        Ok(nodes) => names(&nodes, is_nowhere),
        Err(error) => {
            return Finding(
                Grade::Fail,
                "K05",
                format!("{error:#}"),
                "allow nodes to be listed",
            );
        }
    };
    match nowhere {
        None => Finding(
            Grade::Ok,
            "K05",
            "every node is annotated with a position".to_owned(),
            hint,
        ),
        Some(nowhere) => {
            let seen = format!("not annotated with a position: {nowhere}");
            Finding(Grade::Warn, "K05", seen, hint)
        }
    }
}

/// Whether a workload has all the pods that it should have, of one version.
fn workload(cluster: &Cluster<'_>, code: &'static str, plural: &str, name: &str) -> Finding {
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/{plural}/{name}");
    let object = match cluster.get(&path) {
        Ok(object) => object,
        Err(_) => {
            let seen = format!("{name} is not installed");
            return Finding(
                Grade::Fail,
                code,
                seen,
                "isobar install | kubectl apply --server-side -f -",
            );
        }
    };
    let status = &object["status"];
    let number = |fields: [&str; 2]| {
        let found = fields.iter().find_map(|field| status[field].as_u64());
        found.unwrap_or(0)
    };
    let wanted = number(["desiredNumberScheduled", "replicas"]);
    let ready = number(["numberReady", "readyReplicas"]);
    // Of controllers that contend for a Lease the one that leads is ready.
    let needed = match plural {
        "statefulsets" => wanted.min(1),
        _ => wanted,
    };
    let updated = number(["updatedNumberScheduled", "updatedReplicas"]);
    let seen = format!("{name}: {ready} of {wanted} ready, {updated} up to date");
    let grade = match ready >= needed && updated >= wanted && wanted > 0 {
        true => Grade::Ok,
        false => Grade::Fail,
    };
    let hint = "kubectl -n isobar-system describe pods, and their logs, say why";
    Finding(grade, code, seen, hint)
}

/// Policies and nodes that are not in force.
fn refused(cluster: &Cluster<'_>) -> Finding {
    let hint = "kubectl describe says which field";
    let mut all = Vec::new();
    for plural in [
        "meshnodes",
        "weightpolicies",
        "trafficpolicies",
        "accesspolicies",
    ] {
        match cluster.items(&format!("/apis/isobar.dev/v1alpha1/{plural}")) {
            Ok(items) => all.extend(items),
            Err(error) => {
                let hint = "isobar install | kubectl apply --server-side -f -";
                return Finding(Grade::Fail, "K08", format!("{plural}: {error:#}"), hint);
            }
        }
    }
    let is_refused = |object: &Value| {
        let conditions = object["status"]["conditions"].as_array();
        let mut accepted = conditions
            .into_iter()
            .flatten()
            .filter(|c| c["type"] == "Accepted");
        accepted.any(|condition| condition["status"] != "True")
    };
    match names(&all, is_refused) {
        None => Finding(
            Grade::Ok,
            "K08",
            "every policy is accepted".to_owned(),
            hint,
        ),
        Some(refused) => Finding(Grade::Fail, "K08", format!("not accepted: {refused}"), hint),
    }
}
