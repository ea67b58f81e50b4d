//! How endpoints are spoken to: HTTP/2 by the service's policy, the PROXY protocol before the first byte.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use isobar_edge_proxy::config::listener::ListenerProtocol;
use isobar_edge_proxy::proxy_protocol::{Begin, Ends, parse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::listeners::{listener, with_listener};
use crate::resilience::{ask, proxy, request};
use crate::support::{
    Authority, Body, HOST, TestEndpoint, TestProxy, connect_http2, full, moves_to, read, send,
    snapshot, takes_from,
};
use crate::tcp::{database, local};

/// Answers to HTTP/2 alone: the body back, what it saw in headers, a trailer behind it.
struct Http2Endpoint {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Http2Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn http2_endpoint() -> Http2Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let accepted = Arc::clone(&connections);
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            accepted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service_fn(echo)),
            );
        }
    });
    Http2Endpoint {
        address,
        connections,
        task,
    }
}

async fn echo(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    assert_eq!(request.version(), Version::HTTP_2);
    let mut answer = Response::builder();
    if let Some(authority) = request.uri().authority() {
        answer = answer.header("x-authority", authority.as_str());
    }
    answer = answer.header(
        "x-cookies",
        request.headers().get_all("cookie").iter().count(),
    );
    answer = answer.header("x-method", request.method().as_str());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-after", "all".parse().unwrap());
    let body = full(body).with_trailers(async move { Some(Ok(trailers)) });
    Ok(answer.body(body.boxed()).unwrap())
}

#[tokio::test]
async fn endpoints_that_speak_http2_serve_clients_of_both_kinds() {
    let endpoint = http2_endpoint().await;
    let policy = r#"{"endpoints": {"protocol": "http2"}}"#;
    let proxy = proxy(&[endpoint.address], policy).await;
    for method in ["GET", "POST", "PUT"] {
        let long = "x".repeat(100_000);
        let body = if method == "GET" { "" } else { &long };
        let mut asked = request(method, full(body.to_owned()));
        asked
            .headers_mut()
            .insert("cookie", "a=1; b=2".parse().unwrap());
        let (status, headers, answer) = send(proxy.addresses.ingress, asked).await;
        assert_eq!(
            (status, answer.len()),
            (StatusCode::OK, body.len()),
            "{method}"
        );
        assert_eq!(headers["x-authority"], HOST);
        assert_eq!(headers["x-method"], method);
        assert_eq!(headers["x-cookies"], "1");
    }
    let mut client = connect_http2(proxy.addresses.ingress).await;
    let asked = Request::post(format!("http://{HOST}/x")).body(full("ping"));
    let answer = client.send_request(asked.unwrap()).await.unwrap();
    let (head, mut body) = answer.into_parts();
    assert_eq!(head.headers["x-authority"], HOST);
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        frames.push(frame.unwrap());
    }
    let trailers = frames.pop().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["x-after"], "all");
    let data = frames
        .into_iter()
        .filter_map(|frame: Frame<_>| frame.into_data().ok());
    assert_eq!(data.collect::<Vec<_>>().concat(), b"ping");
    // All of it on one connection.
    assert_eq!(endpoint.connections.load(Ordering::SeqCst), 1);
    // A change of protocol has no way there, and the endpoint did nothing wrong.
    let mut asked = request("GET", full(""));
    asked
        .headers_mut()
        .insert("upgrade", "echo".parse().unwrap());
    asked
        .headers_mut()
        .insert("connection", "upgrade".parse().unwrap());
    let (status, ..) = send(proxy.addresses.ingress, asked).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert_eq!(ask(&proxy, "GET").await.0, StatusCode::OK);
    proxy.end().await;
}

#[tokio::test]
async fn endpoints_of_another_node_speak_http2_too() {
    let endpoint = http2_endpoint().await;
    let nobody = TestEndpoint::start("nobody").await;
    let authority = Authority::new();
    let mut of_b = takes_from(snapshot("b", &nobody, 4), "a");
    of_b.services[0].endpoints[0].address = endpoint.address.to_string();
    let policy = serde_json::from_str(r#"{"endpoints": {"protocol": "http2"}}"#).unwrap();
    of_b.services[0].traffic = Some(Arc::new(policy));
    let b = TestProxy::with_snapshot(&of_b, &authority).await;
    let mut of_a = moves_to(snapshot("a", &nobody, 4), "b", b.addresses.mesh, 1_000_000);
    of_a.services[0].endpoints.clear();
    let a = TestProxy::with_snapshot(&of_a, &authority).await;
    let (status, headers, answer) = send(a.addresses.ingress, request("POST", full("x"))).await;
    assert_eq!((status, answer.as_str()), (StatusCode::OK, "x"));
    assert_eq!(headers["x-authority"], HOST);
    a.end().await;
    b.end().await;
}

/// Says of each connection what its header told; then serves HTTP/1.1, a request a connection, or sends back what comes.
async fn told(
    http: bool,
) -> (
    SocketAddr,
    tokio::sync::mpsc::Receiver<Option<Ends>>,
    JoinHandle<()>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = tokio::sync::mpsc::channel(16);
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                let (len, addresses) = loop {
                    match parse(&seen).unwrap() {
                        Begin::Incomplete => assert!(stream.read_buf(&mut seen).await.unwrap() > 0),
                        Begin::Other => panic!("no header: {seen:?}"),
                        Begin::Header { len, addresses } => break (len, addresses),
                    }
                };
                tell.send(addresses).await.unwrap();
                let mut rest = seen.split_off(len);
                if !http {
                    while stream.read_buf(&mut rest).await.unwrap() > 0 {}
                    stream.write_all(&rest).await.unwrap();
                    return;
                }
                while !rest.ends_with(b"\r\n\r\n") {
                    assert!(stream.read_buf(&mut rest).await.unwrap() > 0);
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
                // Nothing else is asked here.
                assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
            });
        }
    });
    (address, told, task)
}

#[tokio::test]
async fn endpoints_are_told_whom_a_connection_is_from() {
    for version in ["v1", "v2"] {
        let (address, mut told, task) = told(true).await;
        let policy = format!(r#"{{"endpoints": {{"proxy_protocol": "{version}"}}}}"#);
        let proxy = proxy(&[address], &policy).await;
        // One client, two requests: each has a connection of its own.
        let stream = TcpStream::connect(proxy.addresses.ingress).await.unwrap();
        let own = stream.local_addr().unwrap();
        let io = TokioIo::new(stream);
        let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..2 {
            let answer = client.send_request(request("GET", full(""))).await.unwrap();
            assert_eq!(read(answer).await.2, "ok");
            let ends = told.recv().await.unwrap().unwrap();
            assert_eq!(ends.source, own, "{version}");
            assert_eq!(ends.destination, proxy.addresses.ingress, "{version}");
        }
        proxy.end().await;
        task.abort();
    }
}

#[tokio::test]
async fn a_tcp_connection_is_announced() {
    let (address, mut told, task) = told(false).await;
    let mut own = listener(ListenerProtocol::Tcp);
    own.service = Some(database());
    let proxy = with_listener(address, own, |config| {
        config.services = vec![local(address)];
        let policy = r#"{"endpoints": {"proxy_protocol": "v2"}}"#;
        config
            .traffic_policies
            .push(serde_json::from_str(policy).unwrap());
    })
    .await;
    let mut client = TcpStream::connect(proxy.own()).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = String::new();
    client.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "hello");
    let ends = told.recv().await.unwrap().unwrap();
    assert_eq!(ends.source, client.local_addr().unwrap());
    assert_eq!(ends.destination, proxy.own());
    proxy.end().await;
    task.abort();
}
