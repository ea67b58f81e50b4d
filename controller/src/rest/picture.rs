//! The picture that the dashboard draws each second, and those of the last hour.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, ETAG, HeaderValue, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use isobar_mesh_api::names::ServiceName;
use serde_json::json;

use super::call::{Call, refused};
use super::{Rest, body, resources};
use crate::control_task::Etag;
use crate::past::{PERIODS, Past, PastPicture};
use crate::picture::picture;
use crate::problem::Problem;

/// Most pictures of the past in one answer.
const PAST_LIMIT_MAX: usize = 10;
/// How long it is waited for a mesh to show.
const RETRY_WAIT: Duration = Duration::from_secs(1);

pub(super) fn routes() -> Router<Rest> {
    Router::new()
        .route("/v1/picture", get(asked))
        .route("/v1/pictures", get(past))
}

/// Keeps a picture every [`PERIODS`] control periods while this controller leads, until the signal.
pub(super) async fn keep(rest: Rest) {
    loop {
        let mut wait = RETRY_WAIT;
        // Who does not lead has no mesh to show.
        if let Ok(view) = rest.control.view().await {
            wait = Duration::from_millis(view.period_ms) * PERIODS;
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let at_ms = now.map_or(0, |now| now.as_millis() as u64);
            if let Some(picture) = picture(&view, None) {
                lock(&rest.past).add(at_ms, picture);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = rest.signal.cancelled() => return,
        }
    }
}

/// Pictures of the last hour, the newest first, from before a time.
async fn past(State(rest): State<Rest>, call: Call) -> Result<Response, Problem> {
    let parameters = call.parameters(&["before", "limit"])?;
    let before = parameters.parsed("before", "must be milliseconds since 1970")?;
    let limit_must = format!("must be from 1 to {PAST_LIMIT_MAX}");
    let limit = parameters.parsed("limit", &limit_must)?;
    let limit = limit.unwrap_or(PAST_LIMIT_MAX);
    if !(1..=PAST_LIMIT_MAX).contains(&limit) {
        return Err(refused("limit", &limit_must));
    }
    let found = lock(&rest.past).before(before.unwrap_or(u64::MAX), limit);
    let items: Vec<PastPicture> = found.iter().map(|kept| kept.picture()).collect();
    Ok(body::json(StatusCode::OK, &json!({ "items": items })))
}

fn lock(past: &Mutex<Past>) -> MutexGuard<'_, Past> {
    past.lock().unwrap_or_else(PoisonError::into_inner)
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
