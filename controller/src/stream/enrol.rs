//! Enrolment: a certificate for a proxy's own key.
//!
//! A proxy without a certificate shows the enrolment token; one that has a certificate renews it
//! by showing that and an empty token. Either way the certificate is for the node it asked for
//! and for no other.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use isobar_mesh_api::enrol::{ENROL_LEN_MAX, EnrolRequest};

use super::{Body, Peer, StreamPort};
use crate::authority::AuthorityError;
use crate::problem::{FieldProblem, Problem};

/// Answers one enrolment.
///
/// # Errors
/// Body too long (413), not an enrolment (400), wrong token or node (403), unsound request (422).
pub(super) async fn enrol(
    port: &StreamPort,
    request: Request<Incoming>,
    peer: &Peer,
) -> Result<Response<Body>, Problem> {
    let ask = read(request.into_body()).await?;
    let renews = ask.token.is_empty() && peer.node.as_ref() == Some(&ask.node);
    if !renews && !port.authority.is_token(&ask.token) {
        tracing::warn!(node = %ask.node, "an enrolment was refused");
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "the token is wrong, or no valid certificate of this node was shown",
        ));
    }
    let issued = port
        .authority
        .issue_node(&ask.node, &ask.csr_pem, SystemTime::now());
    let certificate = issued.map_err(|error| match error {
        AuthorityError::Request(_) => FieldProblem::new("#/csr_pem", error.to_string()).into(),
        error => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "no certificate could be issued"
            );
            internal()
        }
    })?;
    tracing::info!(node = %ask.node, renews, "a certificate was issued");
    let bytes = serde_json::to_vec(&certificate).map_err(|_| internal())?;
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(bytes))));
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

async fn read(body: Incoming) -> Result<EnrolRequest, Problem> {
    let collected = Limited::new(body, ENROL_LEN_MAX).collect().await;
    let bytes = collected.map_err(|error| match error.is::<LengthLimitError>() {
        true => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("an enrolment has at most {ENROL_LEN_MAX} bytes"),
        ),
        false => Problem::new(StatusCode::BAD_REQUEST, "the body ended early"),
    })?;
    serde_json::from_slice(&bytes.to_bytes()).map_err(|error| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            format!("not an enrolment: {error}"),
        )
    })
}

fn internal() -> Problem {
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "no certificate could be issued; the controller's log says why",
    )
}
