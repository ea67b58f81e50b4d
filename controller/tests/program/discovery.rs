//! Resources and endpoints out of files, DNS and a Consul catalogue; what their silence does, and a changed configuration.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::routing::get;
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record};
use hickory_resolver::proto::serialize::binary::{BinDecodable, BinEncodable};
use http::Method;
use isobar_controller::config::{Config, ConsulConfig, DiscoveryConfig, DnsConfig};
use isobar_mesh_api::names::{NodeId, ServiceName};
use serde_json::{Value, json};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::mesh::{Mesh, PATIENCE, config};

fn with(discovery: DiscoveryConfig) -> (tempfile::TempDir, Config) {
    let directory = tempfile::tempdir().unwrap();
    let config = Config {
        discovery,
        ..config(directory.path())
    };
    (directory, config)
}

fn ranges() -> std::collections::BTreeMap<ipnet::IpNet, NodeId> {
    let node = |name: &str| NodeId::new(name).unwrap();
    [
        ("10.1.0.0/16".parse().unwrap(), node("a")),
        ("10.2.0.0/16".parse().unwrap(), node("b")),
    ]
    .into()
}

impl Mesh {
    /// Asks again until an answer fits; returns it.
    async fn until(&self, path: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let (_, value) = self.rest(Method::GET, path, "").await;
            if fits(&value) {
                return value;
            }
            assert!(begun.elapsed() < PATIENCE, "{path} stays {value}");
            tokio::task::yield_now().await;
        }
    }
}

fn addresses(list: &Value) -> Vec<&str> {
    let items = list["items"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    items
        .iter()
        .filter_map(|item| item["address"].as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_files_is_followed_and_faults_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let files = directory.path().join("resources.d");
    std::fs::create_dir(&files).unwrap();
    let service = |name: &str, host: &str| {
        format!(
            "kind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{hosts: [{host}]}}\n"
        )
    };
    std::fs::write(files.join("cart.yaml"), service("cart", "cart.example")).unwrap();
    std::fs::write(files.join("notes.txt"), "not read").unwrap();
    let config = Config {
        discovery: DiscoveryConfig {
            files: Some(files.clone()),
            ..DiscoveryConfig::default()
        },
        ..config(directory.path())
    };
    let mesh = Mesh::start_with(directory, config).await;
    let cart = "/v1/services/shop/cart";
    let host = |host: &'static str| move |v: &Value| v["spec"]["hosts"][0] == host;
    let found = mesh.until(cart, host("cart.example")).await;
    assert_eq!(found["metadata"]["labels"]["isobar.dev/source"], "files");
    // What an operator declares stays the operator's.
    let own = json!({"kind": "Service", "metadata": {"name": "own", "namespace": "shop"}, "spec": {"hosts": ["own.example"]}});
    let (status, _) = mesh
        .rest(Method::PUT, "/v1/services/shop/own", &own.to_string())
        .await;
    assert!(status.is_success());
    // A fault in one file; others are taken up.
    std::fs::write(
        files.join("cart.yaml"),
        "kind: Service\nmetadata: {name: cart",
    )
    .unwrap();
    let both = format!(
        "[{}]",
        own.to_string().replace("own.example", "else.example")
    );
    std::fs::write(files.join("own.json"), both).unwrap();
    std::fs::write(files.join("zoo.yml"), service("zoo", "zoo.example")).unwrap();
    mesh.until("/v1/services/shop/zoo", host("zoo.example"))
        .await;
    mesh.until(cart, host("cart.example")).await;
    mesh.until("/v1/services/shop/own", host("own.example"))
        .await;
    // What is repaired counts; what is gone is gone.
    std::fs::write(files.join("cart.yaml"), service("cart", "cart2.example")).unwrap();
    std::fs::remove_file(files.join("zoo.yml")).unwrap();
    mesh.until(cart, host("cart2.example")).await;
    mesh.until("/v1/services/shop/zoo", |v| v["status"] == 404)
        .await;
    // A directory that is gone erases nothing.
    let failures = async || {
        let (_, text) = mesh.rest(Method::GET, "/metrics", "").await;
        let line = "isobar_controller_discovery_answers_total{source=\"files\",result=\"failed\"} ";
        let count = |l: &str| l.strip_prefix(line)?.parse::<u32>().ok();
        text.as_str().unwrap().lines().find_map(count).unwrap_or(0)
    };
    let before = failures().await;
    assert_eq!(before, 1, "one fault in a file");
    std::fs::rename(&files, files.with_extension("away")).unwrap();
    while failures().await < before + 2 {
        tokio::task::yield_now().await;
    }
    mesh.until(cart, host("cart2.example")).await;
    mesh.stop().await;
}

/// What a DNS server answers to a name: the code and the records.
type Zone = Arc<Mutex<(ResponseCode, Vec<(Name, RData)>)>>;

/// A DNS server of one zone; its records live for a second.
async fn dns_server(zone: Zone) -> (SocketAddr, JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut bytes = [0; 1500];
        loop {
            let (len, from) = socket.recv_from(&mut bytes).await.unwrap();
            let asked = Message::from_bytes(&bytes[..len]).unwrap();
            let query = asked.queries[0].clone();
            let mut answer = Message::response(asked.metadata.id, asked.metadata.op_code);
            {
                let (code, records) = &*zone.lock().unwrap();
                answer.metadata.response_code = *code;
                for (name, data) in records {
                    if name == query.name() && data.record_type() == query.query_type() {
                        answer
                            .answers
                            .push(Record::from_rdata(name.clone(), 1, data.clone()));
                    }
                }
            }
            answer.queries.push(query);
            socket
                .send_to(&answer.to_bytes().unwrap(), from)
                .await
                .unwrap();
        }
    });
    (address, serving)
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_names_are_endpoints_by_address_and_by_srv_and_silence_erases_nothing() {
    let a = |last| RData::A(A::new(10, 1, 0, last));
    let srv = RData::SRV(SRV::new(1, 1, 8443, name("b.internal.")));
    let records = vec![
        (name("cart.internal."), a(1)),
        (name("cart.internal."), a(2)),
        (name("_pay._tcp.internal."), srv),
        (name("b.internal."), RData::A(A::new(10, 2, 0, 9))),
    ];
    let zone: Zone = Arc::new(Mutex::new((ResponseCode::NoError, records)));
    let (server, serving) = dns_server(zone.clone()).await;
    let entry = |service: &str, name: &str, port| DnsConfig {
        service: ServiceName::new(service).unwrap(),
        name: name.to_owned(),
        port,
        hosts: vec![format!("{}.example", service.replace('/', "-"))],
        workers: Some(3),
        server: Some(server),
    };
    let (directory, config) = with(DiscoveryConfig {
        nodes: ranges(),
        dns: vec![
            entry("shop/cart", "cart.internal", Some(80)),
            entry("shop/pay", "_pay._tcp.internal", None),
        ],
        ..DiscoveryConfig::default()
    });
    let mesh = Mesh::start_with(directory, config.clone()).await;
    let cart = "/v1/services/shop/cart/endpoints";
    let two = mesh.until(cart, |list| addresses(list).len() == 2).await;
    assert_eq!(addresses(&two), ["10.1.0.1:80", "10.1.0.2:80"]);
    assert_eq!(two["items"][0]["source"], "dns:cart.internal");
    assert_eq!(
        (&two["items"][0]["node"], &two["items"][0]["workers"]),
        (&json!("a"), &json!(3))
    );
    let pay = mesh
        .until("/v1/services/shop/pay/endpoints", |list| {
            !addresses(list).is_empty()
        })
        .await;
    assert_eq!(
        (addresses(&pay), &pay["items"][0]["node"]),
        (vec!["10.2.0.9:8443"], &json!("b"))
    );
    mesh.until("/v1/services/shop/cart", |v| {
        v["spec"]["hosts"][0] == "shop-cart.example"
    })
    .await;
    // One is gone, with the next answer.
    zone.lock().unwrap().1.remove(0);
    mesh.until(cart, |list| addresses(list) == ["10.1.0.2:80"])
        .await;
    // The server fails; a restart in between, and nothing is erased.
    zone.lock().unwrap().0 = ResponseCode::ServFail;
    let failed = |text: &Value| {
        let line = "isobar_controller_discovery_answers_total{source=\"dns:cart.internal\",result=\"failed\"}";
        text.as_str().is_some_and(|text| text.contains(line))
    };
    mesh.until("/metrics", failed).await;
    let (_, list) = mesh.rest(Method::GET, cart, "").await;
    assert_eq!(addresses(&list), ["10.1.0.2:80"]);
    mesh.shutdown.cancel();
    mesh.program.wait().await.unwrap();
    let mesh = Mesh::start_with(mesh.directory, config.clone()).await;
    mesh.until("/metrics", failed).await;
    let (_, list) = mesh.rest(Method::GET, cart, "").await;
    assert_eq!(addresses(&list), ["10.1.0.2:80"]);
    // The source is no longer configured, while the program runs.
    let mut without = config;
    without.discovery.dns.remove(0);
    without.period_ms = 70;
    let waiting = mesh.program.reloader().reload(Ok(without)).await.unwrap();
    assert_eq!(waiting, ["period_ms"]);
    mesh.until(cart, |list| addresses(list).is_empty()).await;
    mesh.stop().await;
    serving.abort();
}

/// What a catalogue has: instances by service, and a number that rises with each change.
type Catalogue = Arc<Mutex<(u64, Value)>>;

#[derive(serde::Deserialize)]
struct Asked {
    index: Option<u64>,
    dc: Option<String>,
    passing: Option<String>,
}

/// Waits for a change, as a blocking query does, and answers with a part of it.
async fn answer(
    catalogue: Catalogue,
    headers: HeaderMap,
    asked: Asked,
    part: impl Fn(&Value) -> Value,
) -> (HeaderMap, String) {
    assert_eq!(headers["x-consul-token"], "s3cret");
    assert_eq!(asked.dc.as_deref(), Some("east"));
    let index = loop {
        let index = catalogue.lock().unwrap().0;
        if asked.index != Some(index) {
            break index;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    let body = part(&catalogue.lock().unwrap().1).to_string();
    let mut headers = HeaderMap::new();
    headers.insert("x-consul-index", index.into());
    (headers, body)
}

async fn consul(catalogue: Catalogue) -> (SocketAddr, JoinHandle<()>) {
    let names = |State(c): State<Catalogue>, headers: HeaderMap, Query(asked): Query<Asked>| {
        answer(c, headers, asked, |all| {
            let names = all.as_object().unwrap().iter();
            names
                .map(|(name, v)| (name.clone(), v["tags"].clone()))
                .collect::<serde_json::Map<_, _>>()
                .into()
        })
    };
    let one = |State(c): State<Catalogue>,
               Path(name): Path<String>,
               headers: HeaderMap,
               Query(asked): Query<Asked>| {
        assert_eq!(asked.passing.as_deref(), Some("true"));
        answer(c, headers, asked, move |all| match all.get(&name) {
            Some(service) => service["instances"].clone(),
            None => json!([]),
        })
    };
    let app = Router::new()
        .route("/v1/catalog/services", get(names))
        .route("/v1/health/service/{name}", get(one))
        .with_state(catalogue);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (
        address,
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }),
    )
}

fn instance(node: &str, own: &str, port: u16) -> Value {
    json!({
        "Node": {"Node": node, "Address": "10.1.0.7", "Datacenter": "east"},
        "Service": {"ID": "web-1", "Service": "web", "Address": own, "Port": port, "Meta": {"isobar-workers": "5", "isobar-hosts": "web.example"}},
        "Checks": [],
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consul_catalogue_is_followed_and_its_absence_erases_nothing() {
    let web = json!({"tags": ["isobar"], "instances": [instance("x", "", 80), instance("b", "10.2.0.3", 81)]});
    let other = json!({"tags": ["private"], "instances": [instance("x", "", 82)]});
    let catalogue: Catalogue = Arc::new(Mutex::new((7, json!({"web": web, "other": other}))));
    let (agent, serving) = consul(catalogue.clone()).await;
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "s3cret\n").unwrap();
    let (directory, config) = with(DiscoveryConfig {
        nodes: ranges(),
        consul: vec![ConsulConfig {
            address: format!("http://{agent}"),
            ca_file: None,
            token_file: Some(token.path().to_owned()),
            datacenter: Some("east".to_owned()),
            services: Vec::new(),
            tag: "isobar".to_owned(),
            namespace: "edge".to_owned(),
        }],
        ..DiscoveryConfig::default()
    });
    let mesh = Mesh::start_with(directory, config).await;
    let all = "/v1/endpoints";
    let list = mesh.until(all, |list| addresses(list).len() == 2).await;
    assert_eq!(addresses(&list), ["10.1.0.7:80", "10.2.0.3:81"]);
    assert_eq!(
        (&list["items"][1]["node"], &list["items"][1]["workers"]),
        (&json!("b"), &json!(5))
    );
    let service = mesh
        .until("/v1/services/edge/web", |v| v["spec"]["hosts"].is_array())
        .await;
    assert_eq!(
        service["spec"]["hosts"],
        json!(["web.service.consul", "web.example"])
    );
    // A change of the health of one, and of the tags of another.
    {
        let mut now = catalogue.lock().unwrap();
        now.0 = 8;
        now.1["web"]["instances"].as_array_mut().unwrap().remove(0);
        now.1["other"]["tags"] = json!(["isobar"]);
    }
    let list = mesh
        .until(all, |list| {
            addresses(list).len() == 2 && addresses(list)[0] == "10.1.0.7:82"
        })
        .await;
    assert_eq!(addresses(&list), ["10.1.0.7:82", "10.2.0.3:81"]);
    // The agent goes away: nothing else does.
    serving.abort();
    let failed = |text: &Value| {
        text.as_str()
            .is_some_and(|text| text.contains("result=\"failed\""))
    };
    // Its connections end with the test's server, or with the wait of their queries.
    catalogue.lock().unwrap().0 = 9;
    mesh.until("/metrics", failed).await;
    let (_, list) = mesh.rest(Method::GET, all, "").await;
    assert_eq!(addresses(&list).len(), 2);
    mesh.stop().await;
}
