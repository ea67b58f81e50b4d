//! Services that let in only who has shown who they are: by certificate, or as a workload that is known by its address.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, StatusCode};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use isobar_edge_proxy::config::Workload;
use isobar_edge_proxy::config::listener::ListenerProtocol;
use isobar_edge_proxy::config::sources::Sources;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::access::{guarded, start};
use crate::listeners::{certificate, listener};
use crate::support::{
    Authority, HOST, TestEndpoint, TestProxy, config, full, moves_to, read, send, snapshot,
    takes_from,
};
use crate::tcp::{Greeter, database, talk, to_database, with_plan};

/// Key and chain, PEM.
type Shown = (String, String);

/// A node of the mesh with a TLS listener that asks who calls, and these policies.
async fn asking(
    endpoint: &TestEndpoint,
    authority: &Authority,
    policies: &[Value],
    workloads: &[&str],
) -> TestProxy {
    let dir = TempDir::new().unwrap();
    authority.enrol(&dir, "node/a");
    let mut config = config("a", &dir);
    let (files, _) = certificate(dir.path(), "listener", &[HOST]);
    let mut own = listener(ListenerProtocol::Https);
    own.certificates = vec![files];
    own.mesh_callers = true;
    config.listeners.push(own);
    config.trusted_sources = Sources::new(vec!["127.0.0.1".parse().unwrap()]);
    config.workloads = workloads
        .iter()
        .map(|address| Workload {
            identity: "spiffe://isobar.local/ns/web/sa/front".to_owned(),
            addresses: Sources::new(vec![address.parse().unwrap()]),
        })
        .collect();
    start(config, dir, &guarded(snapshot("a", endpoint, 4), policies)).await
}

async fn plain(proxy: &TestProxy, headers: &[(&str, &str)]) -> StatusCode {
    let mut request = Request::get("/").header("host", HOST);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(full("")).unwrap();
    send(proxy.addresses.ingress, request).await.0
}

/// A TLS client that shows this certificate, if any.
fn showing(shown: Option<&Shown>) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty());
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some((key, chain)) => {
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes());
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            let chain = chain.map(Result::unwrap).collect();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config
        .dangerous()
        .set_certificate_verifier(Arc::new(crate::mesh::Anyone));
    config
}

/// What a TLS client is answered; an error when there is no connection.
async fn over_tls(address: SocketAddr, shown: Option<&Shown>) -> std::io::Result<StatusCode> {
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::try_from(HOST).unwrap();
    let tls = TlsConnector::from(Arc::new(showing(shown)));
    let tls = tls.connect(name, socket).await?;
    let hands = http1::handshake(TokioIo::new(tls)).await;
    let (mut sender, connection) = hands.map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    let request = Request::get("/")
        .header("host", HOST)
        .body(full(""))
        .unwrap();
    let sent = sender.send_request(request).await;
    Ok(read(sent.map_err(std::io::Error::other)?).await.0)
}

#[tokio::test]
async fn strict_lets_in_only_who_has_shown_who_it_is() {
    let endpoint = TestEndpoint::start("home").await;
    let (ours, other) = (Authority::new(), Authority::new());
    let strict = json!({"mtls": {"mode": "strict"}});
    let proxy = asking(
        &endpoint,
        &ours,
        std::slice::from_ref(&strict),
        &["10.1.2.3"],
    )
    .await;
    let forged = [
        vec![],
        vec![("x-forwarded-for", "10.1.2.3")],
        vec![("isobar-hop", "1"), ("isobar-home", "a")],
        vec![(
            "x-forwarded-client-cert",
            "URI=spiffe://isobar.local/ns/web/sa/front",
        )],
    ];
    for headers in &forged {
        let said = plain(&proxy, headers).await;
        assert_eq!(said, StatusCode::FORBIDDEN, "{headers:?}");
    }
    let own = proxy.own();
    assert_eq!(over_tls(own, None).await.unwrap(), StatusCode::FORBIDDEN);
    for path in ["ns/web/sa/front", "node/b"] {
        let said = over_tls(own, Some(&ours.issue(path))).await;
        assert_eq!(said.unwrap(), StatusCode::OK, "{path}");
    }
    // Of another root, and of none that names somebody of this mesh.
    assert!(
        over_tls(own, Some(&other.issue("ns/web/sa/front")))
            .await
            .is_err()
    );
    assert!(over_tls(own, Some(&ours.issue("cluster/x"))).await.is_err());
    assert_eq!(endpoint.served(), 2, "a refused call was served");
    proxy.end().await;
    // The same call from an address that the node knows.
    let proxy = asking(&endpoint, &ours, &[strict], &["127.0.0.1"]).await;
    assert_eq!(plain(&proxy, &[]).await, StatusCode::OK);
    proxy.end().await;
}

/// A TLS connection that shows this certificate, if any.
async fn tls_of(
    address: SocketAddr,
    shown: Option<&Shown>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tls = TlsConnector::from(Arc::new(showing(shown)));
    let name = ServerName::try_from(HOST).unwrap();
    tls.connect(name, TcpStream::connect(address).await?).await
}

/// The connection is closed before its service has said a word.
async fn is_closed(mut stream: impl tokio::io::AsyncRead + Unpin) -> bool {
    stream.read(&mut [0; 8]).await.unwrap_or(0) == 0
}

/// The same of one over TLS, which may be closed within the handshake of the client, too.
async fn is_refused(address: SocketAddr, shown: Option<&Shown>) -> bool {
    match tls_of(address, shown).await {
        Ok(stream) => is_closed(stream).await,
        Err(_) => true,
    }
}

#[tokio::test]
async fn tcp_under_strict_is_for_callers_who_show_who_they_are() {
    let (a, b) = (Greeter::start().await, Greeter::start().await);
    let unused = TestEndpoint::start("unused").await;
    let (ours, other) = (Authority::new(), Authority::new());
    let strict = json!({"mtls": {"mode": "strict"}});
    let denied = json!({"deny": [{"from": [{"namespaces": ["stolen"]}]}]});
    let mut plan = guarded(snapshot("b", &unused, 8), &[strict, denied]);
    plan.services[0].service = database();
    plan.services[0].hosts = Vec::new();
    plan.services[0].endpoints[0].address = b.address.to_string();
    let dir = TempDir::new().unwrap();
    ours.enrol(&dir, "node/b");
    let (files, _) = certificate(dir.path(), "listener", &[HOST]);
    let mut config = config("b", &dir);
    config.listeners.push(to_database());
    let mut asks = to_database();
    asks.name = "asks".to_owned();
    asks.certificates = vec![files];
    asks.mesh_callers = true;
    config.listeners.push(asks);
    let receiver = start(config, dir, &takes_from(plan, "a")).await;

    // In plain text there is no way in, and TLS alone shows nobody.
    // Who is reset at once may not even notice that there was a connection.
    if let Ok(plain) = TcpStream::connect(receiver.own()).await {
        assert!(is_closed(plain).await);
    }
    let asks = receiver.addresses.listeners["asks"];
    assert!(is_refused(asks, None).await);
    // By certificate there is; who is denied is closed all the same.
    let mut known = tls_of(asks, Some(&ours.issue("ns/web/sa/front")))
        .await
        .unwrap();
    let mut hello = [0; 5];
    known.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    for refused in [
        ours.issue("ns/stolen/sa/front"),
        other.issue("ns/web/sa/front"),
    ] {
        assert!(is_refused(asks, Some(&refused)).await);
    }
    for (listener, count) in [("own", 1), ("asks", 2)] {
        let name = "isobar_proxy_listener_refused_total";
        let line = format!("{name}{{listener=\"{listener}\",cause=\"denied\"}} {count}");
        receiver.metric(&line).await;
    }

    // What moved in over the mesh port was sent by a node that its certificate names.
    let mesh = receiver.addresses.mesh;
    let plan = moves_to(snapshot("a", &unused, 8), "b", mesh, 500_000);
    let home = with_plan(plan, &a, &ours, |_| {}).await;
    for _ in 0..2 {
        talk(home.own(), 1000).await;
    }
    let moved = "isobar_proxy_requests_moved_in_total{service=\"shop/db\",home=\"a\"} 1";
    receiver.metric(moved).await;
    drop(known);
    home.end().await;
    receiver.end().await;
}

#[tokio::test]
async fn modes_are_of_services_and_ports_and_permissive_counts_by_caller() {
    let endpoint = TestEndpoint::start("home").await;
    let ours = Authority::new();
    // The most specific says; of equals the strictest.
    let policies = [
        json!({"mtls": {"mode": "strict"}}),
        json!({"namespaces": ["shop"], "mtls": {"mode": "permissive"}}),
        json!({"namespaces": ["shop"], "mtls": {"mode": "off"}}),
    ];
    let proxy = asking(&endpoint, &ours, &policies, &[]).await;
    for _ in 0..2 {
        assert_eq!(plain(&proxy, &[]).await, StatusCode::OK);
    }
    let shown = ours.issue("ns/web/sa/front");
    assert_eq!(
        over_tls(proxy.own(), Some(&shown)).await.unwrap(),
        StatusCode::OK
    );
    let counted =
        "isobar_proxy_plain_text_calls_total{service=\"shop/cart\",caller=\"127.0.0.1\"} 2";
    proxy.metric(counted).await;
    let strict = [
        json!({"mtls": {"mode": "strict", "ports": [{"port": proxy.addresses.ingress.port(), "mode": "off"}]}}),
    ];
    let port = proxy.addresses.ingress;
    proxy.end().await;
    let dir = TempDir::new().unwrap();
    ours.enrol(&dir, "node/a");
    let mut config = config("a", &dir);
    config.listen = port;
    let proxy = start(config, dir, &guarded(snapshot("a", &endpoint, 4), &strict)).await;
    assert_eq!(plain(&proxy, &[]).await, StatusCode::OK);
    let request = Request::get("/")
        .header("host", HOST)
        .body(full(""))
        .unwrap();
    let elsewhere = send(proxy.addresses.outbound.unwrap(), request).await.0;
    assert_eq!(elsewhere, StatusCode::FORBIDDEN);
    proxy.end().await;
}

#[tokio::test]
async fn a_policy_that_only_watches_says_what_strict_would_refuse() {
    let endpoint = TestEndpoint::start("home").await;
    let ours = Authority::new();
    let policies = [
        json!({"mtls": {"mode": "permissive"}}),
        json!({"mtls": {"mode": "strict"}, "audit": true}),
    ];
    let proxy = asking(&endpoint, &ours, &policies, &[]).await;
    assert_eq!(plain(&proxy, &[]).await, StatusCode::OK);
    proxy
        .metric("isobar_proxy_access_would_refuse_total 1")
        .await;
    proxy.end().await;
}
