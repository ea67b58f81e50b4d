//! Which of a node's endpoints gets a request, and what keeps a session where it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, Request, StatusCode};

use crate::resilience::proxy;
use crate::support::{
    Authority, HOST, TestEndpoint, TestProxy, full, moves_to, send, snapshot, takes_from,
};

async fn get(proxy: &TestProxy, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, String) {
    let mut request = Request::get("/").header("host", HOST);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(proxy.addresses.ingress, request.body(full("")).unwrap()).await
}

async fn three() -> [TestEndpoint; 3] {
    [
        TestEndpoint::start("a").await,
        TestEndpoint::start("b").await,
        TestEndpoint::start("c").await,
    ]
}

#[tokio::test]
async fn each_algorithm_uses_all_endpoints() {
    for algorithm in [
        "round_robin",
        "random",
        "weighted",
        "least_request",
        "peak_ewma",
    ] {
        let endpoints = three().await;
        let policy = format!(r#"{{"load_balancing": {{"algorithm": "{algorithm}"}}}}"#);
        let proxy = proxy(&endpoints.each_ref().map(|e| e.address), &policy).await;
        for _ in 0..72 {
            assert_eq!(get(&proxy, &[]).await.0, StatusCode::OK);
        }
        let served = endpoints.each_ref().map(TestEndpoint::served);
        match algorithm {
            "round_robin" => assert_eq!(served, [24, 24, 24]),
            "weighted" => assert!(served.iter().all(|n| n.abs_diff(24) < 3), "{served:?}"),
            _ => assert!(served.iter().all(|&n| n > 0), "{algorithm}: {served:?}"),
        }
        proxy.end().await;
    }
}

#[tokio::test]
async fn by_hash_one_key_has_one_endpoint() {
    for algorithm in ["ring_hash", "maglev"] {
        let endpoints = three().await;
        let policy = format!(
            r#"{{"load_balancing": {{"algorithm": "{algorithm}",
            "key": {{"of": "header", "name": "x-user"}}}}}}"#
        );
        let proxy = proxy(&endpoints.each_ref().map(|e| e.address), &policy).await;
        let mut used = BTreeSet::new();
        for user in 0..60 {
            let user = user.to_string();
            let first = get(&proxy, &[("x-user", &user)]).await.2;
            for _ in 0..3 {
                assert_eq!(get(&proxy, &[("x-user", &user)]).await.2, first);
            }
            used.insert(first);
        }
        assert_eq!(used.len(), 3, "{algorithm}");
        proxy.end().await;
    }
}

#[tokio::test]
async fn a_session_by_cookie_stays_and_one_without_gets_a_cookie() {
    let endpoints = three().await;
    let policy =
        r#"{"load_balancing": {"affinity": {"of": "cookie", "name": "sid", "ttl": "1h"}}}"#;
    let proxy = proxy(&endpoints.each_ref().map(|e| e.address), policy).await;
    let mut used = BTreeSet::new();
    for _ in 0..40 {
        let (_, headers, first) = get(&proxy, &[]).await;
        let set = headers[SET_COOKIE].to_str().unwrap();
        let (cookie, attributes) = set.split_once(';').unwrap();
        assert_eq!(attributes, " Path=/; HttpOnly; SameSite=Lax; Max-Age=3600");
        assert!(cookie.starts_with("sid="), "{cookie}");
        for _ in 0..3 {
            let (_, headers, body) = get(&proxy, &[(COOKIE.as_str(), cookie)]).await;
            assert_eq!(body, first);
            assert!(!headers.contains_key(SET_COOKIE));
        }
        used.insert(first);
    }
    assert_eq!(used.len(), 3);
    proxy.end().await;

    // By address: one client, one endpoint.
    let policy = r#"{"load_balancing": {"affinity": {"of": "source_address"}}}"#;
    let proxy = crate::resilience::proxy(&endpoints.each_ref().map(|e| e.address), policy).await;
    let first = get(&proxy, &[]).await.2;
    for _ in 0..6 {
        assert_eq!(get(&proxy, &[]).await.2, first);
    }
    proxy.end().await;
}

#[tokio::test]
async fn a_session_keeps_its_node_and_its_endpoint_there() {
    let (a, b, c) = (
        TestEndpoint::start("a").await,
        TestEndpoint::start("b").await,
        TestEndpoint::start("c").await,
    );
    let authority = Authority::new();
    let policy = r#"{"load_balancing": {"affinity": {"of": "header", "name": "x-user"}}}"#;
    let policy = Arc::new(serde_json::from_str(policy).unwrap());
    let mut receiver = takes_from(snapshot("b", &b, 8), "a");
    let second = snapshot("c", &c, 8).services[0].endpoints[0].clone();
    receiver.services[0].endpoints.push(second);
    receiver.services[0].traffic = Some(Arc::clone(&policy));
    let receiver = TestProxy::with_snapshot(&receiver, &authority).await;
    let mut plan = moves_to(snapshot("a", &a, 8), "b", receiver.addresses.mesh, 500_000);
    plan.services[0].traffic = Some(policy);
    let home = TestProxy::with_snapshot(&plan, &authority).await;
    let mut used: BTreeMap<String, u32> = BTreeMap::new();
    for user in 0..80 {
        let user = user.to_string();
        let first = get(&home, &[("x-user", &user)]).await.2;
        for _ in 0..2 {
            // What a client says of keys is not believed.
            let headers = [("x-user", user.as_str()), ("isobar-key", "7")];
            assert_eq!(get(&home, &headers).await.2, first);
        }
        *used.entry(first).or_default() += 1;
    }
    assert_eq!(used.len(), 3, "{used:?}");
    home.end().await;
    receiver.end().await;
}

#[tokio::test]
async fn heads_have_a_limit_of_their_own() {
    let endpoint = TestEndpoint::start("a").await;
    let policy = r#"{"sizes": {"request_head_len_max": 400}}"#;
    let proxy = proxy(&[endpoint.address], policy).await;
    assert_eq!(get(&proxy, &[]).await.0, StatusCode::OK);
    let (status, _, body) = get(&proxy, &[("x-long", &"x".repeat(400))]).await;
    assert_eq!(status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert!(body.contains("request's head"), "{body}");
    assert_eq!(endpoint.served(), 1);
    proxy.end().await;
}
