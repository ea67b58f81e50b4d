//! Endpoints that are ill: outliers among their siblings, and what health checks say.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use crate::faulty::{Act, FaultyEndpoint, GOOD};
use crate::resilience::{ask, assert_metric, proxy};
use crate::support::TestProxy;

const BROKEN: Act = Act::Answer("500 Broken\r\n");

/// What `/circuits` says of an endpoint.
async fn circuit(proxy: &TestProxy, endpoint: SocketAddr) -> serde_json::Value {
    let (_, circuits) = proxy.admin("GET", "/circuits").await;
    let circuits: Vec<serde_json::Value> = serde_json::from_str(&circuits).unwrap();
    let address = endpoint.to_string();
    let found = circuits.into_iter().find(|c| c["endpoint"] == address);
    found.unwrap()
}

/// Waits until an endpoint is healthy, or not.
async fn until_healthy(proxy: &TestProxy, endpoint: SocketAddr, healthy: bool) {
    while circuit(proxy, endpoint).await["healthy"] != healthy {
        tokio::task::yield_now().await;
    }
}

fn ejections(endpoint: &FaultyEndpoint) -> String {
    format!("endpoint=\"{}\"", endpoint.address)
}

#[tokio::test]
async fn an_endpoint_that_is_much_worse_than_its_siblings_is_left_alone() {
    let bad = [
        FaultyEndpoint::start(BROKEN).await,
        FaultyEndpoint::start(BROKEN).await,
    ];
    let good = [
        FaultyEndpoint::start(GOOD).await,
        FaultyEndpoint::start(GOOD).await,
    ];
    let addresses = [&bad[0], &good[0], &good[1]].map(|e| e.address);
    let policy = r#"{"outlier": {"interval": "1s", "requests_min": 2, "ejection_base": "10m",
        "ejection_max": "10m"}}"#;
    let shown = proxy(&addresses, policy).await;
    while circuit(&shown, bad[0].address).await["state"] != "open" {
        // At once, so that each endpoint gets some.
        tokio::join!(ask(&shown, "GET"), ask(&shown, "GET"), ask(&shown, "GET"));
    }
    assert_eq!(circuit(&shown, bad[0].address).await["cause"], "outlier");
    for _ in 0..12 {
        assert_eq!(ask(&shown, "GET").await.0, StatusCode::OK);
    }
    let name = "isobar_proxy_outlier_ejections_total";
    assert_metric(&shown, name, &ejections(&bad[0]), 1).await;
    assert_metric(&shown, name, &ejections(&good[0]), 0).await;
    shown.end().await;

    // Where all are as bad, nobody is left alone: there would be nobody.
    let addresses = [&bad[0], &bad[1]].map(|e| e.address);
    let always = proxy(&addresses, r#"{"outlier": {"consecutive_errors": 2}}"#).await;
    for _ in 0..12 {
        assert_eq!(
            ask(&always, "GET").await.0,
            StatusCode::INTERNAL_SERVER_ERROR
        );
    }
    let open = [
        circuit(&always, bad[0].address).await["state"] == "open",
        circuit(&always, bad[1].address).await["state"] == "open",
    ];
    assert_ne!(open, [true, true]);
    always.end().await;
}

#[tokio::test]
async fn errors_in_a_row_are_enough_and_no_more_than_a_share_is_left_alone() {
    let bad = [
        FaultyEndpoint::start(BROKEN).await,
        FaultyEndpoint::start(Act::Answer(
            "200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 13\r\n",
        ))
        .await,
        FaultyEndpoint::start(Act::Answer("503 Away\r\n")).await,
    ];
    let good = FaultyEndpoint::start(GOOD).await;
    for (at, policy) in [
        r#"{"consecutive_errors": 3, "#,
        r#"{"consecutive_errors": 3, "#,
        r#"{"consecutive_gateway_errors": 3, "#,
    ]
    .into_iter()
    .enumerate()
    {
        let long = r#""interval": "0s", "ejection_base": "10m", "ejection_max": "10m"}"#;
        let policy = format!("{{\"outlier\": {policy}{long}}}");
        let proxy = proxy(&[bad[at].address, good.address], &policy).await;
        while circuit(&proxy, bad[at].address).await["state"] != "open" {
            ask(&proxy, "GET").await;
        }
        assert_eq!(circuit(&proxy, bad[at].address).await["cause"], "outlier");
        assert_eq!(circuit(&proxy, good.address).await["state"], "closed");
        proxy.end().await;
    }
    // Of four, three of them bad, one is left alone.
    let addresses = [&bad[0], &bad[1], &bad[2], &good].map(|e| e.address);
    let policy = r#"{"outlier": {"consecutive_errors": 2, "interval": "0s", "ejection_base": "10m",
        "ejection_max": "10m"}, "circuit": {"consecutive_failures": 0, "failure_ratio": 0}}"#;
    let proxy = proxy(&addresses, policy).await;
    let spared = async || {
        let (_, metrics) = proxy.admin("GET", "/metrics").await;
        let name = "isobar_proxy_outliers_spared_total{service=\"shop/cart\"} ";
        let at = metrics.find(name).unwrap() + name.len();
        let line = metrics[at..].lines().next().unwrap();
        line.parse::<u64>().unwrap()
    };
    while spared().await == 0 {
        ask(&proxy, "GET").await;
    }
    let mut open = 0;
    for address in addresses {
        open += u32::from(circuit(&proxy, address).await["state"] == "open");
    }
    assert_eq!(open, 1);
    proxy.end().await;
}

const CHECKED: &str = r#"{"health_check": {"path": "/well?x", "host": "shop", "interval": "100ms",
    "unhealthy_after": 2, "healthy_after": 2}}"#;

#[tokio::test]
async fn who_fails_its_health_check_gets_no_requests_until_it_passes() {
    let ill = FaultyEndpoint::start(Act::Answer("503 Ill\r\n")).await;
    let well = FaultyEndpoint::start(GOOD).await;
    let both = proxy(&[ill.address, well.address], CHECKED).await;
    until_healthy(&both, ill.address, false).await;
    assert_eq!(circuit(&both, ill.address).await["cause"], "health_check");
    for _ in 0..8 {
        assert_eq!(ask(&both, "GET").await.0, StatusCode::OK);
    }
    let asked = ill.heads();
    let question = "GET /well?x HTTP/1.1\r\nhost: shop\r\n";
    assert!(
        asked.iter().all(|head| head.starts_with(question)),
        "{asked:?}"
    );
    assert_eq!(both.admin("GET", "/readyz").await.0, StatusCode::OK);
    both.end().await;

    // The only one: the node says that it cannot serve.
    let alone = proxy(&[ill.address], CHECKED).await;
    until_healthy(&alone, ill.address, false).await;
    let (status, why) = alone.admin("GET", "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(why.contains("no endpoint"), "{why}");
    assert_eq!(ask(&alone, "GET").await.0, StatusCode::SERVICE_UNAVAILABLE);
    ill.always(GOOD);
    until_healthy(&alone, ill.address, true).await;
    assert_eq!(ask(&alone, "GET").await.0, StatusCode::OK);
    assert_eq!(alone.admin("GET", "/readyz").await.0, StatusCode::OK);
    // It falls ill again; this takes two answers.
    ill.always(Act::Hang);
    until_healthy(&alone, ill.address, false).await;
    alone.end().await;
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_ill() {
    let endpoint = FaultyEndpoint::start(GOOD).await;
    let address = endpoint.address;
    let policy =
        r#"{"health_check": {"protocol": "tcp", "interval": "100ms", "unhealthy_after": 1}}"#;
    let proxy = proxy(&[address], policy).await;
    let good = |count: u64| format!("endpoint=\"{address}\",outcome=\"good\"}} {count}\n");
    // It was asked before it is gone.
    while proxy.admin("GET", "/metrics").await.1.contains(&good(0)) {
        tokio::task::yield_now().await;
    }
    assert_eq!(circuit(&proxy, address).await["healthy"], true);
    drop(endpoint);
    until_healthy(&proxy, address, false).await;
    proxy.end().await;
}

/// `grpc.health.v1.Health`, alone; says `status` of the service `cart`, and knows no other.
async fn grpc_health(status: Arc<AtomicU8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let status = Arc::clone(&status);
            let service = service_fn(move |request| check(request, status.load(Ordering::SeqCst)));
            tokio::spawn(async move {
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

async fn check(
    request: Request<Incoming>,
    status: u8,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let right = request.uri().path() == "/grpc.health.v1.Health/Check"
        && request.headers()["content-type"] == "application/grpc";
    let question = request.into_body().collect().await.unwrap().to_bytes();
    let known = right && question[..] == *b"\0\0\0\0\x06\x0a\x04cart";
    let mut trailers = HeaderMap::new();
    let ended = if known { "0" } else { "5" };
    trailers.insert("grpc-status", ended.parse().unwrap());
    let message = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]);
    let body = Full::new(message).with_trailers(async { Some(Ok(trailers)) });
    let response = Response::builder().header("content-type", "application/grpc");
    Ok(response.body(body.boxed()).unwrap())
}

#[tokio::test]
async fn grpc_servers_are_asked_by_the_health_protocol() {
    let status = Arc::new(AtomicU8::new(1));
    let address = grpc_health(Arc::clone(&status)).await;
    let policy = |service: &str| {
        format!(
            r#"{{"health_check": {{"protocol": "grpc", "grpc_service": "{service}",
            "interval": "100ms", "unhealthy_after": 1, "healthy_after": 1}}}}"#
        )
    };
    let cart = proxy(&[address], &policy("cart")).await;
    let name = "isobar_proxy_health_checks_total";
    let good = format!("{name}{{service=\"shop/cart\",endpoint=\"{address}\",outcome=\"good\"}} ");
    while cart
        .admin("GET", "/metrics")
        .await
        .1
        .contains(&format!("{good}0\n"))
    {
        tokio::task::yield_now().await;
    }
    assert_eq!(circuit(&cart, address).await["healthy"], true);
    // NOT_SERVING, and back.
    status.store(2, Ordering::SeqCst);
    until_healthy(&cart, address, false).await;
    status.store(1, Ordering::SeqCst);
    until_healthy(&cart, address, true).await;
    cart.end().await;
    // A service that the server does not know is not served.
    let other = proxy(&[address], &policy("cartoon")).await;
    until_healthy(&other, address, false).await;
    other.end().await;
}

/// An endpoint that works on one request at a time; the others wait inside it.
async fn one_at_a_time() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let worker = Arc::new(tokio::sync::Mutex::new(()));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let worker = Arc::clone(&worker);
            let service = service_fn(move |_: Request<Incoming>| {
                let worker = Arc::clone(&worker);
                async move {
                    let _busy = worker.lock().await;
                    // Its work.
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
                }
            });
            tokio::spawn(async move {
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

#[tokio::test]
async fn what_an_endpoint_works_on_at_once_is_learned() {
    let endpoint = one_at_a_time().await;
    let policy = r#"{"concurrency": {"adaptive": true, "min": 2}, "queue": {"wait_max": "1m"}}"#;
    let proxy = proxy(&[endpoint], policy).await;
    let limit = async || {
        let (_, metrics) = proxy.admin("GET", "/metrics").await;
        let name = "isobar_proxy_concurrency_limit{service=\"shop/cart\"} ";
        let at = metrics.find(name).unwrap() + name.len();
        let line = metrics[at..].lines().next().unwrap();
        line.parse::<u32>().unwrap()
    };
    // Eight are configured. While nobody asks for more than it does, nothing is learned.
    for _ in 0..200 {
        assert_eq!(ask(&proxy, "GET").await.0, StatusCode::OK);
    }
    assert_eq!(limit().await, 8);
    while limit().await > 4 {
        let many = [(); 16].map(|()| tokio::spawn(one(proxy.addresses.ingress)));
        for asked in many {
            assert_eq!(asked.await.unwrap(), StatusCode::OK);
        }
    }
    proxy.end().await;
}

async fn one(ingress: SocketAddr) -> StatusCode {
    crate::support::send(
        ingress,
        crate::resilience::request("GET", crate::support::full("")),
    )
    .await
    .0
}
