//! Serving HTTP/2 on one connection until it ends, or until the drain lets its requests end.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use isobar_mesh_api::names::NodeId;

use super::{Downstream, Stream};
use crate::body::{RequestBody, ResponseBody};
use crate::drain::Drain;
use crate::neighbour::{CONNECTION_WINDOW, PING_EVERY, PING_WAIT_MAX, STREAM_WINDOW};
use crate::proxy::Worker;
use crate::request;

/// Requests at once on one HTTP/2 connection; more wait at the other end.
pub const STREAMS_MAX: u32 = 1024;
/// Largest head of an HTTP/2 request, in bytes; a larger one is refused (431).
pub const HEAD_LEN_MAX: u32 = 64 * 1024;

/// Serves HTTP/2 to a client or a local application.
pub(super) async fn http2(downstream: Arc<Downstream>, stream: Stream) -> Result<(), hyper::Error> {
    let worker = Arc::clone(&downstream.worker);
    let service = service_fn(move |request: Request<Incoming>| {
        let (downstream, request) = (Arc::clone(&downstream), request.map(RequestBody::new));
        async move { infallible(request::entered(&downstream, request).await) }
    });
    let connection = http2_server().serve_connection(TokioIo::new(stream), service);
    let drain = &worker.proxy.drain;
    drained(drain, drain.begun(), connection, |c| c.graceful_shutdown()).await
}

/// Serves HTTP/2 to the peer whose certificate names `home`.
pub(super) async fn mesh(
    worker: &Arc<Worker>,
    home: NodeId,
    stream: Stream,
) -> Result<(), hyper::Error> {
    let worker_of_requests = Arc::clone(worker);
    let home = Arc::new(home);
    let service = service_fn(move |request: Request<Incoming>| {
        let (worker, home) = (Arc::clone(&worker_of_requests), Arc::clone(&home));
        let request = request.map(RequestBody::new);
        async move { infallible(request::moved_in(&worker, &home, request).await) }
    });
    let connection = http2_server().serve_connection(TokioIo::new(stream), service);
    let drain = &worker.proxy.drain;
    drained(drain, drain.begun(), connection, |c| c.graceful_shutdown()).await
}

fn infallible(response: Response<ResponseBody>) -> Result<Response<ResponseBody>, Infallible> {
    Ok(response)
}

fn http2_server() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_LEN_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WAIT_MAX);
    builder
}

/// Runs a connection; when it is `due` by the drain, lets its requests end and closes it.
async fn drained<C, T, E>(
    drain: &Drain,
    due: impl Future<Output = ()>,
    connection: C,
    close: impl Fn(Pin<&mut C>),
) -> Result<T, E>
where
    C: Future<Output = Result<T, E>>,
{
    let mut connection = pin!(connection);
    let mut due = pin!(due);
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
