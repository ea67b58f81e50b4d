//! Gateways, their classes, and who may attach to them or name whose services.

use serde_json::{Value, json};

use crate::environment::{Cluster, condition};

fn ours<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let parents = status["parents"].as_array().into_iter().flatten();
    let mut ours = parents.filter(|parent| parent["controllerName"] == "isobar.dev/controller");
    let conditions = ours
        .next()
        .map_or(&Value::Null, |parent| &parent["conditions"]);
    condition(conditions, kind)
}

async fn apply_class(cluster: &Cluster) -> String {
    let class = cluster.name("class");
    cluster
        .apply(json!({"kind": "GatewayClass", "metadata": {"name": class}, "spec": {"controllerName": "isobar.dev/controller"}}))
        .await;
    class
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_of_our_class_is_the_proxies_port() {
    let cluster = Cluster::open().await;
    let tag = Some(cluster.tag.as_str());
    let class = apply_class(&cluster).await;
    let listeners = json!([
        {"name": "http", "protocol": "HTTP", "port": 7410, "hostname": "*.shop.example"},
        {"name": "tls", "protocol": "HTTPS", "port": 443},
        {"name": "eighty", "protocol": "HTTP", "port": 80},
    ]);
    cluster
        .apply(json!({"kind": "Gateway", "metadata": {"name": "edge", "namespace": cluster.tag}, "spec": {"gatewayClassName": class, "listeners": listeners}}))
        .await;
    cluster
        .apply(json!({"kind": "Gateway", "metadata": {"name": "theirs", "namespace": cluster.tag}, "spec": {"gatewayClassName": "nginx", "listeners": listeners}}))
        .await;
    cluster.apply_service("cart", &[]).await;
    let route = |name: &str, parent: Value, hosts: Value| {
        json!({"kind": "HTTPRoute", "metadata": {"name": name, "namespace": cluster.tag},
               "spec": {"parentRefs": [parent], "hostnames": hosts, "rules": [{"backendRefs": [{"name": "cart", "port": 80}]}]}})
    };
    cluster
        .apply(route(
            "in",
            json!({"name": "edge"}),
            json!(["a.shop.example", "b.example"]),
        ))
        .await;
    cluster
        .apply(route("out", json!({"name": "edge"}), json!(["b.example"])))
        .await;
    cluster
        .apply(route(
            "section",
            json!({"name": "edge", "sectionName": "tls"}),
            json!(["a.shop.example"]),
        ))
        .await;
    cluster
        .apply(route(
            "theirs",
            json!({"name": "theirs"}),
            json!(["a.shop.example"]),
        ))
        .await;
    let controller = cluster.controller(0).await;
    let accepted =
        |status: &Value| condition(&status["conditions"], "Accepted")["status"] == "True";
    let status = cluster
        .until_status("GatewayClass", None, &class, accepted)
        .await;
    assert_eq!(
        condition(&status["conditions"], "Accepted")["observedGeneration"],
        status["generation"]
    );
    let attached = |status: &Value| status["listeners"][0]["attachedRoutes"] == 1;
    let status = cluster.until_status("Gateway", tag, "edge", attached).await;
    assert_eq!(
        condition(&status["conditions"], "Accepted")["status"],
        "True"
    );
    assert_eq!(
        condition(&status["conditions"], "Programmed")["status"],
        "True"
    );
    for (at, accepted, reason) in [
        (0, "True", "Accepted"),
        (1, "False", "UnsupportedProtocol"),
        (2, "False", "PortUnavailable"),
    ] {
        let said = condition(&status["listeners"][at]["conditions"], "Accepted");
        assert_eq!(
            (said["status"].as_str(), said["reason"].as_str()),
            (Some(accepted), Some(reason)),
            "{status}"
        );
    }
    // Only the host that the listener lets through.
    let path = format!("/v1/http-routes/{}/in", cluster.tag);
    let seen = controller.until(&path, |route| !route.is_null()).await;
    assert_eq!(seen["spec"]["hostnames"], json!(["a.shop.example"]));
    for (name, reason) in [
        ("out", "NoMatchingListenerHostname"),
        ("section", "NoMatchingParent"),
    ] {
        let refused = |status: &Value| ours(status, "Accepted")["reason"] == reason;
        cluster.until_status("HTTPRoute", tag, name, refused).await;
        assert!(
            controller
                .get(&format!("/v1/http-routes/{}/{name}", cluster.tag))
                .await
                .is_null()
        );
    }
    let theirs = cluster.api("HTTPRoute", tag).get("theirs").await.unwrap();
    assert!(theirs.data["status"].is_null(), "{:?}", theirs.data);
    let theirs = cluster.api("Gateway", tag).get("theirs").await.unwrap();
    assert!(condition(&theirs.data["status"]["conditions"], "Programmed").is_null());
    // A route that is let in no longer is in force no longer.
    cluster
        .apply(route("in", json!({"name": "edge"}), json!(["b.example"])))
        .await;
    controller.until(&path, Value::is_null).await;
    controller.end().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_namespaces_attach_and_are_named_by_leave_alone() {
    let cluster = Cluster::open().await;
    let class = apply_class(&cluster).await;
    let other = cluster.name("other");
    cluster
        .apply(json!({"kind": "Namespace", "metadata": {"name": other, "labels": {"team": "pay"}}}))
        .await;
    let gateway = |name: &str, allowed: Value| {
        json!({"kind": "Gateway", "metadata": {"name": name, "namespace": cluster.tag},
               "spec": {"gatewayClassName": class, "listeners": [{"name": "http", "protocol": "HTTP", "port": 7410, "allowedRoutes": {"namespaces": allowed}}]}})
    };
    cluster
        .apply(gateway("same", json!({"from": "Same"})))
        .await;
    cluster
        .apply(gateway(
            "pay",
            json!({"from": "Selector", "selector": {"matchLabels": {"team": "pay"}}}),
        ))
        .await;
    cluster.apply_service("cart", &[]).await;
    let route = |name: &str, gateway: &str| {
        json!({"kind": "HTTPRoute", "metadata": {"name": name, "namespace": other},
               "spec": {"parentRefs": [{"name": gateway, "namespace": cluster.tag}], "hostnames": ["a.example"],
                        "rules": [{"backendRefs": [{"name": "cart", "namespace": cluster.tag, "port": 80}]}]}})
    };
    cluster.apply(route("refused", "same")).await;
    cluster.apply(route("allowed", "pay")).await;
    let controller = cluster.controller(0).await;
    let of = Some(other.as_str());
    let refused = |status: &Value| ours(status, "Accepted")["reason"] == "NotAllowedByListeners";
    cluster
        .until_status("HTTPRoute", of, "refused", refused)
        .await;
    let not_permitted = |status: &Value| {
        ours(status, "Accepted")["status"] == "True"
            && ours(status, "ResolvedRefs")["reason"] == "RefNotPermitted"
    };
    let status = cluster
        .until_status("HTTPRoute", of, "allowed", not_permitted)
        .await;
    let message = ours(&status, "ResolvedRefs")["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        message.contains(&format!("{}/cart", cluster.tag)),
        "{message}"
    );
    let path = format!("/v1/http-routes/{other}/allowed");
    let seen = controller.get(&path).await;
    assert_ne!(seen["spec"]["rules"][0]["backendRefs"][0]["name"], "cart");
    // Its owner lets it be named.
    let grant = json!({"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": other}], "to": [{"group": "", "kind": "Service"}]});
    cluster.apply(json!({"kind": "ReferenceGrant", "metadata": {"name": "pay", "namespace": cluster.tag}, "spec": grant})).await;
    let resolved = |status: &Value| ours(status, "ResolvedRefs")["status"] == "True";
    cluster
        .until_status("HTTPRoute", of, "allowed", resolved)
        .await;
    controller
        .until(&path, |route| {
            route["spec"]["rules"][0]["backendRefs"][0]["name"] == "cart"
        })
        .await;
    cluster
        .delete("ReferenceGrant", Some(&cluster.tag), "pay")
        .await;
    cluster
        .until_status("HTTPRoute", of, "allowed", not_permitted)
        .await;
    controller.end().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_for_tcp_is_refused_by_name() {
    let cluster = Cluster::own().await;
    let parents = json!([{"name": "isobar"}, {"name": "nginx"}]);
    cluster
        .apply(json!({"kind": "TCPRoute", "metadata": {"name": "db", "namespace": cluster.tag},
                      "spec": {"parentRefs": parents, "rules": [{"backendRefs": [{"name": "db", "port": 5432}]}]}}))
        .await;
    let controller = cluster.controller(0).await;
    let refused = |status: &Value| {
        let said = ours(status, "Accepted");
        said["status"] == "False"
            && said["message"]
                .as_str()
                .is_some_and(|m| m.contains("TCPRoute"))
    };
    let status = cluster
        .until_status("TCPRoute", Some(&cluster.tag), "db", refused)
        .await;
    assert_eq!(status["parents"].as_array().unwrap().len(), 1, "{status}");
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_policies_come_through_and_a_wrong_one_leaves_the_last_in_force() {
    let cluster = Cluster::open().await;
    let name = cluster.name("who");
    let policy =
        |spec: Value| json!({"kind": "AccessPolicy", "metadata": {"name": name}, "spec": spec});
    let rule = json!({"services": ["shop/cart"], "allow": [{"from": [{"namespaces": ["shop"]}]}]});
    cluster.apply(policy(rule.clone())).await;
    let controller = cluster.controller(0).await;
    let path = format!("/v1/access-policies/{name}");
    let seen = controller.until(&path, |policy| !policy.is_null()).await;
    assert_eq!(seen["spec"], rule);
    let is = |wanted: &'static str| {
        move |status: &Value| {
            let said = condition(&status["conditions"], "Accepted");
            said["status"] == wanted && said["observedGeneration"] == status["generation"]
        }
    };
    cluster
        .until_status("AccessPolicy", None, &name, is("True"))
        .await;
    cluster
        .apply(policy(
            json!({"services": ["shop/cart"], "allow": [{"from": [{"addresses": ["here"]}]}]}),
        ))
        .await;
    let status = cluster
        .until_status("AccessPolicy", None, &name, is("False"))
        .await;
    let message = condition(&status["conditions"], "Accepted")["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(message.contains("addresses"), "{message}");
    assert_eq!(controller.get(&path).await["spec"], rule);
    let error = cluster
        .try_apply(policy(json!({"default": "maybe"})))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("default"), "{error}");
    cluster.delete("AccessPolicy", None, &name).await;
    controller.until(&path, Value::is_null).await;
    controller.end().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cordoned_takes_no_load_of_others() {
    let cluster = Cluster::open().await;
    let node = cluster.name("n");
    let object = |unschedulable: bool| json!({"kind": "Node", "metadata": {"name": node}, "spec": {"unschedulable": unschedulable}});
    cluster.apply(object(true)).await;
    let controller = cluster.controller(0).await;
    let path = format!("/v1/nodes/{node}");
    controller
        .until(&path, |node| node["spec"]["cordoned"] == true)
        .await;
    cluster.apply(object(false)).await;
    controller
        .until(&path, |node| {
            node["spec"]["cordoned"].is_null() && !node.is_null()
        })
        .await;
    controller.end().await;
    cluster.close().await;
}
