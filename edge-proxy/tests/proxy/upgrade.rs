//! What HTTP/1.1 has beside one request and one answer: interim answers, changes of protocol, pipelines, trailers.

use crate::support::{HOST, TestEndpoint};
use crate::wire::{Wire, WireEndpoint, before, header, shows};

const IN_FLIGHT: &str = "isobar_proxy_requests_in_flight{service=\"shop/cart\"}";
const UPGRADE: &str = "connection: Upgrade\r\nupgrade: websocket\r\n";

fn get(path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\n{lines}\r\n")
}

/// An endpoint that changes the protocol and then says everything twice.
pub async fn switching() -> WireEndpoint {
    WireEndpoint::start(|mut wire| async move {
        let head = wire.head().await;
        assert_eq!(header(&head, "upgrade"), Some("websocket"), "{head}");
        assert_eq!(header(&head, "connection"), Some("upgrade"), "{head}");
        let switching = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                         upgrade: websocket\r\n\r\nfirst;";
        wire.send(switching).await;
        let heard = wire.until(";").await;
        wire.send(format!("{heard}{heard}")).await;
        let rest = wire.rest().await;
        wire.send(format!("then {rest}")).await;
    })
    .await
}

#[tokio::test]
async fn an_upgraded_connection_is_a_tunnel_that_holds_its_slot() {
    let endpoint = switching().await;
    let proxy = before(endpoint.address, |_| ()).await;
    let mut client = Wire::connect(proxy.addresses.ingress).await;
    // What the client sends behind its request is the new protocol's.
    client.send(get("/chat", UPGRADE) + "hello;").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(header(&head, "upgrade"), Some("websocket"));
    assert_eq!(client.until("hello;hello;").await, "first;hello;hello;");
    shows(&proxy, &format!("{IN_FLIGHT} 1")).await;
    shows(
        &proxy,
        "isobar_proxy_tcp_connections{service=\"shop/cart\"} 1",
    )
    .await;
    // One direction ends, the other goes on.
    client.send("end").await;
    client.finish().await;
    assert_eq!(client.rest().await, "then end");
    shows(&proxy, &format!("{IN_FLIGHT} 0")).await;
    let counted = "isobar_proxy_requests_completed_total{service=\"shop/cart\"} 1";
    shows(&proxy, counted).await;
    proxy.end().await;
}

#[tokio::test]
async fn a_silent_tunnel_is_ended() {
    let endpoint = switching().await;
    let proxy = before(endpoint.address, |c| c.limits.tcp_idle_ms_max = 50).await;
    let mut client = Wire::connect(proxy.addresses.ingress).await;
    client.send(get("/chat", UPGRADE)).await;
    client.until("first;").await;
    client.rest().await;
    shows(&proxy, &format!("{IN_FLIGHT} 0")).await;
    proxy.end().await;
}

#[tokio::test]
async fn an_endpoint_may_decline_an_upgrade_and_may_not_make_one_unasked() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = before(endpoint.address, |_| ()).await;
    let mut client = Wire::connect(proxy.addresses.ingress).await;
    for _ in 0..2 {
        client.send(get("/", UPGRADE)).await;
        assert_eq!(client.answer().await.2, "a");
    }
    proxy.end().await;

    let forced = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    let endpoint = WireEndpoint::saying(forced).await;
    let proxy = before(endpoint.address, |_| ()).await;
    let mut client = Wire::connect(proxy.addresses.ingress).await;
    client.send(get("/", "")).await;
    assert_eq!(client.answer().await.0, 502);
    proxy.end().await;
}

#[tokio::test]
async fn a_body_that_waits_to_be_asked_for_is_asked_for_once() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = before(endpoint.address, |_| ()).await;
    let mut client = Wire::connect(proxy.addresses.ingress).await;
    let head = |host| {
        format!(
            "POST /echo HTTP/1.1\r\nhost: {host}\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n"
        )
    };
    client.send(head(HOST)).await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("ping").await;
    assert_eq!(client.answer().await.2, "ping");
    // Who does not wait is not asked.
    client.send(head(HOST) + "pong").await;
    assert_eq!(client.answer().await.2, "pong");
    // What is refused is refused before the body comes, and the client may send it or not: the connection ends.
    client.send(head("other.example")).await;
    let (status, head, _) = client.answer().await;
    assert_eq!((status, header(&head, "connection")), (404, Some("close")));
    client.rest().await;
    proxy.end().await;
}

#[tokio::test]
async fn interim_answers_are_passed_on() {
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let endpoint = WireEndpoint::saying(format!("{hints}{hints}{answer}")).await;
    let proxy = before(endpoint.address, |_| ()).await;
    let mut client = Wire::connect(proxy.addresses.ingress).await;
    client.send(get("/", "")).await;
    for _ in 0..2 {
        assert_eq!(client.head().await, hints);
    }
    assert_eq!(client.answer().await.2, "ok");
    proxy.end().await;
}

#[tokio::test]
async fn a_pipeline_is_answered_in_order() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = before(endpoint.address, |_| ()).await;
    let mut client = Wire::connect(proxy.addresses.ingress).await;
    let echo = |body: &str| {
        let len = body.len();
        format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {len}\r\n\r\n{body}")
    };
    let many: String = (0..50).map(|i| echo(&format!("body {i}"))).collect();
    client.send(get("/hold", "") + &many).await;
    endpoint.arrival().await;
    assert_eq!(endpoint.served(), 1);
    endpoint.let_go();
    assert_eq!(client.answer().await.2, "held");
    for i in 0..50 {
        assert_eq!(client.answer().await.2, format!("body {i}"));
    }
    proxy.end().await;
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let endpoint = WireEndpoint::start(|mut wire| async move {
        wire.head().await;
        let body = wire.until("\r\n\r\n").await;
        assert_eq!(body, "4\r\nping\r\n0\r\nx-sum: 1\r\n\r\n");
        let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                      4\r\npong\r\n0\r\nx-sum: 2\r\ncontent-length: 9\r\n\r\n";
        wire.send(answer).await;
        wire.rest().await;
    })
    .await;
    let proxy = before(endpoint.address, |_| ()).await;
    let mut client = Wire::connect(proxy.addresses.ingress).await;
    let head =
        format!("POST / HTTP/1.1\r\nhost: {HOST}\r\nte: trailers\r\ntransfer-encoding: chunked");
    client
        .send(head + "\r\n\r\n4\r\nping\r\n0\r\nx-sum: 1\r\nisobar-hop: 1\r\n\r\n")
        .await;
    let head = client.head().await;
    assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
    let body = client.until("\r\n\r\n").await;
    assert_eq!(body, "4\r\npong\r\n0\r\nx-sum: 2\r\n\r\n");
    proxy.end().await;
}

#[tokio::test]
async fn http_1_0_is_answered_in_its_own_way() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let endpoint = WireEndpoint::saying(chunked).await;
    let proxy = before(endpoint.address, |_| ()).await;
    let mut client = Wire::connect(proxy.addresses.ingress).await;
    client
        .send(format!("GET / HTTP/1.0\r\nhost: {HOST}\r\n\r\n"))
        .await;
    let text = client.rest().await;
    assert!(!text.contains("chunked"), "{text}");
    assert!(text.ends_with("\r\n\r\nok"), "{text}");
    proxy.end().await;
}

#[tokio::test]
async fn connect_is_refused_where_it_is_not_allowed() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = before(endpoint.address, |_| ()).await;
    let mut client = Wire::connect(proxy.addresses.ingress).await;
    client
        .send("CONNECT other:80 HTTP/1.1\r\nhost: other:80\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.0, 405);
    assert_eq!(endpoint.served(), 0);
    proxy.end().await;
}
