//! Whether the program lives, is ready, and what it counts.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Rest;
use crate::problem::Problem;

/// How long the control task may take to answer before the controller is not ready.
const READY_TIME_MAX: Duration = Duration::from_secs(2);

pub(super) fn routes() -> Router<Rest> {
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
}

/// The process answers.
async fn live() -> &'static str {
    "ok\n"
}

/// The control task answers, and nobody asked the program to end.
async fn ready(State(rest): State<Rest>) -> Result<&'static str, Problem> {
    let not_ready = |detail| Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
    if rest.signal.is_cancelled() {
        return Err(not_ready("the controller is stopping"));
    }
    if !rest.links.answers_here() {
        return match rest.links.leader() {
            Some(_) => Ok("ok\n"),
            None => Err(not_ready("no controller is known to lead")),
        };
    }
    match tokio::time::timeout(READY_TIME_MAX, rest.control.alive()).await {
        Ok(Ok(())) => Ok("ok\n"),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(not_ready("the control task does not answer in time")),
    }
}

/// Prometheus' text format. Sums per service are taken from the view, at scrapes alone.
async fn metrics(State(rest): State<Rest>) -> Response {
    if let Ok(view) = rest.control.view().await {
        rest.metrics
            .set_services(super::status::service_sums(&view));
    }
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(CONTENT_TYPE, kind)], rest.metrics.render()).into_response()
}
