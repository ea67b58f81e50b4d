//! HTTP/3 at a listener for HTTPS, asked by a client of HTTP/3.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use crate::listeners::{certificate, https, tls, with_listener};
use crate::support::{HOST, TestEndpoint, TestProxy};
use bytes::{Buf, Bytes};
use h3::client::SendRequest;
use h3::error::StreamError;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use isobar_edge_proxy::config::Config;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

/// Longer than anything takes here.
const LONG: Duration = Duration::from_secs(60);

/// A proxy with one HTTPS listener that serves HTTP/3 as well, and what it shows.
async fn serving(
    endpoint: SocketAddr,
    change: impl FnOnce(&mut Config),
) -> (TestProxy, CertificateDer<'static>, TempDir) {
    let dir = TempDir::new().unwrap();
    let (files, shown) = certificate(dir.path(), "own", &[HOST]);
    let mut listener = https(vec![files]);
    listener.http3 = true;
    (with_listener(endpoint, listener, change).await, shown, dir)
}

type Sender = SendRequest<h3_quinn::OpenStreams, Bytes>;

/// A client's connection.
struct Client {
    endpoint: quinn::Endpoint,
    connection: quinn::Connection,
    sender: Sender,
}

impl Client {
    async fn connect(to: SocketAddr, root: &CertificateDer<'static>) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let tls = QuicClientConfig::try_from(tls).unwrap();
        let mut config = quinn::ClientConfig::new(Arc::new(tls));
        // The proxy's limits are to be met, not the client's.
        let mut transport = quinn::TransportConfig::default();
        transport.max_idle_timeout(Some(LONG.try_into().unwrap()));
        config.transport_config(Arc::new(transport));
        let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        // The sockets are opened beside the others, which may be a moment later.
        let connection = loop {
            let connecting = endpoint.connect_with(config.clone(), to, HOST).unwrap();
            match tokio::time::timeout(Duration::from_secs(2), connecting).await {
                Ok(connected) => break connected.unwrap(),
                Err(_) => continue,
            }
        };
        let made = h3::client::new(h3_quinn::Connection::new(connection.clone()));
        let (mut driver, sender) = made.await.unwrap();
        tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
        Client {
            endpoint,
            connection,
            sender,
        }
    }

    async fn ask(&mut self, request: Request<()>, body: &[&[u8]]) -> Answered {
        ask(&mut self.sender, request, body).await
    }

    async fn get(&mut self, path: &str) -> Answered {
        self.ask(request("GET", path), &[]).await
    }

    /// The proxy ends the connection.
    async fn closed(&self) {
        let closed = tokio::time::timeout(LONG, self.connection.closed()).await;
        closed.expect("it is closed");
    }
}

type Answered = Result<(StatusCode, HeaderMap, String), StreamError>;

fn request(method: &str, path: &str) -> Request<()> {
    let request = Request::builder().method(method);
    let request = request.uri(format!("https://{HOST}{path}"));
    request.body(()).unwrap()
}

async fn ask(sender: &mut Sender, request: Request<()>, body: &[&[u8]]) -> Answered {
    let mut stream = sender.send_request(request).await?;
    for piece in body {
        stream.send_data(Bytes::copy_from_slice(piece)).await?;
    }
    stream.finish().await?;
    let head = stream.recv_response().await?;
    let mut text = Vec::new();
    while let Some(mut data) = stream.recv_data().await? {
        text.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    let text = String::from_utf8(text).unwrap();
    Ok((head.status(), head.headers().clone(), text))
}

#[tokio::test]
async fn requests_over_http3_go_the_same_way() {
    let endpoint = TestEndpoint::start("a").await;
    let (proxy, root, _dir) = serving(endpoint.address, |config| {
        config.services[0].hosts = vec![HOST.to_owned()];
    })
    .await;
    let mut client = Client::connect(proxy.own(), &root).await;
    let (status, headers, body) = client.get("/x?y=1").await.unwrap();
    assert_eq!((status, body.as_str()), (StatusCode::OK, "a"));
    assert_eq!(headers["x-seen"], "/x?y=1");
    assert_eq!(headers["content-length"], "1");
    assert!(headers.contains_key("date"));
    let own = format!("h3=\":{}\"; ma=3600", proxy.own().port());
    assert_eq!(headers["alt-svc"], own);

    // What endpoints get is what every client's request becomes.
    let mut asked = request("GET", "/headers");
    let forged = "b".parse().unwrap();
    asked.headers_mut().insert("isobar-home", forged);
    let (_, _, seen) = client.ask(asked, &[]).await.unwrap();
    assert!(seen.contains(&format!("host: {HOST}\n")), "{seen}");
    assert!(seen.contains("x-forwarded-proto: https\n"), "{seen}");
    assert!(seen.contains("x-forwarded-for: 127.0.0.1\n"), "{seen}");
    for never in ["isobar-", "transfer-encoding", "content-length"] {
        assert!(!seen.contains(never), "{seen}");
    }

    // Bodies both ways, with their length said before and without.
    let piece = "0123456789abcdef".repeat(4096);
    let pieces = [piece.as_bytes(); 16];
    let (status, _, body) = client.ask(request("POST", "/echo"), &pieces).await.unwrap();
    assert_eq!((status, body.len()), (StatusCode::OK, 16 * piece.len()));
    let mut sized = request("POST", "/echo");
    sized.headers_mut().insert("content-length", 4.into());
    let (_, _, body) = client.ask(sized, &[b"pi", b"ng"]).await.unwrap();
    assert_eq!(body, "ping");
    let (status, headers, body) = client.ask(request("HEAD", "/"), &[]).await.unwrap();
    assert_eq!((status, body.as_str()), (StatusCode::OK, ""));
    assert_eq!(headers["content-length"], "1");

    let mut unknown = request("GET", "/");
    *unknown.uri_mut() = "https://nobody.example/".parse().unwrap();
    assert_eq!(
        client.ask(unknown, &[]).await.unwrap().0,
        StatusCode::NOT_FOUND
    );
    let mut tunnel = request("GET", "/");
    *tunnel.method_mut() = Method::CONNECT;
    *tunnel.uri_mut() = format!("{HOST}:443").parse().unwrap();
    if let Ok((status, ..)) = client.ask(tunnel, &[]).await {
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    }
    proxy
        .metric("isobar_proxy_listener_connections_total{listener=\"own\"} 1")
        .await;
    proxy.end().await;
}

#[tokio::test]
async fn clients_of_https_are_told_of_http3() {
    let endpoint = TestEndpoint::start("a").await;
    let (proxy, root, _dir) = serving(endpoint.address, |config| {
        config.listeners[0].http3_port = Some(443);
    })
    .await;
    // Once there is a client of HTTP/3, the sockets are open.
    let mut client = Client::connect(proxy.own(), &root).await;
    assert_eq!(client.get("/").await.unwrap().2, "a");
    let stream = tls(proxy.own(), HOST, &["h2"]).await.unwrap();
    let io = TokioIo::new(stream);
    let made = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
    let (mut sender, connection) = made.unwrap();
    tokio::spawn(connection);
    let asked = Request::get(format!("https://{HOST}/"));
    let asked = asked.body(crate::support::full("")).unwrap();
    let response = sender.send_request(asked).await.unwrap();
    assert_eq!(response.headers()["alt-svc"], "h3=\":443\"; ma=3600");
    drop(response.into_body().collect().await.unwrap());
    // Who comes in plain text is told nothing.
    assert!(!proxy.get("/").await.1.contains_key("alt-svc"));
    proxy.end().await;
}

#[tokio::test]
async fn a_drain_lets_requests_over_http3_end() {
    let endpoint = TestEndpoint::start("a").await;
    let (proxy, root, _dir) = serving(endpoint.address, |_| ()).await;
    let mut client = Client::connect(proxy.own(), &root).await;
    let mut sender = client.sender.clone();
    let held = tokio::spawn(async move { ask(&mut sender, request("GET", "/hold"), &[]).await });
    endpoint.arrival().await;
    let at = proxy.own();
    assert_eq!(proxy.admin("POST", "/drain").await.0, StatusCode::ACCEPTED);
    // GOAWAY comes, and no further request begins.
    let refused = async {
        while let Ok(answered) = client.get("/").await {
            assert_eq!(answered.0, StatusCode::OK);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, refused).await.unwrap();
    endpoint.let_go();
    let (status, _, body) = held.await.unwrap().unwrap();
    assert_eq!((status, body.as_str()), (StatusCode::OK, "held"));
    drop(client);
    proxy.ended().await;
    // The port is free again.
    UdpSocket::bind(at).unwrap();
}

#[tokio::test]
async fn a_client_that_moves_keeps_its_connection() {
    let endpoint = TestEndpoint::start("a").await;
    let (proxy, root, _dir) = serving(endpoint.address, |config| config.workers = Some(4)).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::connect(proxy.own(), &root).await);
    }
    for client in &mut clients {
        assert_eq!(client.get("/").await.unwrap().2, "a");
        for _ in 0..3 {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.endpoint.rebind(socket).unwrap();
            assert_eq!(client.get("/").await.unwrap().2, "a");
        }
    }
    proxy.end().await;
}

#[tokio::test]
async fn new_certificates_are_shown_to_new_connections() {
    let endpoint = TestEndpoint::start("a").await;
    let (proxy, old, dir) = serving(endpoint.address, |_| ()).await;
    let mut before = Client::connect(proxy.own(), &old).await;
    let (_, new) = certificate(dir.path(), "own", &[HOST]);
    assert_eq!(proxy.admin("POST", "/reload").await.0, StatusCode::ACCEPTED);
    proxy
        .metric(
            "isobar_proxy_listener_certificate_reloads_total{listener=\"own\",outcome=\"ok\"} 1",
        )
        .await;
    let mut after = Client::connect(proxy.own(), &new).await;
    assert_eq!(after.get("/").await.unwrap().2, "a");
    assert_eq!(before.get("/").await.unwrap().2, "a");
    proxy.end().await;
}

#[tokio::test]
async fn abuse_over_http3_is_bounded() {
    let endpoint = TestEndpoint::start("a").await;
    let (proxy, root, _dir) = serving(endpoint.address, |config| {
        config.limits.idle_wait_ms_max = 5_000;
        config.limits.head_wait_ms_max = 1_000;
        let policy = serde_json::json!({ "sizes": { "request_body_len_max": 1000 } });
        config
            .traffic_policies
            .push(serde_json::from_value(policy).unwrap());
    })
    .await;
    // Too large, whether it says so before or not.
    let mut client = Client::connect(proxy.own(), &root).await;
    let mut sized = request("POST", "/echo");
    sized.headers_mut().insert("content-length", 2000.into());
    let (status, ..) = client.ask(sized, &[&[b'x'; 2000]]).await.unwrap();
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    match client.ask(request("POST", "/hold"), &[&[b'x'; 2000]]).await {
        Ok((status, _, body)) => {
            assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{}", body.len())
        }
        // It was refused while it was being sent.
        Err(error) => assert!(
            matches!(error, StreamError::RemoteTerminate { .. }),
            "{error}"
        ),
    }
    // More or less than was announced, and what only HTTP/1.1 has.
    let mut cases = Vec::new();
    for (length, body) in [("2", &b"ping"[..]), ("8", b"ping"), ("x", b"ping")] {
        let mut wrong = request("POST", "/hold");
        wrong
            .headers_mut()
            .insert("content-length", length.parse().unwrap());
        cases.push((wrong, vec![body]));
    }
    let mut coded = request("POST", "/hold");
    coded
        .headers_mut()
        .insert("transfer-encoding", "chunked".parse().unwrap());
    cases.push((coded, vec![b"0\r\n\r\n"]));
    for (wrong, body) in cases {
        let shown = format!("{wrong:?}");
        let answered = client.ask(wrong, &body).await;
        assert!(
            !answered.is_ok_and(|(status, ..)| status.is_success()),
            "{shown}"
        );
    }
    assert_eq!(client.get("/").await.unwrap().2, "a");

    // More requests at once than a connection may have wait at the client.
    let mut open = Vec::new();
    let patience = Duration::from_millis(500);
    while let Ok(stream) = tokio::time::timeout(patience, client.connection.open_bi()).await {
        open.push(stream.unwrap());
        assert!(open.len() <= 256, "there is no limit");
    }
    open[0].0.write_all(&[0x01]).await.unwrap();
    // Requests whose head does not come are given up.
    proxy
        .metric(
            "isobar_proxy_messages_refused_total{side=\"downstream\",reason=\"head_timeout\"} 1",
        )
        .await;
    // Garbage in place of a request ends the connection, and no other.
    let other = Client::connect(proxy.own(), &root).await;
    let (mut send, _receive) = other.connection.open_bi().await.unwrap();
    send.write_all(&[0x04, 0x00]).await.unwrap();
    other.closed().await;
    let mut other = Client::connect(proxy.own(), &root).await;
    assert_eq!(other.get("/").await.unwrap().2, "a");
    // Who asks for nothing is closed.
    other.closed().await;
    proxy.end().await;
}
