//! What the controller knows and has planned.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;

use super::{Rest, body};
use crate::control_loop::MeshView;
use crate::metrics::ServiceSums;
use crate::problem::Problem;

pub(super) fn routes() -> Router<Rest> {
    Router::new().route("/v1/status", get(status))
}

async fn status(State(rest): State<Rest>) -> Result<Response, Problem> {
    let view = rest.control.view().await?;
    Ok(body::json(StatusCode::OK, &*view))
}

/// Demand and capacity of every service over all nodes.
pub(super) fn service_sums(view: &MeshView) -> Vec<(String, ServiceSums)> {
    let sums = |service: &crate::control_loop::ServiceView| ServiceSums {
        demand_rps: service.nodes.iter().map(|n| n.demand_rps).sum(),
        capacity_rps: service.nodes.iter().map(|n| n.capacity_rps).sum(),
    };
    let each = view.services.iter();
    each.map(|s| (s.service.to_string(), sums(s))).collect()
}
