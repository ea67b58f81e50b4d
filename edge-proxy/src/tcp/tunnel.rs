//! A TCP connection that moves: one HTTP/2 stream (CONNECT, RFC 9113, section 8.5) on the mesh connection that the
//! requests to the same neighbour share. Credits, hop and service are those of a request.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::{Method, Request, Response, StatusCode, Uri};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

use super::{at_home, copy};
use crate::body::{RequestBody, ResponseBody};
use crate::gate::Class;
use crate::headers;
use crate::moved;
use crate::observe::Observation;
use crate::pick::Cause;
use crate::proxy_protocol::Ends;
use crate::request::Exchange;
use crate::story::Story;

/// What CONNECT names; who serves stands in `isobar-service`.
const AUTHORITY: &str = "service.isobar:0";

/// The bytes of one stream.
pub(crate) type Tunnel = TokioIo<Upgraded>;

impl copy::Abort for Tunnel {
    /// A stream that is dropped before its end is reset.
    fn abort(&mut self) {}
}

/// What came of asking a neighbour.
pub(super) enum Asked {
    /// It serves the connection.
    Opened(Box<Tunnel>, Box<Observation>),
    /// It did not take it.
    Refused,
    /// It broke off; what it did is not known.
    Lost,
}

/// Offers a connection to a neighbour, by its index in the snapshot.
pub(super) async fn ask(
    exchange: &Exchange<'_>,
    neighbour: usize,
    cause: Cause,
    ends: Ends,
) -> Asked {
    let (proxy, route) = (&exchange.worker.proxy, exchange.route);
    let worker = exchange.worker.index;
    let Some(node) = route.neighbours.get(neighbour) else {
        return Asked::Refused;
    };
    let mut sender = match node.sender(worker, &proxy.identity, proxy.clock).await {
        Ok(sender) => sender,
        Err(error) => {
            tracing::debug!(error = %crate::chain(&error), "a neighbour cannot be asked");
            return Asked::Refused;
        }
    };
    let counts = route.moved_out(neighbour);
    match cause {
        Cause::Plan => counts.plan.fetch_add(1, Relaxed),
        Cause::Spill => counts.spill.fetch_add(1, Relaxed),
    };
    route.load.sent(neighbour);
    let mut request = Request::new(RequestBody::empty());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::from_static(AUTHORITY);
    let now_us = proxy.clock.now_us();
    let observation = Observation::moved(exchange, neighbour, cause, now_us);
    moved::mark(request.headers_mut(), exchange, observation.begun_us());
    headers::set_ends(request.headers_mut(), ends);
    observation.tell(request.headers_mut());
    let response = match sender.try_send_request(request).await {
        Ok(response) => response,
        Err(failure) => {
            // Not one byte of the connection was sent: whatever went wrong, another can have it.
            let error = failure.into_error();
            tracing::debug!(node = %node.node, %error, "a neighbour broke off");
            route.load.forget(neighbour);
            return Asked::Refused;
        }
    };
    if let Some(hint) = moved::hint(response.headers()) {
        route.load.heard(neighbour, hint, proxy.clock.now_us());
    }
    if response.status() != StatusCode::OK {
        counts.refused.fetch_add(1, Relaxed);
        return Asked::Refused;
    }
    match hyper::upgrade::on(response).await {
        Ok(upgraded) => Asked::Opened(Box::new(TokioIo::new(upgraded)), Box::new(observation)),
        Err(error) => {
            tracing::debug!(node = %node.node, %error, "a tunnel did not open");
            Asked::Lost
        }
    }
}

/// Serves a moved-in connection that was admitted. The answer opens the tunnel.
///
/// # Errors
/// Whether nobody had room; it was not given to an endpoint.
pub(crate) async fn moved_in<B>(
    exchange: &Exchange<'_>,
    mut request: Request<B>,
) -> Result<Response<ResponseBody>, bool> {
    let (mut upstream, observation) = at_home(exchange, Class::Moved).await?;
    let live = Arc::clone(&exchange.route.live);
    let proxy = &exchange.worker.proxy;
    let idle_max = proxy.config.limits.tcp_idle_max();
    let opening = hyper::upgrade::on(&mut request);
    let story = observation.story().cloned();
    proxy.drain.spawn(async move {
        let Ok(tunnel) = opening.await else {
            return observation.cut();
        };
        let mut tunnel = TokioIo::new(tunnel);
        live.tcp.open.fetch_add(1, Relaxed);
        let (count, own) = (&live.tcp.bytes, story.as_deref().map(Story::bytes));
        let ended = copy::both_ways(&mut tunnel, &mut upstream, count, own, idle_max).await;
        live.tcp.open.fetch_sub(1, Relaxed);
        match ended {
            Ok(()) => drop(observation.completed(None)),
            Err(error) => {
                tracing::debug!(%error, service = %live.service, "a moved TCP connection broke off");
                copy::reset(&upstream);
                observation.cut();
            }
        }
    });
    Ok(Response::new(ResponseBody::full(bytes::Bytes::new())))
}

/// Has what is remembered of a moved-in connection know why it was not taken, if it was not.
pub(crate) fn told(
    mut response: Response<ResponseBody>,
    story: Option<Arc<Story>>,
) -> Response<ResponseBody> {
    let status = response.status();
    if let Some(story) = story {
        response.body_mut().end_story(story, status);
    }
    response
}
