//! Custom resources and their status.

use serde_json::{Value, json};

use crate::environment::{Cluster, condition};

fn is_accepted(status: &Value, wanted: &str) -> bool {
    let accepted = condition(&status["conditions"], "Accepted");
    accepted["status"] == wanted
        && status["observedGeneration"] == status["generation"]
        && accepted["observedGeneration"] == status["generation"]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_is_in_force_and_says_so() {
    let cluster = Cluster::open().await;
    let name = cluster.name("policy");
    let policy =
        |spec: Value| json!({"kind": "WeightPolicy", "metadata": {"name": name}, "spec": spec});
    let services = json!([format!("{}/cart", cluster.tag)]);
    cluster
        .apply(policy(json!({"services": services, "neighbours": 3})))
        .await;
    let controller = cluster.controller(0).await;
    let path = format!("/v1/weight-policies/{name}");
    controller
        .until(&path, |policy| policy["spec"]["neighbours"] == 3)
        .await;
    let status = cluster
        .until_status("WeightPolicy", None, &name, |s| is_accepted(s, "True"))
        .await;
    let since = condition(&status["conditions"], "Accepted")["lastTransitionTime"].clone();

    // Another spec: the new generation is observed, the condition is as old as it was.
    cluster
        .apply(policy(json!({"services": services, "neighbours": 5})))
        .await;
    controller
        .until(&path, |policy| policy["spec"]["neighbours"] == 5)
        .await;
    let status = cluster
        .until_status("WeightPolicy", None, &name, |s| {
            is_accepted(s, "True") && s["generation"] == 2
        })
        .await;
    assert_eq!(
        condition(&status["conditions"], "Accepted")["lastTransitionTime"],
        since
    );

    // Each field is in its range, together they are not: refused by name, and the last one stays.
    cluster.apply(policy(json!({"services": services, "neighbours": 9, "target_utilisation": 0.9, "ceiling_utilisation": 0.8}))).await;
    let status = cluster
        .until_status("WeightPolicy", None, &name, |s| is_accepted(s, "False"))
        .await;
    let message = condition(&status["conditions"], "Accepted")["message"]
        .as_str()
        .unwrap();
    assert!(message.contains("ceiling_utilisation"), "{message}");
    assert_eq!(controller.get(&path).await["spec"]["neighbours"], 5);

    // The REST API does not write over what the cluster says.
    let written = policy(json!({"neighbours": 1}));
    assert_eq!(controller.put(&path, &written).await, 409);

    cluster
        .apply(policy(json!({"services": services, "neighbours": 7})))
        .await;
    controller
        .until(&path, |policy| policy["spec"]["neighbours"] == 7)
        .await;
    cluster
        .until_status("WeightPolicy", None, &name, |s| {
            is_accepted(s, "True") && s["generation"] == 4
        })
        .await;
    cluster.delete("WeightPolicy", None, &name).await;
    controller.until(&path, Value::is_null).await;
    controller.end().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_policies_come_through() {
    let cluster = Cluster::open().await;
    let name = cluster.name("traffic");
    let spec =
        json!({"services": [format!("{}/cart", cluster.tag)], "timeouts": {"request": "2s"}});
    cluster
        .apply(json!({"kind": "TrafficPolicy", "metadata": {"name": name}, "spec": spec}))
        .await;
    let controller = cluster.controller(0).await;
    let path = format!("/v1/traffic-policies/{name}");
    controller
        .until(&path, |policy| {
            policy["spec"]["timeouts"]["request"] == "2s"
        })
        .await;
    cluster
        .until_status("TrafficPolicy", None, &name, |s| is_accepted(s, "True"))
        .await;
    controller.end().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schemas_refuse_what_is_no_policy() {
    let cluster = Cluster::open().await;
    let cases = [
        (
            "WeightPolicy",
            json!({"target_utilisation": "high"}),
            "target_utilisation",
        ),
        ("WeightPolicy", json!({"algorithm": "magic"}), "algorithm"),
        ("MeshNode", json!({"location": {"lat_deg": 45}}), "lon_deg"),
    ];
    for (kind, spec, field) in cases {
        let object = json!({"kind": kind, "metadata": {"name": cluster.name("bad")}, "spec": spec});
        let error = cluster.try_create(object).await.unwrap_err();
        let kube::Error::Api(status) = &error else {
            panic!("{error}");
        };
        assert!(
            status.code == 422 && status.message.contains(field),
            "{status:?}"
        );
    }
    cluster.close().await;
}
