//! Traffic policies: how requests are treated.

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;

use super::{Rest, resources};
use crate::problem::Problem;
use crate::resource_text::{Key, Kind};

pub(super) fn routes() -> Router<Rest> {
    let one = get(read).put(write).delete(remove);
    Router::new()
        .route("/v1/traffic-policies", get(list))
        .route("/v1/traffic-policies/{name}", one)
}

fn key(name: String) -> Key {
    let kind = Kind::TrafficPolicy;
    Key { kind, name }
}

async fn list(State(rest): State<Rest>) -> Result<Response, Problem> {
    resources::list(&rest, Kind::TrafficPolicy).await
}

async fn read(State(rest): State<Rest>, Path(name): Path<String>) -> Result<Response, Problem> {
    resources::get(&rest, key(name)).await
}

async fn write(
    State(rest): State<Rest>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    resources::put(&rest, key(name), &headers, body).await
}

async fn remove(State(rest): State<Rest>, Path(name): Path<String>) -> Result<Response, Problem> {
    resources::delete(&rest, key(name)).await
}
