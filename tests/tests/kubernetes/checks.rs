//! `isobar check`, through the real kubectl.

use std::process::Command;

use serde_json::{Value, json};

use crate::environment::{Cluster, say_skipped};

/// Whether there is a kubectl; a missing one is said, and is a failure under `ISOBAR_TEST_REQUIRE=all`.
fn has_kubectl() -> bool {
    let mut asked = Command::new("kubectl");
    if asked.args(["version", "--client"]).output().is_ok() {
        return true;
    }
    let required = std::env::var("ISOBAR_TEST_REQUIRE");
    assert_ne!(required.as_deref(), Ok("all"), "there is no kubectl");
    say_skipped("there is no kubectl");
    false
}

/// What `isobar upgrade` says: whether nothing would change, and its lines.
fn upgrade(cluster: &Cluster, arguments: &[&str]) -> (bool, String) {
    let said = Command::new(env!("CARGO_BIN_EXE_isobar-e2e"))
        .arg("upgrade")
        .args(arguments)
        .env("KUBECONFIG", cluster.kubeconfig())
        .output()
        .unwrap();
    let text = String::from_utf8(said.stdout).unwrap() + &String::from_utf8_lossy(&said.stderr);
    (said.status.success(), text)
}

/// What `isobar install` prints.
fn manifests(arguments: &[&str]) -> Vec<Value> {
    let printed = Command::new(env!("CARGO_BIN_EXE_isobar-e2e"))
        .arg("install")
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8(printed.stdout).unwrap();
    let documents = text.trim_start_matches("---\n").split("\n---\n");
    documents
        .map(|document| serde_saphyr::from_str(&format!("{document}\n")).unwrap())
        .collect()
}

/// Tried out, in the test's own namespace: nothing is installed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_manifest_is_taken_as_it_is_written() {
    let cluster = Cluster::open().await;
    for arguments in [&[][..], &["--single-node", "--external-metrics"]] {
        let all = manifests(arguments);
        assert!(all.len() > 15, "{} manifests", all.len());
        for object in all {
            let what = format!("{} {}", object["kind"], object["metadata"]["name"]);
            // A kind that is not served, or a field that is not known, is said here.
            let taken = cluster.would_apply(object.clone()).await;
            let taken = taken.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(
                taken.metadata.name.as_deref(),
                object["metadata"]["name"].as_str()
            );
        }
    }
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_upgrade_changes_is_said_before() {
    if !has_kubectl() {
        return;
    }
    let Some(cluster) =
        Cluster::own("it installs Isobar under its fixed names, and changes what is installed")
            .await
    else {
        return;
    };
    let (is_same, said) = upgrade(&cluster, &[]);
    assert!(
        !is_same && said.contains("+ StatefulSet isobar-controller"),
        "{said}"
    );
    for object in manifests(&[]) {
        cluster.apply(object).await;
    }
    let (is_same, said) = upgrade(&cluster, &[]);
    assert!(is_same && said == "nothing would change\n", "{said}");
    // Of another version; and what nobody installs any more.
    cluster
        .apply(json!({"kind": "Role", "metadata": {"name": "isobar-controller-lease", "namespace": "isobar-system"}}))
        .await;
    let (is_same, said) = upgrade(&cluster, &["--tag", "9.9.9"]);
    for line in [
        "~ DaemonSet isobar-proxy: spec.template.spec.containers[0].image",
        "- Role isobar-controller-lease: kubectl -n isobar-system delete role isobar-controller-lease",
    ] {
        assert!(!is_same && said.contains(line), "{line}: {said}");
    }
    assert_eq!(said.lines().count(), 3, "{said}");
}

/// What `isobar check` says: whether it is content, and its lines.
fn check(cluster: &Cluster, arguments: &[&str]) -> (bool, String) {
    let said = Command::new(env!("CARGO_BIN_EXE_isobar-e2e"))
        .arg("check")
        .args(arguments)
        .env("KUBECONFIG", cluster.kubeconfig())
        .output()
        .unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    (said.status.success(), text)
}

/// By kubectl and a kubeconfig, as an operator would.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_cluster_is_looked_at_before_anything_is_installed() {
    if !has_kubectl() {
        return;
    }
    let cluster = Cluster::open().await;
    let node = cluster.name("n");
    cluster.apply_node(&node, "45.0", "9.0").await;
    let (_, said) = check(&cluster, &["--pre"]);
    for line in [
        "ok   K01 the API server is v1.",
        "ok   K02 you may create",
        "ok   K03",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let (is_well, said) = check(&cluster, &[]);
    assert!(
        said.contains("ok   K01") && !said.contains("FAIL K05"),
        "{said}"
    );
    if cluster.is_own() {
        assert!(
            !is_well && said.contains("FAIL K06 isobar-controller is not installed"),
            "{said}"
        );
    }
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cluster_lacks_is_said_with_a_code() {
    if !has_kubectl() {
        return;
    }
    let Some(cluster) = Cluster::own(
        "it says of nodes, workloads and permissions what only their owners can say in a cluster",
    )
    .await
    else {
        return;
    };
    let node = |name: &str, architecture: &str| json!({"kind": "Node", "metadata": {"name": name}, "status": {"nodeInfo": {"architecture": architecture}}});
    cluster.apply(node("edge-1", "arm64")).await;
    let (is_well, said) = check(&cluster, &["--pre"]);
    assert!(is_well, "{said}");
    assert!(
        said.contains("ok   K01 the API server is v1.36.0") && said.contains("ok   K04"),
        "{said}"
    );
    assert!(
        said.contains("WARN K05 not annotated with a position: edge-1"),
        "{said}"
    );
    cluster.apply(node("edge-2", "riscv64")).await;
    cluster.server().forbid("create", "daemonsets");
    let (is_well, said) = check(&cluster, &["--pre"]);
    assert!(
        !is_well && said.contains("FAIL K02 you may not create daemonsets"),
        "{said}"
    );
    assert!(
        said.contains("WARN K04 there is no image for edge-2"),
        "{said}"
    );

    // What is installed.
    cluster
        .apply(json!({"kind": "Namespace", "metadata": {"name": "isobar-system"}}))
        .await;
    let (is_well, said) = check(&cluster, &[]);
    assert!(
        !is_well && said.contains("FAIL K06 isobar-controller is not installed"),
        "{said}"
    );
    let workload = |kind: &str, name: &str, status| json!({"kind": kind, "metadata": {"name": name, "namespace": "isobar-system"}, "status": status});
    cluster
        .apply(workload(
            "StatefulSet",
            "isobar-controller",
            json!({"replicas": 1, "readyReplicas": 1, "updatedReplicas": 1}),
        ))
        .await;
    cluster
        .apply(workload(
            "DaemonSet",
            "isobar-proxy",
            json!({"desiredNumberScheduled": 3, "numberReady": 2, "updatedNumberScheduled": 3}),
        ))
        .await;
    let (is_well, said) = check(&cluster, &[]);
    assert!(
        !is_well
            && said.contains("ok   K06")
            && said.contains("FAIL K07 isobar-proxy: 2 of 3 ready, 3 up to date"),
        "{said}"
    );
    assert!(said.contains("ok   K08"), "{said}");
    // Policies that contradict each other, a clock that is ahead, a pod that is behind, a permission that is missing, roots that are not there.
    for name in ["a", "b"] {
        let policy = json!({"kind": "TrafficPolicy", "metadata": {"name": name}, "spec": {"services": ["shop/cart"]}});
        cluster.apply(policy).await;
    }
    cluster
        .apply(json!({"kind": "Lease", "metadata": {"name": "edge-1", "namespace": "kube-node-lease"}, "spec": {"renewTime": "2999-01-01T00:00:00.000000Z"}}))
        .await;
    let template = |image: &str| json!({"template": {"spec": {"containers": [{"image": image}]}}});
    for (kind, name, image) in [
        ("DaemonSet", "isobar-proxy", "p:2"),
        ("StatefulSet", "isobar-controller", "c:2"),
    ] {
        let object = json!({"kind": kind, "metadata": {"name": name, "namespace": "isobar-system"}, "spec": template(image)});
        cluster.apply(object).await;
    }
    let labels = json!({"app.kubernetes.io/name": "isobar-proxy"});
    cluster
        .apply(json!({"kind": "Pod", "metadata": {"name": "isobar-proxy-old", "namespace": "isobar-system", "labels": labels}, "spec": {"containers": [{"name": "proxy", "image": "p:1"}]}}))
        .await;
    cluster.server().forbid("watch", "endpointslices");
    let (is_well, said) = check(&cluster, &[]);
    for line in [
        "FAIL K09 pods of another version: isobar-proxy-old",
        "FAIL K10",
        "FAIL K11 more than 60 s ahead of this machine: edge-1",
        "WARN K12 named twice: shop/cart in trafficpolicies a, b",
        "FAIL K13 the controller may not watch endpointslices",
        "WARN K14 the webhook is not installed",
    ] {
        assert!(!is_well && said.contains(line), "{line}: {said}");
    }

    cluster.link.stop();
    let (is_well, said) = check(&cluster, &["--pre"]);
    assert!(
        !is_well && said.contains("FAIL K01 the API server does not answer"),
        "{said}"
    );
}
