//! A request over HTTP/2 that becomes a connection: `CONNECT` to a service (RFC 9113, section 8.5), or a WebSocket
//! (extended `CONNECT`, RFC 8441). Its stream then carries bytes, beside the other requests of its connection.
//!
//! Endpoints know WebSockets as HTTP/1.1's `Upgrade`: that is what they are asked for.

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::Downstream;
use super::pace::Turn;
use crate::answer::Answer;
use crate::audience;
use crate::body::{RequestBody, ResponseBody};
use crate::http1::Upgrade;
use crate::http1::tunnel::Tunnel;
use crate::request;
use crate::tcp;
use crate::tcp::connect;

/// The one protocol that an extended `CONNECT` may ask for.
const WEBSOCKET: &str = "websocket";

/// Serves such a request; `turn` ends with what it becomes.
pub(super) async fn serve(
    downstream: &Downstream,
    mut request: Request<RequestBody>,
    turn: Turn,
) -> Response<ResponseBody> {
    let opening = hyper::upgrade::on(&mut request);
    match request.extensions_mut().remove::<Protocol>() {
        None => to_service(downstream, request, opening, turn).await,
        Some(protocol) if protocol.as_str() == WEBSOCKET => {
            websocket(downstream, request, opening, turn).await
        }
        Some(_) => {
            let (head, _) = request.into_parts();
            let story = audience::story_of_client(downstream, &head);
            request::not_connected(downstream, &head, Answer::Method, story)
        }
    }
}

async fn to_service(
    downstream: &Downstream,
    request: Request<RequestBody>,
    opening: OnUpgrade,
    turn: Turn,
) -> Response<ResponseBody> {
    let (head, _) = request.into_parts();
    let story = audience::story_of_client(downstream, &head);
    let opened = match connect::open(downstream, &head, story.as_ref()).await {
        Ok(opened) => opened,
        Err(answer) => {
            turn.end();
            return request::not_connected(downstream, &head, answer, story);
        }
    };
    let worker = downstream.worker.clone();
    let drain = worker.proxy.drain.clone();
    drain.spawn(async move {
        // The client gave it up: letting go of the connection tells the endpoint.
        if let Ok(stream) = opening.await {
            opened.run(&worker, TokioIo::new(stream)).await;
        }
        turn.end();
    });
    Response::new(ResponseBody::full(Bytes::new()))
}

async fn websocket(
    downstream: &Downstream,
    mut request: Request<RequestBody>,
    opening: OnUpgrade,
    turn: Turn,
) -> Response<ResponseBody> {
    *request.method_mut() = Method::GET;
    let upgrade = Upgrade(HeaderValue::from_static(WEBSOCKET));
    request.extensions_mut().insert(upgrade);
    request.headers_mut().insert(SEC_WEBSOCKET_KEY, key());
    let (head, _) = request.into_parts();
    let mut response = request::entered(downstream, Box::new(head), RequestBody::empty()).await;
    let tunnel = match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => response.body_mut().take_tunnel(),
        _ => None,
    };
    let Some((connection, observation)) = tunnel else {
        turn.end();
        // "Yes" to something else is no WebSocket.
        let is_yes = response.status().is_success() || response.status().is_informational();
        return if is_yes {
            Answer::Upstream.response()
        } else {
            response
        };
    };
    let worker = downstream.worker.clone();
    let drain = worker.proxy.drain.clone();
    drain.spawn(async move {
        let Ok(stream) = opening.await else {
            observation.cut();
            return turn.end();
        };
        let live = observation.live().clone();
        let endpoint = Tunnel::new(connection.link());
        tcp::run(&worker, &live, observation, TokioIo::new(stream), endpoint).await;
        turn.end();
    });
    let mut opened = Response::new(ResponseBody::full(Bytes::new()));
    *opened.headers_mut() = told(std::mem::take(response.headers_mut()));
    opened
}

/// What the endpoint said of the WebSocket, without what only HTTP/1.1 says.
fn told(mut headers: HeaderMap) -> HeaderMap {
    const LENGTH: HeaderName = http::header::CONTENT_LENGTH;
    headers.remove(SEC_WEBSOCKET_ACCEPT);
    headers.remove(LENGTH);
    headers
}

/// 16 random bytes in base 64 (RFC 6455, section 4.1); they keep caches from answering, nothing else.
fn key() -> HeaderValue {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // 21 digits of six bits and one of two.
    let mut text: String = (0..21)
        .map(|_| char::from(DIGITS[fastrand::usize(..64)]))
        .collect();
    text.push(char::from(DIGITS[fastrand::usize(..4) * 16]));
    text.push_str("==");
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
