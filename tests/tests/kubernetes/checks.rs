//! `isobar check`, through the real kubectl.

use std::process::Command;

use serde_json::json;

use crate::environment::Cluster;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cluster_lacks_is_said_with_a_code() {
    if Command::new("kubectl")
        .arg("version")
        .arg("--client")
        .output()
        .is_err()
    {
        assert_ne!(
            std::env::var("ISOBAR_TEST_REQUIRE").as_deref(),
            Ok("all"),
            "there is no kubectl"
        );
        println!("skipped: there is no kubectl");
        return;
    }
    let cluster = Cluster::own().await;
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

    cluster.server().stop();
    let (is_well, said) = check(&cluster, &["--pre"]);
    assert!(
        !is_well && said.contains("FAIL K01 the API server does not answer"),
        "{said}"
    );
}
