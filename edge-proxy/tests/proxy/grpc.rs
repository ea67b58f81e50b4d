//! gRPC, end to end over HTTP/2: to endpoints of this node, and of another.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::support::{
    Authority, Body, HOST, TestEndpoint, TestProxy, connect_http2, full, moves_to, snapshot,
    takes_from,
};
use crate::wire::before;

/// A server of calls that speaks HTTP/2 alone. `/shop.Cart/Echo` sends each message back as it comes,
/// `/shop.Cart/Count` says how many bytes came, `/shop.Cart/Many` sends three messages to one,
/// `/shop.Cart/Fail` has a status and nothing else, `/shop.Cart/Gone` has `UNAVAILABLE` behind its answer.
struct CallEndpoint {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for CallEndpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn call_endpoint() -> CallEndpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service_fn(serve)),
            );
        }
    });
    CallEndpoint { address, task }
}

async fn serve(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    assert_eq!(request.headers()["te"], "trailers");
    assert_eq!(request.uri().authority().unwrap(), HOST);
    let answer = Response::builder().header("content-type", "application/grpc");
    let path = request.uri().path().to_owned();
    if path.ends_with("/Fail") {
        let answer = answer
            .header("grpc-status", "5")
            .header("grpc-message", "no");
        return Ok(answer.body(full("")).unwrap());
    }
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut request = request.into_body();
        let mut len = 0;
        while let Some(frame) = request.frame().await {
            // A call that is given up ends here.
            let Ok(frame) = frame else { return };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            len += data.len();
            if path.ends_with("/Echo") && sender.send(Frame::data(data)).await.is_err() {
                return;
            }
        }
        if path.ends_with("/Count") {
            let text = len.to_string();
            let _ = sender.send(Frame::data(text.into())).await;
        }
        for message in ["one", "two", "three"] {
            if path.ends_with("/Many") {
                let _ = sender.send(Frame::data(message.into())).await;
            }
        }
        let status = if path.ends_with("/Gone") { "14" } else { "0" };
        let _ = sender.send(Frame::trailers(trailers(status))).await;
    });
    Ok(answer.body(Messages(receiver).boxed()).unwrap())
}

fn trailers(status: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    trailers
}

fn call(method: &str, body: Body) -> Request<Body> {
    let request = Request::post(format!("http://{HOST}/shop.Cart/{method}"));
    let request = request.header("content-type", "application/grpc");
    request.header("te", "trailers").body(body).unwrap()
}

/// What a call is answered with: messages joined, and its status, wherever it stands.
async fn answered(response: Response<Incoming>) -> (String, String) {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let told = body.trailers().unwrap_or(&head.headers).clone();
    let status = told["grpc-status"].to_str().unwrap().to_owned();
    let bytes = body.to_bytes().to_vec();
    (String::from_utf8(bytes).unwrap(), status)
}

async fn all_kinds(proxy: &TestProxy) {
    let mut client = connect_http2(proxy.addresses.ingress).await;
    // One message to one; many to one; one to many; none.
    for (method, body, answer, status) in [
        ("Echo", "ping", "ping", "0"),
        ("Count", "four", "4", "0"),
        ("Many", "go", "onetwothree", "0"),
        ("Fail", "x", "", "5"),
    ] {
        let response = client.send_request(call(method, full(body))).await.unwrap();
        let seen = answered(response).await;
        assert_eq!(seen, (answer.to_owned(), status.to_owned()), "{method}");
    }
    // Both ways at once: each message comes back before the next is sent.
    let (messages, receiver) = mpsc::channel(1);
    let sent = client.send_request(call("Echo", Messages(receiver).boxed()));
    let mut answer = sent.await.unwrap().into_body();
    for message in ["a", "b", "c"] {
        messages.send(Frame::data(message.into())).await.unwrap();
        let frame = answer.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), message);
    }
    drop(messages);
    let frame = answer.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_trailers().unwrap(), trailers("0"));
}

/// A body message by message.
struct Messages(mpsc::Receiver<Frame<Bytes>>);

impl hyper::body::Body for Messages {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.0.poll_recv(cx).map(|message| message.map(Ok))
    }
}

#[tokio::test]
async fn all_kinds_of_calls_to_an_endpoint_here() {
    let endpoint = call_endpoint().await;
    let proxy = before(endpoint.address, |_| ()).await;
    all_kinds(&proxy).await;
    proxy.end().await;
}

#[tokio::test]
async fn all_kinds_of_calls_to_an_endpoint_of_another_node() {
    let (endpoint, own) = (call_endpoint().await, TestEndpoint::start("a").await);
    let authority = Authority::new();
    let mut plan = takes_from(snapshot("b", &own, 8), "a");
    plan.services[0].endpoints[0].address = endpoint.address.to_string();
    let there = TestProxy::with_snapshot(&plan, &authority).await;
    let plan = moves_to(snapshot("a", &own, 8), "b", there.addresses.mesh, 1_000_000);
    let here = TestProxy::with_snapshot(&plan, &authority).await;
    all_kinds(&here).await;
    assert_eq!(own.served(), 0);
    here.end().await;
    there.end().await;
}

#[tokio::test]
async fn a_call_to_an_endpoint_without_http2_is_unavailable() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = before(endpoint.address, |_| ()).await;
    let mut client = connect_http2(proxy.addresses.ingress).await;
    let response = client.send_request(call("Echo", full("ping"))).await;
    assert_eq!(answered(response.unwrap()).await.1, "14");
    // Whatever is no call goes over HTTP/1.1 as ever.
    assert_eq!(proxy.get("/").await.2, "a");
    proxy.end().await;
}

#[tokio::test]
async fn a_status_behind_the_messages_counts_for_the_circuit() {
    let endpoint = call_endpoint().await;
    let policy = r#"{"circuit": {"consecutive_failures": 3, "open_base": "1m"}, "retries": {"attempts": 1}}"#;
    let proxy = crate::resilience::proxy(&[endpoint.address], policy).await;
    let mut client = connect_http2(proxy.addresses.ingress).await;
    let state = async |proxy: &TestProxy| {
        let (_, circuits) = proxy.admin("GET", "/circuits").await;
        let circuits: serde_json::Value = serde_json::from_str(&circuits).unwrap();
        circuits[0]["state"].as_str().unwrap().to_owned()
    };
    for (method, status) in [
        ("Gone", "14"),
        ("Gone", "14"),
        ("Echo", "0"),
        ("Gone", "14"),
        ("Gone", "14"),
    ] {
        let response = client.send_request(call(method, full("x"))).await.unwrap();
        assert_eq!(answered(response).await.1, status);
    }
    // A good one was among them.
    assert_eq!(state(&proxy).await, "closed");
    let response = client.send_request(call("Gone", full("x"))).await.unwrap();
    assert_eq!(answered(response).await.1, "14");
    assert_eq!(state(&proxy).await, "open");
    proxy.end().await;
}
