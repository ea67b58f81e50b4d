//! Watches that break, a server that forgets, goes away and comes back.

use serde_json::{Value, json};

use crate::environment::{Cluster, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_watches_miss_nothing() {
    let cluster = Cluster::own().await;
    let [first, second, third] = ["1", "2", "3"].map(|name| cluster.name(name));
    cluster.apply_node(&first, "45.0", "9.0").await;
    let controller = cluster.controller(0).await;
    let is_there = |node: &Value| !node.is_null();
    controller
        .until(&format!("/v1/nodes/{first}"), is_there)
        .await;
    // Connections break: the watches go on from where they were.
    let listed = cluster.server().asked("list", "nodes");
    cluster.server().sever();
    cluster.apply_node(&second, "45.0", "9.1").await;
    controller
        .until(&format!("/v1/nodes/{second}"), is_there)
        .await;
    assert_eq!(
        cluster.server().asked("list", "nodes"),
        listed,
        "listed again"
    );
    // The server forgets what the watches knew: they list again, and see what went meanwhile.
    cluster.server().sever();
    cluster.delete("Node", None, &first).await;
    cluster.apply_node(&third, "45.0", "9.2").await;
    cluster.server().forget();
    controller
        .until(&format!("/v1/nodes/{third}"), is_there)
        .await;
    controller
        .until(&format!("/v1/nodes/{first}"), Value::is_null)
        .await;
    until("another list", async || {
        let again = cluster.server().asked("list", "nodes");
        (again > listed).then_some(()).ok_or(json!(again))
    })
    .await;
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_erases_nothing() {
    let cluster = Cluster::own().await;
    let node = cluster.name("n");
    cluster.apply_node(&node, "45.0", "9.0").await;
    cluster
        .apply_service("cart", &[("10.1.0.1".to_owned(), node.clone())])
        .await;
    cluster
        .apply(
            json!({"kind": "WeightPolicy", "metadata": {"name": "p"}, "spec": {"neighbours": 3}}),
        )
        .await;
    let service = format!("/v1/services/{}/cart", cluster.tag);
    let paths = [
        format!("/v1/nodes/{node}"),
        service.clone(),
        "/v1/weight-policies/p".to_owned(),
    ];
    let controller = cluster.controller(0).await;
    let mut seen = Vec::new();
    for path in &paths {
        seen.push(controller.until(path, |value| !value.is_null()).await["spec"].clone());
    }
    cluster.server().stop();
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
    cluster.server().come_back().await;
    cluster.delete("WeightPolicy", None, "p").await;
    controller
        .until("/v1/weight-policies/p", Value::is_null)
        .await;
    assert_eq!(controller.get(&service).await["spec"], seen[1]);
    controller.end().await;
}
