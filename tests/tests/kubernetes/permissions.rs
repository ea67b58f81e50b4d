//! The controller's permissions are exactly sufficient: it asks for every one that the manifests give it, for no other, and says so when one
//! is missing.

use std::collections::BTreeSet;
use std::path::Path;

use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use serde_json::{Value, json};

use crate::environment::{Cluster, client_of, condition, until};

/// Verb and resource of every rule for the controller.
fn granted() -> BTreeSet<(String, String)> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = tests.parent().unwrap().join("k3s/base/rbac.yaml");
    let text = std::fs::read_to_string(file).unwrap();
    let mut granted = BTreeSet::new();
    for document in text.split("\n---\n") {
        let role: Value = serde_saphyr::from_str(document).unwrap();
        let words = |rule: &Value, field: &str| -> Vec<String> {
            let words = rule[field].as_array().unwrap().iter();
            words
                .map(|word| word.as_str().unwrap().to_owned())
                .collect()
        };
        for rule in role["rules"].as_array().into_iter().flatten() {
            for resource in words(rule, "resources") {
                let verbs = words(rule, "verbs").into_iter();
                granted.extend(verbs.map(|verb| (verb, resource.clone())));
            }
        }
    }
    granted
}

/// How metrics for autoscalers are registered.
pub fn external_metrics() -> Value {
    json!({"group": "external.metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
           "service": {"name": "isobar-controller", "namespace": "isobar-system"}})
}

/// One object of every kind, one of them with something wrong.
async fn fill(cluster: &Cluster) {
    let node = cluster.name("n");
    cluster
        .apply(json!({"kind": "Node", "metadata": {"name": node}}))
        .await;
    cluster
        .apply(json!({"kind": "MeshNode", "metadata": {"name": "far"}, "spec": {}}))
        .await;
    cluster
        .apply(json!({"kind": "WeightPolicy", "metadata": {"name": "w"}, "spec": {}}))
        .await;
    cluster
        .apply(json!({"kind": "TrafficPolicy", "metadata": {"name": "t"}, "spec": {}}))
        .await;
    cluster
        .apply_service("cart", &[("10.1.0.1".to_owned(), node)])
        .await;
    cluster
        .apply(json!({"kind": "AccessPolicy", "metadata": {"name": "a"}, "spec": {"services": ["shop/cart"]}}))
        .await;
    cluster
        .apply(json!({"kind": "GatewayClass", "metadata": {"name": "isobar"}, "spec": {"controllerName": "isobar.dev/controller"}}))
        .await;
    cluster
        .apply(json!({"kind": "Gateway", "metadata": {"name": "edge", "namespace": cluster.tag},
                      "spec": {"gatewayClassName": "isobar", "listeners": [{"name": "http", "protocol": "HTTP", "port": 7410}, {"name": "db", "protocol": "TCP", "port": 5432}]}}))
        .await;
    cluster
        .apply(json!({"kind": "TCPRoute", "metadata": {"name": "r", "namespace": cluster.tag},
                      "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "db", "port": 5432}]}]}}))
        .await;
    cluster
        .apply(json!({"kind": "MutatingWebhookConfiguration", "metadata": {"name": "isobar-injection"}, "webhooks": [{"name": "a.isobar.dev", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                          "clientConfig": {"service": {"name": "isobar-controller", "namespace": "isobar-system"}}}]}))
        .await;
    cluster
        .apply(json!({"kind": "APIService", "metadata": {"name": "v1beta1.external.metrics.k8s.io"}, "spec": external_metrics()}))
        .await;
    for kind in ["HTTPRoute", "GRPCRoute"] {
        cluster.apply(json!({"kind": kind, "metadata": {"name": "r", "namespace": cluster.tag},
                             "spec": {"parentRefs": [{"name": "isobar"}], "hostnames": ["a.example"],
                                      "rules": [{"backendRefs": [{"name": "cart", "port": 80}]}]}})).await;
    }
}

/// What a cluster shows when a controller has done all of its work.
async fn settle(cluster: &Cluster) {
    for (kind, namespace, name) in [
        ("MeshNode", None, "far"),
        ("WeightPolicy", None, "w"),
        ("TrafficPolicy", None, "t"),
        ("AccessPolicy", None, "a"),
        ("GatewayClass", None, "isobar"),
        ("Gateway", Some(cluster.tag.as_str()), "edge"),
        ("HTTPRoute", Some(cluster.tag.as_str()), "r"),
        ("GRPCRoute", Some(cluster.tag.as_str()), "r"),
        ("TCPRoute", Some(cluster.tag.as_str()), "r"),
    ] {
        cluster
            .until_status(kind, namespace, name, |status| {
                let of_route = &status["parents"][0]["conditions"];
                let conditions = if of_route.is_null() {
                    &status["conditions"]
                } else {
                    of_route
                };
                condition(conditions, "Accepted")["status"] == "True"
            })
            .await;
    }
}

/// What `k3s/base/rbac.yaml` grants, to an account of the test's namespace, under names of the test. What is in `kube-system` stays out: it is
/// for the front proxy alone.
async fn grant(cluster: &Cluster) {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = tests.parent().unwrap().join("k3s/base/rbac.yaml");
    let text = std::fs::read_to_string(file).unwrap();
    for document in text.split("\n---\n") {
        let mut object: Value = serde_saphyr::from_str(&format!("{document}\n")).unwrap();
        let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
        match namespace.as_deref() {
            Some("kube-system") => continue,
            Some(_) => object["metadata"]["namespace"] = json!(cluster.tag),
            None => {
                let name = object["metadata"]["name"].as_str().unwrap();
                let name = json!(cluster.name(name));
                if object["kind"] == "ClusterRoleBinding" {
                    object["roleRef"]["name"] = name.clone();
                }
                object["metadata"]["name"] = name;
            }
        }
        for subject in object["subjects"].as_array_mut().into_iter().flatten() {
            subject["namespace"] = json!(cluster.tag);
        }
        cluster.apply(object).await;
    }
}

/// One object of every kind that has a status, under names of the test: kind, namespace, name.
async fn fill_by_name(cluster: &Cluster) -> Vec<(&'static str, bool, String)> {
    let (node, class) = (cluster.name("n"), cluster.name("class"));
    let services = json!([format!("{}/cart", cluster.tag)]);
    cluster
        .apply(json!({"kind": "Node", "metadata": {"name": node}}))
        .await;
    cluster
        .apply_service("cart", &[("10.1.0.1".to_owned(), node.clone())])
        .await;
    let parents = json!([{"name": "edge"}]);
    let rules = json!([{"backendRefs": [{"name": "cart", "port": 80}]}]);
    let route = json!({"parentRefs": parents, "rules": rules});
    let listeners = json!([{"name": "http", "protocol": "HTTP", "port": 7410}, {"name": "db", "protocol": "TCP", "port": 5432}]);
    let all = [
        ("MeshNode", false, node, json!({})),
        (
            "WeightPolicy",
            false,
            cluster.name("w"),
            json!({"services": services}),
        ),
        (
            "TrafficPolicy",
            false,
            cluster.name("t"),
            json!({"services": services}),
        ),
        (
            "AccessPolicy",
            false,
            cluster.name("a"),
            json!({"services": services}),
        ),
        (
            "GatewayClass",
            false,
            class.clone(),
            json!({"controllerName": "isobar.dev/controller"}),
        ),
        (
            "Gateway",
            true,
            "edge".to_owned(),
            json!({"gatewayClassName": class, "listeners": listeners}),
        ),
        ("HTTPRoute", true, "r".to_owned(), route.clone()),
        ("GRPCRoute", true, "r".to_owned(), route.clone()),
        ("TCPRoute", true, "r".to_owned(), route),
    ];
    let mut made = Vec::new();
    for (kind, is_namespaced, name, spec) in all {
        let mut object = json!({"kind": kind, "metadata": {"name": name}, "spec": spec});
        if is_namespaced {
            object["metadata"]["namespace"] = json!(cluster.tag);
        }
        cluster.apply(object).await;
        made.push((kind, is_namespaced, name));
    }
    made
}

/// On a cluster that asks who may: with exactly these permissions the controller does all its work, and none of its watches fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_manifests_grant_is_enough() {
    let cluster = Cluster::open().await;
    grant(&cluster).await;
    let made = fill_by_name(&cluster).await;
    let token = cluster.account_token("isobar-controller", None, None).await;
    let kubeconfig = cluster.kubeconfig_with(&token, "account");
    // A role is heard of by those who ask about it a moment after it is written.
    let reviews = kube::Api::<SelfSubjectAccessReview>::all(client_of(&kubeconfig).await);
    for (namespace, verb, resource) in [
        ("", "watch", "services"),
        (cluster.tag.as_str(), "create", "secrets"),
    ] {
        let attributes = json!({"namespace": namespace, "verb": verb, "resource": resource});
        let review = json!({"metadata": {}, "spec": {"resourceAttributes": attributes}});
        let review: SelfSubjectAccessReview = serde_json::from_value(review).unwrap();
        until("the account's permissions", async || {
            let answer = reviews.create(&Default::default(), &review).await;
            match answer.map_err(|error| json!(error.to_string()))?.status {
                Some(status) if status.allowed => Ok(()),
                status => Err(json!(status)),
            }
        })
        .await;
    }
    let controller = cluster
        .controller_with(0, |kubernetes| kubernetes.kubeconfig = Some(kubeconfig))
        .await;
    for (kind, is_namespaced, name) in &made {
        let namespace = is_namespaced.then_some(cluster.tag.as_str());
        let is = |status: &Value| {
            let of_route = &status["parents"][0]["conditions"];
            let of = if of_route.is_null() {
                &status["conditions"]
            } else {
                of_route
            };
            condition(of, "Accepted")["status"] == "True"
        };
        cluster.until_status(kind, namespace, name, is).await;
    }
    // Proxies can enrol, operators are told, and callers are asked who they are.
    for (kind, name) in [
        ("ConfigMap", "isobar-roots"),
        ("Secret", "isobar-enrolment"),
    ] {
        let api = cluster.api(kind, Some(&cluster.tag));
        until(name, async || {
            let found = api.get(name).await;
            found.map(|_| ()).map_err(|error| json!(error.to_string()))
        })
        .await;
    }
    let (events, node) = (cluster.api("Event", Some("default")), cluster.name("n"));
    until("an event", async || {
        let all = events.list(&Default::default()).await;
        let all = all.map_err(|error| json!(error.to_string()))?.items;
        let is_told = all
            .iter()
            .any(|event| event.data["regarding"]["name"] == node);
        is_told.then_some(()).ok_or(json!(all.len()))
    })
    .await;
    let path = format!("/load/{}/cart", cluster.tag);
    for (token, wanted) in [(token.as_str(), 403), ("eyJ.made.up", 401)] {
        let header = format!("authorization: Bearer {token}\r\n");
        let (status, answer) = controller.call(("GET", &path), &header, b"", None).await;
        assert_eq!(status, wanted, "{answer}");
    }
    let metrics = controller.get("/metrics").await;
    let failures = metrics.as_str().unwrap().lines();
    let failures = failures
        .filter(|line| line.starts_with("isobar_controller_kubernetes_watch_failures_total"));
    let failures: Vec<&str> = failures.filter(|line| !line.ends_with(" 0")).collect();
    assert!(failures.is_empty(), "{failures:?}");
    controller.end().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manifests_grant_what_is_asked_for_and_nothing_else() {
    let Some(cluster) =
        Cluster::own("it counts what the API server is asked, and refuses verbs").await
    else {
        return;
    };
    fill(&cluster).await;
    let controller = cluster.controller(0).await;
    settle(&cluster).await;
    // Somebody with a token asks for metrics.
    let user = json!({"username": "ada"});
    cluster.server().know_token("a-token", user, &["api"]);
    let path = "/apis/external.metrics.k8s.io/v1beta1/namespaces/shop/isobar_demand_rps";
    let token = "authorization: Bearer a-token\r\n";
    let (status, _) = controller.call(("GET", path), token, b"", None).await;
    assert_eq!(status, 403);
    let mut granted = granted();
    // An event that happens again within minutes patches the one before; the suite does not wait for that.
    assert!(granted.remove(&("patch".to_owned(), "events".to_owned())));
    // A patch that applies creates what is not there: Kubernetes asks for both verbs.
    for resource in ["configmaps", "secrets"] {
        assert!(granted.remove(&("create".to_owned(), resource.to_owned())));
    }
    until("permissions asked for", async || {
        let asked = cluster.server().all_asked();
        let missing: Vec<_> = granted.difference(&asked).collect();
        missing.is_empty().then_some(()).ok_or(json!(missing))
    })
    .await;
    controller.end().await;
    assert_eq!(cluster.server().all_asked(), granted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_permission_that_is_missing_takes_away_its_kind_alone() {
    let Some(cluster) = Cluster::own("it has the API server refuse verbs").await else {
        return;
    };
    fill(&cluster).await;
    for (verb, resource, path) in [
        ("list", "httproutes", "/v1/http-routes"),
        ("list", "endpointslices", "/v1/services"),
        ("list", "weightpolicies", "/v1/weight-policies"),
    ] {
        cluster.server().forbid(verb, resource);
        let controller = cluster.controller(u32::try_from(path.len()).unwrap()).await;
        let metric =
            format!("isobar_controller_kubernetes_watch_failures_total{{resource=\"{resource}\"}}");
        controller
            .until("/metrics", |text| {
                text.as_str().is_some_and(|text| text.contains(&metric))
            })
            .await;
        controller
            .until("/v1/nodes", |nodes| {
                nodes["items"].as_array().is_some_and(|n| !n.is_empty())
            })
            .await;
        controller
            .until("/v1/traffic-policies", |all| {
                all["items"].as_array().is_some_and(|n| !n.is_empty())
            })
            .await;
        assert_eq!(controller.get(path).await["items"], json!([]), "{resource}");
        cluster.server().allow_all();
        controller.end().await;
    }
}

/// Whether the controller's watches of a resource fail.
async fn watch_fails(controller: &crate::environment::Controller, resource: &str) {
    let metric =
        format!("isobar_controller_kubernetes_watch_failures_total{{resource=\"{resource}\"}}");
    let has = |text: &Value| text.as_str().is_some_and(|text| text.contains(&metric));
    controller.until("/metrics", has).await;
}

/// Permissions are taken away by groups whose absence shows in different things, so that each shows by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_permission_that_is_missing_makes_something_fail() {
    let Some(cluster) =
        Cluster::own("it has the API server refuse verbs, and counts what it is asked").await
    else {
        return;
    };
    fill(&cluster).await;
    let granted = granted();
    let of = |wanted: &str| {
        let all = granted.iter().filter(|(verb, _)| verb == wanted);
        all.map(|(_, resource)| resource.clone())
            .collect::<Vec<_>>()
    };
    for (number, verb) in [(0, "list"), (1, "watch")] {
        of(verb)
            .iter()
            .for_each(|resource| cluster.server().forbid(verb, resource));
        let controller = cluster.controller(number).await;
        for resource in of(verb) {
            watch_fails(&controller, &resource).await;
        }
        controller.end().await;
        cluster.server().allow_all();
    }
    // What is read by its name, where nothing was written before: the API server is not told by whom it knows us, and its front proxy is not known.
    let Some(cluster) =
        Cluster::own("it has the API server refuse verbs, and counts what it is asked").await
    else {
        return;
    };
    fill(&cluster).await;
    of("get")
        .iter()
        .for_each(|resource| cluster.server().forbid("get", resource));
    let controller = cluster.controller(3).await;
    settle(&cluster).await;
    until("all asked for in vain", async || {
        let asked = |resource: &String| cluster.server().asked("get", resource) > 0;
        of("get").iter().all(asked).then_some(()).ok_or(json!(null))
    })
    .await;
    for resource in ["mutatingwebhookconfigurations", "apiservices"] {
        assert_eq!(cluster.server().asked("patch", resource), 0, "{resource}");
    }
    controller.end().await;
    cluster.server().allow_all();
    let Some(cluster) =
        Cluster::own("it has the API server refuse verbs, and counts what it is asked").await
    else {
        return;
    };
    fill(&cluster).await;
    // Everything that is written: nothing of it is there, though it is all known.
    for verb in ["create", "patch"] {
        of(verb)
            .iter()
            .for_each(|resource| cluster.server().forbid(verb, resource));
    }
    let controller = cluster.controller(2).await;
    cluster
        .server()
        .know_token("a-token", json!({"username": "ada"}), &["api"]);
    let known = |all: &Value| all["items"].as_array().is_some_and(|n| !n.is_empty());
    for path in [
        "/v1/nodes",
        "/v1/access-policies",
        "/v1/http-routes",
        "/v1/grpc-routes",
    ] {
        controller.until(path, known).await;
    }
    until("all asked for in vain", async || {
        let asked = cluster.server().all_asked();
        let patched = of("patch")
            .into_iter()
            .filter(|resource| resource != "events");
        let missing: Vec<String> = patched
            .filter(|resource| !asked.contains(&("patch".to_owned(), resource.clone())))
            .collect();
        missing.is_empty().then_some(()).ok_or(json!(missing))
    })
    .await;
    let token = "authorization: Bearer a-token\r\n";
    let path = "/apis/external.metrics.k8s.io/v1beta1/namespaces/shop/isobar_demand_rps";
    let (status, _) = controller.call(("GET", path), token, b"", None).await;
    assert_eq!(status, 503, "tokenreviews");
    cluster.server().allow("create", "tokenreviews");
    let (status, _) = controller.call(("GET", path), token, b"", None).await;
    assert_eq!(status, 503, "subjectaccessreviews");
    for (kind, namespace, name) in [
        ("MeshNode", None, "far"),
        ("WeightPolicy", None, "w"),
        ("TrafficPolicy", None, "t"),
        ("AccessPolicy", None, "a"),
        ("GatewayClass", None, "isobar"),
        ("Gateway", Some(cluster.tag.as_str()), "edge"),
        ("HTTPRoute", Some(cluster.tag.as_str()), "r"),
        ("GRPCRoute", Some(cluster.tag.as_str()), "r"),
        ("TCPRoute", Some(cluster.tag.as_str()), "r"),
    ] {
        let object = cluster.api(kind, namespace).get(name).await.unwrap();
        let said = object.data["status"].to_string();
        assert!(!said.contains("observedGeneration"), "{kind}: {said}");
    }
    for (kind, name) in [
        ("MutatingWebhookConfiguration", "isobar-injection"),
        ("APIService", "v1beta1.external.metrics.k8s.io"),
    ] {
        let object = cluster.api(kind, None).get(name).await.unwrap();
        assert!(!object.data.to_string().contains("caBundle"), "{kind}");
    }
    for (kind, name) in [
        ("ConfigMap", "isobar-roots"),
        ("Secret", "isobar-enrolment"),
    ] {
        assert!(
            cluster
                .api(kind, Some(&cluster.tag))
                .get(name)
                .await
                .is_err(),
            "{name}"
        );
    }
    let events = cluster
        .api("Event", None)
        .list(&Default::default())
        .await
        .unwrap();
    assert!(events.items.is_empty(), "events");
    controller.end().await;
}
