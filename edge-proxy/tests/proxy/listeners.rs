//! Listeners of the configuration: TLS that ends here, the PROXY protocol, detection, forwarding headers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use crate::support::{HOST, TestEndpoint, TestProxy, config, full, read, send, service};
use http::{Request, StatusCode};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use isobar_edge_proxy::config::Config;
use isobar_edge_proxy::config::listener::{
    CertificateFiles, ListenerConfig, ListenerProtocol, ProxyProtocol,
};
use isobar_edge_proxy::config::sources::Sources;
use isobar_edge_proxy::proxy_protocol::{Ends, write_binary, write_line};
use isobar_mesh_api::message::LocalService;
use isobar_mesh_api::snapshot::Endpoint;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A proxy with one service for any host and one listener.
pub async fn with_listener(
    endpoint: SocketAddr,
    listener: ListenerConfig,
    change: impl FnOnce(&mut Config),
) -> TestProxy {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config("a", &dir);
    config.services.push(LocalService {
        service: service(),
        hosts: vec!["*".to_owned()],
        endpoints: vec![Endpoint {
            address: endpoint.to_string(),
            workers: 8,
        }],
        capacity_rps: None,
    });
    config.listeners.push(listener);
    change(&mut config);
    TestProxy::start(config, dir).await
}

pub fn listener(protocol: ListenerProtocol) -> ListenerConfig {
    ListenerConfig::new("own", SocketAddr::from(([127, 0, 0, 1], 0)), protocol)
}

pub fn trusted(range: &str) -> Sources {
    Sources::new(vec![range.parse().unwrap()])
}

impl TestProxy {
    pub fn own(&self) -> SocketAddr {
        self.addresses.listeners["own"]
    }

    /// Waits until a line of `/metrics` is there.
    pub async fn metric(&self, line: &str) {
        for _ in 0..10_000 {
            let (_, metrics) = self.admin("GET", "/metrics").await;
            if metrics.lines().any(|seen| seen == line) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        let (_, metrics) = self.admin("GET", "/metrics").await;
        panic!("{line} is not in\n{metrics}");
    }
}

/// Writes a new certificate of these names, signed by itself.
pub fn certificate(
    dir: &Path,
    file: &str,
    names: &[&str],
) -> (CertificateFiles, CertificateDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let certificate = CertificateParams::new(names)
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let (chain_file, key_file) = (
        dir.join(format!("{file}.pem")),
        dir.join(format!("{file}-key.pem")),
    );
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    std::fs::write(&chain_file, certificate.pem()).unwrap();
    let files = CertificateFiles {
        chain_file,
        key_file,
        names: Vec::new(),
        default: false,
    };
    (files, certificate.der().clone())
}

/// A TLS connection that asks for `name`; the name is not checked.
pub async fn tls(
    address: SocketAddr,
    name: &'static str,
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
    config
        .dangerous()
        .set_certificate_verifier(Arc::new(crate::mesh::Anyone));
    config.alpn_protocols = alpn
        .iter()
        .map(|protocol| protocol.as_bytes().to_vec())
        .collect();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(name).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

async fn shown(address: SocketAddr, name: &'static str) -> Option<CertificateDer<'static>> {
    let stream = tls(address, name, &[]).await.ok()?;
    Some(stream.get_ref().1.peer_certificates()?[0].clone())
}

pub fn https(certificates: Vec<CertificateFiles>) -> ListenerConfig {
    let mut listener = listener(ListenerProtocol::Https);
    listener.certificates = certificates;
    listener
}

#[tokio::test]
async fn certificates_are_shown_by_name() {
    let endpoint = TestEndpoint::start("a").await;
    let dir = TempDir::new().unwrap();
    let (exact, exact_der) = certificate(dir.path(), "exact", &["shop.example"]);
    let (wild, wild_der) = certificate(dir.path(), "wild", &["*.wild.example", "shop.example"]);
    let proxy = with_listener(
        endpoint.address,
        https(vec![exact.clone(), wild.clone()]),
        |_| {},
    )
    .await;
    assert_eq!(
        shown(proxy.own(), "shop.example").await,
        Some(exact_der.clone())
    );
    assert_eq!(
        shown(proxy.own(), "other.wild.example").await,
        Some(wild_der.clone())
    );
    // A wildcard stands for one label.
    assert_eq!(shown(proxy.own(), "a.other.wild.example").await, None);
    assert_eq!(shown(proxy.own(), "127.0.0.1").await, None);
    proxy
        .metric("isobar_proxy_listener_handshakes_total{listener=\"own\"} 2")
        .await;
    proxy
        .metric("isobar_proxy_listener_refused_total{listener=\"own\",cause=\"handshake\"} 2")
        .await;
    proxy.end().await;

    let default = CertificateFiles {
        default: true,
        ..exact
    };
    let proxy = with_listener(endpoint.address, https(vec![default, wild]), |_| {}).await;
    assert_eq!(
        shown(proxy.own(), "a.other.wild.example").await,
        Some(exact_der.clone())
    );
    assert_eq!(shown(proxy.own(), "127.0.0.1").await, Some(exact_der));
    proxy.end().await;
}

#[tokio::test]
async fn http_over_tls_by_alpn() {
    let endpoint = TestEndpoint::start("a").await;
    let dir = TempDir::new().unwrap();
    let (files, _) = certificate(dir.path(), "exact", &[HOST]);
    let proxy = with_listener(endpoint.address, https(vec![files]), |_| {}).await;

    let stream = tls(proxy.own(), HOST, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("https://{HOST}/headers"))
        .body(full(""))
        .unwrap();
    let (status, _, seen) = read(client.send_request(request).await.unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    assert!(seen.contains("x-forwarded-proto: https\n"), "{seen}");

    for alpn in [&["http/1.1"][..], &[]] {
        let stream = tls(proxy.own(), HOST, alpn).await.unwrap();
        let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/")
            .header("host", HOST)
            .body(full(""))
            .unwrap();
        assert_eq!(
            read(client.send_request(request).await.unwrap()).await.2,
            "a"
        );
    }
    proxy.end().await;
}

#[tokio::test]
async fn new_certificates_come_into_force_and_broken_ones_do_not() {
    let endpoint = TestEndpoint::start("a").await;
    let dir = TempDir::new().unwrap();
    let (files, first) = certificate(dir.path(), "exact", &[HOST]);
    let proxy = with_listener(endpoint.address, https(vec![files.clone()]), |_| {}).await;
    assert_eq!(shown(proxy.own(), HOST).await, Some(first.clone()));

    std::fs::write(&files.chain_file, "broken").unwrap();
    proxy.metric("isobar_proxy_listener_certificate_reloads_total{listener=\"own\",outcome=\"failed\"} 1").await;
    assert_eq!(shown(proxy.own(), HOST).await, Some(first));

    // Both files at once: between the two writes they do not fit together, and then again they do.
    let (_, second) = certificate(dir.path(), "exact", &[HOST]);
    proxy
        .metric(
            "isobar_proxy_listener_certificate_reloads_total{listener=\"own\",outcome=\"ok\"} 1",
        )
        .await;
    assert_eq!(shown(proxy.own(), HOST).await, Some(second));
    proxy.end().await;
}

#[tokio::test]
async fn a_handshake_has_its_time() {
    let endpoint = TestEndpoint::start("a").await;
    let dir = TempDir::new().unwrap();
    let (files, _) = certificate(dir.path(), "exact", &[HOST]);
    let limits = |config: &mut Config| {
        config.limits.handshake_wait_ms_max = 50;
        config.limits.handshakes_max = 1;
    };
    let proxy = with_listener(endpoint.address, https(vec![files]), limits).await;
    // One says nothing, the other waits for its turn: both are closed.
    let mut silent = [
        TcpStream::connect(proxy.own()).await.unwrap(),
        TcpStream::connect(proxy.own()).await.unwrap(),
    ];
    for stream in &mut silent {
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    }
    proxy
        .metric("isobar_proxy_listener_refused_total{listener=\"own\",cause=\"handshake_wait\"} 2")
        .await;
    proxy.end().await;
}

/// A request for the headers that the endpoint sees, behind `header`; nothing when the connection is closed.
async fn seen_behind(address: SocketAddr, header: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /headers HTTP/1.1\r\nhost: {HOST}\r\nx-forwarded-for: 9.9.9.9\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(header).await.unwrap();
    let _ = stream.write_all(request.as_bytes()).await;
    let mut seen = Vec::new();
    let _ = stream.read_to_end(&mut seen).await;
    String::from_utf8(seen).unwrap()
}

#[tokio::test]
async fn the_proxy_protocol_names_the_client() {
    let endpoint = TestEndpoint::start("a").await;
    let v4 = Ends {
        source: "192.0.2.7:5000".parse().unwrap(),
        destination: "192.0.2.8:443".parse().unwrap(),
    };
    let v6 = Ends {
        source: "[2001:db8::7]:5000".parse().unwrap(),
        destination: "[2001:db8::8]:443".parse().unwrap(),
    };
    let cases: [(ProxyProtocol, &str, Vec<u8>, Option<&str>); 10] = [
        (
            ProxyProtocol::Require,
            "127.0.0.0/8",
            write_line(v4),
            Some("192.0.2.7"),
        ),
        (
            ProxyProtocol::Require,
            "127.0.0.0/8",
            write_binary(v4),
            Some("192.0.2.7"),
        ),
        (
            ProxyProtocol::Require,
            "127.0.0.0/8",
            write_binary(v6),
            Some("2001:db8::7"),
        ),
        (
            ProxyProtocol::Require,
            "127.0.0.0/8",
            b"PROXY UNKNOWN\r\n".to_vec(),
            Some("9.9.9.9, 127.0.0.1"),
        ),
        (ProxyProtocol::Require, "127.0.0.0/8", Vec::new(), None),
        (
            ProxyProtocol::Require,
            "127.0.0.0/8",
            b"PROXY TCP4 nobody\r\n".to_vec(),
            None,
        ),
        (ProxyProtocol::Require, "10.0.0.0/8", write_line(v4), None),
        (
            ProxyProtocol::Accept,
            "127.0.0.0/8",
            write_line(v4),
            Some("192.0.2.7"),
        ),
        (
            ProxyProtocol::Accept,
            "10.0.0.0/8",
            Vec::new(),
            Some("127.0.0.1"),
        ),
        (ProxyProtocol::Accept, "10.0.0.0/8", write_line(v4), None),
    ];
    for (mode, range, header, expected) in cases {
        let mut listener = listener(ListenerProtocol::Http);
        listener.proxy_protocol = mode;
        listener.trusted_sources = Some(trusted(range));
        let proxy = with_listener(endpoint.address, listener, |_| {}).await;
        let seen = seen_behind(proxy.own(), &header).await;
        match expected {
            Some(client) => {
                let line = format!("x-forwarded-for: {client}\n");
                assert!(seen.contains(&line), "{mode:?} {range} {header:?}\n{seen}");
            }
            None => assert_eq!(seen, "", "{mode:?} {range} {header:?}"),
        }
        proxy.end().await;
    }
}

#[tokio::test]
async fn forwarding_headers_are_replaced_unless_the_client_is_trusted() {
    let endpoint = TestEndpoint::start("a").await;
    for (range, expected) in [
        ("10.0.0.0/8", "127.0.0.1"),
        ("127.0.0.1", "9.9.9.9, 127.0.0.1"),
    ] {
        let trust = |config: &mut Config| config.trusted_sources = trusted(range);
        let proxy = with_listener(endpoint.address, listener(ListenerProtocol::Http), trust).await;
        let request = Request::get("/headers")
            .header("host", HOST)
            .header("x-forwarded-for", "9.9.9.9");
        let (_, _, seen) = send(proxy.addresses.ingress, request.body(full("")).unwrap()).await;
        assert!(
            seen.contains(&format!("x-forwarded-for: {expected}\n")),
            "{seen}"
        );
        assert!(seen.contains("x-forwarded-proto: http\n"), "{seen}");
        assert!(
            seen.contains(&format!("x-forwarded-host: {HOST}\n")),
            "{seen}"
        );
        proxy.end().await;
    }
}

#[tokio::test]
async fn what_a_client_speaks_is_found_out() {
    let endpoint = TestEndpoint::start("a").await;
    let speaks_first = crate::tcp::Greeter::start().await;
    let dir = TempDir::new().unwrap();
    let (files, _) = certificate(dir.path(), "exact", &[HOST]);
    let mut own = listener(ListenerProtocol::Detect);
    own.certificates = vec![files];
    own.service = Some(crate::tcp::database());
    own.detect_wait_ms_max = 50;
    let proxy = with_listener(endpoint.address, own, |config| {
        config
            .services
            .push(crate::tcp::local(speaks_first.address));
    })
    .await;
    let own = proxy.own();

    let request = Request::get("/")
        .header("host", HOST)
        .body(full(""))
        .unwrap();
    assert_eq!(send(own, request).await.2, "a");
    let mut client = crate::support::connect_http2(own).await;
    let request = Request::get(format!("http://{HOST}/"))
        .body(full(""))
        .unwrap();
    assert_eq!(
        read(client.send_request(request).await.unwrap()).await.2,
        "a"
    );
    let stream = tls(own, HOST, &["http/1.1"]).await.unwrap();
    let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/")
        .header("host", HOST)
        .body(full(""))
        .unwrap();
    assert_eq!(
        read(client.send_request(request).await.unwrap()).await.2,
        "a"
    );
    // A client that waits for the server's greeting, and one that speaks something else.
    for first in [&b""[..], b"SET key value\r\n"] {
        let mut stream = TcpStream::connect(own).await.unwrap();
        stream.write_all(first).await.unwrap();
        let mut greeting = [0; 5];
        stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"hello");
    }
    for (protocol, count) in [
        ("http1", 1),
        ("http2", 1),
        ("tls", 1),
        ("tcp", 1),
        ("timeout", 1),
    ] {
        let line = format!(
            "isobar_proxy_listener_detected_total{{listener=\"own\",protocol=\"{protocol}\"}} {count}"
        );
        proxy.metric(&line).await;
    }
    proxy.end().await;
}
