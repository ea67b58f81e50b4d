//! Nodes, services and endpoints.

use serde_json::{Value, json};

use crate::environment::{Cluster, until};

fn endpoints(service: &Value) -> Vec<(String, String)> {
    let all = service["spec"]["endpoints"].as_array();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let one = |endpoint: &Value| (text(&endpoint["address"]), text(&endpoint["node"]));
    all.into_iter().flatten().map(one).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_have_positions_sites_and_regions() {
    let cluster = Cluster::open().await;
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| cluster.name(name));
    let zone = cluster.name("zone");
    let labels = json!({"topology.kubernetes.io/zone": zone, "topology.kubernetes.io/region": "Lombardia", "isobar.dev/site": "duomo"});
    let annotations = json!({"isobar.dev/latitude": "45.4641", "isobar.dev/longitude": "9.19"});
    cluster.apply(json!({"kind": "Node", "metadata": {"name": a, "labels": labels, "annotations": annotations}})).await;
    let in_zone = json!({"topology.kubernetes.io/zone": zone});
    cluster
        .apply(json!({"kind": "Node", "metadata": {"name": b, "labels": in_zone}}))
        .await;
    cluster
        .apply(json!({"kind": "Node", "metadata": {"name": c}}))
        .await;
    let table = format!("site,lat,lon,region\n{c},45.5,9.2,north\n");
    let data = json!({"sites.csv": table});
    cluster.apply(json!({"kind": "ConfigMap", "metadata": {"name": "isobar-sites", "namespace": cluster.tag}, "data": data})).await;
    cluster
        .apply(json!({"kind": "Node", "metadata": {"name": d}}))
        .await;
    cluster.apply(json!({"kind": "MeshNode", "metadata": {"name": d}, "spec": {"location": {"lat_deg": -36.8, "lon_deg": 174.7}, "site": "quay"}})).await;

    let controller = cluster.controller(0).await;
    let placed = |node: &Value| !node["spec"]["location"].is_null();
    let seen = controller.until(&format!("/v1/nodes/{a}"), placed).await;
    assert_eq!(
        seen["spec"],
        json!({"location": {"lat_deg": 45.4641, "lon_deg": 9.19}, "site": "duomo", "region": "lombardia"})
    );
    assert_eq!(
        seen["metadata"]["labels"]["isobar.dev/source"],
        "kubernetes"
    );
    // The middle of its zone, of which one node says where it is.
    let seen = controller.until(&format!("/v1/nodes/{b}"), placed).await;
    let near = |value: &Value, is: f64| (value.as_f64().unwrap() - is).abs() < 1e-6;
    assert!(
        near(&seen["spec"]["location"]["lat_deg"], 45.4641),
        "{seen}"
    );
    assert_eq!(seen["spec"]["site"], json!(zone));
    let seen = controller.until(&format!("/v1/nodes/{c}"), placed).await;
    assert_eq!(
        seen["spec"],
        json!({"location": {"lat_deg": 45.5, "lon_deg": 9.2}, "region": "north"})
    );
    let seen = controller.until(&format!("/v1/nodes/{d}"), placed).await;
    assert_eq!(
        seen["spec"],
        json!({"location": {"lat_deg": -36.8, "lon_deg": 174.7}, "site": "quay"})
    );
    cluster
        .until_status("MeshNode", None, &d, |status| {
            status["conditions"][0]["status"] == "True"
        })
        .await;

    // A node that moves, one that stands where another does, and one that is gone.
    cluster.apply_node(&a, "45.5", "9.2").await;
    controller
        .until(&format!("/v1/nodes/{a}"), |node| {
            node["spec"]["location"] == json!({"lat_deg": 45.5, "lon_deg": 9.2})
        })
        .await;
    cluster.delete("Node", None, &b).await;
    controller
        .until(&format!("/v1/nodes/{b}"), Value::is_null)
        .await;
    controller.end().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_follow_their_endpoints() {
    let cluster = Cluster::open().await;
    let node = cluster.name("n");
    cluster.apply_node(&node, "45.0", "9.0").await;
    let at = |address: &str| (address.to_owned(), node.clone());
    cluster
        .apply_service("cart", &[at("10.1.0.1"), at("10.1.0.2")])
        .await;
    let controller = cluster.controller(0).await;
    let path = format!("/v1/services/{}/cart", cluster.tag);
    let has = |wanted: &[&str]| {
        let wanted: Vec<_> = wanted
            .iter()
            .map(|a| (format!("{a}:8080"), node.clone()))
            .collect();
        move |service: &Value| endpoints(service) == wanted
    };
    let seen = controller
        .until(&path, has(&["10.1.0.1", "10.1.0.2"]))
        .await;
    assert_eq!(seen["spec"]["hosts"][0], format!("cart.{}", cluster.tag));
    // One more slice, one endpoint in both; then an endpoint goes.
    cluster
        .apply_slice("cart", "b", &[at("10.1.0.2"), at("10.1.0.3")])
        .await;
    controller
        .until(&path, has(&["10.1.0.1", "10.1.0.2", "10.1.0.3"]))
        .await;
    cluster.apply_slice("cart", "a", &[]).await;
    controller
        .until(&path, has(&["10.1.0.2", "10.1.0.3"]))
        .await;
    // A service without endpoints stays a service.
    cluster.apply_slice("cart", "b", &[]).await;
    controller.until(&path, has(&[])).await;
    // What is annotated.
    let annotations = json!({"isobar.dev/hosts": "cart.example", "isobar.dev/workers": "3", "isobar.dev/capacity-rps": "40"});
    cluster.apply_slice("cart", "b", &[at("10.1.0.4")]).await;
    cluster.apply(json!({"kind": "Service", "metadata": {"name": "cart", "namespace": cluster.tag, "annotations": annotations},
                         "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80, "protocol": "TCP", "appProtocol": "kubernetes.io/h2c"}]}})).await;
    let wanted =
        json!([{"node": node, "address": "10.1.0.4:8080", "workers": 3, "capacity_rps": 40.0}]);
    let seen = controller
        .until(&path, |service| service["spec"]["endpoints"] == wanted)
        .await;
    assert_eq!(seen["spec"]["hosts"][3], "cart.example");
    assert_eq!(seen["spec"]["protocol"], "http2");
    // Left out by its namespace's label.
    cluster.apply(json!({"kind": "Namespace", "metadata": {"name": cluster.tag, "labels": {"isobar.dev/mesh": "disabled"}}})).await;
    controller.until(&path, Value::is_null).await;
    controller.end().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_node_is_told_by_events() {
    let cluster = Cluster::open().await;
    let [nowhere, swapped] = ["nowhere", "swapped"].map(|name| cluster.name(name));
    cluster
        .apply(json!({"kind": "Node", "metadata": {"name": nowhere}}))
        .await;
    cluster.apply_node(&swapped, "103.8", "1.3").await;
    let controller = cluster.controller(0).await;
    for node in [&nowhere, &swapped] {
        let seen = controller
            .until(&format!("/v1/nodes/{node}"), |seen| !seen.is_null())
            .await;
        assert!(seen["spec"]["location"].is_null(), "{seen}");
    }
    let events = cluster.api("Event", None);
    for (node, reason, part) in [
        (&nowhere, "NoPosition", "never a target by distance"),
        (&swapped, "BadPosition", "look swapped"),
    ] {
        until("event", async || {
            let all = events.list(&Default::default()).await.unwrap().items;
            let fits = |event: &Value| {
                let note = event["note"].as_str().unwrap_or_default();
                event["regarding"]["name"] == **node
                    && event["reason"] == reason
                    && note.contains(part)
            };
            let found = all.iter().any(|event| fits(&event.data));
            found.then_some(()).ok_or(json!(all.len()))
        })
        .await;
    }
    controller.end().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_churn_everything_is_as_it_is_in_the_cluster() {
    let cluster = Cluster::open().await;
    let node = cluster.name("n");
    cluster.apply_node(&node, "45.0", "9.0").await;
    let endpoint =
        |slice: usize, round: usize, at: usize| (format!("10.{slice}.{round}.{at}"), node.clone());
    let slices = 4;
    for slice in 0..slices {
        cluster.apply_service(&format!("s{slice}"), &[]).await;
    }
    let controller = cluster.controller(0).await;
    let mut rng = fastrand::Rng::with_seed(7);
    let mut last = vec![Vec::new(); slices];
    for round in 0..60 {
        let slice = rng.usize(0..slices);
        let some: Vec<_> = (1..=rng.usize(1..40))
            .map(|at| endpoint(slice, round, at))
            .collect();
        cluster.apply_slice(&format!("s{slice}"), "a", &some).await;
        last[slice] = some;
    }
    for (slice, last) in last.iter().enumerate() {
        let mut wanted: Vec<_> = last
            .iter()
            .map(|(address, node)| (format!("{address}:8080"), node.clone()))
            .collect();
        wanted.sort();
        let path = format!("/v1/services/{}/s{slice}", cluster.tag);
        controller
            .until(&path, |service| {
                let mut seen = endpoints(service);
                seen.sort();
                !service.is_null() && seen == wanted
            })
            .await;
    }
    controller.end().await;
    cluster.close().await;
}

/// 10,000 endpoints, of which 100 a second change for three seconds; meanwhile the watches break, and the server goes away and comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_endpoints_that_change_all_the_time_are_followed() {
    const SERVICES: usize = 100;
    const ENDPOINTS: usize = 100;
    const CHANGES: usize = 300;
    let cluster = Cluster::open().await;
    let nodes: Vec<String> = (0..20).map(|n| cluster.name(&format!("n{n}"))).collect();
    for (at, node) in nodes.iter().enumerate() {
        cluster
            .apply_node(node, &format!("{}.0", 40 + at % 10), "9.0")
            .await;
    }
    let first = |service: usize| -> Vec<(String, String)> {
        let one = |at: usize| {
            (
                format!("10.{service}.0.{at}"),
                nodes[at % nodes.len()].clone(),
            )
        };
        (1..=ENDPOINTS).map(one).collect()
    };
    let mut last: Vec<Vec<(String, String)>> = (0..SERVICES).map(first).collect();
    for (service, endpoints) in last.iter().enumerate() {
        cluster
            .apply_service(&format!("s{service}"), endpoints)
            .await;
    }
    let controller = cluster.controller(0).await;
    let path = |service: usize| format!("/v1/services/{}/s{service}", cluster.tag);
    let whole = |service: &Value| endpoints(service).len() == ENDPOINTS;
    controller.until(&path(SERVICES - 1), whole).await;
    let mut rng = fastrand::Rng::with_seed(11);
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(10));
    for change in 0..CHANGES {
        ticks.tick().await;
        let (service, at) = (rng.usize(0..SERVICES), rng.usize(0..ENDPOINTS));
        last[service][at].0 = format!("10.{service}.{}.{}", 1 + change / 200, 1 + change % 200);
        cluster
            .apply_slice(&format!("s{service}"), "a", &last[service])
            .await;
        match change {
            100 => cluster.link.sever(),
            200 => {
                cluster.link.stop();
                cluster.link.come_back().await;
            }
            _ => {}
        }
    }
    for (service, last) in last.iter().enumerate() {
        let one = |(address, node): &(String, String)| (format!("{address}:8080"), node.clone());
        let mut wanted: Vec<_> = last.iter().map(one).collect();
        wanted.sort();
        let is = |service: &Value| {
            let mut seen = endpoints(service);
            seen.sort();
            seen == wanted
        };
        controller.until(&path(service), is).await;
    }
    controller.end().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_find_what_they_need_to_enrol() {
    let cluster = Cluster::open().await;
    let controller = cluster.controller(0).await;
    let file = |name: &str| std::fs::read_to_string(cluster.data_dir(0).join(name)).unwrap();
    let roots = cluster.api("ConfigMap", Some(&cluster.tag));
    let published = until("roots", async || match roots.get("isobar-roots").await {
        Ok(map) => Ok(map.data),
        Err(error) => Err(json!(error.to_string())),
    })
    .await;
    assert_eq!(published["data"]["ca.pem"], file("ca.pem"));
    let secrets = cluster.api("Secret", Some(&cluster.tag));
    until("token", async || {
        let found = secrets.get("isobar-enrolment").await;
        found.map(|_| ()).map_err(|error| json!(error.to_string()))
    })
    .await;
    controller.end().await;
    cluster.close().await;
}
