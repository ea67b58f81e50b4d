//! Between proxies: two of them over mutual TLS.

use std::sync::Arc;

use crate::support::{
    Authority, HOST, TestEndpoint, TestProxy, full, moves_to, node, send, snapshot, takes_from,
};
use http::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use isobar_edge_proxy::identity::Identity;
use isobar_mesh_api::hop::LoadHint;
use isobar_mesh_api::snapshot::QueueLimits;
use isobar_mesh_api::weight::WHOLE_PPM;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

#[tokio::test]
async fn weights_move_load_and_it_is_counted() {
    let (a, b) = (
        TestEndpoint::start("a").await,
        TestEndpoint::start("b").await,
    );
    let authority = Authority::new();
    let receiver = takes_from(snapshot("b", &b, 8), "a");
    let receiver = TestProxy::with_snapshot(&receiver, &authority).await;
    let to_b = moves_to(snapshot("a", &a, 8), "b", receiver.addresses.mesh, 300_000);
    let home = TestProxy::with_snapshot(&to_b, &authority).await;
    for _ in 0..10 {
        let (status, headers, body) = home.get("/").await;
        assert_eq!(status, StatusCode::OK);
        assert!(["a", "b"].contains(&body.as_str()));
        assert!(!headers.contains_key("isobar-load"), "{headers:?}");
    }
    assert_eq!((a.served(), b.served()), (7, 3));
    let moved =
        "isobar_proxy_requests_moved_out_total{service=\"shop/cart\",to=\"b\",cause=\"plan\"} 3\n";
    let (_, metrics) = home.admin("GET", "/metrics").await;
    assert!(metrics.contains(moved), "{metrics}");
    let taken = "isobar_proxy_requests_moved_in_total{service=\"shop/cart\",home=\"a\"} 3\n";
    let (_, metrics) = receiver.admin("GET", "/metrics").await;
    assert!(metrics.contains(taken), "{metrics}");
    assert!(metrics.contains("isobar_proxy_requests_entered_total{service=\"shop/cart\"} 0\n"));
    home.end().await;
    receiver.end().await;
}

#[tokio::test]
async fn a_refused_request_comes_home_with_its_body() {
    let (a, b) = (
        TestEndpoint::start("a").await,
        TestEndpoint::start("b").await,
    );
    let authority = Authority::new();
    // No credit for anybody.
    let receiver = TestProxy::with_snapshot(&snapshot("b", &b, 8), &authority).await;
    let to_b = moves_to(
        snapshot("a", &a, 8),
        "b",
        receiver.addresses.mesh,
        WHOLE_PPM,
    );
    let home = TestProxy::with_snapshot(&to_b, &authority).await;
    assert_eq!(home.get("/").await.2, "a");
    let sent = "x".repeat(40_000);
    let request = Request::post("/echo").header("host", HOST);
    let request = request.body(full(sent.clone())).unwrap();
    let (status, _, body) = send(home.addresses.ingress, request).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body == sent, "{} bytes came back", body.len());
    assert_eq!((a.served(), b.served()), (2, 0));
    let refused =
        "isobar_proxy_requests_moved_out_refused_total{service=\"shop/cart\",to=\"b\"} 2\n";
    let (_, metrics) = home.admin("GET", "/metrics").await;
    assert!(metrics.contains(refused), "{metrics}");
    home.end().await;
    receiver.end().await;
}

#[tokio::test]
async fn a_full_home_asks_around_and_spills() {
    let (a, b) = (
        TestEndpoint::start("a").await,
        TestEndpoint::start("b").await,
    );
    let authority = Authority::new();
    let receiver = takes_from(snapshot("b", &b, 8), "a");
    let receiver = TestProxy::with_snapshot(&receiver, &authority).await;
    let mut plan = moves_to(snapshot("a", &a, 1), "b", receiver.addresses.mesh, 0);
    plan.services[0].spill = vec![node("b")];
    plan.services[0].queue = QueueLimits {
        wait_ms_max: 3_600_000,
        per_worker_max: 1_000_000,
    };
    let home = TestProxy::with_snapshot(&plan, &authority).await;
    let hold = || {
        let request = Request::get("/hold").header("host", HOST);
        tokio::spawn(send(
            home.addresses.ingress,
            request.body(full("")).unwrap(),
        ))
    };
    let _held = hold();
    a.arrival().await;
    // Requests queue at home until the prober has heard of `b`; then one goes there.
    let mut waiting = Vec::new();
    while b.served() == 0 {
        waiting.push(hold());
        home.admin("GET", "/livez").await;
        assert!(waiting.len() < 10_000, "nothing was spilled");
    }
    assert_eq!(a.served(), 1);
    b.let_go();
    let (_, metrics) = home.admin("GET", "/metrics").await;
    let spilled = "to=\"b\",cause=\"spill\"} ";
    assert!(
        metrics.contains(spilled) && !metrics.contains(&format!("{spilled}0")),
        "{metrics}"
    );
    assert!(
        metrics.contains("isobar_proxy_neighbour_rtt_seconds{neighbour=\"b\"}"),
        "{metrics}"
    );
    // Clients that go away leave the queue.
    for client in waiting {
        client.abort();
    }
    a.let_go();
    home.end().await;
    receiver.end().await;
}

#[tokio::test]
async fn nobody_else_is_taken_for_a_neighbour() {
    let (a, c) = (
        TestEndpoint::start("a").await,
        TestEndpoint::start("c").await,
    );
    let (ours, theirs) = (Authority::new(), Authority::new());
    // `c` of our mesh, and `b` of another one, listen where `b` should.
    for (name, authority) in [("c", &ours), ("b", &theirs)] {
        let other = takes_from(snapshot(name, &c, 8), "a");
        let other = TestProxy::with_snapshot(&other, authority).await;
        let to_b = moves_to(snapshot("a", &a, 8), "b", other.addresses.mesh, WHOLE_PPM);
        let home = TestProxy::with_snapshot(&to_b, &ours).await;
        assert_eq!(home.get("/").await.2, "a");
        home.end().await;
        other.end().await;
    }
    assert_eq!(c.served(), 0);
}

#[tokio::test]
async fn nothing_is_moved_twice() {
    let (a, b) = (
        TestEndpoint::start("a").await,
        TestEndpoint::start("b").await,
    );
    let authority = Authority::new();
    // `b` would move everything on to a third node.
    let far = TestEndpoint::start("far").await;
    let third = takes_from(takes_from(snapshot("c", &far, 8), "b"), "a");
    let third = TestProxy::with_snapshot(&third, &authority).await;
    let receiver = takes_from(snapshot("b", &b, 8), "a");
    let receiver = moves_to(receiver, "c", third.addresses.mesh, WHOLE_PPM);
    let receiver = TestProxy::with_snapshot(&receiver, &authority).await;
    let to_b = moves_to(
        snapshot("a", &a, 8),
        "b",
        receiver.addresses.mesh,
        WHOLE_PPM,
    );
    let home = TestProxy::with_snapshot(&to_b, &authority).await;
    assert_eq!(receiver.get("/").await.2, "far");
    for _ in 0..3 {
        assert_eq!(home.get("/").await.2, "b");
    }
    assert_eq!((a.served(), far.served()), (0, 1));
    for proxy in [home, receiver, third] {
        proxy.end().await;
    }
}

#[tokio::test]
async fn a_peer_speaks_for_itself_alone() {
    let b = TestEndpoint::start("b").await;
    let authority = Authority::new();
    let receiver = takes_from(takes_from(snapshot("b", &b, 8), "a"), "c");
    let receiver = TestProxy::with_snapshot(&receiver, &authority).await;
    let of_node = authority.issue("node/a");
    let of_workload = authority.issue_at("ns/shop/sa/front", &["a.node.isobar.local"]);
    for shown in [of_node, of_workload] {
        speaks_for_itself_alone(&receiver, &authority, shown).await;
    }
    assert_eq!(b.served(), 2, "a refused request was served");
    receiver.end().await;
}

/// A peer of node a, with this key and chain.
async fn speaks_for_itself_alone(
    receiver: &TestProxy,
    authority: &Authority,
    (key, chain): (String, String),
) {
    let roots = &authority.roots_pem;
    let identity = Identity::new("isobar.local", &node("a"), &key, &chain, roots, None).unwrap();
    let stream = TcpStream::connect(receiver.addresses.mesh).await.unwrap();
    let config = identity.client_to_node(&node("b")).unwrap();
    let anyone = ServerName::try_from("0.0.0.0").unwrap();
    let tls = tokio_rustls::TlsConnector::from(config)
        .connect(anyone, stream)
        .await;
    let io = TokioIo::new(tls.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);

    let cases = [
        ("a", "1", "shop/cart", StatusCode::OK),
        ("c", "1", "shop/cart", StatusCode::FORBIDDEN),
        ("a", "2", "shop/cart", StatusCode::FORBIDDEN),
        ("", "", "shop/cart", StatusCode::FORBIDDEN),
        ("a", "1", "shop/other", StatusCode::BAD_REQUEST),
    ];
    for (home, hop, service, expected) in cases {
        let request = Request::get("https://mesh/")
            .header("isobar-home", home)
            .header("isobar-hop", hop)
            .header("isobar-service", service);
        let response = sender.send_request(request.body(full("")).unwrap()).await;
        assert_eq!(
            response.unwrap().status(),
            expected,
            "{home} {hop} {service}"
        );
    }
    let probe = Request::get("https://mesh/.isobar/probe").header("isobar-service", "shop/cart");
    let response = sender
        .send_request(probe.body(full("")).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    let hint = LoadHint::parse(response.headers()["isobar-load"].to_str().unwrap()).unwrap();
    assert_eq!((hint.in_flight, hint.workers), (0, 8));
}

#[tokio::test]
async fn without_a_certificate_there_is_no_way_in() {
    let b = TestEndpoint::start("b").await;
    let authority = Authority::new();
    let receiver = takes_from(snapshot("b", &b, 8), "a");
    let receiver = TestProxy::with_snapshot(&receiver, &authority).await;
    let stranger = Authority::new();
    let (at_a, front) = ("a.node.isobar.local", "ns/shop/sa/front");
    let cases: [(&Authority, &str, &[&str]); 7] = [
        // As the controller, and as a node or a workload of another mesh.
        (&authority, "ns/isobar/sa/controller", &[at_a]),
        (&stranger, "node/a", &[]),
        (&stranger, front, &[at_a]),
        // As a workload at no node, at one of another mesh, at one of two; as somebody else at a node.
        (&authority, front, &[]),
        (&authority, front, &["a.node.other.local"]),
        (&authority, front, &[at_a, "c.node.isobar.local"]),
        (&authority, "controller/c", &[at_a]),
    ];
    for (authority, path, names) in cases {
        let (key, chain) = authority.issue_at(path, names);
        let chain = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = isobar_edge_proxy::identity::verify::provider();
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_client_auth_cert(vec![chain], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(receiver.addresses.mesh).await.unwrap();
        let anyone = ServerName::try_from("0.0.0.0").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        // TLS 1.3 tells the client of the refusal only when it reads.
        if let Ok(mut tls) = connector.connect(anyone, stream).await {
            assert!(tls.read_u8().await.is_err(), "{path} {names:?} got in");
        }
    }
    assert_eq!(b.served(), 0);
    receiver.end().await;
}

/// Believes every server: here the client is the one that lies.
#[derive(Debug)]
pub struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        isobar_edge_proxy::identity::verify::provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
