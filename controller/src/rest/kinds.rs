//! Where each kind of resource is read and written: one row a kind, the same verbs for all.

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::routing::{MethodRouter, get};

use super::call::Call;
use super::{Rest, resources};
use crate::resource_text::{Key, Kind};

/// Kinds whose name is all, and those with a namespace before it.
const GLOBAL: &str = "/{name}";
const NAMESPACED: &str = "/{namespace}/{name}";

const KINDS: [(&str, &str, Kind); 6] = [
    ("/v1/nodes", GLOBAL, Kind::Node),
    ("/v1/services", NAMESPACED, Kind::Service),
    ("/v1/weight-policies", GLOBAL, Kind::WeightPolicy),
    ("/v1/traffic-policies", GLOBAL, Kind::TrafficPolicy),
    ("/v1/http-routes", NAMESPACED, Kind::HttpRoute),
    ("/v1/grpc-routes", NAMESPACED, Kind::GrpcRoute),
];

/// The parts of a resource's name, as they stand in the path.
type Named = Path<Vec<String>>;

pub(super) fn routes() -> Router<Rest> {
    KINDS
        .iter()
        .fold(Router::new(), |router, &(path, named, kind)| {
            router
                .route(path, all(kind))
                .route(&format!("{path}{named}"), one(kind))
        })
}

fn all(kind: Kind) -> MethodRouter<Rest> {
    get(async move |State(rest): State<Rest>, call: Call| resources::list(&rest, kind, &call).await)
}

fn one(kind: Kind) -> MethodRouter<Rest> {
    let key = move |parts: Vec<String>| Key {
        kind,
        name: parts.join("/"),
    };
    let read = async move |State(rest): State<Rest>, Path(parts): Named, call: Call| {
        resources::get(&rest, key(parts), &call).await
    };
    let write = async move |State(rest): State<Rest>,
                            Path(parts): Named,
                            call: Call,
                            body: Result<Bytes, BytesRejection>| {
        resources::put(&rest, key(parts), &call, body).await
    };
    let remove = async move |State(rest): State<Rest>, Path(parts): Named, call: Call| {
        resources::delete(&rest, key(parts), &call).await
    };
    get(read).put(write).delete(remove)
}
