//! Gateways, their classes, and who may attach to them or name whose services.

use serde_json::{Value, json};

use crate::environment::{Cluster, condition, say_skipped};

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
    let node = cluster.name("n");
    cluster.apply_node(&node, "45.0", "9.0").await;
    cluster.say_address(&node, "192.0.2.7").await;
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
    // Its definition may say that nobody has looked at it yet.
    let said = condition(&theirs.data["status"]["conditions"], "Programmed");
    assert!(said["observedGeneration"].is_null(), "{said}");
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

/// All that a route's parents are told, in the order of what is ours.
fn accepted_of_all(status: &Value) -> Vec<(Value, Value)> {
    let parents = status["parents"].as_array().into_iter().flatten();
    let ours = parents.filter(|parent| parent["controllerName"] == "isobar.dev/controller");
    let said = ours.map(|parent| {
        let accepted = condition(&parent["conditions"], "Accepted");
        (accepted["status"].clone(), accepted["reason"].clone())
    });
    said.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_for_tcp_are_for_listeners_and_services() {
    let cluster = Cluster::open().await;
    let tag = Some(cluster.tag.as_str());
    let class = apply_class(&cluster).await;
    let node = cluster.name("n");
    cluster.apply_node(&node, "45.0", "9.0").await;
    let only = |kind: &str| json!({"namespaces": {"from": "Same"}, "kinds": [{"group": "gateway.networking.k8s.io", "kind": kind}]});
    let listeners = json!([
        {"name": "db", "protocol": "TCP", "port": 5432},
        {"name": "http", "protocol": "HTTP", "port": 7410},
        {"name": "mesh", "protocol": "TCP", "port": 7411},
        {"name": "strange", "protocol": "TCP", "port": 5433, "allowedRoutes": only("HTTPRoute")},
    ]);
    cluster
        .apply(json!({"kind": "Gateway", "metadata": {"name": "edge", "namespace": cluster.tag}, "spec": {"gatewayClassName": class, "listeners": listeners}}))
        .await;
    for name in ["db", "db-next"] {
        cluster
            .apply_service(name, &[("10.1.0.1".to_owned(), node.clone())])
            .await;
    }
    let route = |name: &str, parents: Value, backends: Value| {
        json!({"kind": "TCPRoute", "metadata": {"name": name, "namespace": cluster.tag},
               "spec": {"parentRefs": parents, "rules": [{"backendRefs": backends}]}})
    };
    let db = json!([{"name": "db", "port": 80}]);
    // Parents of one name must all have a section, or all have none.
    let section = |name: &str| json!({"name": "edge", "sectionName": name});
    let parents = json!([section("db"), section("http"), section("nobody"), {"name": "nginx"}]);
    let weighed = json!([{"name": "db", "port": 80, "weight": 9}, {"name": "db-next", "port": 80}]);
    cluster.apply(route("split", parents, weighed)).await;
    let service = json!([{"group": "", "kind": "Service", "name": "db", "port": 80}]);
    cluster
        .apply(route("mesh", service.clone(), db.clone()))
        .await;
    let isobar = json!([{"name": "isobar", "sectionName": "own"}]);
    cluster.apply(route("own", isobar, db.clone())).await;
    let elsewhere = json!([{"name": "db", "namespace": "default", "port": 80}]);
    cluster
        .apply(route("not-permitted", service.clone(), elsewhere))
        .await;
    let nobody = json!([{"name": "nobody", "port": 80}]);
    cluster
        .apply(route("missing", service.clone(), nobody))
        .await;
    let bucket = json!([{"group": "example.com", "kind": "Bucket", "name": "db", "port": 80}]);
    cluster.apply(route("bucket", service, bucket)).await;
    let controller = cluster.controller(0).await;
    let path = |name: &str| format!("/v1/tcp-routes/{}/{name}", cluster.tag);
    let seen = controller.until(&path("split"), |r| !r.is_null()).await;
    let parents = &seen["spec"]["parentRefs"];
    assert_eq!(
        *parents,
        json!([{"name": "isobar", "sectionName": "db"}]),
        "{seen}"
    );
    let weight = |at: usize| seen["spec"]["rules"][0]["backendRefs"][at]["weight"].clone();
    assert_eq!((weight(0), weight(1)), (json!(9), Value::Null));
    let told = |status: &Value| accepted_of_all(status).len() == 3;
    let status = cluster.until_status("TCPRoute", tag, "split", told).await;
    let said = [
        ("True", "Accepted"),
        ("False", "NotAllowedByListeners"),
        ("False", "NoMatchingParent"),
    ];
    let said = said.map(|(status, reason)| (json!(status), json!(reason)));
    assert_eq!(accepted_of_all(&status), said, "{status}");
    let accepted = ours(&status, "Accepted");
    assert_eq!(accepted["observedGeneration"], status["generation"]);
    let seen = controller.until(&path("mesh"), |r| !r.is_null()).await;
    let parent = &seen["spec"]["parentRefs"][0];
    assert_eq!(
        (&parent["kind"], &parent["name"]),
        (&json!("Service"), &json!("db"))
    );
    let seen = controller.until(&path("own"), |r| !r.is_null()).await;
    assert_eq!(seen["spec"]["parentRefs"][0]["sectionName"], "own");
    for (name, reason) in [
        ("not-permitted", "RefNotPermitted"),
        ("missing", "BackendNotFound"),
        ("bucket", "InvalidKind"),
        ("mesh", "ResolvedRefs"),
    ] {
        let is = |status: &Value| ours(status, "ResolvedRefs")["reason"] == reason;
        cluster.until_status("TCPRoute", tag, name, is).await;
    }
    // What listeners can have, and how many routes they do.
    let attached = |status: &Value| status["listeners"][0]["attachedRoutes"] == 1;
    let status = cluster.until_status("Gateway", tag, "edge", attached).await;
    let kinds = |at: usize| {
        let kinds = status["listeners"][at]["supportedKinds"]
            .as_array()
            .unwrap();
        let kinds = kinds.iter().map(|kind| kind["kind"].as_str().unwrap());
        kinds.collect::<Vec<_>>()
    };
    assert_eq!(kinds(0), ["TCPRoute"]);
    assert_eq!(kinds(1), ["HTTPRoute", "GRPCRoute"]);
    assert!(kinds(2).is_empty() && kinds(3).is_empty(), "{status}");
    let of =
        |at: usize, kind| condition(&status["listeners"][at]["conditions"], kind)["reason"].clone();
    assert_eq!(of(2, "Accepted"), "PortUnavailable");
    assert_eq!(of(3, "ResolvedRefs"), "InvalidRouteKinds");
    // No node says where it is reached, until one does. A cluster of others may have some that do.
    if cluster.is_own() {
        let said = condition(&status["conditions"], "Programmed");
        assert_eq!(said["reason"], "AddressNotAssigned", "{status}");
    }
    cluster.say_address(&node, "192.0.2.7").await;
    let programmed = |status: &Value| {
        condition(&status["conditions"], "Programmed")["status"] == "True"
            && status["addresses"][0]["type"] == "IPAddress"
    };
    let status = cluster
        .until_status("Gateway", tag, "edge", programmed)
        .await;
    if cluster.is_own() {
        assert_eq!(status["addresses"][0]["value"], "192.0.2.7");
    }
    cluster.delete("TCPRoute", tag, "split").await;
    controller.until(&path("split"), Value::is_null).await;
    let left = |status: &Value| status["listeners"][0]["attachedRoutes"] == 0;
    cluster.until_status("Gateway", tag, "edge", left).await;
    controller.end().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_that_clash_are_refused_and_the_others_serve_on() {
    let cluster = Cluster::open().await;
    let tag = Some(cluster.tag.as_str());
    let class = apply_class(&cluster).await;
    let node = cluster.name("n");
    cluster.apply_node(&node, "45.0", "9.0").await;
    cluster.say_address(&node, "192.0.2.7").await;
    let gateway = |name: &str, listeners: Value| json!({"kind": "Gateway", "metadata": {"name": name, "namespace": cluster.tag}, "spec": {"gatewayClassName": class, "listeners": listeners}});
    let tcp = |name: &str, port: u32| json!({"name": name, "protocol": "TCP", "port": port});
    let http = json!({"name": "http", "protocol": "HTTP", "port": 7410});
    let clash = json!([tcp("db", 5432), {"name": "web", "protocol": "HTTP", "port": 5432}, tcp("cache", 6379), http]);
    cluster.apply(gateway("edge", clash)).await;
    cluster.apply_service("db", &[]).await;
    cluster
        .apply(json!({"kind": "TCPRoute", "metadata": {"name": "all", "namespace": cluster.tag},
                      "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "db", "port": 80}]}]}}))
        .await;
    let controller = cluster.controller(0).await;
    let attached = |status: &Value| status["listeners"][2]["attachedRoutes"] == 1;
    let status = cluster.until_status("Gateway", tag, "edge", attached).await;
    let said = |at: usize, kind: &str| {
        let said = condition(&status["listeners"][at]["conditions"], kind);
        let text = |field: &str| said[field].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"))
    };
    let pair = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
    for at in [0, 1] {
        assert_eq!(
            said(at, "Conflicted"),
            pair("True", "ProtocolConflict"),
            "{status:#}"
        );
        assert_eq!(said(at, "Accepted").0, "False", "{status:#}");
        assert_eq!(
            said(at, "Programmed"),
            pair("False", "Invalid"),
            "{status:#}"
        );
    }
    for at in [2, 3] {
        assert_eq!(
            said(at, "Conflicted"),
            pair("False", "NoConflicts"),
            "{status:#}"
        );
        assert_eq!(said(at, "Accepted"), pair("True", "Accepted"), "{status:#}");
        assert_eq!(
            said(at, "ResolvedRefs"),
            pair("True", "ResolvedRefs"),
            "{status:#}"
        );
    }
    // The route is in force by one listener, and counted at each that lets it in.
    let counts = [0, 1, 2, 3].map(|at: usize| status["listeners"][at]["attachedRoutes"].clone());
    assert_eq!(counts, [1, 0, 1, 0].map(|count| json!(count)), "{status:#}");
    let whole = condition(&status["conditions"], "Accepted");
    assert_eq!(
        (&whole["status"], &whole["reason"]),
        (&json!("True"), &json!("ListenersNotValid"))
    );
    let message = whole["message"].as_str().unwrap();
    assert!(
        message.contains("db, web") && message.contains("cache, http"),
        "{message}"
    );
    let path = format!("/v1/tcp-routes/{}/all", cluster.tag);
    let seen = controller.until(&path, |route| !route.is_null()).await;
    let parents = json!([{"name": "isobar", "sectionName": "cache"}]);
    assert_eq!(seen["spec"]["parentRefs"], parents, "{seen}");
    // Of one name: the Gateway API's own definitions do not let such a gateway in.
    let twice = gateway("twice", json!([tcp("a", 5432), tcp("b", 5432)]));
    match cluster.try_apply(twice).await {
        Ok(_) => {
            let told =
                |status: &Value| status["listeners"].as_array().is_some_and(|l| l.len() == 2);
            let status = cluster.until_status("Gateway", tag, "twice", told).await;
            let conflicted = condition(&status["listeners"][1]["conditions"], "Conflicted");
            assert_eq!(conflicted["reason"], "HostnameConflict", "{status:#}");
            let whole = condition(&status["conditions"], "Accepted");
            assert_eq!(
                (&whole["status"], &whole["reason"]),
                (&json!("False"), &json!("ListenersNotValid"))
            );
        }
        Err(kube::Error::Api(refused)) if refused.code == 422 => {
            say_skipped(&format!(
                "in part: the definition refuses what would clash by name: {}",
                refused.message
            ));
        }
        Err(error) => panic!("{error}"),
    }
    // Once they do not clash any more, they serve.
    let free = json!([tcp("db", 5432), tcp("cache", 6379), http]);
    cluster.apply(gateway("edge", free)).await;
    let all = |status: &Value| {
        let of = |at: usize| {
            condition(&status["listeners"][at]["conditions"], "Programmed")["status"] == "True"
        };
        of(0)
            && of(1)
            && of(2)
            && condition(&status["conditions"], "Accepted")["reason"] == "Accepted"
    };
    cluster.until_status("Gateway", tag, "edge", all).await;
    controller
        .until(&path, |route| {
            route["spec"]["parentRefs"]
                .as_array()
                .is_some_and(|all| all.len() == 2)
        })
        .await;
    controller.end().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_is_reached_at_the_load_balancer_before_the_proxies() {
    let cluster = Cluster::open().await;
    let tag = Some(cluster.tag.as_str());
    let class = apply_class(&cluster).await;
    let node = cluster.name("n");
    cluster.apply_node(&node, "45.0", "9.0").await;
    cluster.say_address(&node, "192.0.2.7").await;
    cluster
        .apply(json!({"kind": "Gateway", "metadata": {"name": "edge", "namespace": cluster.tag},
                      "spec": {"gatewayClassName": class, "listeners": [{"name": "http", "protocol": "HTTP", "port": 7410}]}}))
        .await;
    // Beside the controller, before the pods of the manifests. No other load balancer of the cluster is asked for one.
    cluster
        .apply(json!({"kind": "Service", "metadata": {"name": "edge", "namespace": cluster.tag},
                      "spec": {"type": "LoadBalancer", "loadBalancerClass": "tests.isobar.dev/by-hand", "allocateLoadBalancerNodePorts": false,
                               "selector": {"app.kubernetes.io/name": "isobar-proxy"},
                               "ports": [{"name": "http", "port": 80, "targetPort": 7410, "protocol": "TCP"}]}}))
        .await;
    let controller = cluster.controller(0).await;
    let has = |wanted: &'static str| {
        move |status: &Value| {
            let all = status["addresses"].as_array().into_iter().flatten();
            all.into_iter().any(|address| address["value"] == wanted)
        }
    };
    // It has no address yet: the nodes have.
    cluster
        .until_status("Gateway", tag, "edge", has("192.0.2.7"))
        .await;
    let ingress = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.99", "ipMode": "VIP"}, {"hostname": "edge.example"}]}}});
    let services = cluster.api("Service", tag);
    let merge = kube::api::Patch::Merge(&ingress);
    services
        .patch_status("edge", &Default::default(), &merge)
        .await
        .unwrap();
    let status = cluster
        .until_status("Gateway", tag, "edge", has("192.0.2.99"))
        .await;
    let wanted = json!([{"type": "IPAddress", "value": "192.0.2.99"}, {"type": "Hostname", "value": "edge.example"}]);
    assert_eq!(status["addresses"], wanted, "{status:#}");
    cluster.delete("Service", tag, "edge").await;
    cluster
        .until_status("Gateway", tag, "edge", has("192.0.2.7"))
        .await;
    controller.end().await;
    cluster.close().await;
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
