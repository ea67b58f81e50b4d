//! The picture that the dashboard draws each second.

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, ETAG, HeaderValue, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use isobar_mesh_api::names::ServiceName;

use super::call::{Call, refused};
use super::{Rest, resources};
use crate::control_task::Etag;
use crate::picture::picture;
use crate::problem::Problem;

pub(super) fn routes() -> Router<Rest> {
    Router::new().route("/v1/picture", get(asked))
}

/// Of all services, or of the one that `service` names. Who has it already is told so (304).
async fn asked(State(rest): State<Rest>, call: Call) -> Result<Response, Problem> {
    let parameters = call.parameters(&["service"])?;
    let service = parameters.get("service").map(ServiceName::new);
    let service = service
        .transpose()
        .map_err(|error| refused("service", &error.to_string()))?;
    let view = rest.control.view().await?;
    let Some(picture) = picture(&view, service.as_ref()) else {
        return Err(refused("service", "names a service that there is not"));
    };
    let tag = Etag::of(&picture);
    if has(&call.headers, &tag.to_string()) {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        if let Ok(tag) = HeaderValue::try_from(tag.to_string()) {
            response.headers_mut().insert(ETAG, tag);
        }
        return Ok(response);
    }
    let mut response = resources::tagged(StatusCode::OK, &picture, &picture);
    let keep = HeaderValue::from_static("no-cache");
    response.headers_mut().insert(CACHE_CONTROL, keep);
    Ok(response)
}

/// Whether a caller has what this tag is of (RFC 9110, section 13.1.2: compared weakly).
pub(super) fn has(headers: &HeaderMap, tag: &str) -> bool {
    let lists = headers.get_all(IF_NONE_MATCH).iter();
    let lists = lists.filter_map(|value| value.to_str().ok());
    let mut tags = lists.flat_map(|list| list.split(','));
    tags.any(|known| {
        let known = known.trim();
        known == "*" || known.trim_start_matches("W/") == tag
    })
}
