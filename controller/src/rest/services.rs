//! Services: what clients ask for, by namespace and name.

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
        .route("/v1/services", get(list))
        .route("/v1/services/{namespace}/{name}", one)
}

fn key((namespace, name): (String, String)) -> Key {
    let name = format!("{namespace}/{name}");
    let kind = Kind::Service;
    Key { kind, name }
}

async fn list(State(rest): State<Rest>) -> Result<Response, Problem> {
    resources::list(&rest, Kind::Service).await
}

async fn read(
    State(rest): State<Rest>,
    Path(name): Path<(String, String)>,
) -> Result<Response, Problem> {
    resources::get(&rest, key(name)).await
}

async fn write(
    State(rest): State<Rest>,
    Path(name): Path<(String, String)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    resources::put(&rest, key(name), &headers, body).await
}

async fn remove(
    State(rest): State<Rest>,
    Path(name): Path<(String, String)>,
) -> Result<Response, Problem> {
    resources::delete(&rest, key(name)).await
}
