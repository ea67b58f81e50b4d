//! Serving HTTP/3 on one connection until it ends, or until the drain lets its requests end.

use std::sync::Arc;

use bytes::Bytes;
use h3::error::{Code, StreamError};
use h3::server::{RequestResolver, RequestStream};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, response};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::task::JoinSet;

use super::inbound::Inbound;
use crate::answer::Answer;
use crate::audience;
use crate::body::{BodyError, RequestBody};
use crate::connection::Downstream;
use crate::connection::http::{HEAD_LEN_MAX, paced};
use crate::connection::pace::{Pace, Paced, Turn};
use crate::http1::fault::{Fault, Side};
use crate::request;

type Resolver = RequestResolver<h3_quinn::Connection, Bytes>;
type Sending = RequestStream<h3_quinn::SendStream<Bytes>, Bytes>;

/// What belongs to a connection of HTTP/1.1 alone (RFC 9114, section 4.2).
const OF_HTTP1: [HeaderName; 5] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Serves HTTP/3 to a client as long as it keeps its pace.
pub(super) async fn connection(downstream: Arc<Downstream>, connection: quinn::Connection) {
    let proxy = Arc::clone(&downstream.worker.proxy);
    let pace = Pace::new(proxy.clock);
    let serving = requests(&downstream, &pace, connection);
    if let Some(Err(error)) = paced(&proxy, &pace, serving).await
        && let h3::error::ConnectionError::Local { .. } = error
        && !error.is_h3_no_error()
    {
        proxy.faults.note(Side::Downstream, Fault::Http3);
    }
}

/// Serves requests, each in a task of its own, until the client has no more or the drain is over.
async fn requests(
    downstream: &Arc<Downstream>,
    pace: &Arc<Pace>,
    connection: quinn::Connection,
) -> Result<(), h3::error::ConnectionError> {
    let drain = &downstream.worker.proxy.drain;
    let mut builder = h3::server::builder();
    builder.max_field_section_size(HEAD_LEN_MAX.into());
    let mut server = builder
        .build::<_, Bytes>(h3_quinn::Connection::new(connection.clone()))
        .await?;
    let mut serving = JoinSet::new();
    let mut is_closing = false;
    loop {
        tokio::select! {
            () = drain.begun(), if !is_closing => {
                is_closing = true;
                // What was accepted is served; the client is told that nothing behind it is.
                server.shutdown(1).await?;
            }
            accepted = server.accept() => match accepted? {
                Some(resolver) if is_closing => {
                    let wait_max = downstream.worker.proxy.config.limits.head_wait_max();
                    serving.spawn(async move {
                        let _ = tokio::time::timeout(wait_max, reject(resolver)).await;
                    });
                }
                Some(resolver) => {
                    let turn = pace.begin();
                    serving.spawn(request(Arc::clone(downstream), resolver, turn));
                }
                None => break,
            },
            Some(_) = serving.join_next() => {}
            () = drain.idle_over(), if is_closing && serving.is_empty() => return Ok(()),
        }
    }
    while serving.join_next().await.is_some() {}
    // Closing now would take back what is still on its way; the client closes when it has all.
    tokio::select! {
        _ = connection.closed() => {}
        () = drain.idle_over() => {}
    }
    Ok(())
}

/// Says that a request that came too late was not looked at: the client may send it elsewhere.
async fn reject(resolver: Resolver) {
    if let Ok((_, mut stream)) = resolver.resolve_request().await {
        stream.stop_sending(Code::H3_REQUEST_REJECTED);
        stream.stop_stream(Code::H3_REQUEST_REJECTED);
    }
}

async fn request(downstream: Arc<Downstream>, resolver: Resolver, turn: Turn) {
    let proxy = &downstream.worker.proxy;
    let wait_max = proxy.config.limits.head_wait_max();
    let head = async {
        let (request, stream) = resolver
            .resolve_request()
            .await
            .map_err(BodyError::Stream)?;
        let (sending, receiving) = stream.split();
        let (head, ()) = request.into_parts();
        let body = match is_of_http1(&head.headers) {
            true => Err(BodyError::Refused(Fault::HeaderLine)),
            false => Inbound::begin(receiving, &head).await,
        };
        Ok::<_, BodyError>((head, body, sending))
    };
    let (head, body, mut sending) = match tokio::time::timeout(wait_max, head).await {
        Ok(Ok(arrived)) => arrived,
        Ok(Err(error)) => return note(&downstream, &error),
        Err(_) => return proxy.faults.note(Side::Downstream, Fault::HeadTimeout),
    };
    let is_head = head.method == Method::HEAD;
    let response = match body {
        Err(error) => {
            note(&downstream, &error);
            sending.stop_stream(Code::H3_MESSAGE_ERROR);
            return turn.end();
        }
        Ok(_) if head.method == Method::CONNECT => {
            let story = audience::story_of_client(&downstream, &head);
            request::not_connected(&downstream, &head, Answer::Method, story)
        }
        Ok(body) => {
            let body = RequestBody::of_http3(body);
            request::entered(&downstream, Box::new(head), body).await
        }
    };
    let response = response.map(|body| turn.answer(body));
    if let Err(error) = answer(&mut sending, response, is_head).await {
        tracing::debug!(%error, "an answer over HTTP/3 broke off");
    }
}

/// Counts what a client did wrong.
fn note(downstream: &Downstream, error: &BodyError) {
    let fault = match error {
        BodyError::Refused(fault) => *fault,
        BodyError::Stream(StreamError::HeaderTooBig { .. }) => Fault::HeadTooLong,
        BodyError::Stream(StreamError::StreamError { .. }) => Fault::Http3,
        // The client went, or its connection tells of itself.
        _ => return,
    };
    downstream.worker.proxy.faults.note(Side::Downstream, fault);
}

fn is_of_http1(headers: &HeaderMap) -> bool {
    let other_coding = headers.get(TE).is_some_and(|te| te != "trailers");
    other_coding || OF_HTTP1.iter().any(|name| headers.contains_key(name))
}

async fn answer(
    sending: &mut Sending,
    response: Response<Paced>,
    is_head: bool,
) -> Result<(), StreamError> {
    let (mut head, mut body) = response.into_parts();
    for name in &OF_HTTP1 {
        head.headers.remove(name);
    }
    announce(&mut head, &body, is_head);
    let (mut told, ()) = Response::new(()).into_parts();
    (told.status, told.headers) = (head.status, head.headers);
    sending
        .send_response(Response::from_parts(told, ()))
        .await?;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            // The client must not take what it has for all.
            sending.stop_stream(Code::H3_INTERNAL_ERROR);
            return Ok(());
        };
        match frame.into_data() {
            Ok(_) if is_head => {}
            Ok(data) => sending.send_data(data).await?,
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    sending.send_trailers(trailers).await?;
                }
            }
        }
    }
    sending.finish().await
}

/// Says the date, and how long the body is where that is known.
fn announce(head: &mut response::Parts, body: &Paced, is_head: bool) {
    if !head.headers.contains_key(DATE)
        && let Ok(date) = HeaderValue::from_bytes(&crate::http1::date::now())
    {
        head.headers.insert(DATE, date);
    }
    let is_bodiless = matches!(
        head.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    if let Some(len) = body.size_hint().exact()
        && !is_head
        && !is_bodiless
    {
        let headers = &mut head.headers;
        headers.entry(CONTENT_LENGTH).or_insert_with(|| len.into());
    }
}
