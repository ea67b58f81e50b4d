//! Routes of the Gateway API and their status.

use serde_json::{Value, json};

use crate::environment::{Cluster, condition};

/// What we say of a route's parent.
fn ours<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let parents = status["parents"].as_array().into_iter().flatten();
    let mut ours = parents.filter(|parent| parent["controllerName"] == "isobar.dev/controller");
    condition(
        ours.next()
            .map_or(&Value::Null, |parent| &parent["conditions"]),
        kind,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_for_a_service_is_for_its_hosts() {
    let cluster = Cluster::open().await;
    let node = cluster.name("n");
    cluster.apply_node(&node, "45.0", "9.0").await;
    for (name, address) in [("cart", "10.1.0.1"), ("cart-v2", "10.1.0.2")] {
        cluster
            .apply_service(name, &[(address.to_owned(), node.clone())])
            .await;
    }
    let route = |spec: Value| json!({"kind": "HTTPRoute", "metadata": {"name": "split", "namespace": cluster.tag}, "spec": spec});
    let parents = json!([{"group": "", "kind": "Service", "name": "cart", "port": 80}]);
    let backends = json!([{"name": "cart", "port": 80, "weight": 9}, {"name": "cart-v2", "port": 80, "weight": 1}]);
    cluster
        .apply(route(
            json!({"parentRefs": parents, "rules": [{"backendRefs": backends}]}),
        ))
        .await;
    let controller = cluster.controller(0).await;
    let path = format!("/v1/http-routes/{}/split", cluster.tag);
    let seen = controller.until(&path, |route| !route.is_null()).await;
    assert_eq!(
        seen["spec"]["hostnames"][1],
        format!("cart.{}.svc", cluster.tag)
    );
    assert_eq!(
        seen["spec"]["rules"][0]["backendRefs"][1]["name"],
        "cart-v2"
    );
    let tag = Some(cluster.tag.as_str());
    let is = |kind: &'static str, wanted: &'static str| {
        move |status: &Value| ours(status, kind)["status"] == wanted
    };
    cluster
        .until_status("HTTPRoute", tag, "split", is("Accepted", "True"))
        .await;
    cluster
        .until_status("HTTPRoute", tag, "split", is("ResolvedRefs", "True"))
        .await;

    // A backend that is no Service.
    let backends = json!([{"group": "example.com", "kind": "Bucket", "name": "cart", "port": 80}]);
    cluster
        .apply(route(
            json!({"parentRefs": parents, "rules": [{"backendRefs": backends}]}),
        ))
        .await;
    let invalid = |status: &Value| {
        ours(status, "ResolvedRefs")["reason"] == "InvalidKind"
            && ours(status, "Accepted")["status"] == "True"
    };
    cluster
        .until_status("HTTPRoute", tag, "split", invalid)
        .await;

    // One that is not there.
    let backends = json!([{"name": "nobody", "port": 80}]);
    cluster
        .apply(route(
            json!({"parentRefs": parents, "rules": [{"backendRefs": backends}]}),
        ))
        .await;
    let missing = |status: &Value| {
        let resolved = ours(status, "ResolvedRefs");
        resolved["status"] == "False" && resolved["reason"] == "BackendNotFound"
    };
    cluster
        .until_status("HTTPRoute", tag, "split", missing)
        .await;

    // What the mesh has not is refused with the field's name, and the last route stays.
    let cases = [
        (
            json!([{"backendRefs": [{"name": "cart", "port": 80}], "filters": [{"type": "ExtensionRef", "extensionRef": {"group": "example.com", "kind": "Mood", "name": "blue"}}]}]),
            "extensionRef",
        ),
        (
            json!([{"backendRefs": [{"name": "cart", "port": 81}]}]),
            "rules/0/backendRefs/0/port",
        ),
    ];
    for (rules, field) in cases {
        cluster
            .apply(route(json!({"parentRefs": parents, "rules": rules})))
            .await;
        let named = |status: &Value| {
            let accepted = ours(status, "Accepted");
            let message = accepted["message"].as_str().unwrap_or_default();
            accepted["status"] == "False" && message.contains(field)
        };
        cluster.until_status("HTTPRoute", tag, "split", named).await;
    }
    let seen = controller.get(&path).await;
    assert_eq!(seen["spec"]["rules"][0]["backendRefs"][0]["name"], "nobody");
    cluster.delete("HTTPRoute", tag, "split").await;
    controller.until(&path, Value::is_null).await;
    controller.end().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_of_other_gateways_are_left_alone_and_their_status_stays() {
    let cluster = Cluster::open().await;
    let route = |name: &str, parents: Value| {
        json!({"kind": "GRPCRoute", "metadata": {"name": name, "namespace": cluster.tag},
        "spec": {"parentRefs": parents, "hostnames": ["shop.example"], "rules": [{"matches": [{"method": {"service": "shop.Cart"}}]}]}})
    };
    cluster
        .apply(route("theirs", json!([{"name": "nginx"}])))
        .await;
    cluster
        .apply(route(
            "ours",
            json!([{"name": "isobar"}, {"name": "nginx"}]),
        ))
        .await;
    // Another controller's word, in the same list.
    let theirs = json!({"status": {"parents": [{"parentRef": {"name": "nginx"}, "controllerName": "example.com/nginx",
        "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}]}});
    let api = cluster.api("GRPCRoute", Some(&cluster.tag));
    let merge = kube::api::Patch::Merge(&theirs);
    api.patch_status("ours", &Default::default(), &merge)
        .await
        .unwrap();
    let controller = cluster.controller(0).await;
    let tag = Some(cluster.tag.as_str());
    let status = cluster
        .until_status("GRPCRoute", tag, "ours", |status| {
            ours(status, "Accepted")["status"] == "True"
        })
        .await;
    assert_eq!(status["parents"].as_array().unwrap().len(), 2, "{status}");
    assert_eq!(status["parents"][0]["controllerName"], "example.com/nginx");
    assert!(
        controller
            .get(&format!("/v1/grpc-routes/{}/theirs", cluster.tag))
            .await
            .is_null()
    );
    let seen = controller
        .until(&format!("/v1/grpc-routes/{}/ours", cluster.tag), |route| {
            !route.is_null()
        })
        .await;
    assert_eq!(seen["spec"]["parentRefs"].as_array().unwrap().len(), 1);
    let theirs = api.get("theirs").await.unwrap();
    assert!(theirs.data["status"].is_null(), "{:?}", theirs.data);
    controller.end().await;
    cluster.close().await;
}
