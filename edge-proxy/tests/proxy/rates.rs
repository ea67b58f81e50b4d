//! How many requests are let in.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, Request, StatusCode};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use isobar_edge_proxy::config::Workload;
use isobar_edge_proxy::config::sources::Sources;
use isobar_mesh_api::message::LocalService;
use isobar_mesh_api::snapshot::{Endpoint, RateShare};
use tokio::net::TcpSocket;

use crate::resilience::{assert_limited, assert_metric, proxy};
use crate::support::{
    Authority, HOST, TestEndpoint, TestProxy, config, connect_http2, full, send, service, snapshot,
};

async fn get(proxy: &TestProxy, path: &str, user: Option<&str>) -> (StatusCode, HeaderMap) {
    let mut request = Request::get(path).header("host", HOST);
    if let Some(user) = user {
        request = request.header("x-user", user);
    }
    let request = request.body(full("")).unwrap();
    let (status, headers, _) = send(proxy.addresses.ingress, request).await;
    (status, headers)
}

/// How many of ten requests are let in.
async fn passed(proxy: &TestProxy, path: &str, user: Option<&str>) -> usize {
    let mut passed = 0;
    for _ in 0..10 {
        passed += usize::from(get(proxy, path, user).await.0 == StatusCode::OK);
    }
    passed
}

#[tokio::test]
async fn beyond_the_rate_is_a_429_that_says_when_to_come_back() {
    let endpoint = TestEndpoint::start("a").await;
    let policy =
        r#"{"rate_limits": [{"name": "api", "requests": 3, "per": "1h", "path_prefix": "/api/"}]}"#;
    let proxy = proxy(&[endpoint.address], policy).await;
    assert_eq!(passed(&proxy, "/api/x", None).await, 3);
    let (status, headers) = get(&proxy, "/api/x", None).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    let wait_s: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
    // One token in twenty minutes.
    assert!((1..=1200).contains(&wait_s), "{wait_s}");
    assert_eq!(headers["ratelimit-policy"], "\"api\";q=3;w=3600");
    let state = headers["ratelimit"].to_str().unwrap();
    assert_eq!(state, format!("\"api\";r=0;t={wait_s}"));
    // Other paths have no limit, and what is refused is nobody's work and no demand.
    assert_eq!(passed(&proxy, "/apiary", None).await, 10);
    assert_eq!(endpoint.served(), 13);
    assert_limited(&proxy, "rate", 8).await;
    let name = "isobar_proxy_rate_limit_requests_total";
    assert_metric(&proxy, name, "limit=\"api\",outcome=\"passed\"", 3).await;
    assert_metric(&proxy, name, "limit=\"api\",outcome=\"refused\"", 8).await;
    let (_, metrics) = proxy.admin("GET", "/metrics").await;
    assert!(metrics.contains("isobar_proxy_requests_entered_total{service=\"shop/cart\"} 13\n"));
    // A gRPC client hears it in its own words.
    let mut client = connect_http2(proxy.addresses.ingress).await;
    let request = Request::post(format!("http://{HOST}/api/Call"));
    let request = request.header("content-type", "application/grpc");
    let response = client
        .send_request(request.body(full("")).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["grpc-status"], "8");
    proxy.end().await;
}

#[tokio::test]
async fn by_header_and_by_source_each_has_its_own_rate() {
    let endpoint = TestEndpoint::start("a").await;
    let policy = r#"{"rate_limits": [{"name": "user", "requests": 2, "per": "1h", "by": "header",
        "header": "x-user"}]}"#;
    let by_user = proxy(&[endpoint.address], policy).await;
    for user in [Some("ann"), Some("bob"), None] {
        assert_eq!(passed(&by_user, "/", user).await, 2, "{user:?}");
    }
    by_user.end().await;
    // Both hold: the stricter one first for one client, and every client is the same here.
    let policy = r#"{"rate_limits": [
        {"name": "all", "requests": 5, "per": "1h", "burst": 4},
        {"name": "client", "requests": 3, "per": "1h", "by": "source"}]}"#;
    let by_source = proxy(&[endpoint.address], policy).await;
    assert_eq!(passed(&by_source, "/", None).await, 3);
    by_source.end().await;
}

#[tokio::test]
async fn of_a_rate_of_the_mesh_a_node_keeps_its_part() {
    let endpoint = TestEndpoint::start("a").await;
    let authority = Authority::new();
    let policy =
        r#"{"rate_limits": [{"name": "all", "requests": 8, "per": "1h", "scope": "mesh"}]}"#;
    let mut plan = snapshot("a", &endpoint, 8);
    plan.services[0].traffic = Some(Arc::new(serde_json::from_str(policy).unwrap()));
    plan.services[0].rate_shares = vec![RateShare {
        limit: "all".to_owned(),
        share_ppm: 500_000,
    }];
    // Nobody is there but the last plan in its file.
    let proxy = TestProxy::with_snapshot(&plan, &authority).await;
    assert_eq!(passed(&proxy, "/", None).await, 4);
    let share = "isobar_proxy_rate_limit_share_ratio{service=\"shop/cart\",limit=\"all\"} 0.5\n";
    let (_, metrics) = proxy.admin("GET", "/metrics").await;
    assert!(metrics.contains(share), "{metrics}");
    proxy.end().await;
}

#[tokio::test]
async fn by_identity_a_workload_has_one_rate_wherever_it_is() {
    let endpoint = TestEndpoint::start("a").await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = config("a", &dir);
    config.services.push(LocalService {
        service: service(),
        hosts: vec![HOST.to_owned()],
        endpoints: vec![Endpoint {
            address: endpoint.address.to_string(),
            workers: 8,
        }],
        capacity_rps: None,
    });
    config.workloads = vec![Workload {
        identity: "spiffe://isobar.local/ns/web/sa/front".to_owned(),
        addresses: Sources::new(vec![
            "127.0.0.2".parse().unwrap(),
            "127.0.0.3".parse().unwrap(),
        ]),
    }];
    let policy =
        r#"{"rate_limits": [{"name": "caller", "requests": 2, "per": "1h", "by": "identity"}]}"#;
    config
        .traffic_policies
        .push(serde_json::from_str(policy).unwrap());
    let proxy = TestProxy::start(config, dir).await;
    let get_from = async |ip: [u8; 4]| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((ip, 0))).unwrap();
        let stream = socket.connect(proxy.addresses.ingress).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/")
            .header("host", HOST)
            .body(full(""))
            .unwrap();
        sender
            .send_request(request)
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    // One workload at two addresses, and two strangers.
    let asked = [2, 3, 2, 3, 4, 4, 4, 5];
    let mut seen = Vec::new();
    for last in asked {
        seen.push(get_from([127, 0, 0, last]).await);
    }
    assert_eq!(seen, [200, 200, 429, 429, 200, 200, 429, 200]);
    proxy.end().await;
}
