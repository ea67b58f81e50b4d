//! What the controller knows and has planned.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde::Serialize;

use super::{Rest, body};
use crate::control_loop::MeshView;
use crate::metrics::ServiceSums;
use crate::problem::Problem;

pub(super) fn routes() -> Router<Rest> {
    Router::new().route("/v1/status", get(status))
}

/// What this controller knows, and where there are several, that it leads.
#[derive(Serialize)]
struct Said<'a> {
    #[serde(flatten)]
    view: &'a MeshView,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<Leading<'a>>,
}

#[derive(Serialize)]
struct Leading<'a> {
    name: &'a str,
    /// Whether it may act: its lease holds.
    acts: bool,
}

async fn status(State(rest): State<Rest>) -> Result<Response, Problem> {
    let view = rest.control.view().await?;
    let leader = rest.links.name().map(|name| Leading {
        name: name.as_str(),
        acts: rest.links.acts(),
    });
    let view = &*view;
    Ok(body::json(StatusCode::OK, &Said { view, leader }))
}

/// Every service over all nodes.
pub(super) fn service_sums(view: &MeshView) -> Vec<(String, ServiceSums)> {
    let each = view.services.iter();
    each.map(|s| (s.service.to_string(), ServiceSums::of(s)))
        .collect()
}
