//! TCP: by port, by server name; at home, moved, drained.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::listeners::{listener, with_listener};
use crate::support::{
    Authority, TestEndpoint, TestProxy, config, connected, moves_to, nobody, node, snapshot,
    takes_from,
};
use isobar_edge_proxy::config::Config;
use isobar_edge_proxy::config::listener::{ListenerConfig, ListenerProtocol};
use isobar_edge_proxy::snapshot_file;
use isobar_mesh_api::message::LocalService;
use isobar_mesh_api::names::ServiceName;
use isobar_mesh_api::snapshot::{Endpoint, Snapshot};
use isobar_mesh_api::weight::WHOLE_PPM;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub fn database() -> ServiceName {
    ServiceName::new("shop/db").unwrap()
}

pub fn local(address: SocketAddr) -> LocalService {
    LocalService {
        service: database(),
        hosts: Vec::new(),
        endpoints: vec![Endpoint {
            address: address.to_string(),
            workers: 8,
        }],
        capacity_rps: None,
    }
}

/// A server that speaks first (`hello`) and then sends back what it hears, until it hears the end.
pub struct Greeter {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Greeter {
    pub async fn start() -> Greeter {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let _ = stream.write_all(b"hello").await;
                    let (mut reader, mut writer) = stream.split();
                    let _ = tokio::io::copy(&mut reader, &mut writer).await;
                    // The client has said all; this side goes on.
                    let _ = writer.write_all(b"bye").await;
                });
            }
        });
        Greeter { address, task }
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A whole conversation with a [`Greeter`] behind `address`.
pub async fn talk(address: SocketAddr, len: usize) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let said: Vec<u8> = (0..len).map(|i| i as u8).collect();
    let expected = [b"hello", &said[..], b"bye"].concat();
    let say = async move {
        writer.write_all(&said).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let ((), heard_all) = tokio::join!(say, reader.read_to_end(&mut heard));
    heard_all.unwrap();
    assert!(
        heard == expected,
        "{} bytes of {}",
        heard.len(),
        expected.len()
    );
}

pub fn to_database() -> ListenerConfig {
    let mut own = listener(ListenerProtocol::Tcp);
    own.service = Some(database());
    own
}

#[tokio::test]
async fn by_port_and_half_closed() {
    let greeter = Greeter::start().await;
    let proxy = with_listener(greeter.address, to_database(), |config| {
        config.services = vec![local(greeter.address)];
    })
    .await;
    for len in [0, 1, 1_000_000] {
        talk(proxy.own(), len).await;
    }
    proxy
        .metric("isobar_proxy_tcp_bytes_total{service=\"shop/db\",direction=\"received\"} 1000001")
        .await;
    proxy
        .metric("isobar_proxy_tcp_bytes_total{service=\"shop/db\",direction=\"sent\"} 1000025")
        .await;
    proxy
        .metric("isobar_proxy_requests_served_home_total{service=\"shop/db\"} 3")
        .await;
    proxy
        .metric("isobar_proxy_tcp_connections{service=\"shop/db\"} 0")
        .await;
    proxy.end().await;
}

#[tokio::test]
async fn who_cannot_be_served_is_reset() {
    let gone = nobody();
    let proxy = with_listener(gone, to_database(), |config| {
        config.services = vec![local(gone)]
    })
    .await;
    let mut stream = connected(proxy.own());
    assert!(stream.read(&mut [0; 8]).await.is_err());
    proxy
        .metric("isobar_proxy_listener_refused_total{listener=\"own\",cause=\"no_room\"} 1")
        .await;
    proxy.end().await;

    let proxy = with_listener(gone, to_database(), |_| {}).await;
    let mut stream = connected(proxy.own());
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
    proxy
        .metric("isobar_proxy_listener_refused_total{listener=\"own\",cause=\"no_service\"} 1")
        .await;
    proxy.end().await;
}

/// The first message of a real TLS client that asks for `name`.
pub fn hello(name: &'static str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = name.try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn tls_passes_through_by_server_name() {
    let greeter = Greeter::start().await;
    let mut own = listener(ListenerProtocol::TlsPassthrough);
    own.by_server_name
        .insert("db.example".to_owned(), database());
    own.by_server_name
        .insert("*.wild.example".to_owned(), database());
    own.detect_wait_ms_max = 50;
    let proxy = with_listener(greeter.address, own, |config| {
        config.services = vec![local(greeter.address)];
    })
    .await;
    for name in ["db.example", "a.wild.example"] {
        let hello = hello(name);
        let mut stream = TcpStream::connect(proxy.own()).await.unwrap();
        // In two pieces; the endpoint gets it whole.
        let (first, second) = hello.split_at(7);
        stream.write_all(first).await.unwrap();
        stream.write_all(second).await.unwrap();
        let mut heard = vec![0; 5 + hello.len()];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, [b"hello", &hello[..]].concat());
    }
    for first in [
        hello("other.example"),
        b"GET / HTTP/1.1\r\n".to_vec(),
        b"\x16\x03".to_vec(),
    ] {
        let mut stream = TcpStream::connect(proxy.own()).await.unwrap();
        stream.write_all(&first).await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
    }
    proxy
        .metric("isobar_proxy_listener_refused_total{listener=\"own\",cause=\"no_service\"} 1")
        .await;
    proxy
        .metric("isobar_proxy_listener_refused_total{listener=\"own\",cause=\"client_hello\"} 2")
        .await;
    proxy.end().await;
}

/// A proxy with a plan for [`database`] and a TCP listener for it.
pub async fn with_plan(
    mut plan: Snapshot,
    greeter: &Greeter,
    authority: &Authority,
    change: impl FnOnce(&mut Config),
) -> TestProxy {
    plan.services[0].service = database();
    plan.services[0].hosts = Vec::new();
    plan.services[0].endpoints[0].address = greeter.address.to_string();
    let dir = tempfile::tempdir().unwrap();
    authority.enrol(&dir, &format!("node/{}", plan.node));
    snapshot_file::save(dir.path(), &plan).unwrap();
    let mut config = config(plan.node.as_str(), &dir);
    config.listeners.push(to_database());
    change(&mut config);
    TestProxy::start(config, dir).await
}

#[tokio::test]
async fn connections_move_by_the_weights_and_are_counted() {
    let (a, b) = (Greeter::start().await, Greeter::start().await);
    let unused = TestEndpoint::start("unused").await;
    let authority = Authority::new();
    let plan = takes_from(snapshot("b", &unused, 8), "a");
    let receiver = with_plan(plan, &b, &authority, |_| {}).await;
    let plan = moves_to(
        snapshot("a", &unused, 8),
        "b",
        receiver.addresses.mesh,
        500_000,
    );
    let home = with_plan(plan, &a, &authority, |_| {}).await;
    for len in [0, 1, 1_000_000, 70_000] {
        talk(home.own(), len).await;
    }
    let moved =
        "isobar_proxy_requests_moved_out_total{service=\"shop/db\",to=\"b\",cause=\"plan\"} 2";
    home.metric(moved).await;
    home.metric("isobar_proxy_requests_served_home_total{service=\"shop/db\"} 2")
        .await;
    receiver
        .metric("isobar_proxy_requests_moved_in_total{service=\"shop/db\",home=\"a\"} 2")
        .await;
    receiver
        .metric("isobar_proxy_tcp_connections{service=\"shop/db\"} 0")
        .await;
    home.end().await;
    receiver.end().await;
}

#[tokio::test]
async fn a_refused_connection_is_served_at_home() {
    let (a, b) = (Greeter::start().await, Greeter::start().await);
    let unused = TestEndpoint::start("unused").await;
    let authority = Authority::new();
    // No credit for anybody.
    let receiver = with_plan(snapshot("b", &unused, 8), &b, &authority, |_| {}).await;
    let plan = moves_to(
        snapshot("a", &unused, 8),
        "b",
        receiver.addresses.mesh,
        WHOLE_PPM,
    );
    let home = with_plan(plan, &a, &authority, |_| {}).await;
    talk(home.own(), 10).await;
    home.metric("isobar_proxy_requests_moved_out_refused_total{service=\"shop/db\",to=\"b\"} 1")
        .await;
    home.metric("isobar_proxy_requests_served_home_total{service=\"shop/db\"} 1")
        .await;
    assert_eq!(receiver.addresses.listeners.len(), 1);
    assert_eq!(node("b").as_str(), "b");
    home.end().await;
    receiver.end().await;
}

#[tokio::test]
async fn connections_under_way_drain() {
    let greeter = Greeter::start().await;
    let proxy = with_listener(greeter.address, to_database(), |config| {
        config.services = vec![local(greeter.address)];
    })
    .await;
    let own = proxy.own();
    let mut stream = TcpStream::connect(own).await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    let ending = tokio::spawn(proxy.end());
    // No new ones; the old one goes on to its end.
    while TcpStream::connect(own).await.is_ok() {}
    stream.write_all(b"still here").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "still herebye");
    ending.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_does_not_end_is_cut_at_the_deadline() {
    let greeter = Greeter::start().await;
    let proxy = with_listener(greeter.address, to_database(), |config| {
        config.services = vec![local(greeter.address)];
        config.limits.drain_wait_ms_max = 50;
    })
    .await;
    let mut stream = TcpStream::connect(proxy.own()).await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    proxy.end().await;
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
}

/// A proxy with a listener for [`database`], a service beside it, `shop/db-next`, and routes for TCP by name.
async fn with_routes(
    old: &Greeter,
    new: &Greeter,
    routes: &[(&str, serde_json::Value)],
) -> TestProxy {
    let next = ServiceName::new("shop/db-next").unwrap();
    with_listener(old.address, to_database(), |config| {
        let mut to_next = local(new.address);
        to_next.service = next;
        config.services = vec![local(old.address), to_next];
        let routes = routes.iter().map(|(name, spec)| {
            let metadata = serde_json::json!({ "name": name, "namespace": "shop" });
            let route =
                serde_json::json!({ "kind": "TCPRoute", "metadata": metadata, "spec": spec });
            serde_json::from_value(route).unwrap()
        });
        config.routes = routes.collect();
    })
    .await
}

/// Waits until both of its services have served so many connections.
async fn served(proxy: &TestProxy, [database, next]: [u64; 2]) {
    for (service, count) in [("shop/db", database), ("shop/db-next", next)] {
        let name = "isobar_proxy_requests_served_home_total";
        proxy
            .metric(&format!("{name}{{service=\"{service}\"}} {count}"))
            .await;
    }
}

#[tokio::test]
async fn a_route_says_where_connections_to_a_service_go() {
    let (old, new) = (Greeter::start().await, Greeter::start().await);
    let to_service = serde_json::json!({
        "parentRefs": [{ "group": "", "kind": "Service", "name": "db" }],
        "rules": [{ "backendRefs": [{ "name": "db" }, { "name": "db-next", "weight": 3 }] }],
    });
    let proxy = with_routes(&old, &new, &[("db", to_service)]).await;
    for _ in 0..8 {
        let mut stream = TcpStream::connect(proxy.own()).await.unwrap();
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).await.unwrap();
    }
    // Where a backend is a service that itself is a parent, its share is not divided again.
    served(&proxy, [2, 6]).await;
    proxy.end().await;
}

#[tokio::test]
async fn a_route_says_where_connections_of_a_listener_go() {
    let (old, new) = (Greeter::start().await, Greeter::start().await);
    let own = serde_json::json!({
        "parentRefs": [{ "name": "isobar", "sectionName": "own" }],
        "rules": [{ "backendRefs": [
            { "name": "db", "weight": 3 }, { "name": "db-next", "weight": 1 },
            { "name": "nobody", "weight": 1 },
        ] }],
    });
    let other = serde_json::json!({
        "parentRefs": [{ "name": "isobar", "sectionName": "other" }],
        "rules": [{ "backendRefs": [{ "name": "nobody" }] }],
    });
    let proxy = with_routes(&old, &new, &[("db", own), ("other", other)]).await;
    let mut refused = 0;
    for _ in 0..10 {
        let mut stream = TcpStream::connect(proxy.own()).await.unwrap();
        let mut heard = [0; 5];
        match stream.read_exact(&mut heard).await {
            Ok(_) => assert_eq!(&heard, b"hello"),
            Err(_) => refused += 1,
        }
    }
    // Exact shares; that of a service that does not exist is refused.
    assert_eq!(refused, 2);
    served(&proxy, [6, 2]).await;
    proxy.end().await;
}
