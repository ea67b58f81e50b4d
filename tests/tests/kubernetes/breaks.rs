//! Watches that break, a server that forgets, goes away and comes back.

use serde_json::{Value, json};

use crate::environment::{Cluster, say_skipped};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_watches_miss_nothing() {
    let cluster = Cluster::open().await;
    let [first, second, third] = ["1", "2", "3"].map(|name| cluster.name(name));
    cluster.apply_node(&first, "45.0", "9.0").await;
    let controller = cluster.controller(0).await;
    let path = |node: &str| format!("/v1/nodes/{node}");
    let is_there = |node: &Value| !node.is_null();
    controller.until(&path(&first), is_there).await;
    // Connections break: the watches go on from where they were.
    let listed = || {
        let is_own = cluster.is_own();
        is_own.then(|| cluster.server().asked("list", "nodes"))
    };
    let before = listed();
    cluster.link.sever();
    cluster.apply_node(&second, "45.0", "9.1").await;
    controller.until(&path(&second), is_there).await;
    assert_eq!(listed(), before, "listed again");
    // Nobody is reached for a while: what came and went meanwhile is seen.
    cluster.link.stop();
    cluster.delete("Node", None, &first).await;
    cluster.apply_node(&third, "45.0", "9.2").await;
    // And the server forgets what the watches knew: they list again.
    match cluster.is_own() {
        true => cluster.server().forget(),
        false => {
            say_skipped(
                "in part: what is done when a version is too old (410); no client can make a cluster forget",
            );
        }
    }
    cluster.link.come_back().await;
    controller.until(&path(&third), is_there).await;
    controller.until(&path(&first), Value::is_null).await;
    if cluster.is_own() {
        assert!(listed() > before, "not listed again");
    }
    controller.end().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_erases_nothing() {
    let cluster = Cluster::open().await;
    let [node, policy] = ["n", "p"].map(|name| cluster.name(name));
    cluster.apply_node(&node, "45.0", "9.0").await;
    cluster
        .apply_service("cart", &[("10.1.0.1".to_owned(), node.clone())])
        .await;
    cluster
        .apply(
            json!({"kind": "WeightPolicy", "metadata": {"name": policy}, "spec": {"services": [format!("{}/cart", cluster.tag)], "neighbours": 3}}),
        )
        .await;
    let service = format!("/v1/services/{}/cart", cluster.tag);
    let of_policy = format!("/v1/weight-policies/{policy}");
    let paths = [
        format!("/v1/nodes/{node}"),
        service.clone(),
        of_policy.clone(),
    ];
    let controller = cluster.controller(0).await;
    let mut seen = Vec::new();
    for path in &paths {
        seen.push(controller.until(path, |value| !value.is_null()).await["spec"].clone());
    }
    cluster.link.stop();
    for (path, seen) in paths.iter().zip(&seen) {
        assert_eq!(controller.get(path).await["spec"], *seen);
    }
    // Nor does the controller's own restart meanwhile.
    controller.end().await;
    let controller = cluster.controller(0).await;
    for (path, seen) in paths.iter().zip(&seen) {
        assert_eq!(controller.get(path).await["spec"], *seen);
    }
    // It is back, and what is gone since goes.
    cluster.link.come_back().await;
    cluster.delete("WeightPolicy", None, &policy).await;
    controller.until(&of_policy, Value::is_null).await;
    assert_eq!(controller.get(&service).await["spec"], seen[1]);
    controller.end().await;
    cluster.close().await;
}
