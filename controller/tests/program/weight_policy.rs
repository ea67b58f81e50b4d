//! What a weight policy says is what happens.

use http::{Method, StatusCode};
use isobar_mesh_api::message::{Down, Up};
use isobar_mesh_api::snapshot::Row;
use serde_json::{Value, json};

use crate::mesh::{Mesh, PATIENCE};
use crate::proxy::{Proxy, Stream, report};

/// `a` with more demand than it has room for, and three idle neighbours: `b` and `c` in the south, `d` in the north.
struct Four {
    mesh: Mesh,
    at_a: Stream,
    neighbours: Vec<tokio::task::JoinHandle<()>>,
}

impl Four {
    async fn start() -> Four {
        let mesh = Mesh::start().await;
        let door = mesh.door();
        let mut neighbours = Vec::new();
        for (name, lon_deg) in [("b", 9.1), ("c", 9.2), ("d", 9.3)] {
            let proxy = Proxy::enrolled(&door, name).await;
            let hello = proxy.hello_at(lon_deg, 100.0);
            let mut stream = proxy.stream(&door, hello).await.unwrap();
            neighbours.push(tokio::spawn(async move {
                while let Some(down) = stream.next().await {
                    if let Down::Ping { .. } = down {
                        stream.send(&Up::Report(report(0))).await;
                    }
                }
            }));
        }
        let a = Proxy::enrolled(&door, "a").await;
        let at_a = a.stream(&door, a.hello_at(9.0, 100.0)).await.unwrap();
        let four = Four {
            mesh,
            at_a,
            neighbours,
        };
        for (name, region) in [
            ("a", "south"),
            ("b", "south"),
            ("c", "south"),
            ("d", "north"),
        ] {
            let labels = json!({ "power": if name == "c" { "solar" } else { "grid" } });
            let node = json!({
                "kind": "Node",
                "metadata": { "name": name, "labels": labels },
                "spec": { "region": region }
            });
            four.put(&format!("/v1/nodes/{name}"), &node).await;
        }
        four
    }

    async fn put(&self, path: &str, body: &Value) -> Value {
        let (status, value) = self.mesh.rest(Method::PUT, path, &body.to_string()).await;
        assert!(status.is_success(), "{status} {value}");
        value
    }

    async fn policy(&self, name: &str, spec: Value) -> Value {
        let body = json!({ "kind": "WeightPolicy", "metadata": { "name": name }, "spec": spec });
        self.put(&format!("/v1/weight-policies/{name}"), &body)
            .await
    }

    /// Reports a demand of 150 until the plan's row for `a` fits, as `explain` shows it: it does not wait to be told.
    async fn until(&mut self, what: &str, part: &str, fits: impl Fn(&Row) -> bool) {
        let seen = async {
            loop {
                self.at_a.send(&Up::Report(report(150))).await;
                let path = "/v1/explain/shop/cart/a";
                let (status, why) = self.mesh.rest(Method::GET, path, "").await;
                if status == StatusCode::OK {
                    let row: Row = serde_json::from_value(why[part].clone()).unwrap();
                    if fits(&row) {
                        return;
                    }
                }
                let _ = self.at_a.next().await;
            }
        };
        let seen = tokio::time::timeout(PATIENCE, seen).await;
        seen.unwrap_or_else(|_| panic!("{what}: no such row"));
    }

    async fn stop(self) {
        self.mesh.stop().await;
        for neighbour in self.neighbours {
            neighbour.await.unwrap();
        }
    }
}

fn goes_to(row: &Row) -> Vec<&str> {
    row.moves.iter().map(|m| m.to.as_str()).collect()
}

#[tokio::test]
async fn selectors_costs_pins_and_limits_shape_the_row() {
    let mut four = Four::start().await;
    let cases = [
        ("nearest alone", json!({"neighbours": 1}), &["b"][..]),
        (
            "targets by label",
            json!({"targets": {"labels": {"power": "solar"}}}),
            &["c"],
        ),
        (
            "targets by region",
            json!({"targets": {"regions": ["north"]}}),
            &["d"],
        ),
        (
            "forbidden",
            json!({"targets_forbidden": {"nodes": ["b", "c"]}}),
            &["d"],
        ),
        (
            "own region",
            json!({"own_region_only": true, "targets_forbidden": {"nodes": ["b"]}}),
            &["c"],
        ),
        (
            "costs",
            json!({"costs": [{"to": {"regions": ["south"]}, "cost_us": 60000000}]}),
            &["d"],
        ),
        (
            "homes that may not",
            json!({"homes": {"nodes": ["b"]}}),
            &[],
        ),
        ("kept home", json!({"keep_home_min_rps": 150}), &[]),
        (
            "not enabled, the default decides",
            json!({"enabled": false, "move_max": 0}),
            &["b"],
        ),
    ];
    for (what, spec, expected) in cases {
        four.policy("p", spec).await;
        four.until(what, "row", |row| {
            let goes = goes_to(row);
            goes == expected || (what.starts_with("not") && !goes.is_empty())
        })
        .await;
    }
    four.policy("p", json!({"pinned_weights": {"a": {"d": 100000}}}))
        .await;
    four.until("pinned", "row", |row| {
        let to_d = row.moves.iter().find(|m| m.to.as_str() == "d");
        row.sum_ppm() == 1_000_000
            && to_d.is_some_and(|m| m.weight_ppm.abs_diff(100_000) < 1_000)
            && row.home_ppm < 600_000
    })
    .await;
    let why = four
        .mesh
        .rest(Method::GET, "/v1/explain/shop/cart/a", "")
        .await
        .1;
    assert_eq!(why["policy"]["name"], "p");
    four.stop().await;
}

#[tokio::test]
async fn a_policy_that_only_observes_shows_its_plan_and_moves_nothing() {
    let mut four = Four::start().await;
    four.until("moves", "row", |row| !row.moves.is_empty())
        .await;
    four.policy("p", json!({"observe_only": true})).await;
    four.until("stays", "row", |row| row.moves.is_empty()).await;
    four.until("shown", "planned", |row| !row.moves.is_empty())
        .await;
    let why = four
        .mesh
        .rest(Method::GET, "/v1/explain/shop/cart/a", "")
        .await
        .1;
    let held = why["held_by"].as_array().unwrap();
    assert!(
        held.iter().any(|h| h["constraint"] == "observe_only"),
        "{why}"
    );
    four.policy("p", json!({"observe_only": false})).await;
    four.until("moves again", "row", |row| !row.moves.is_empty())
        .await;
    four.stop().await;
}

#[tokio::test]
async fn of_several_policies_one_decides_and_the_others_are_named() {
    let mut four = Four::start().await;
    let service = json!({
        "kind": "Service",
        "metadata": { "name": "cart", "namespace": "shop", "labels": { "tier": "front" } },
        "spec": {}
    });
    four.put("/v1/services/shop/cart", &service).await;
    let chosen = async |four: &Four| {
        let why = four
            .mesh
            .rest(Method::GET, "/v1/explain/shop/cart/a", "")
            .await
            .1;
        let policy = &why["policy"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (
            text(&policy["name"]),
            policy["overruled"].clone(),
            text(&policy["because"]),
        )
    };
    four.until("there", "row", |_| true).await;
    four.policy("a-all", json!({})).await;
    assert_eq!(chosen(&four).await.0, "a-all");
    four.policy("z-label", json!({"labels": {"tier": "front"}}))
        .await;
    assert_eq!(chosen(&four).await.0, "z-label");
    four.policy("z-name", json!({"services": ["shop/cart"]}))
        .await;
    let (name, overruled, _) = chosen(&four).await;
    assert_eq!(
        (name.as_str(), overruled),
        ("z-name", json!(["z-label", "a-all"]))
    );
    // Two alike: the first by name, and it is said; a precedence settles it.
    four.policy("b-name", json!({"services": ["shop/cart"]}))
        .await;
    let (name, _, because) = chosen(&four).await;
    assert_eq!(name, "b-name");
    assert!(because.contains("higher precedence"), "{because}");
    let said = four
        .policy(
            "z-name",
            json!({"services": ["shop/cart"], "precedence": 1}),
        )
        .await;
    assert_eq!(said["status"]["decides_for"], json!(["shop/cart"]));
    assert_eq!(chosen(&four).await.0, "z-name");
    let other = four
        .mesh
        .rest(Method::GET, "/v1/weight-policies/b-name", "")
        .await
        .1;
    let by = json!([{"service": "shop/cart", "by": "z-name"}]);
    assert_eq!(other["status"]["overruled"], by);
    // One whose time is over is none.
    let over = json!([{"to": "2020-01-01T00:00:00Z"}]);
    let spec = json!({"services": ["shop/cart"], "precedence": 1, "schedule": over});
    let said = four.policy("z-name", spec).await;
    assert_eq!(said["status"]["in_force"], false);
    assert_eq!(chosen(&four).await.0, "b-name");
    four.stop().await;
}

#[tokio::test]
async fn a_priority_is_checked_and_decides_whose_busy_processors_are() {
    let mut four = Four::start().await;
    let spec = |priority: Value| json!({ "services": ["shop/cart"], "priority": priority });
    let put = |priority: Value| {
        let metadata = json!({ "name": "p" });
        json!({ "kind": "WeightPolicy", "metadata": metadata, "spec": spec(priority) }).to_string()
    };
    for bad in [
        json!(101),
        json!(-101),
        json!(1.5),
        json!("high"),
        json!([1]),
        json!(i64::MAX),
    ] {
        let path = "/v1/weight-policies/p";
        let (status, said) = four.mesh.rest(Method::PUT, path, &put(bad.clone())).await;
        assert!(status.is_client_error(), "{bad}: {status} {said}");
        assert!(said.to_string().contains("priority"), "{bad}: {said}");
    }
    let batch = json!({
        "kind": "Service",
        "metadata": { "name": "batch", "namespace": "shop" },
        "spec": { "hosts": ["batch.example"], "endpoints": [
            { "node": "a", "address": "127.0.0.1:9001", "workers": 4, "capacity_rps": 100.0 }
        ] }
    });
    four.put("/v1/services/shop/batch", &batch).await;
    four.policy("p", spec(json!(10))).await;
    let explain = async |four: &Four, service: &str| {
        let path = format!("/v1/explain/shop/{service}/a");
        four.mesh.rest(Method::GET, &path, "").await.1
    };
    let seen = async {
        loop {
            let mut busy = report(60);
            busy.cpu_ratio = Some(1.0);
            busy.services[0].completed = 60;
            let mut other = busy.services[0].clone();
            other.service = isobar_mesh_api::names::ServiceName::new("shop/batch").unwrap();
            busy.services.push(other);
            four.at_a.send(&Up::Report(busy)).await;
            let [cart, batch] = [explain(&four, "cart").await, explain(&four, "batch").await];
            let left = |why: &Value| why["capacity"]["cpu_factor"].as_f64();
            if left(&batch).is_some_and(|batch| batch < left(&cart).unwrap_or(0.0)) {
                return (cart, batch);
            }
            let _ = four.at_a.next().await;
        }
    };
    let seen = tokio::time::timeout(PATIENCE, seen).await;
    let (cart, batch) = seen.expect("the important one comes first");
    assert_eq!(cart["capacity"]["priority"], 10);
    assert_eq!(batch["capacity"]["priority"], 0);
    let held = |why: &Value| why["held_by"].to_string();
    assert!(
        held(&cart).contains("taken from shop/batch (0) first"),
        "{cart}"
    );
    assert!(
        held(&batch).contains("serve shop/cart (10) first"),
        "{batch}"
    );
    // The other way round, tried and not done.
    let path = "/v1/weight-policies/p?dry_run=true";
    let (status, said) = four.mesh.rest(Method::PUT, path, &put(json!(-10))).await;
    assert_eq!(status, StatusCode::OK, "{said}");
    let seats = said["plan"]["seats"].as_array().unwrap();
    let of = |service: &str| {
        let is_it = |seat: &&Value| seat["service"] == service && seat["node"] == "a";
        let seat = seats.iter().find(is_it).unwrap_or(&Value::Null);
        [&seat["before"], &seat["after"]].map(|load| load["capacity_rps"].as_f64().unwrap())
    };
    let [before, after] = of("shop/batch");
    assert!(after > before, "{said}");
    let [before, after] = of("shop/cart");
    assert!(after < before, "{said}");
    four.stop().await;
}
