//! While another controller leads, it answers: requests are passed on to it, and its answers back.
//!
//! Passing on rather than redirecting: clients that follow redirects drop the token on the way to another host, and the
//! leader's address may be one that only controllers reach. Health and metrics are each controller's own. A client certificate
//! cannot be passed on: who comes with one alone is told to ask the leader.

use std::net::Ipv4Addr;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{AUTHORIZATION, CONNECTION, RETRY_AFTER, TRANSFER_ENCODING};
use axum::http::{HeaderValue, StatusCode, Uri, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Rest;
use super::port::Origin;
use crate::access;
use crate::link::{Behalf, LinkBody};
use crate::problem::Problem;
use crate::stream::relay::no_leader;

/// What every controller answers of itself.
const OWN: [&str; 4] = ["/livez", "/readyz", "/metrics", "/openapi.json"];

/// Marks a request that another controller passed on: it is not passed on again.
#[derive(Debug, Clone, Copy)]
pub struct Relayed;

pub(super) async fn forward(State(rest): State<Rest>, request: Request, next: Next) -> Response {
    if rest.links.answers_here() || OWN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    if request.extensions().get::<Relayed>().is_some() {
        let detail = "this controller does not lead any more; ask again";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response();
    }
    let mut response = pass(&rest, request)
        .await
        .unwrap_or_else(IntoResponse::into_response);
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        let second = HeaderValue::from_static("1");
        response.headers_mut().entry(RETRY_AFTER).or_insert(second);
    }
    response
}

/// Whether a request says who sends it by the connection's certificate alone: what the leader would have to take another's word for.
fn is_by_certificate(rest: &Rest, request: &Request) -> bool {
    let from = request.extensions().get::<ConnectInfo<Origin>>();
    let has_certificate = from.is_some_and(|info| info.0.holder.is_some());
    let is_asked = access::deed(request.method(), request.uri().path()).is_some();
    let has_token = request.headers().contains_key(AUTHORIZATION);
    has_certificate && is_asked && !has_token && !rest.gate.is_open()
}

async fn pass(rest: &Rest, request: Request) -> Result<Response, Problem> {
    let from = request.extensions().get::<ConnectInfo<Origin>>();
    let address = from.map_or(Ipv4Addr::UNSPECIFIED.into(), |info| info.0.address.ip());
    if is_by_certificate(rest, &request) {
        let leader = rest.links.leader().map(|leader| leader.name);
        let leader = leader.unwrap_or_else(|| "another controller".to_owned());
        let detail = format!(
            "{leader} leads, and who a client certificate belongs to is not passed on to it; ask it itself, or send a \
             credential's token"
        );
        return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
    }
    let mut place = rest
        .links
        .place()
        .await
        .map_err(|error| no_leader(&error))?;
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
    // With another version a path alone would not do.
    head.version = Version::HTTP_11;
    // Of this connection alone (RFC 9113, section 8.2.2).
    for name in [&CONNECTION, &TRANSFER_ENCODING] {
        head.headers.remove(name);
    }
    let behalf = Behalf {
        node: None,
        account: None,
        begins_s: 0,
        address,
    };
    behalf.write(&mut head.headers);
    let request = Request::from_parts(head, LinkBody::Passed(body));
    let response = place
        .send(request)
        .await
        .map_err(|error| no_leader(&error))?;
    rest.metrics.relayed.requests.increment(1);
    Ok(response.map(Body::new))
}
