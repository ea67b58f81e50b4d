//! Other clusters of the mesh: one of them goes away, and comes back.

use serde_json::{Value, json};

use crate::environment::Cluster;

/// A Secret with another cluster's kubeconfig.
fn secret(cluster: &Cluster, name: &str, kubeconfig: &str) -> Value {
    let bytes = k8s_openapi::ByteString(kubeconfig.as_bytes().to_vec());
    json!({"kind": "Secret", "metadata": {"name": format!("remote-{name}"), "namespace": cluster.tag, "labels": {"isobar.dev/remote-cluster": name}},
           "data": {"kubeconfig": bytes}})
}

fn nodes_of(service: &Value) -> Vec<String> {
    let endpoints = service["spec"]["endpoints"]
        .as_array()
        .into_iter()
        .flatten();
    endpoints
        .map(|endpoint| endpoint["node"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remote_cluster_that_vanishes_erases_nothing() {
    let why = "it needs two clusters, with nodes and namespaces of the same names";
    let (Some(cluster), Some(north)) = (Cluster::own(why).await, Cluster::own(why).await) else {
        return;
    };
    let node = "edge-1";
    for (of, address) in [(&cluster, "10.0.0.1"), (&north, "10.1.0.1")] {
        of.apply_node(node, "45.0", "9.0").await;
        // One service: the clusters' namespaces are of one name.
        of.apply(json!({"kind": "Namespace", "metadata": {"name": "shop"}}))
            .await;
        of.apply(json!({"kind": "Service", "metadata": {"name": "cart", "namespace": "shop"}, "spec": {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}})).await;
        of.apply(json!({"kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [{"addresses": [address], "conditions": {"ready": true}, "nodeName": node}],
                        "metadata": {"name": "cart-a", "namespace": "shop", "labels": {"kubernetes.io/service-name": "cart"}},
                        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]})).await;
    }
    let kubeconfig = north.server().kubeconfig("tests", north.link.address);
    cluster.apply(secret(&cluster, "north", &kubeconfig)).await;
    // Its kubeconfig names a program: it is not run, and what is wrong is said.
    let bad = kubeconfig.replace("token: tests", "exec: {command: /bin/true}");
    cluster.apply(secret(&cluster, "south", &bad)).await;
    let controller = cluster.controller(0).await;
    let both = |service: &Value| nodes_of(service) == [node, "edge-1.north"];
    controller.until("/v1/services/shop/cart", both).await;
    controller
        .until("/v1/nodes/edge-1.north", |node| {
            !node["spec"]["location"].is_null()
        })
        .await;
    let events = cluster.api("Event", Some(&cluster.tag));
    crate::environment::until("an event", async || {
        let all = events.list(&Default::default()).await.unwrap();
        let mut notes = all
            .items
            .iter()
            .filter_map(|event| event.data["note"].as_str());
        notes
            .any(|note| note.contains("exec"))
            .then_some(())
            .ok_or(json!(all.items.len()))
    })
    .await;
    // It goes away, and the controller starts anew: what was told of it stays, and the own cluster is followed.
    north.link.stop();
    controller.end().await;
    let controller = cluster.controller(0).await;
    cluster.apply_node("edge-2", "45.0", "9.1").await;
    controller
        .until("/v1/nodes/edge-2", |node| !node.is_null())
        .await;
    controller.until("/v1/services/shop/cart", both).await;
    assert!(!controller.get("/v1/nodes/edge-1.north").await.is_null());
    // It comes back with a node less.
    north.link.come_back().await;
    north.delete("Node", None, node).await;
    controller
        .until("/v1/nodes/edge-1.north", Value::is_null)
        .await;
    // The operator takes it away.
    cluster
        .delete("Secret", Some(&cluster.tag), "remote-north")
        .await;
    controller
        .until("/v1/services/shop/cart", |service| {
            nodes_of(service) == [node]
        })
        .await;
    controller.end().await;
}
