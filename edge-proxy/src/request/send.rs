//! A request on its way to an endpoint: over HTTP/1.1 on a connection of its own, or over HTTP/2 on one that the
//! worker's requests share, when the service's endpoints speak that or it is a gRPC call. gRPC exists on HTTP/2 alone:
//! such a client never means anything else.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, TE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri, request};
use hyper::body::Body as _;
use isobar_mesh_api::resource::traffic_policy::TellClient;

use super::Exchange;
use crate::body::{RequestBody, ResponseBody};
use crate::endpoint::EndpointLive;
use crate::http1::Upgrade;
use crate::http1::client::{self, Reply, Sent};
use crate::http1::fault::{Fault, Side};
use crate::moved::was_not_processed;
use crate::observe::Observation;
use crate::proxy_protocol;

/// A request that could not be sent is sent on at most this many connections.
const CONNECTIONS_TRIED_MAX: usize = 4;

/// What came of sending.
pub(super) enum Sending {
    Answered(Response<Content>),
    Unsent(RequestBody),
    /// It was sent, and the endpoint says that it did nothing with it.
    Refused,
    Lost,
    /// The request is none; the endpoint did nothing wrong.
    Malformed,
}

/// An answer's body, by the protocol it comes by.
pub(super) enum Content {
    Http1(Reply),
    Http2(hyper::body::Incoming),
}

impl Content {
    /// How long it is at least, in bytes.
    pub(super) fn len_min(&self) -> u64 {
        match self {
            Content::Http1(reply) => reply.size_hint().lower(),
            Content::Http2(incoming) => incoming.size_hint().lower(),
        }
    }

    /// The body to pass on; the observation ends with it.
    pub(super) fn observed(self, observation: Observation) -> ResponseBody {
        match self {
            Content::Http1(reply) => ResponseBody::reply(reply, observation),
            Content::Http2(incoming) => ResponseBody::stream(incoming, observation),
        }
    }
}

impl Exchange<'_> {
    /// Sends a request in the protocol that it needs.
    pub(super) async fn send(
        &self,
        endpoint: &Arc<EndpointLive>,
        head: &request::Parts,
        body: RequestBody,
    ) -> Sending {
        match self.route.traffic.speaks_http2 || (self.grpc && is_call(&head.headers)) {
            true => self.send_shared(endpoint, head, body).await,
            false => self.send_alone(endpoint, head, body).await,
        }
    }

    /// What a new connection to an endpoint begins with: by the PROXY protocol, whom it is for.
    pub(crate) fn greeting(&self) -> Vec<u8> {
        match (self.route.traffic.spec.endpoints.proxy_protocol, self.ends) {
            (TellClient::Off, _) => Vec::new(),
            (TellClient::V1, Some(ends)) => proxy_protocol::write_line(ends),
            (TellClient::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
            (TellClient::V2, Some(ends)) => proxy_protocol::write_binary(ends),
            (TellClient::V2, None) => proxy_protocol::write_local(),
        }
    }

    /// Sends it on a pooled connection, or a new one.
    async fn send_alone(
        &self,
        endpoint: &Arc<EndpointLive>,
        head: &request::Parts,
        mut body: RequestBody,
    ) -> Sending {
        let worker = self.worker;
        // A connection that was announced for one client is no other's.
        let is_shared = self.route.traffic.spec.endpoints.proxy_protocol == TellClient::Off;
        for _ in 0..CONNECTIONS_TRIED_MAX {
            let idle = match is_shared {
                true => endpoint.idle_connection(worker.index),
                false => None,
            };
            let connection = match idle {
                Some(connection) => connection,
                None => {
                    let wait_max = Duration::from_micros(self.route.traffic.waits.connect_us);
                    let greeting = self.greeting();
                    let opened = endpoint.connect(worker.proxy.clock, wait_max, &greeting);
                    match opened.await {
                        Ok(connection) => connection,
                        Err(error) => {
                            tracing::debug!(error = %crate::chain(&error), "an endpoint is down");
                            return Sending::Unsent(body);
                        }
                    }
                }
            };
            match client::send(connection, head, body).await {
                Sent::Answered(response) => {
                    return Sending::Answered(response.map(|mut reply| {
                        if !is_shared {
                            reply.close_behind();
                        }
                        Content::Http1(reply)
                    }));
                }
                Sent::Unsent(whole) => body = whole,
                Sent::Lost(error) => {
                    tracing::debug!(error = %crate::chain(&error), "a request got no answer");
                    let Some(fault) = error.fault() else {
                        return Sending::Malformed;
                    };
                    worker.proxy.faults.note(Side::Upstream, fault);
                    return Sending::Lost;
                }
            }
        }
        Sending::Unsent(body)
    }

    /// Sends it on the worker's HTTP/2 connection to the endpoint.
    async fn send_shared(
        &self,
        endpoint: &Arc<EndpointLive>,
        head: &request::Parts,
        mut body: RequestBody,
    ) -> Sending {
        let (worker, proxy) = (self.worker.index, &self.worker.proxy);
        let wait_max = Duration::from_micros(self.route.traffic.waits.connect_us);
        for _ in 0..CONNECTIONS_TRIED_MAX {
            let mut sender = match endpoint.shared(worker, proxy.clock, wait_max).await {
                Ok(sender) => sender,
                Err(error) => {
                    tracing::debug!(error = %crate::chain(&error), "an endpoint is down");
                    return Sending::Unsent(body);
                }
            };
            let Some(request) = in_http2(head, endpoint.address(), body) else {
                return Sending::Malformed;
            };
            let mut failure = match sender.try_send_request(request).await {
                Ok(response) => return Sending::Answered(response.map(Content::Http2)),
                Err(failure) => failure,
            };
            if let Some(unsent) = failure.take_message() {
                body = unsent.into_body();
                continue;
            }
            let error = failure.into_error();
            tracing::debug!(error = %crate::chain(&error), "a call got no answer");
            if was_not_processed(&error) {
                return Sending::Refused;
            }
            proxy.faults.note(Side::Upstream, Fault::Early);
            return Sending::Lost;
        }
        Sending::Unsent(body)
    }
}

/// Whether it is a gRPC call (gRPC over HTTP/2, "Requests"). gRPC-Web is made for HTTP/1.1 and is none.
fn is_call(headers: &HeaderMap) -> bool {
    is_answer_to_call(headers) && headers.contains_key(TE)
}

/// Whether an answer is a call's: then its status comes behind its messages.
pub(crate) fn is_answer_to_call(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(|kind| kind.as_bytes());
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    matches!(rest, Some([] | [b'+' | b';', ..]))
}

/// The request as HTTP/2 has it: its host in its target, by default the endpoint's `address`. `None` when its host is none, or
/// when it would change to a protocol that has no way over HTTP/2.
fn in_http2(
    head: &request::Parts,
    address: &str,
    body: RequestBody,
) -> Option<Request<RequestBody>> {
    if head.extensions.get::<Upgrade>().is_some() {
        return None;
    }
    let mut request = Request::new(body);
    let host = head.headers.get(HOST);
    let host = host.map_or(address.as_bytes(), HeaderValue::as_bytes);
    let target = head.uri.path_and_query().cloned();
    *request.uri_mut() = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(Authority::try_from(host).ok()?)
        .path_and_query(target.unwrap_or(PathAndQuery::from_static("/")))
        .build()
        .ok()?;
    *request.method_mut() = head.method.clone();
    *request.headers_mut() = head.headers.clone();
    request.headers_mut().remove(HOST);
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_http2() {
        let cases = [
            ("application/grpc", "trailers", true),
            ("application/grpc+proto", "trailers", true),
            ("application/grpc;a=b", "trailers", true),
            ("application/grpc", "", false),
            ("application/grpc-web", "trailers", false),
            ("application/json", "trailers", false),
        ];
        for (kind, te, expected) in cases {
            let mut request = Request::builder().header("content-type", kind);
            if !te.is_empty() {
                request = request.header("te", te);
            }
            let request = request.body(()).unwrap();
            assert_eq!(is_call(request.headers()), expected, "{kind} {te}");
        }
    }
}
