use super::*;
use crate::kubernetes::cluster::{Change, ObjectName};

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
        created: String::new(),
        version: "v1",
        resource_version: String::new(),
        body,
    }
}

/// One node `edge` and a service `shop/cart` with one endpoint on it.
fn cluster(address: &str) -> Cluster {
    let mut cluster = Cluster::default();
    let mut take = |kind, object| _ = cluster.take(kind, Change::Applied(Box::new(object)));
    take(Watched::Node, object("edge", Value::Null));
    take(
        Watched::Service,
        object("shop/cart", json!({"spec": {"ports": [{"port": 80}]}})),
    );
    let mut slice = object(
        "shop/cart-a",
        json!({"addressType": "IPv4", "endpoints": [{"addresses": [address], "nodeName": "edge"}], "ports": [{"port": 8080}]}),
    );
    slice
        .labels
        .insert("kubernetes.io/service-name".to_owned(), "cart".to_owned());
    take(Watched::EndpointSlice, slice);
    cluster
}

fn endpoints(declaration: &Declaration) -> Vec<String> {
    let key = Key {
        kind: Kind::Service,
        name: "shop/cart".to_owned(),
    };
    let value = value(&declaration.resources[&key]).unwrap();
    let all = value["spec"]["endpoints"].as_array().unwrap().iter();
    all.map(|e| {
        format!(
            "{} {}",
            e["node"].as_str().unwrap(),
            e["address"].as_str().unwrap()
        )
    })
    .collect()
}

fn nodes(declaration: &Declaration) -> Vec<&str> {
    let keys = declaration.resources.keys();
    keys.filter(|key| key.kind == Kind::Node)
        .map(|key| key.name.as_str())
        .collect()
}

#[test]
fn nodes_have_their_clusters_name_and_services_have_all_endpoints() {
    let mut all = Declaration::of(&cluster("10.0.0.1"));
    add(&mut all, "north", &cluster("10.1.0.1"));
    add(&mut all, "south", &cluster("10.1.0.1"));
    assert_eq!(nodes(&all), ["edge", "edge.north", "edge.south"]);
    let wanted = [
        "edge 10.0.0.1:8080",
        "edge.north 10.1.0.1:8080",
        "edge.south 10.1.0.1:8080",
    ];
    assert_eq!(endpoints(&all), wanted);
    // One is not heard of after a restart: what was told of it is carried over, and nothing of the others.
    let mut again = Declaration::of(&cluster("10.0.0.9"));
    add(&mut again, "south", &cluster("10.1.0.2"));
    carry(&mut again, "north", &all.resources);
    assert_eq!(nodes(&again), ["edge", "edge.north", "edge.south"]);
    let wanted = [
        "edge 10.0.0.9:8080",
        "edge.south 10.1.0.2:8080",
        "edge.north 10.1.0.1:8080",
    ];
    assert_eq!(endpoints(&again), wanted);
    let clusters: Vec<String> = told_of(&again.resources).into_iter().collect();
    assert_eq!(clusters, ["north", "south"]);
    // A service that only the absent cluster has.
    let mut alone = Declaration::default();
    carry(&mut alone, "north", &all.resources);
    assert_eq!(endpoints(&alone), ["edge.north 10.1.0.1:8080"]);
    assert_eq!(nodes(&alone), ["edge.north"]);
}

#[test]
fn a_kubeconfig_names_no_program_and_no_file() {
    let secret = |name: &str, kubeconfig: Value| {
        let text =
            serde_json::to_value(k8s_openapi::ByteString(kubeconfig.to_string().into_bytes()))
                .unwrap();
        let mut secret = object(
            "isobar-system/remote",
            json!({"data": {"kubeconfig": text}}),
        );
        secret.labels.insert(REMOTE.to_owned(), name.to_owned());
        secret
    };
    let cases = [
        (
            secret("north", json!({"users": [{"user": {"token": "t"}}]})),
            None,
        ),
        (secret("North", json!({})), Some("label")),
        (
            secret(
                "north",
                json!({"users": [{"user": {"exec": {"command": "sh"}}}]}),
            ),
            Some("exec"),
        ),
        (
            secret(
                "north",
                json!({"users": [{"user": {"tokenFile": "/etc/passwd"}}]}),
            ),
            Some("tokenFile"),
        ),
        (
            secret(
                "north",
                json!({"clusters": [{"cluster": {"certificate-authority": "/a"}}]}),
            ),
            Some("certificate-authority"),
        ),
        (object("isobar-system/remote", json!({})), Some("label")),
    ];
    for (secret, wrong) in cases {
        let mut cluster = Cluster::default();
        cluster.take(Watched::RemoteCluster, Change::Applied(Box::new(secret)));
        let mut declaration = Declaration::default();
        let found = kubeconfigs(&cluster, &mut declaration);
        match wrong {
            None => assert_eq!(found.len(), 1),
            Some(word) => {
                assert!(found.is_empty());
                let message = &declaration.complaints[0].message;
                assert!(message.contains(word), "{message}");
            }
        }
    }
}
