//! Taps and errands, with a proxy that says what a test wants.

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use isobar_mesh_api::errand::{ErrandDone, Said, What};
use isobar_mesh_api::message::{Down, Up};
use isobar_mesh_api::tap::{Tapped, TappedLines};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::mesh::{Mesh, PATIENCE};
use crate::proxy::{Proxy, Stream};

/// The next message that a test is about.
async fn asked(stream: &mut Stream) -> Down {
    loop {
        match stream.next().await.expect("the stream is open") {
            Down::Ping { .. } | Down::Trust(_) | Down::Snapshot(_) | Down::Delta(_) => {}
            other => return other,
        }
    }
}

fn request(path: &str) -> Tapped {
    Tapped {
        at_ms: 1,
        served: None,
        moved: None,
        method: "GET".into(),
        path: path.into(),
        status: 200,
        latency_us: 5,
        received_len: None,
        sent_len: None,
        headers: Vec::new(),
        answer_headers: Vec::new(),
    }
}

/// Events of an answer, as text until a word is there.
async fn until(body: &mut Incoming, word: &str) -> String {
    let mut text = String::new();
    let read = async {
        while !text.contains(word) {
            let frame = body.frame().await.expect("more events").unwrap();
            text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    };
    let read = tokio::time::timeout(PATIENCE, read).await;
    assert!(read.is_ok(), "{word:?} never came: {text}");
    text
}

async fn open(mesh: &Mesh, path: &str) -> Incoming {
    let address = mesh.addresses().rest;
    let socket = TcpStream::connect(address).await.unwrap();
    let hands = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await;
    let (mut sender, connection) = hands.unwrap();
    tokio::spawn(connection);
    let request = Request::get(path).header("host", address.to_string());
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response.into_body()
}

async fn connected(mesh: &Mesh) -> Stream {
    let door = mesh.door();
    let proxy = Proxy::enrolled(&door, "a").await;
    let mut stream = proxy
        .stream(&door, proxy.hello_at(9.0, 50.0))
        .await
        .unwrap();
    stream.snapshot().await;
    // The view of the next tick has the service.
    let known = async {
        loop {
            let (_, status) = mesh.rest(Method::GET, "/v1/status", "").await;
            if status["services"].as_array().is_some_and(|s| !s.is_empty()) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let known = tokio::time::timeout(PATIENCE, known).await;
    known.expect("the service is never known");
    stream
}

#[tokio::test]
async fn a_tap_reaches_its_reader_and_ends_with_it() {
    let mesh = Mesh::start().await;
    let mut stream = connected(&mesh).await;
    let mut body = open(&mesh, "/v1/tap/shop/cart?path=/x&headers=User-Agent").await;
    assert!(
        until(&mut body, "\n\n")
            .await
            .contains(r#"{"nodes":["a"]}"#)
    );
    let Down::Tap(tap) = asked(&mut stream).await else {
        panic!("no tap");
    };
    assert_eq!(tap.filter.path.as_deref(), Some("/x"));
    assert_eq!(tap.headers, ["user-agent"]);
    let lines = |requests, left_out| {
        let tap = tap.tap;
        Up::Tapped(TappedLines {
            tap,
            requests,
            left_out,
        })
    };
    stream.send(&lines(vec![request("/x/1")], 3)).await;
    let text = until(&mut body, r#""by_proxies":3"#).await;
    assert!(
        text.contains(r#""home":"a""#) && text.contains("/x/1"),
        "{text}"
    );
    // A tap that nobody has is passed over.
    let strange = TappedLines {
        tap: 99,
        requests: vec![request("/x/2")],
        left_out: 0,
    };
    stream.send(&Up::Tapped(strange)).await;
    // Proxies hear of it again and again while somebody reads.
    assert!(matches!(asked(&mut stream).await, Down::Tap(again) if again.tap == tap.tap));
    drop(body);
    assert!(matches!(asked(&mut stream).await, Down::Untap { tap: ended } if ended == tap.tap));
    let (_, audit) = mesh.rest(Method::GET, "/v1/audit?limit=1", "").await;
    let entry = &audit["items"][0];
    assert_eq!(
        entry["name"], "shop/cart path=/x headers=user-agent",
        "{audit}"
    );
    assert_eq!(
        (&entry["kind"], &entry["outcome"]),
        (&json!("Tap"), &json!("asked"))
    );
    mesh.stop().await;
}

#[tokio::test]
async fn there_are_so_many_taps_and_no_more() {
    let mesh = Mesh::start().await;
    let _stream = connected(&mesh).await;
    let mut bodies = Vec::new();
    for _ in 0..isobar_controller::control_task::TAPS_MAX {
        bodies.push(open(&mesh, "/v1/tap/shop/cart").await);
    }
    let (status, said) = mesh.rest(Method::GET, "/v1/tap/shop/cart", "").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{said}");
    drop(bodies);
    // Places come back when their readers have gone.
    let again = async {
        loop {
            let (_, text) = mesh.rest(Method::GET, "/v1/status", "").await;
            assert_ne!(text, Value::Null);
            let socket = TcpStream::connect(mesh.addresses().rest).await.unwrap();
            let hands = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await;
            let (mut sender, connection) = hands.unwrap();
            tokio::spawn(connection);
            let request = Request::get("/v1/tap/shop/cart").header("host", "localhost");
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            if sender.send_request(request).await.unwrap().status() == StatusCode::OK {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, again)
        .await
        .expect("room for a tap");
    mesh.stop().await;
}

#[tokio::test]
async fn an_errand_is_answered_or_its_node_goes_away() {
    let mesh = Mesh::start().await;
    let mut stream = connected(&mesh).await;
    let body = r#"{"levels": "debug"}"#;
    let ask = async || mesh.rest(Method::PUT, "/v1/nodes/a/log-levels", body).await;
    let answer = async |stream: &mut Stream, said: Said| {
        let Down::Errand(errand) = asked(stream).await else {
            panic!("no errand");
        };
        assert_eq!(errand.what, What::LogLevels("debug".into()));
        // Somebody else's number is nobody's answer.
        let number = errand.number + 7;
        stream
            .send(&Up::Done(ErrandDone {
                number,
                said: said.clone(),
            }))
            .await;
        let number = errand.number;
        stream.send(&Up::Done(ErrandDone { number, said })).await;
    };
    let before = "info".to_owned();
    let ((status, said), ()) = tokio::join!(ask(), answer(&mut stream, Said::LogLevels { before }));
    assert_eq!(
        (status, said),
        (
            StatusCode::OK,
            json!({ "levels": "debug", "before": "info" })
        )
    );
    let failed = Said::Failed("it is busy".to_owned());
    let ((status, said), ()) = tokio::join!(ask(), answer(&mut stream, failed));
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(said["detail"], "a: it is busy");
    let gone = async {
        assert!(matches!(asked(&mut stream).await, Down::Errand(_)));
        drop(stream);
    };
    let ((status, said), ()) = tokio::join!(ask(), gone);
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(said["detail"], "a went away before it answered");
    mesh.stop().await;
}
