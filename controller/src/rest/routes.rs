//! Routes: where requests go, in the Gateway API's own kinds.

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::{MethodRouter, get};

use super::{Rest, resources};
use crate::problem::Problem;
use crate::resource_text::{Key, Kind};

type Named = Path<(String, String)>;

pub(super) fn routes() -> Router<Rest> {
    let list = |kind| get(move |State(rest): State<Rest>| list(rest, kind));
    Router::new()
        .route("/v1/http-routes", list(Kind::HttpRoute))
        .route("/v1/http-routes/{namespace}/{name}", one(Kind::HttpRoute))
        .route("/v1/grpc-routes", list(Kind::GrpcRoute))
        .route("/v1/grpc-routes/{namespace}/{name}", one(Kind::GrpcRoute))
}

fn one(kind: Kind) -> MethodRouter<Rest> {
    let key = move |(namespace, name): (String, String)| Key {
        kind,
        name: format!("{namespace}/{name}"),
    };
    let read = async move |State(rest): State<Rest>, Path(name): Named| {
        resources::get(&rest, key(name)).await
    };
    let write = async move |State(rest): State<Rest>,
                            Path(name): Named,
                            headers: HeaderMap,
                            body: Result<Bytes, BytesRejection>| {
        resources::put(&rest, key(name), &headers, body).await
    };
    let remove = async move |State(rest): State<Rest>, Path(name): Named| {
        resources::delete(&rest, key(name)).await
    };
    get(read).put(write).delete(remove)
}

async fn list(rest: Rest, kind: Kind) -> Result<Response, Problem> {
    resources::list(&rest, kind).await
}
