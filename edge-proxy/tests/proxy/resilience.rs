//! Endpoints that misbehave, and what clients notice of it.

use std::net::SocketAddr;

use crate::faulty::{Act, FaultyEndpoint, GOOD};
use crate::support::{
    Body, HOST, TestEndpoint, TestProxy, config, connect, connect_http2, full, read, send, service,
};
use crate::wire::Wire;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use isobar_mesh_api::message::LocalService;
use isobar_mesh_api::resource::TrafficPolicySpec;
use isobar_mesh_api::snapshot::Endpoint;

/// A proxy with these endpoints and this policy, JSON.
pub async fn proxy(endpoints: &[SocketAddr], policy: &str) -> TestProxy {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config("a", &dir);
    let endpoint = |address: &SocketAddr| Endpoint {
        address: address.to_string(),
        workers: 8,
    };
    config.services.push(LocalService {
        service: service(),
        hosts: vec![HOST.to_owned()],
        endpoints: endpoints.iter().map(endpoint).collect(),
        capacity_rps: None,
    });
    let policy: TrafficPolicySpec = serde_json::from_str(policy).unwrap();
    config.traffic_policies.push(policy);
    TestProxy::start(config, dir).await
}

pub fn request(method: &str, body: Body) -> Request<Body> {
    let request = Request::builder().method(method).uri("/");
    request.header("host", HOST).body(body).unwrap()
}

pub async fn ask(proxy: &TestProxy, method: &str) -> (StatusCode, HeaderMap, String) {
    send(proxy.addresses.ingress, request(method, full(""))).await
}

/// Asserts that a metric of the service has this value, its last label given.
pub async fn assert_metric(proxy: &TestProxy, name: &str, label: &str, value: u64) {
    let line = format!("{name}{{service=\"shop/cart\",{label}}} {value}\n");
    let (_, metrics) = proxy.admin("GET", "/metrics").await;
    assert!(metrics.contains(&line), "{line}{metrics}");
}

pub async fn assert_limited(proxy: &TestProxy, limit: &str, count: u64) {
    let label = format!("limit=\"{limit}\"");
    assert_metric(proxy, "isobar_proxy_limited_total", &label, count).await;
}

async fn assert_retries(proxy: &TestProxy, outcome: &str, count: u64) {
    let label = format!("outcome=\"{outcome}\"");
    assert_metric(proxy, "isobar_proxy_retries_total", &label, count).await;
}

/// Waits until nothing is at the endpoints.
pub async fn idle(proxy: &TestProxy) {
    loop {
        let (_, metrics) = proxy.admin("GET", "/metrics").await;
        if metrics.contains("isobar_proxy_requests_in_flight{service=\"shop/cart\"} 0\n") {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_a_504_and_its_slot_is_free_again() {
    let endpoint = FaultyEndpoint::start(Act::Hang).await;
    let policy = r#"{"timeouts": {"request": "50ms"}}"#;
    let proxy = proxy(&[endpoint.address], policy).await;
    for method in ["GET", "POST"] {
        let (status, headers, body) = ask(&proxy, method).await;
        assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(headers["content-type"], "application/problem+json");
        assert!(body.contains("request timeout"), "{body}");
        endpoint.closing().await;
    }
    assert_eq!(endpoint.requests(), 2);
    assert_limited(&proxy, "request_timeout", 2).await;
    idle(&proxy).await;
    proxy.end().await;
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_followed_by_another() {
    let endpoint = FaultyEndpoint::start(GOOD).await;
    endpoint.then(&[Act::Hang]);
    let policy = r#"{"timeouts": {"per_try": "50ms"},
        "retries": {"on": ["timeout"], "backoff_base": "1ms", "backoff_max": "1ms"}}"#;
    let proxy = proxy(&[endpoint.address], policy).await;
    assert_eq!(ask(&proxy, "GET").await.2, "answered");
    assert_eq!(endpoint.requests(), 2);
    assert_retries(&proxy, "made", 1).await;
    // A method that may not be repeated is not.
    endpoint.then(&[Act::Hang]);
    let (status, _, body) = ask(&proxy, "POST").await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    assert!(body.contains("timeout of a try"), "{body}");
    assert_limited(&proxy, "try_timeout", 1).await;
    proxy.end().await;
}

#[tokio::test]
async fn what_broke_is_repeated_only_when_that_is_safe() {
    let endpoint = FaultyEndpoint::start(GOOD).await;
    let proxy = proxy(&[endpoint.address], "{}").await;
    for (method, status, requests) in [("GET", 200, 2), ("PUT", 200, 2), ("POST", 502, 1)] {
        let before = endpoint.requests();
        endpoint.then(&[Act::Close]);
        let (answered, _, body) = ask(&proxy, method).await;
        assert_eq!(answered.as_u16(), status, "{method}: {body}");
        assert_eq!(endpoint.requests() - before, requests, "{method}");
    }
    assert_retries(&proxy, "made", 2).await;
    // Once something of the answer has gone to the client there is no other try.
    let before = endpoint.requests();
    endpoint.then(&[Act::HalfThenClose]);
    let mut client = connect(proxy.addresses.ingress).await;
    let response = client.send_request(request("GET", full(""))).await.unwrap();
    assert!(response.into_body().collect().await.is_err());
    assert_eq!(endpoint.requests() - before, 1);
    proxy.end().await;
}

#[tokio::test]
async fn a_body_is_sent_again_when_it_was_kept() {
    let endpoint = TestEndpoint::start("a").await;
    let broken = FaultyEndpoint::start(Act::Close).await;
    let policy = r#"{"sizes": {"buffer_len_max": 16}, "circuit": {"consecutive_failures": 0},
        "load_balancing": {"algorithm": "round_robin"}}"#;
    let proxy = proxy(&[broken.address, endpoint.address], policy).await;
    let put = |body: &'static str| {
        let request = Request::put("/echo").header("host", HOST);
        send(proxy.addresses.ingress, request.body(full(body)).unwrap())
    };
    // Whichever endpoint is asked first: a short body always arrives.
    for _ in 0..4 {
        assert_eq!(put("kept").await.2, "kept");
    }
    assert!(broken.requests() > 0);
    let mut lost = 0;
    for _ in 0..4 {
        lost += u32::from(put("longer than what is kept").await.0 == StatusCode::BAD_GATEWAY);
    }
    assert!(lost > 0);
    proxy.end().await;
}

#[tokio::test]
async fn answers_are_tried_again_as_the_policy_says_and_the_budget_allows() {
    let endpoint = FaultyEndpoint::start(Act::Answer("503 Unavailable\r\n")).await;
    let policy = r#"{"retries": {"attempts": 3, "on": ["gateway_error"], "budget_ratio": 0.0,
        "budget_min_rps": 1, "backoff_base": "0s", "backoff_max": "0s"},
        "circuit": {"consecutive_failures": 0, "failure_ratio": 0}}"#;
    let proxy = proxy(&[endpoint.address], policy).await;
    let (status, _, body) = ask(&proxy, "GET").await;
    assert_eq!((status.as_u16(), body.as_str()), (503, "answered"));
    assert_eq!(endpoint.requests(), 3);
    // One a second over ten seconds: eight are left.
    for _ in 0..10 {
        ask(&proxy, "GET").await;
    }
    assert_retries(&proxy, "made", 10).await;
    assert_retries(&proxy, "denied", 6).await;
    assert_eq!(endpoint.requests(), 11 + 10);
    proxy.end().await;
}

#[tokio::test]
async fn retry_after_is_followed_when_it_is_short() {
    let endpoint = FaultyEndpoint::start(GOOD).await;
    let policy = r#"{"retries": {"on": ["retry_after"]}}"#;
    let proxy = proxy(&[endpoint.address], policy).await;
    endpoint.then(&[Act::Answer("429 Too Many Requests\r\nretry-after: 0\r\n")]);
    assert_eq!(ask(&proxy, "GET").await.0, StatusCode::OK);
    endpoint.then(&[Act::Answer("429 Too Many Requests\r\nretry-after: 60\r\n")]);
    assert_eq!(ask(&proxy, "GET").await.0, StatusCode::TOO_MANY_REQUESTS);
    endpoint.then(&[Act::Answer("503 Unavailable\r\n")]);
    assert_eq!(ask(&proxy, "GET").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(endpoint.requests(), 4);
    proxy.end().await;
}

#[tokio::test]
async fn a_circuit_opens_is_probed_and_closes() {
    let endpoint = FaultyEndpoint::start(Act::Answer("502 Bad\r\n")).await;
    let policy = r#"{"circuit": {"consecutive_failures": 3, "open_base": "1h", "open_max": "1h"}}"#;
    let open = policy.replace("1h", "10m");
    let shown = proxy(&[endpoint.address], &open).await;
    for _ in 0..3 {
        assert_eq!(ask(&shown, "GET").await.0, StatusCode::BAD_GATEWAY);
    }
    let (status, headers, body) = ask(&shown, "GET").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(headers["retry-after"], "30");
    assert!(body.contains("circuits are open"), "{body}");
    assert_eq!(endpoint.requests(), 3);
    assert_limited(&shown, "circuit", 1).await;
    let (_, circuits) = shown.admin("GET", "/circuits").await;
    let circuits: serde_json::Value = serde_json::from_str(&circuits).unwrap();
    assert_eq!(circuits[0]["endpoint"], endpoint.address.to_string());
    assert_eq!(circuits[0]["state"], "open");
    assert_eq!(circuits[0]["cause"], "consecutive_failures");
    assert_eq!(circuits[0]["failures"], 3);
    shown.end().await;

    let short = policy.replace("1h", "1ms");
    let proxy = proxy(&[endpoint.address], &short).await;
    for _ in 0..3 {
        ask(&proxy, "GET").await;
    }
    endpoint.always(GOOD);
    // Probes go through one at a time; after two good ones traffic flows.
    let state = async || {
        let (_, circuits) = proxy.admin("GET", "/circuits").await;
        let circuits: serde_json::Value = serde_json::from_str(&circuits).unwrap();
        circuits[0]["state"].as_str().unwrap().to_owned()
    };
    while state().await != "closed" {
        let (status, _, _) = ask(&proxy, "GET").await;
        assert!([200, 503].contains(&status.as_u16()), "{status}");
    }
    assert_eq!(ask(&proxy, "GET").await.0, StatusCode::OK);
    proxy.end().await;
}

#[tokio::test]
async fn an_open_circuit_leaves_traffic_to_the_others() {
    let bad = FaultyEndpoint::start(Act::Close).await;
    let good = FaultyEndpoint::start(GOOD).await;
    let policy =
        r#"{"circuit": {"consecutive_failures": 1, "open_base": "10m", "open_max": "10m"}}"#;
    let proxy = proxy(&[bad.address, good.address], policy).await;
    for _ in 0..20 {
        assert_eq!(ask(&proxy, "GET").await.0, StatusCode::OK);
    }
    assert_eq!(bad.requests(), 1);
    proxy.end().await;
}

#[tokio::test]
async fn a_body_of_which_nothing_comes_is_ended() {
    let endpoint = FaultyEndpoint::start(Act::HalfThenHang).await;
    for (policy, limit) in [
        (r#"{"timeouts": {"idle": "50ms"}}"#, "idle_timeout"),
        (r#"{"timeouts": {"stream": "50ms"}}"#, "stream_timeout"),
    ] {
        let proxy = proxy(&[endpoint.address], policy).await;
        let mut client = connect(proxy.addresses.ingress).await;
        let response = client.send_request(request("GET", full(""))).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.into_body().collect().await.is_err());
        endpoint.closing().await;
        assert_limited(&proxy, limit, 1).await;
        idle(&proxy).await;
        proxy.end().await;
    }
}

#[tokio::test]
async fn sizes_have_limits() {
    let endpoint = TestEndpoint::start("a").await;
    let policy = r#"{"sizes": {"request_body_len_max": 8, "response_body_len_max": 8}}"#;
    let proxy = proxy(&[endpoint.address], policy).await;
    let echo = |body: Body| {
        let request = Request::post("/echo").header("host", HOST);
        send(proxy.addresses.ingress, request.body(body).unwrap())
    };
    assert_eq!(echo(full("12345678")).await.2, "12345678");
    let (status, _, body) = echo(full("123456789")).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(body.contains("request's body"), "{body}");
    assert_eq!(endpoint.served(), 1);
    // Also when its length was not said before: the endpoint is not sent what is left of it, which may be nothing.
    let mut client = Wire::connect(proxy.addresses.ingress).await;
    let head = format!("POST /hold HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked");
    client
        .send(format!("{head}\r\n\r\n9\r\n123456789\r\n0\r\n\r\n"))
        .await;
    assert_eq!(client.answer().await.0, 413);
    let (status, _, body) = proxy.get("/headers").await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(body.contains("the answer is larger"), "{body}");
    assert_limited(&proxy, "request_body", 2).await;
    assert_limited(&proxy, "response_body", 1).await;
    proxy.end().await;
}

#[tokio::test]
async fn a_client_that_goes_away_frees_the_slot_and_the_endpoint() {
    let endpoint = FaultyEndpoint::start(Act::Hang).await;
    let proxy = proxy(&[endpoint.address], "{}").await;
    let mut client = connect(proxy.addresses.ingress).await;
    let asking = tokio::spawn(async move { client.send_request(request("GET", full(""))).await });
    endpoint.arrival().await;
    asking.abort();
    endpoint.closing().await;
    idle(&proxy).await;
    // That is not held against the endpoint.
    let (_, circuits) = proxy.admin("GET", "/circuits").await;
    assert!(circuits.contains("\"failures\": 0"), "{circuits}");
    proxy.end().await;
}

#[tokio::test]
async fn the_more_important_wait_less_and_the_others_are_shed_first() {
    let endpoint = TestEndpoint::start("a").await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = config("a", &dir);
    config.services.push(LocalService {
        service: service(),
        hosts: vec![HOST.to_owned()],
        endpoints: vec![Endpoint {
            address: endpoint.address.to_string(),
            workers: 1,
        }],
        capacity_rps: None,
    });
    let policy = r#"{"queue": {"per_worker_max": 1, "wait_max": "1m",
        "priority": {"header": "x-class", "classes": ["gold", "lead"]}}}"#;
    config
        .traffic_policies
        .push(serde_json::from_str(policy).unwrap());
    let proxy = TestProxy::start(config, dir).await;
    let hold = |class: Option<&str>| {
        let mut request = Request::get("/hold").header("host", HOST);
        if let Some(class) = class {
            request = request.header("x-class", class);
        }
        let request = request.body(full("")).unwrap();
        tokio::spawn(send(proxy.addresses.ingress, request))
    };
    let waiting = async || {
        let (_, metrics) = proxy.admin("GET", "/metrics").await;
        metrics.contains("isobar_proxy_requests_waiting{service=\"shop/cart\"} 1\n")
    };
    let first = hold(None);
    endpoint.arrival().await;
    // Without a header it is the last class.
    let lead = hold(None);
    while !waiting().await {
        tokio::task::yield_now().await;
    }
    let gold = hold(Some("gold"));
    let (status, headers, _) = lead.await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(headers.contains_key("retry-after"));
    // The queue is full of better ones.
    assert_eq!(
        hold(Some("lead")).await.unwrap().0,
        StatusCode::SERVICE_UNAVAILABLE
    );
    endpoint.let_go();
    endpoint.let_go();
    assert_eq!(first.await.unwrap().0, StatusCode::OK);
    assert_eq!(gold.await.unwrap().0, StatusCode::OK);
    let name = "isobar_proxy_requests_shed_by_class_total";
    assert_metric(&proxy, name, "class=\"lead\"", 2).await;
    assert_metric(&proxy, name, "class=\"gold\"", 0).await;
    proxy.end().await;
}

#[tokio::test]
async fn a_deadline_shrinks_at_each_hop_and_ends_the_request() {
    let endpoint = FaultyEndpoint::start(GOOD).await;
    let proxy = proxy(&[endpoint.address], "{}").await;
    let mut client = connect_http2(proxy.addresses.ingress).await;
    let call = |timeout: &str| {
        let request = Request::post(format!("http://{HOST}/x"));
        let request = request.header("grpc-timeout", timeout);
        request.body(full("")).unwrap()
    };
    let response = client.send_request(call("9S")).await.unwrap();
    assert_eq!(read(response).await.0, StatusCode::OK);
    let head = endpoint.heads().pop().unwrap();
    let told = head
        .lines()
        .find_map(|line| line.strip_prefix("grpc-timeout: "));
    let told: u64 = told.unwrap().strip_suffix('u').unwrap().parse().unwrap();
    assert!(told <= 9_000_000, "{told}");
    endpoint.always(Act::Hang);
    let response = client.send_request(call("50m")).await.unwrap();
    let (status, _, body) = read(response).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    assert!(body.contains("own deadline"), "{body}");
    assert_limited(&proxy, "deadline", 1).await;
    proxy.end().await;
}
