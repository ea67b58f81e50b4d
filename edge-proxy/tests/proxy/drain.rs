//! Every listener drains: no new connections, requests under way end.

use crate::support::{
    Authority, HOST, TestEndpoint, TestProxy, config, connect, connect_http2, full, moves_to, read,
    send, snapshot, takes_from,
};
use http::{Request, StatusCode};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

#[tokio::test]
async fn requests_under_way_end_on_every_listener() {
    let (a, b) = (
        TestEndpoint::start("a").await,
        TestEndpoint::start("b").await,
    );
    let authority = Authority::new();
    let plan = takes_from(snapshot("b", &b, 8), "a");
    let receiver = TestProxy::with_snapshot(&plan, &authority).await;
    let to_b = moves_to(snapshot("a", &a, 8), "b", receiver.addresses.mesh, 500_000);
    let home = TestProxy::with_snapshot(&to_b, &authority).await;
    let hold = || {
        Request::get("/hold")
            .header("host", HOST)
            .body(full(""))
            .unwrap()
    };

    // Of two that enter at `home` the second is moved: then each listener of `b` has one.
    let stream = TcpStream::connect(receiver.addresses.ingress)
        .await
        .unwrap();
    let (mut idle, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let idle_closed = tokio::spawn(connection);
    let request = Request::get("/")
        .header("host", HOST)
        .body(full(""))
        .unwrap();
    assert_eq!(read(idle.send_request(request).await.unwrap()).await.2, "b");
    b.arrival().await;
    let first = tokio::spawn(send(home.addresses.ingress, hold()));
    a.arrival().await;
    let moved = tokio::spawn(send(home.addresses.ingress, hold()));
    let ingress = tokio::spawn(send(receiver.addresses.ingress, hold()));
    let outbound = tokio::spawn(send(receiver.addresses.outbound.unwrap(), hold()));
    let mut http2 = connect_http2(receiver.addresses.ingress).await;
    let request = Request::get(format!("http://{HOST}/hold"))
        .body(full(""))
        .unwrap();
    let http2 = tokio::spawn(async move { read(http2.send_request(request).await.unwrap()).await });
    for _ in 0..4 {
        b.arrival().await;
    }

    assert_eq!(receiver.admin("GET", "/readyz").await.0, StatusCode::OK);
    assert_eq!(
        receiver.admin("GET", "/drain").await.0,
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(
        receiver.admin("POST", "/drain").await.0,
        StatusCode::ACCEPTED
    );
    assert_eq!(
        receiver.admin("GET", "/readyz").await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(receiver.admin("GET", "/livez").await.0, StatusCode::OK);
    // An idle connection is closed at once.
    idle_closed.await.unwrap().unwrap();
    a.let_go();
    for _ in 0..4 {
        b.let_go();
    }
    for task in [first, moved, ingress, outbound, http2] {
        let (status, _, body) = task.await.unwrap();
        assert_eq!((status, body.as_str()), (StatusCode::OK, "held"));
    }
    let addresses = receiver.addresses.clone();
    receiver.ended().await;
    let listeners = [
        addresses.ingress,
        addresses.mesh,
        addresses.outbound.unwrap(),
    ];
    for address in listeners.into_iter().chain([addresses.admin]) {
        assert!(TcpStream::connect(address).await.is_err(), "{address}");
    }
    // What the plan would move to the node that is gone is served at home.
    for _ in 0..4 {
        assert_eq!(home.get("/").await.2, "a");
    }
    home.end().await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_ever() {
    let endpoint = TestEndpoint::start("a").await;
    let dir = tempfile::tempdir().unwrap();
    isobar_edge_proxy::snapshot_file::save(dir.path(), &snapshot("a", &endpoint, 1)).unwrap();
    let mut config = config("a", &dir);
    config.limits.drain_wait_ms_max = 50;
    let proxy = TestProxy::start(config, dir).await;
    let mut client = connect(proxy.addresses.ingress).await;
    let request = Request::get("/hold")
        .header("host", HOST)
        .body(full(""))
        .unwrap();
    let lost = tokio::spawn(async move { client.send_request(request).await.is_err() });
    endpoint.arrival().await;
    proxy.end().await;
    assert!(lost.await.unwrap());
}
