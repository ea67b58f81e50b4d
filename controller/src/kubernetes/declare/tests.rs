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
    let mut cluster = Cluster::new("isobar-system");
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

/// A gateway of our class with these listeners, and whatever else there is: its status.
fn status_of_gateway(listeners: Value, more: Vec<(Watched, Object)>) -> Value {
    let class = object(
        "ours",
        json!({"spec": {"controllerName": status::CONTROLLER_NAME}}),
    );
    let spec = json!({"gatewayClassName": "ours", "listeners": listeners});
    let gateway = object("shop/edge", json!({"spec": spec}));
    let mut seen = vec![
        (Watched::GatewayClass, class),
        (Watched::Gateway, gateway.clone()),
    ];
    seen.extend(more);
    let declaration = Declaration::of(&cluster(seen));
    let mut verdicts = declaration.verdicts.iter();
    let verdict = verdicts.find(|v| v.kind == Watched::Gateway).unwrap();
    let patch = status::patch(&gateway, verdict, "2026-01-01T00:00:00Z").unwrap();
    patch["status"].clone()
}

fn of<'a>(conditions: &'a Value, kind: &str) -> (&'a str, &'a str) {
    let mut all = conditions.as_array().unwrap().iter();
    let found = all.find(|condition| condition["type"] == kind).unwrap();
    let text = |field: &str| found[field].as_str().unwrap();
    (text("status"), text("reason"))
}

#[test]
fn listeners_that_clash_are_refused_and_the_others_are_not() {
    let listener = |name: &str, protocol: &str, port: u32, host: Option<&str>| {
        let mut listener = json!({"name": name, "protocol": protocol, "port": port});
        if let Some(host) = host {
            listener["hostname"] = json!(host);
        }
        listener
    };
    let (http, tcp) = (
        |name: &str, host| listener(name, "HTTP", 7410, host),
        |name: &str, port| listener(name, "TCP", port, None),
    );
    let none = ("False", "NoConflicts");
    let (names, protocols) = (("True", "HostnameConflict"), ("True", "ProtocolConflict"));
    let cases = [
        // By other names, or at other ports.
        (
            http("a", Some("a.example")),
            http("b", Some("*.example")),
            none,
        ),
        (http("a", None), http("b", Some("a.example")), none),
        (tcp("a", 5432), tcp("b", 5433), none),
        (tcp("a", 5432), listener("b", "UDP", 5432, None), none),
        (
            listener("a", "HTTPS", 443, Some("a.example")),
            listener("b", "TLS", 443, Some("b.example")),
            none,
        ),
        // Of one name.
        (http("a", None), http("b", None), names),
        (
            http("a", Some("a.example")),
            http("b", Some("a.example")),
            names,
        ),
        (
            tcp("a", 5432),
            listener("b", "TCP", 5432, Some("x.example")),
            names,
        ),
        // Of other protocols.
        (http("a", None), tcp("b", 7410), protocols),
        (
            listener("a", "HTTP", 443, Some("a.example")),
            listener("b", "HTTPS", 443, Some("b.example")),
            protocols,
        ),
    ];
    for (one, other, wanted) in cases {
        // One that is in nobody's way is in force.
        let free = tcp("free", 9000);
        let node = object(
            "n",
            json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}}),
        );
        let said = status_of_gateway(json!([one, other, free]), vec![(Watched::Node, node)]);
        for at in [0, 1] {
            let conditions = &said["listeners"][at]["conditions"];
            assert_eq!(of(conditions, "Conflicted"), wanted, "{said:#}");
            if wanted != none {
                assert_eq!(of(conditions, "Accepted").0, "False", "{said:#}");
                assert_eq!(of(conditions, "Programmed"), ("False", "Invalid"));
            }
        }
        let conditions = &said["listeners"][2]["conditions"];
        assert_eq!(of(conditions, "Conflicted"), none);
        assert_eq!(of(conditions, "Accepted"), ("True", "Accepted"));
        if wanted != none {
            let whole = of(&said["conditions"], "Accepted");
            assert_eq!(whole, ("True", "ListenersNotValid"), "{said:#}");
            assert_eq!(of(&said["conditions"], "Programmed").0, "True");
        }
    }
    // Nothing is left of it.
    let said = status_of_gateway(json!([http("a", None), http("b", None)]), Vec::new());
    let whole = of(&said["conditions"], "Accepted");
    assert_eq!(whole, ("False", "ListenersNotValid"), "{said:#}");
}

#[test]
fn a_load_balancer_before_the_proxies_is_where_a_gateway_is_reached() {
    let node = || {
        let addresses = json!([{"type": "InternalIP", "address": "10.0.0.1"}]);
        let body = json!({"status": {"addresses": addresses}});
        (Watched::Node, object("n", body))
    };
    let service = |name: &str, kind: &str, selects: &str, ingress: Value| {
        let spec = json!({"type": kind, "selector": {"app.kubernetes.io/name": selects}, "ports": [{"port": 80, "targetPort": 7410}]});
        let body = json!({"spec": spec, "status": {"loadBalancer": {"ingress": ingress}}});
        (Watched::Service, object(name, body))
    };
    let proxies = "isobar-proxy";
    let balanced = json!([{"ip": "192.0.2.9", "ipMode": "VIP"}, {"hostname": "edge.example"}]);
    let nodes = json!([{"type": "IPAddress", "value": "10.0.0.1"}]);
    let both = json!([{"type": "IPAddress", "value": "192.0.2.9"}, {"type": "Hostname", "value": "edge.example"}]);
    let (balancer, cluster_ip) = ("LoadBalancer", "ClusterIP");
    let cases = [
        (
            service("isobar-system/edge", balancer, proxies, balanced.clone()),
            &both,
        ),
        // It waits for its address; it is for somebody else; somebody else's; none at all.
        (
            service("isobar-system/edge", balancer, proxies, Value::Null),
            &nodes,
        ),
        (
            service("isobar-system/edge", balancer, "other", balanced.clone()),
            &nodes,
        ),
        (
            service("shop/edge", balancer, proxies, balanced.clone()),
            &nodes,
        ),
        (
            service("isobar-system/edge", cluster_ip, proxies, balanced),
            &nodes,
        ),
    ];
    for (service, wanted) in cases {
        let listeners = json!([{"name": "http", "protocol": "HTTP", "port": 7410}]);
        let said = status_of_gateway(listeners, vec![node(), service]);
        assert_eq!(said["addresses"], *wanted, "{said:#}");
        assert_eq!(of(&said["conditions"], "Programmed").0, "True");
    }
}

#[test]
fn routes_are_counted_at_every_listener_that_lets_them_in() {
    let listeners = json!([
        {"name": "a", "protocol": "TCP", "port": 5432},
        {"name": "b", "protocol": "TCP", "port": 5432},
        {"name": "c", "protocol": "TCP", "port": 5433},
        {"name": "d", "protocol": "TCP", "port": 5434, "allowedRoutes": {"kinds": [{"kind": "HTTPRoute"}]}},
    ]);
    let route = |name: &str, parent: Value| {
        let spec = json!({"parentRefs": [parent], "rules": [{"backendRefs": [{"name": "db", "port": 80}]}]});
        (Watched::TcpRoute, object(name, json!({"spec": spec})))
    };
    let all = route("shop/all", json!({"name": "edge"}));
    let in_vain = route("shop/in-vain", json!({"name": "edge", "sectionName": "a"}));
    let said = status_of_gateway(listeners, vec![all, in_vain]);
    let attached = |at: usize| said["listeners"][at]["attachedRoutes"].as_u64().unwrap();
    // Also where it is not in force, but no route that is in force nowhere.
    assert_eq!([0, 1, 2, 3].map(attached), [1, 1, 1, 0], "{said:#}");
}
