//! What is looked at of an Isobar that is installed: versions, certificates, clocks, policies that contradict each other, permissions, the
//! webhook.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use isobar_mesh_api::resource::weight_policy::Timestamp;
use isobar_mesh_api::validity::Validity;
use serde_json::Value;

use super::{Finding, Grade};
use crate::kubectl::{Cluster, NAMESPACE, names};

/// Roots that end sooner than this are told of.
const ROOTS_LAST_MIN: Duration = Duration::from_secs(30 * 24 * 3600);
/// How far ahead of this machine a node's clock may be; a certificate begins so long before it is made.
const AHEAD_MAX: Duration = Duration::from_secs(60);
/// The controller's account.
const ACCOUNT: &str = "system:serviceaccount:isobar-system:isobar-controller";
/// What it cannot do without: verb, group, resource.
const NEEDED: [(&str, &str, &str); 8] = [
    ("watch", "", "nodes"),
    ("watch", "", "services"),
    ("watch", "discovery.k8s.io", "endpointslices"),
    ("watch", "isobar.dev", "weightpolicies"),
    ("patch", "isobar.dev", "weightpolicies/status"),
    ("watch", "gateway.networking.k8s.io", "httproutes"),
    ("create", "authentication.k8s.io", "tokenreviews"),
    ("create", "events.k8s.io", "events"),
];

fn failed(code: &'static str, error: &anyhow::Error, hint: &'static str) -> Finding {
    Finding(Grade::Fail, code, format!("{error:#}"), hint)
}

/// Whether all pods run the image that is wanted, and controller and proxies are of one version.
pub(super) fn versions(cluster: &Cluster<'_>) -> Finding {
    let code = "K09";
    let hint = "wait for the rollout (kubectl -n isobar-system rollout status daemonset isobar-proxy), or delete the pods that are behind";
    let image = |path: &str| {
        let object = cluster.get(&format!("/apis/apps/v1/namespaces/{NAMESPACE}/{path}"))?;
        let image = &object["spec"]["template"]["spec"]["containers"][0]["image"];
        Ok::<_, anyhow::Error>(image.as_str().unwrap_or_default().to_owned())
    };
    let wanted = match (
        image("daemonsets/isobar-proxy"),
        image("statefulsets/isobar-controller"),
    ) {
        (Ok(proxy), Ok(controller)) => [("isobar-proxy", proxy), ("isobar-controller", controller)],
        (Err(error), _) | (_, Err(error)) => return failed(code, &error, "install it"),
    };
    let tag = |image: &str| {
        image
            .rsplit_once(':')
            .map_or(String::new(), |(_, tag)| tag.to_owned())
    };
    if tag(&wanted[0].1) != tag(&wanted[1].1) {
        let seen = format!(
            "proxies are {} and the controller is {}",
            wanted[0].1, wanted[1].1
        );
        return Finding(
            Grade::Warn,
            code,
            seen,
            "isobar upgrade, with one --tag for both",
        );
    }
    let pods = match cluster.items(&format!("/api/v1/namespaces/{NAMESPACE}/pods")) {
        Ok(pods) => pods,
        Err(error) => return failed(code, &error, "allow pods to be listed"),
    };
    let is_behind = |pod: &Value| {
        let name = pod["metadata"]["labels"]["app.kubernetes.io/name"].as_str();
        let wanted = wanted.iter().find(|(app, _)| Some(*app) == name);
        wanted.is_some_and(|(_, image)| pod["spec"]["containers"][0]["image"] != image.as_str())
    };
    match names(&pods, is_behind) {
        None => Finding(
            Grade::Ok,
            code,
            "controller and proxies are of one version".to_owned(),
            hint,
        ),
        Some(behind) => Finding(
            Grade::Fail,
            code,
            format!("pods of another version: {behind}"),
            hint,
        ),
    }
}

/// Whether the mesh's roots last, and the API server knows the controller by them.
pub(super) fn certificates(cluster: &Cluster<'_>) -> Finding {
    let code = "K10";
    let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps/isobar-roots");
    let roots = match cluster.get(&path) {
        Ok(map) => map["data"]["ca.pem"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        Err(error) => {
            return failed(
                code,
                &error,
                "the controller writes its roots when it runs; its log says why it does not",
            );
        }
    };
    let ends = roots
        .split("-----BEGIN CERTIFICATE-----")
        .skip(1)
        .filter_map(|one| {
            let body = one.split("-----END").next()?;
            Some(Validity::read(&unbase64(body))?.not_after)
        });
    let Some(last) = ends.max() else {
        let seen = "the ConfigMap isobar-roots has no certificate".to_owned();
        return Finding(
            Grade::Fail,
            code,
            seen,
            "restart the controller; it writes it anew",
        );
    };
    let left = last.duration_since(SystemTime::now()).unwrap_or_default();
    let days = left.as_secs() / (24 * 3600);
    let grade = match left {
        Duration::ZERO => Grade::Fail,
        left if left < ROOTS_LAST_MIN => Grade::Warn,
        _ => Grade::Ok,
    };
    let seen = format!("the mesh's roots last {days} more days");
    Finding(
        grade,
        code,
        seen,
        "isobar ca rotate, step by step, as docs/security.md has it",
    )
}

/// RFC 4648, section 4; letters that are none are left out.
fn unbase64(text: &str) -> Vec<u8> {
    let (mut out, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held & 0xff) as u8);
        }
    }
    out
}

/// Whether nodes' clocks agree with this machine's: their heartbeats carry their own time.
pub(super) fn clocks(cluster: &Cluster<'_>) -> Finding {
    let code = "K11";
    let hint = "set the clock by NTP (timedatectl set-ntp true), here and there: certificates are good for a time";
    let leases =
        match cluster.items("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases") {
            Ok(leases) => leases,
            Err(error) => {
                let seen = format!("nodes' clocks are not known: {error:#}");
                return Finding(
                    Grade::Warn,
                    code,
                    seen,
                    "allow leases to be listed in kube-node-lease",
                );
            }
        };
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let is_ahead = |lease: &Value| {
        let renewed = lease["spec"]["renewTime"].as_str().unwrap_or_default();
        // To the second; fractions are none of the form.
        let seconds: String = renewed
            .split('.')
            .next()
            .unwrap_or_default()
            .trim_end_matches('Z')
            .to_owned()
            + "Z";
        let read: Option<Timestamp> = serde_json::from_value(Value::String(seconds)).ok();
        let ahead_max = AHEAD_MAX.as_secs() as i64;
        read.is_some_and(|at| at.0 > now.as_secs() as i64 + ahead_max)
    };
    match names(&leases, is_ahead) {
        None => Finding(
            Grade::Ok,
            code,
            "no node's clock is ahead of this machine's".to_owned(),
            hint,
        ),
        Some(ahead) => {
            let seen = format!(
                "more than {} s ahead of this machine: {ahead}",
                AHEAD_MAX.as_secs()
            );
            Finding(Grade::Fail, code, seen, hint)
        }
    }
}

/// Whether two policies of a kind name the same service: one of them says nothing then.
pub(super) fn conflicts(cluster: &Cluster<'_>) -> Finding {
    let code = "K12";
    let hint = "the first by name counts; name each service in one policy of a kind (isobar explain says which is in force)";
    let mut found = BTreeSet::new();
    for plural in ["weightpolicies", "trafficpolicies"] {
        let policies = match cluster.items(&format!("/apis/isobar.dev/v1alpha1/{plural}")) {
            Ok(policies) => policies,
            Err(error) => {
                return failed(
                    code,
                    &error,
                    "isobar install | kubectl apply --server-side -f -",
                );
            }
        };
        let mut by_service: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for policy in &policies {
            // Policies that a schedule parts do not contradict each other.
            if !policy["spec"]["schedule"].is_null() {
                continue;
            }
            let name = policy["metadata"]["name"].as_str().unwrap_or("?");
            let services = policy["spec"]["services"].as_array().into_iter().flatten();
            for service in services.filter_map(Value::as_str) {
                by_service.entry(service).or_default().push(name);
            }
        }
        let twice = by_service
            .into_iter()
            .filter(|(_, policies)| policies.len() > 1);
        found.extend(
            twice.map(|(service, policies)| {
                format!("{service} in {plural} {}", policies.join(", "))
            }),
        );
    }
    match found.is_empty() {
        true => Finding(
            Grade::Ok,
            code,
            "no two policies name the same service".to_owned(),
            hint,
        ),
        false => {
            let seen: Vec<String> = found.into_iter().take(8).collect();
            Finding(
                Grade::Warn,
                code,
                format!("named twice: {}", seen.join("; ")),
                hint,
            )
        }
    }
}

/// Whether the controller may do what it needs.
pub(super) fn permissions(cluster: &Cluster<'_>) -> Finding {
    let code = "K13";
    let hint = "isobar install | kubectl apply --server-side -f - writes its roles anew";
    let mut missing = Vec::new();
    for (verb, group, resource) in NEEDED {
        match cluster.user_may(ACCOUNT, verb, group, resource) {
            Ok(true) => {}
            Ok(false) => missing.push(format!("{verb} {resource}")),
            Err(error) => {
                let seen = format!("what the controller may do is not known: {error:#}");
                return Finding(
                    Grade::Warn,
                    code,
                    seen,
                    "ask as somebody who may create subjectaccessreviews",
                );
            }
        }
    }
    match missing.is_empty() {
        true => Finding(
            Grade::Ok,
            code,
            "the controller may do what it needs".to_owned(),
            hint,
        ),
        false => Finding(
            Grade::Fail,
            code,
            format!("the controller may not {}", missing.join(", ")),
            hint,
        ),
    }
}

/// Whether the API server knows the webhook by the mesh's roots.
pub(super) fn webhook(cluster: &Cluster<'_>) -> Finding {
    let code = "K14";
    let path =
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/isobar-injection";
    let roots = format!("/api/v1/namespaces/{NAMESPACE}/configmaps/isobar-roots");
    let (Ok(object), Ok(roots)) = (cluster.get(path), cluster.get(&roots)) else {
        let seen = "the webhook is not installed: pods get no proxy of their own".to_owned();
        return Finding(
            Grade::Warn,
            code,
            seen,
            "isobar install | kubectl apply --server-side -f -",
        );
    };
    let wanted = unpem(roots["data"]["ca.pem"].as_str().unwrap_or_default());
    let is_known = |webhook: &Value| {
        let bundle = webhook["clientConfig"]["caBundle"]
            .as_str()
            .unwrap_or_default();
        let bundle = String::from_utf8(unbase64(bundle)).unwrap_or_default();
        !wanted.is_empty() && unpem(&bundle) == wanted
    };
    let mut webhooks = object["webhooks"].as_array().into_iter().flatten();
    match webhooks.all(is_known) {
        true => Finding(
            Grade::Ok,
            code,
            "the API server knows the webhook by the mesh's roots".to_owned(),
            "",
        ),
        false => {
            let seen =
                "the webhook's caBundle is not the mesh's roots: pods get no proxy of their own"
                    .to_owned();
            let hint = "the controller writes it within a minute; its log says why it does not";
            Finding(Grade::Fail, code, seen, hint)
        }
    }
}

/// The certificates of a text in PEM, however its lines are broken.
fn unpem(text: &str) -> BTreeSet<Vec<u8>> {
    let parts = text.split("-----BEGIN CERTIFICATE-----").skip(1);
    parts
        .map(|part| unbase64(part.split("-----END").next().unwrap_or_default()))
        .collect()
}
