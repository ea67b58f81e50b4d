//! Moving one request to a neighbour, and bringing it home when it is refused.

use std::error::Error;
use std::pin::pin;
use std::sync::atomic::Ordering::Relaxed;

use http::header::HeaderMap;
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use isobar_mesh_api::hop::LoadHint;

use crate::answer::Answer;
use crate::body::{Again, RequestBody, ResponseBody};
use crate::deadline;
use crate::expiry::NEVER_US;
use crate::headers;
use crate::limit::Limit;
use crate::observe::Observation;
use crate::pick::Cause;
use crate::request::Exchange;
use crate::session;

/// What came of asking a neighbour.
pub(crate) enum Moved {
    /// It serves the request.
    Answered(Response<ResponseBody>),
    /// It did not take the request; here it is, whole.
    Back(Box<Parts>, RequestBody),
    /// The request cannot be sent again.
    Lost(Answer),
}

/// Offers the request to a neighbour, by its index in the snapshot.
pub(crate) async fn ask(
    exchange: &Exchange<'_>,
    neighbour: usize,
    cause: Cause,
    head: Box<Parts>,
    body: RequestBody,
) -> Moved {
    let (proxy, route) = (&exchange.worker.proxy, exchange.route);
    let worker = exchange.worker.index;
    let Some(node) = route.neighbours.get(neighbour) else {
        return Moved::Back(head, body);
    };
    let mut sender = match node.sender(worker, &proxy.identity, proxy.clock).await {
        Ok(sender) => sender,
        Err(error) => {
            tracing::debug!(error = %crate::chain(&error), "a neighbour cannot be asked");
            return Moved::Back(head, body);
        }
    };
    let counts = route.moved_out(neighbour);
    match cause {
        Cause::Plan => counts.plan.fetch_add(1, Relaxed),
        Cause::Spill => counts.spill.fetch_add(1, Relaxed),
    };
    route.load.sent(neighbour);
    let (body, again) = exchange.keep(body, true);
    let mut there = Request::from_parts(Parts::clone(&head), body);
    let now_us = proxy.clock.now_us();
    let mut observation = Observation::moved(exchange, neighbour, cause, now_us);
    mark(there.headers_mut(), exchange, observation.begun_us());
    observation.tell(there.headers_mut());
    let back = |again: Again| match again.take() {
        Some(body) => Moved::Back(head, body),
        None => Moved::Lost(Answer::NotTaken),
    };
    let sending = pin!(sender.try_send_request(there));
    let response = match exchange.in_time(sending, NEVER_US, &again).await {
        Ok(Ok(response)) => response,
        Err(limit) => {
            route.load.forget(neighbour);
            return Moved::Lost(Answer::limited(limit));
        }
        Ok(Err(_)) if again.was_too_large() => {
            return Moved::Lost(Answer::limited(Limit::RequestBody));
        }
        Ok(Err(mut failure)) => {
            let unsent = failure.take_message().is_some();
            let error = failure.into_error();
            tracing::debug!(node = %node.node, %error, "a neighbour broke off");
            if unsent || was_not_processed(&error) {
                return back(again);
            }
            route.load.forget(neighbour);
            return Moved::Lost(Answer::Upstream);
        }
    };
    if let Some(hint) = hint(response.headers()) {
        route.load.heard(neighbour, hint, proxy.clock.now_us());
    }
    if response.headers().contains_key(headers::REFUSED) {
        counts.refused.fetch_add(1, Relaxed);
        return back(again);
    }
    let (mut head, body) = response.into_parts();
    headers::clean_response(&mut head);
    observation.answered(&head, None);
    let body = ResponseBody::stream(body, observation);
    Moved::Answered(Response::from_parts(head, body))
}

/// How busy the sender of these headers says it is.
pub(crate) fn hint(headers: &HeaderMap) -> Option<LoadHint> {
    LoadHint::parse(headers.get(headers::LOAD)?.to_str().ok()?)
}

pub(crate) fn mark(head: &mut HeaderMap, exchange: &Exchange<'_>, now_us: u64) {
    deadline::tell(&exchange.deadline, head, now_us);
    if let Some(key) = exchange.key {
        session::tell(key, head);
    }
    head.insert(headers::HOP, HeaderValue::from_static("1"));
    head.insert(headers::SERVICE, exchange.route.name.clone());
    head.insert(headers::HOME, exchange.worker.proxy.home.clone());
}

/// Whether HTTP/2 says that the other end did nothing with the request (RFC 9113, section 8.7).
pub(crate) fn was_not_processed(error: &hyper::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
            return error.is_remote() && (refused || error.is_go_away());
        }
        cause = error.source();
    }
    false
}
