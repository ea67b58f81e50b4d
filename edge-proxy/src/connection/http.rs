//! Serving HTTP/2 on one connection until it ends, or until the drain lets its requests end.

use std::convert::Infallible;
use std::error::Error as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::pace::{Due, Pace};
use super::{Downstream, Peer, Stream, connect};
use crate::body::{RequestBody, ResponseBody};
use crate::drain::Drain;
use crate::http1::fault::{Fault, Side};
use crate::http1::watch::{Watch, micros};
use crate::neighbour::{CONNECTION_WINDOW, PING_EVERY, PING_WAIT_MAX, STREAM_WINDOW};
use crate::proxy::{Proxy, Worker};
use crate::request;

/// Requests at once on one HTTP/2 connection of a peer; more wait at the other end.
pub const STREAMS_MAX: u32 = 1024;
/// Requests at once on one HTTP/2 connection of a client; more wait at the other end.
pub const CLIENT_STREAMS_MAX: u32 = 256;
/// Largest head of an HTTP/2 request, in bytes; a larger one is refused (431).
pub const HEAD_LEN_MAX: u32 = 64 * 1024;

/// Serves HTTP/2 to a client or a local application, as long as it keeps its pace.
pub(super) async fn http2(downstream: Arc<Downstream>, stream: Stream) -> Result<(), hyper::Error> {
    let proxy = Arc::clone(&downstream.worker.proxy);
    let pace = Pace::new(proxy.clock);
    let turns = Arc::clone(&pace);
    let service = service_fn(move |request: Request<Incoming>| {
        let (downstream, request) = (Arc::clone(&downstream), request.map(RequestBody::new));
        let turn = turns.begin();
        // Of a connection that a request becomes; the request's own ends with its answer.
        let tunnel = (*request.method() == Method::CONNECT).then(|| turns.begin());
        async move {
            let response = match tunnel {
                None => {
                    let (head, body) = request.into_parts();
                    request::entered(&downstream, Box::new(head), body).await
                }
                Some(turn) => Box::pin(connect::serve(&downstream, request, turn)).await,
            };
            Ok::<_, Infallible>(response.map(|body| turn.answer(body)))
        }
    });
    let mut server = http2_server(CLIENT_STREAMS_MAX);
    server.enable_connect_protocol();
    let connection = Box::pin(server.serve_connection(TokioIo::new(stream), service));
    let drain = &proxy.drain;
    let connection = drained(drain, connection, |c| c.graceful_shutdown());
    let ended = paced(&proxy, &pace, connection).await;
    if let Some(Err(error)) = &ended
        && let Some(fault) = fault(error)
    {
        proxy.faults.note(Side::Downstream, fault);
    }
    ended.unwrap_or(Ok(()))
}

/// Runs a connection until it ends, or, with `None`, until its client does not do its part.
pub(crate) async fn paced<F: Future>(
    proxy: &Proxy,
    pace: &Pace,
    connection: F,
) -> Option<F::Output> {
    let limits = &proxy.config.limits;
    let (idle_us, take_us) = (
        micros(limits.idle_wait_max()),
        micros(limits.body_wait_max()),
    );
    let mut due_us = proxy.clock.now_us() + idle_us.min(take_us);
    let mut watch = Watch::new(proxy.clock, &proxy.drain, due_us);
    let mut connection = pin!(connection);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        if pace.is_flooded() {
            proxy.faults.note(Side::Downstream, Fault::Flood);
            return Poll::Ready(None);
        }
        while watch.poll_deadline(due_us, cx).is_ready() {
            match pace.due(idle_us, take_us) {
                Due::At(at_us) => due_us = at_us,
                Due::Idle => return Poll::Ready(None),
                Due::Stalled => {
                    proxy.faults.note(Side::Downstream, Fault::Stalled);
                    return Poll::Ready(None);
                }
            }
        }
        Poll::Pending
    })
    .await
}

/// What a client did wrong, when that ended its connection.
fn fault(error: &hyper::Error) -> Option<Fault> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return match error.reason() {
                _ if error.is_remote() || error.is_io() => None,
                Some(h2::Reason::ENHANCE_YOUR_CALM) => Some(Fault::Flood),
                _ => Some(Fault::Http2),
            };
        }
        cause = error.source();
    }
    None
}

/// Serves HTTP/2 to a peer.
pub(super) async fn mesh(
    worker: &Arc<Worker>,
    peer: Arc<Peer>,
    stream: Stream,
) -> Result<(), hyper::Error> {
    let worker_of_requests = Arc::clone(worker);
    let service = service_fn(move |request: Request<Incoming>| {
        let (worker, peer) = (Arc::clone(&worker_of_requests), Arc::clone(&peer));
        let request = request.map(RequestBody::new);
        async move { infallible(request::moved_in(&worker, &peer, request).await) }
    });
    let connection = http2_server(STREAMS_MAX).serve_connection(TokioIo::new(stream), service);
    let drain = &worker.proxy.drain;
    drained(drain, Box::pin(connection), |c| c.graceful_shutdown()).await
}

fn infallible(response: Response<ResponseBody>) -> Result<Response<ResponseBody>, Infallible> {
    Ok(response)
}

fn http2_server(streams_max: u32) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(streams_max)
        .max_header_list_size(HEAD_LEN_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WAIT_MAX);
    builder
}

/// Runs a connection; when the drain begins, lets its requests end and closes it. Boxed: what is handed from one function to the
/// next has a place in each.
async fn drained<C, T, E>(
    drain: &Drain,
    mut connection: Pin<Box<C>>,
    close: impl Fn(Pin<&mut C>),
) -> Result<T, E>
where
    C: Future<Output = Result<T, E>>,
{
    let mut due = pin!(drain.begun());
    let (mut watching, mut closing) = (false, false);
    std::future::poll_fn(|cx| {
        // The token takes a lock each time it is asked. It remembers this task's waker from the
        // first time, so later a look at its flag is enough.
        let ask = !watching || drain.is_begun();
        if !closing && ask {
            watching = true;
            if due.as_mut().poll(cx).is_ready() {
                closing = true;
                close(connection.as_mut());
            }
        }
        match connection.as_mut().poll(cx) {
            Poll::Ready(ended) => Poll::Ready(ended),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
