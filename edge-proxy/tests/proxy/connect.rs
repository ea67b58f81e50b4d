//! Requests that become connections: `CONNECT` to a service, WebSockets over HTTP/2.

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use isobar_edge_proxy::config::listener::{ListenerConfig, ListenerProtocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::access::{guarded, start};
use crate::listeners::{listener, with_listener};
use crate::support::{
    Authority, Body, HOST, TestEndpoint, TestProxy, config, connect_http2, full, read, snapshot,
};
use crate::tcp::{Greeter, database, local};
use crate::upgrade::switching;
use crate::wire::{Wire, before, header};

fn allowing() -> ListenerConfig {
    let mut own = listener(ListenerProtocol::Http);
    own.connect = true;
    own
}

/// A proxy with the service `shop/db` alone.
async fn proxy(greeter: &Greeter) -> TestProxy {
    with_listener(greeter.address, allowing(), |config| {
        config.services = vec![local(greeter.address)];
        config.services[0].hosts = vec!["db.example".to_owned()];
    })
    .await
}

#[tokio::test]
async fn a_service_is_connected_to_by_its_name() {
    let greeter = Greeter::start().await;
    let proxy = proxy(&greeter).await;
    for authority in ["db.shop:5432", "db.example:1"] {
        let mut client = Wire::connect(proxy.own()).await;
        // Bytes that come with the request are the service's.
        let head = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\nping");
        client.send(head).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert_eq!(header(&head, "content-length"), None, "{head}");
        assert_eq!(client.until("ping").await, "helloping");
        client.finish().await;
        assert_eq!(client.rest().await, "bye");
    }
    proxy
        .metric("isobar_proxy_requests_served_home_total{service=\"shop/db\"} 2")
        .await;
    // What is no service of the mesh is nobody, whatever there may be at that address; and nothing was connected to.
    for authority in [greeter.address.to_string(), "other.shop:5432".to_owned()] {
        let mut client = Wire::connect(proxy.own()).await;
        let head = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n");
        client.send(head).await;
        assert_eq!(client.answer().await.0, 404, "{authority}");
    }
    proxy.end().await;
}

/// Asks for a connection over HTTP/2.
async fn connect(client: &mut http2::SendRequest<Body>, authority: &str) -> Response<Incoming> {
    let request = Request::builder().method(Method::CONNECT).uri(authority);
    client
        .send_request(request.body(full("")).unwrap())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_service_is_connected_to_over_http2() {
    let greeter = Greeter::start().await;
    let proxy = proxy(&greeter).await;
    let mut client = connect_http2(proxy.own()).await;
    // Two at once on one connection.
    let mut streams = Vec::new();
    for _ in 0..2 {
        let answer = connect(&mut client, "db.shop:5432").await;
        assert_eq!(answer.status(), StatusCode::OK);
        streams.push(TokioIo::new(hyper::upgrade::on(answer).await.unwrap()));
    }
    for mut stream in streams {
        stream.write_all(b"ping").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "hellopingbye");
    }
    assert_eq!(connect(&mut client, "other.shop:5432").await.status(), 404);
    let mut client = connect_http2(proxy.addresses.ingress).await;
    assert_eq!(connect(&mut client, "db.shop:5432").await.status(), 405);
    proxy.end().await;
}

#[tokio::test]
async fn whom_a_policy_refuses_gets_no_connection() {
    let greeter = Greeter::start().await;
    let unused = TestEndpoint::start("unused").await;
    let authority = Authority::new();
    for policy in [
        serde_json::json!({"deny": [{"from": [{"addresses": ["127.0.0.0/8"]}]}]}),
        serde_json::json!({"mtls": {"mode": "strict"}}),
    ] {
        let mut plan = guarded(snapshot("a", &unused, 8), std::slice::from_ref(&policy));
        plan.services[0].service = database();
        plan.services[0].hosts = Vec::new();
        plan.services[0].endpoints[0].address = greeter.address.to_string();
        let dir = tempfile::tempdir().unwrap();
        authority.enrol(&dir, "node/a");
        let mut config = config("a", &dir);
        config.listeners.push(allowing());
        let proxy = start(config, dir, &plan).await;
        let mut client = Wire::connect(proxy.own()).await;
        client
            .send("CONNECT db.shop:5432 HTTP/1.1\r\nhost: db.shop:5432\r\n\r\nping")
            .await;
        assert_eq!(client.answer().await.0, 403, "{policy}");
        let mut client = connect_http2(proxy.own()).await;
        let answer = connect(&mut client, "db.shop:5432").await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{policy}");
        // The connection of the refused goes on.
        let answer = connect(&mut client, "other.shop:5432").await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{policy}");
        proxy
            .metric("isobar_proxy_tcp_connections{service=\"shop/db\"} 0")
            .await;
        proxy.end().await;
    }
}

async fn websocket(
    client: &mut http2::SendRequest<Body>,
    protocol: &'static str,
) -> Response<Incoming> {
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://{HOST}/chat"));
    let request = request.extension(Protocol::from_static(protocol));
    client
        .send_request(request.body(full("")).unwrap())
        .await
        .unwrap()
}

/// A client that knows the proxy's settings: it has had an answer.
async fn settled(proxy: &TestProxy) -> http2::SendRequest<Body> {
    let mut client = connect_http2(proxy.addresses.ingress).await;
    let request = Request::get("http://nobody.example/")
        .body(full(""))
        .unwrap();
    let answer = client.send_request(request).await.unwrap();
    let _ = read(answer).await;
    client
}

#[tokio::test]
async fn a_websocket_over_http2_is_an_upgrade_to_the_endpoint() {
    let endpoint = switching().await;
    let proxy = before(endpoint.address, |_| ()).await;
    let mut client = settled(&proxy).await;
    let answer = websocket(&mut client, "websocket").await;
    assert_eq!(answer.status(), StatusCode::OK);
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    stream.write_all(b"hello;").await.unwrap();
    let mut heard = [0; 18];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"first;hello;hello;");
    stream.write_all(b"end").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "then end");
    assert_eq!(websocket(&mut client, "other").await.status(), 405);
    proxy.end().await;
}

#[tokio::test]
async fn an_endpoint_that_knows_no_websocket_is_a_502() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = before(endpoint.address, |_| ()).await;
    let mut client = settled(&proxy).await;
    assert_eq!(websocket(&mut client, "websocket").await.status(), 502);
    proxy.end().await;
}
