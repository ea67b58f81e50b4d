use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::kubernetes::cluster::Change;
use crate::kubernetes::status;

fn object(name: &str, body: Value) -> Object {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    Object {
        name: ObjectName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        },
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        generation: 1,
        created: "2026-01-01T00:00:00Z".to_owned(),
        version: "v1",
        resource_version: "7".to_owned(),
        body,
    }
}

fn cluster(objects: Vec<(Watched, Object)>) -> Cluster {
    let mut cluster = Cluster::default();
    for (kind, object) in objects {
        cluster.take(kind, Change::Applied(Box::new(object)));
    }
    cluster
}

fn refusal(kind: Watched, object: Object) -> Refusal {
    let declaration = Declaration::of(&cluster(vec![(kind, object)]));
    let verdict = declaration.verdicts.into_iter().next().unwrap();
    verdict.accepted.unwrap_err()
}

#[test]
fn a_field_of_a_newer_version_is_refused_by_name_and_the_last_spec_is_held() {
    let policy = object(
        "p",
        json!({"spec": {"neighbours": 3, "moon_phase": "full"}}),
    );
    let all = cluster(vec![(Watched::WeightPolicy, policy.clone())]);
    let held: Vec<String> = Declaration::of(&all)
        .held
        .iter()
        .map(Key::to_string)
        .collect();
    assert_eq!(held, ["WeightPolicy p"]);
    let refused = refusal(Watched::WeightPolicy, policy);
    assert_eq!(refused.reason, "UnsupportedValue");
    assert!(
        refused.message.contains("moon_phase"),
        "{}",
        refused.message
    );
}

#[test]
fn positions_that_are_none_are_complained_about() {
    let cases = [
        (Some("103.8"), Some("1.3"), "look swapped"),
        (Some("45.4"), None, "no isobar.dev/longitude"),
        (Some("north"), Some("9"), "must be degrees"),
        (Some("145"), Some("200"), "lat"),
        (None, None, "has no position"),
    ];
    for (lat, lon, part) in cases {
        let mut node = object("n", json!({}));
        for (name, value) in [("isobar.dev/latitude", lat), ("isobar.dev/longitude", lon)] {
            if let Some(value) = value {
                node.annotations.insert(name.to_owned(), value.to_owned());
            }
        }
        let declaration = Declaration::of(&cluster(vec![(Watched::Node, node)]));
        let said: Vec<&str> = declaration
            .complaints
            .iter()
            .map(|c| c.message.as_str())
            .collect();
        assert!(
            said.iter().any(|said| said.contains(part)),
            "{part}: {said:?}"
        );
        assert_eq!(declaration.resources.len(), 1, "it is served all the same");
    }
}

#[test]
fn endpoints_without_a_node_or_not_ready_are_left_out() {
    let service = object(
        "shop/cart",
        json!({"spec": {"ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"port": 80}]}}),
    );
    let endpoint = |address: &str, ready: bool, node: Option<&str>| json!({"addresses": [address], "conditions": {"ready": ready}, "nodeName": node});
    let mut slice = object(
        "shop/cart-1",
        json!({"addressType": "IPv4", "ports": [{"name": "", "port": 8080}, {"name": "dns", "port": 53}],
               "endpoints": [endpoint("10.0.0.1", true, Some("n")), endpoint("10.0.0.2", false, Some("n")), endpoint("10.0.0.3", true, None)]}),
    );
    let name = "kubernetes.io/service-name".to_owned();
    slice.labels.insert(name, "cart".to_owned());
    let all = cluster(vec![
        (Watched::Service, service),
        (Watched::EndpointSlice, slice),
    ]);
    let declaration = Declaration::of(&all);
    let declared = declaration.resources.values().next().unwrap();
    let spec = serde_json::to_value(&*declared.resource).unwrap()["spec"]["endpoints"].clone();
    assert_eq!(
        spec,
        json!([{"node": "n", "address": "10.0.0.1:8080", "workers": 16}])
    );
    assert_eq!(declaration.complaints[0].reason, "NoNode");
}

#[test]
fn a_status_that_says_it_already_is_not_written_again() {
    let mut policy = object("p", json!({"spec": {}}));
    let verdicts = |policy: &Object| {
        let all = cluster(vec![(Watched::WeightPolicy, policy.clone())]);
        Declaration::of(&all).verdicts
    };
    let patch = status::patch(&policy, &verdicts(&policy)[0], "2026-01-01T00:00:00Z").unwrap();
    assert_eq!(patch["metadata"]["resourceVersion"], "7");
    policy.body["status"] = patch["status"].clone();
    assert_eq!(
        status::patch(&policy, &verdicts(&policy)[0], "2026-01-02T00:00:00Z"),
        None
    );
    // Another generation of the same mind: written, with the old instant.
    policy.generation = 2;
    let patch = status::patch(&policy, &verdicts(&policy)[0], "2026-01-03T00:00:00Z").unwrap();
    let condition = &patch["status"]["conditions"][0];
    assert_eq!(condition["lastTransitionTime"], "2026-01-01T00:00:00Z");
    assert_eq!(condition["observedGeneration"], 2);
}

#[test]
fn what_endpoints_speak_is_said_by_the_port_or_its_slices() {
    let check = |of_port: Value, of_slice: Value, wanted: Option<&str>, complaints: usize| {
        let port = json!({"name": "http", "port": 80, "protocol": "TCP", "appProtocol": of_port});
        let service = object("shop/cart", json!({"spec": {"ports": [port]}}));
        let port = json!({"name": "http", "port": 8080, "appProtocol": of_slice});
        let body = json!({"addressType": "IPv4", "endpoints": [], "ports": [port]});
        let mut slice = object("shop/cart-a", body);
        let label = "kubernetes.io/service-name";
        slice.labels.insert(label.to_owned(), "cart".to_owned());
        let seen = vec![(Watched::Service, service), (Watched::EndpointSlice, slice)];
        let declaration = Declaration::of(&cluster(seen));
        let spec = declaration.resources.values().next().unwrap();
        let said = serde_json::to_value(&spec.resource).unwrap()["spec"]["protocol"].clone();
        assert_eq!(said.as_str(), wanted, "{of_port} {of_slice}");
        assert_eq!(declaration.complaints.len(), complaints, "{of_port}");
    };
    let none = Value::Null;
    check(json!("kubernetes.io/h2c"), none.clone(), Some("http2"), 0);
    check(json!("grpc"), none.clone(), Some("http2"), 0);
    check(none.clone(), json!("h2c"), Some("http2"), 0);
    check(json!("kubernetes.io/ws"), json!("h2c"), None, 0);
    check(json!("http"), none.clone(), None, 0);
    check(none.clone(), none.clone(), None, 0);
    check(json!("https"), none.clone(), None, 1);
}

#[test]
fn a_gateway_is_reached_at_its_nodes_or_at_those_it_asks_for() {
    let check = |asked: Value, wanted: (&str, &str), addresses: Value| {
        let class = object(
            "ours",
            json!({"spec": {"controllerName": status::CONTROLLER_NAME}}),
        );
        let listeners = json!([{"name": "http", "protocol": "HTTP", "port": 7410}]);
        let spec = json!({"gatewayClassName": "ours", "listeners": listeners, "addresses": asked});
        let gateway = object("shop/edge", json!({"spec": spec}));
        let node = |name: &str, addresses: Value| {
            let body = json!({"status": {"addresses": addresses}});
            (Watched::Node, object(name, body))
        };
        let internal = json!({"type": "InternalIP", "address": "10.0.0.1"});
        let external = json!({"type": "ExternalIP", "address": "192.0.2.1"});
        let name = json!({"type": "Hostname", "address": "b"});
        let seen = vec![
            (Watched::GatewayClass, class),
            (Watched::Gateway, gateway.clone()),
            node("a", json!([internal, external])),
            node("b", json!([name, internal])),
            node("c", json!([internal])),
        ];
        let declaration = Declaration::of(&cluster(seen));
        let mut verdicts = declaration.verdicts.iter();
        let verdict = verdicts.find(|v| v.kind == Watched::Gateway).unwrap();
        let patch = status::patch(&gateway, verdict, "2026-01-01T00:00:00Z").unwrap();
        let conditions = patch["status"]["conditions"].as_array().unwrap();
        let reason = |at: usize| conditions[at]["reason"].as_str().unwrap();
        assert_eq!((reason(0), reason(1)), wanted, "{patch}");
        let of = patch["status"]["addresses"].as_array().unwrap().iter();
        let of: Vec<Value> = of.map(|one| one["value"].clone()).collect();
        assert_eq!(json!(of), addresses);
    };
    let both = json!(["192.0.2.1", "10.0.0.1"]);
    check(Value::Null, ("Accepted", "Programmed"), both);
    let one = json!([{"type": "IPAddress", "value": "10.0.0.1"}]);
    check(one, ("Accepted", "Programmed"), json!(["10.0.0.1"]));
    let strange = json!([{"value": "10.9.9.9"}]);
    check(strange, ("Accepted", "AddressNotUsable"), json!([]));
    let named = json!([{"type": "Hostname", "value": "a.example"}]);
    check(named, ("UnsupportedAddress", "Invalid"), json!([]));
}
