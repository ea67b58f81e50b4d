//! Clients and endpoints that are slow, silent or gone on purpose: they get their time and no more, and nobody else notices.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::support::{HOST, TestEndpoint};
use crate::wire::{Wire, WireEndpoint, before, header, refused, shows};

const IN_FLIGHT: &str = "isobar_proxy_requests_in_flight{service=\"shop/cart\"}";

#[tokio::test]
async fn heads_that_come_drop_by_drop_are_refused_in_time() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = before(endpoint.address, |c| c.limits.head_wait_ms_max = 200).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = Wire::connect(proxy.addresses.ingress).await;
        client.send("GET / HTTP/1.1\r\nx: ").await;
        clients.push(client);
    }
    // Others are served meanwhile.
    assert_eq!(proxy.get("/").await.2, "a");
    // More drops win no more time.
    for client in &mut clients {
        client.send("y").await;
    }
    for mut client in clients {
        assert_eq!(client.answer().await.0, 408);
        client.rest().await;
    }
    assert_eq!(refused(&proxy, "downstream", "head_timeout").await, 100);
    proxy.end().await;
}

#[tokio::test]
async fn idle_connections_have_their_time() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = before(endpoint.address, |c| {
        c.limits.idle_wait_ms_max = 200;
        c.limits.head_wait_ms_max = 200;
    })
    .await;
    let mut clients = Vec::new();
    for asks in [true, false].repeat(50) {
        let mut client = Wire::connect(proxy.addresses.ingress).await;
        if asks {
            client
                .send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
                .await;
            assert_eq!(client.answer().await.2, "a");
        }
        clients.push(client);
    }
    for mut client in clients {
        assert_eq!(client.rest().await, "");
    }
    assert_eq!(proxy.get("/").await.2, "a");
    proxy.end().await;
}

#[tokio::test]
async fn a_half_closed_connection_is_not_waited_for() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = before(endpoint.address, |_| ()).await;
    for (bytes, count) in [("", 0), ("GET / HTTP/1.1\r\nhost: ", 1)] {
        let mut client = Wire::connect(proxy.addresses.ingress).await;
        client.send(bytes).await;
        client.finish().await;
        assert_eq!(client.rest().await, "");
        assert_eq!(refused(&proxy, "downstream", "early_end").await, count);
    }
    eprintln!("A");
    // In the middle of a body that the endpoint waits for.
    let mut client = Wire::connect(proxy.addresses.ingress).await;
    client
        .send(format!(
            "POST /echo HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 9\r\n\r\nhalf"
        ))
        .await;
    endpoint.arrival().await;
    client.finish().await;
    client.rest().await;
    shows(&proxy, &format!("{IN_FLIGHT} 0")).await;
    assert_eq!(proxy.get("/").await.2, "a");
    proxy.end().await;
}

#[tokio::test]
async fn a_body_that_stops_is_a_408() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = before(endpoint.address, |c| c.limits.body_wait_ms_max = 200).await;
    let mut client = Wire::connect(proxy.addresses.ingress).await;
    client
        .send(format!(
            "POST /hold HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 9\r\n\r\nhalf"
        ))
        .await;
    assert_eq!(client.answer().await.0, 408);
    client.rest().await;
    assert_eq!(refused(&proxy, "downstream", "body_timeout").await, 1);
    shows(&proxy, &format!("{IN_FLIGHT} 0")).await;
    proxy.end().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_connection_and_frees_the_slot() {
    let body = vec![b'x'; 64 << 20];
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(&body);
    let endpoint = WireEndpoint::saying(answer).await;
    let proxy = before(endpoint.address, |c| c.limits.body_wait_ms_max = 200).await;
    let mut client = Wire::connect(proxy.addresses.ingress).await;
    client
        .send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
        .await;
    client.head().await;
    while refused(&proxy, "downstream", "stalled").await == 0 {
        tokio::task::yield_now().await;
    }
    shows(&proxy, &format!("{IN_FLIGHT} 0")).await;
    proxy.end().await;
}

#[tokio::test]
async fn an_answer_before_the_request_is_done_ends_the_connection_behind_it() {
    let endpoint = WireEndpoint::start(|mut wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\n\r\ntoo")
            .await;
        wire.rest().await;
    })
    .await;
    let proxy = before(endpoint.address, |_| ()).await;
    let mut client = Wire::connect(proxy.addresses.ingress).await;
    client
        .send(format!(
            "POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 999999\r\n\r\nhalf"
        ))
        .await;
    let (status, head, body) = client.answer().await;
    assert_eq!((status, body.as_str()), (413, "too"));
    // The rest of the body must not be read as the next request.
    assert_eq!(header(&head, "connection"), Some("close"), "{head}");
    client
        .send("GET /smuggled HTTP/1.1\r\nhost: cart.example\r\n\r\n")
        .await;
    assert_eq!(client.rest().await, "");
    shows(&proxy, &format!("{IN_FLIGHT} 0")).await;
    proxy.end().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_and_do_no_harm() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = before(endpoint.address, |c| c.limits.connections_max = 3).await;
    let ask = |mut client: Wire| async move {
        client
            .send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
            .await;
        assert_eq!(client.answer().await.2, "a");
        client
    };
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(ask(Wire::connect(proxy.addresses.ingress).await).await);
    }
    let fourth = tokio::spawn(ask(Wire::connect(proxy.addresses.ingress).await));
    // Other listeners have their own room.
    ask(Wire::connect(proxy.addresses.outbound.unwrap()).await).await;
    assert!(!fourth.is_finished());
    held.pop();
    fourth.await.unwrap();
    proxy.end().await;
}

#[tokio::test]
async fn an_endpoint_that_breaks_off_harms_only_its_own_request() {
    let gate = Arc::new(Semaphore::new(0));
    let (opened, arrived) = (gate.clone(), Arc::new(Semaphore::new(0)));
    let told = arrived.clone();
    let endpoint = WireEndpoint::start(move |mut wire| {
        let (gate, arrived) = (gate.clone(), arrived.clone());
        async move {
            loop {
                let head = wire.head().await;
                if head.contains("/breaks") {
                    arrived.add_permits(1);
                    gate.acquire().await.unwrap().forget();
                    // Gone in the middle of the head.
                    return wire.send("HTTP/1.1 200 OK\r\ncontent-le").await;
                }
                let good = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood";
                wire.send(good).await;
            }
        }
    })
    .await;
    let proxy = before(endpoint.address, |_| ()).await;
    let post =
        |path: &str| format!("POST {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 0\r\n\r\n");
    let mut unlucky = Wire::connect(proxy.addresses.ingress).await;
    unlucky.send(post("/breaks")).await;
    told.acquire().await.unwrap().forget();
    let mut lucky = Wire::connect(proxy.addresses.ingress).await;
    lucky.send(post("/")).await;
    assert_eq!(lucky.answer().await.2, "good");
    opened.add_permits(1);
    assert_eq!(unlucky.answer().await.0, 502);
    unlucky.send(post("/")).await;
    assert_eq!(unlucky.answer().await.2, "good");
    proxy.end().await;
}
