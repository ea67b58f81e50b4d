//! From clients to endpoints of this node.

use std::pin::Pin;
use std::task::{Context, Poll};

use crate::support::{
    Authority, HOST, TestEndpoint, TestProxy, config, connect, connect_http2, full, read, send,
    service, snapshot,
};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use isobar_edge_proxy::program::{self, ProgramError};
use isobar_mesh_api::message::LocalService;
use isobar_mesh_api::snapshot::{Endpoint, QueueLimits};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A proxy that stands alone, with its service in its configuration.
async fn alone(endpoint: &TestEndpoint, hosts: &[&str]) -> TestProxy {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config("a", &dir);
    config.services.push(LocalService {
        service: service(),
        hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        endpoints: vec![Endpoint {
            address: endpoint.address.to_string(),
            workers: 8,
        }],
        capacity_rps: None,
    });
    TestProxy::start(config, dir).await
}

#[tokio::test]
async fn http1_and_http2_come_through_and_connections_are_used_again() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = alone(&endpoint, &[HOST]).await;
    let (status, _, body) = proxy.get("/").await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "a"));

    let mut client = connect(proxy.addresses.outbound.unwrap()).await;
    for _ in 0..3 {
        client.ready().await.unwrap();
        let request = Request::get("/").header("host", "CART.example:7410");
        let response = client.send_request(request.body(full("")).unwrap()).await;
        assert_eq!(read(response.unwrap()).await.2, "a");
    }

    let mut client = connect_http2(proxy.addresses.ingress).await;
    let request = Request::post(format!("http://{HOST}/echo?x=1"));
    let response = client
        .send_request(request.body(full("ping")).unwrap())
        .await;
    assert_eq!(read(response.unwrap()).await.2, "ping");
    let request = Request::get(format!("http://{HOST}/headers"));
    let response = client.send_request(request.body(full("")).unwrap()).await;
    let seen = read(response.unwrap()).await.2;
    assert!(seen.contains(&format!("host: {HOST}\n")), "{seen}");
    // One after another: one connection is enough for all of them.
    assert_eq!((endpoint.served(), endpoint.connections()), (6, 1));
    proxy.end().await;
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = alone(&endpoint, &["*"]).await;
    let (pieces, receiver) = mpsc::channel::<Bytes>(1);
    let body = Pieces(receiver).boxed();
    let request = Request::post("/echo")
        .header("host", "any")
        .body(body)
        .unwrap();
    let mut client = connect(proxy.addresses.ingress).await;
    let answer = tokio::spawn(async move { client.send_request(request).await.unwrap() });
    // The first piece comes back while the body is still being sent: nothing is gathered.
    pieces.send(Bytes::from_static(b"first")).await.unwrap();
    let mut answer = answer.await.unwrap().into_body();
    let first = answer.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "first");
    let piece = Bytes::from(vec![7; 64 * 1024]);
    let sending = tokio::spawn(async move {
        for _ in 0..256 {
            pieces.send(piece.clone()).await.unwrap();
        }
    });
    let rest = answer.collect().await.unwrap().to_bytes();
    assert_eq!(rest.len(), 256 * 64 * 1024);
    assert!(rest.iter().all(|&b| b == 7));
    sending.await.unwrap();
    proxy.end().await;
}

/// A body piece by piece.
struct Pieces(mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let piece = self.0.poll_recv(cx);
        piece.map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[tokio::test]
async fn strangers_are_told_so() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = alone(&endpoint, &[HOST]).await;
    let request = Request::get("/")
        .header("host", "other")
        .body(full(""))
        .unwrap();
    let (status, headers, body) = send(proxy.addresses.ingress, request).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(headers["content-type"], "application/problem+json");
    assert!(body.contains("\"status\":404"), "{body}");
    assert_eq!(endpoint.served(), 0);
    proxy.end().await;
}

#[tokio::test]
async fn what_only_the_mesh_may_say_is_stripped() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = alone(&endpoint, &[HOST]).await;
    let request = Request::get("/headers")
        .header("host", HOST)
        .header("isobar-hop", "1")
        .header("isobar-home", "b")
        .header("isobar-service", "shop/other")
        .header("x-mine", "kept");
    let request = request.body(full("")).unwrap();
    let (_, _, seen) = send(proxy.addresses.ingress, request).await;
    assert!(seen.contains("x-mine: kept"), "{seen}");
    assert!(!seen.contains("isobar-"), "{seen}");
    let (_, headers, body) = proxy.get("/forge").await;
    assert_eq!(body, "forged");
    let told: Vec<_> = headers
        .keys()
        .filter(|n| n.as_str().starts_with("isobar"))
        .collect();
    assert!(
        told.is_empty() && !headers.contains_key("x-mine"),
        "{headers:?}"
    );
    proxy.end().await;
}

#[tokio::test]
async fn who_finds_the_queue_full_is_shed() {
    let endpoint = TestEndpoint::start("a").await;
    let mut plan = snapshot("a", &endpoint, 1);
    plan.services[0].queue = QueueLimits {
        wait_ms_max: 60_000,
        per_worker_max: 1,
    };
    let proxy = TestProxy::with_snapshot(&plan, &Authority::new()).await;
    let hold = || {
        let request = Request::get("/hold").header("host", HOST);
        tokio::spawn(send(
            proxy.addresses.ingress,
            request.body(full("")).unwrap(),
        ))
    };
    let first = hold();
    endpoint.arrival().await;
    let second = hold();
    // The second waits in the proxy; when it does, the third finds no room.
    let third = loop {
        let (_, metrics) = proxy.admin("GET", "/metrics").await;
        if metrics.contains("isobar_proxy_requests_waiting{service=\"shop/cart\"} 1\n") {
            break proxy.get("/").await;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(third.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(third.1["retry-after"], "1");
    assert_eq!(endpoint.served(), 1);
    endpoint.let_go();
    endpoint.let_go();
    assert_eq!(first.await.unwrap().2, "held");
    assert_eq!(second.await.unwrap().2, "held");
    let (_, metrics) = proxy.admin("GET", "/metrics").await;
    for line in [
        "isobar_proxy_requests_entered_total{service=\"shop/cart\"} 3\n",
        "isobar_proxy_requests_shed_total{service=\"shop/cart\"} 1\n",
        "isobar_proxy_requests_completed_total{service=\"shop/cart\"} 2\n",
    ] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }
    proxy.end().await;
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_a_502_and_one_other_is_tried() {
    let gone = {
        let endpoint = TestEndpoint::start("gone").await;
        endpoint.address.to_string()
    };
    let endpoint = TestEndpoint::start("a").await;
    let mut plan = snapshot("a", &endpoint, 4);
    plan.services[0].endpoints[0].address = gone.clone();
    let proxy = TestProxy::with_snapshot(&plan, &Authority::new()).await;
    assert_eq!(proxy.get("/").await.0, StatusCode::BAD_GATEWAY);
    proxy.end().await;

    let mut plan = snapshot("a", &endpoint, 4);
    plan.services[0].endpoints.insert(
        0,
        Endpoint {
            address: gone,
            workers: 4,
        },
    );
    let proxy = TestProxy::with_snapshot(&plan, &Authority::new()).await;
    for _ in 0..4 {
        assert_eq!(proxy.get("/").await.2, "a");
    }
    proxy.end().await;
}

#[tokio::test]
async fn two_proxies_do_not_share_a_port() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config("a", &dir);
    config.workers = Some(2);
    let first = TestProxy::start(config.clone(), dir).await;
    let dir = tempfile::tempdir().unwrap();
    config.data_dir = dir.path().to_owned();
    config.listen = first.addresses.ingress;
    let second = program::run(config, CancellationToken::new()).await;
    assert!(matches!(second, Err(ProgramError::Listen(_))), "{second:?}");
    first.end().await;
}
