//! Where each kind of resource is read and written: one row a kind, the same verbs for all.

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::routing::{MethodRouter, get};

use super::call::Call;
use super::{Rest, resources};
use crate::resource_text::{Key, Kind};

/// Where a kind of resource is.
#[derive(Debug, Clone, Copy)]
pub struct KindRow {
    /// The list's path.
    pub path: &'static str,
    /// Whether a namespace stands before the name.
    pub namespaced: bool,
    /// The kind.
    pub kind: Kind,
}

impl KindRow {
    const fn global(path: &'static str, kind: Kind) -> KindRow {
        let namespaced = false;
        KindRow {
            path,
            namespaced,
            kind,
        }
    }

    const fn namespaced(path: &'static str, kind: Kind) -> KindRow {
        let namespaced = true;
        KindRow {
            path,
            namespaced,
            kind,
        }
    }

    /// The path of one resource, with the parts of its name in braces.
    pub fn one(&self) -> String {
        let name = match self.namespaced {
            true => "/{namespace}/{name}",
            false => "/{name}",
        };
        format!("{}{name}", self.path)
    }
}

/// All kinds.
pub const KINDS: [KindRow; 8] = [
    KindRow::global("/v1/nodes", Kind::Node),
    KindRow::namespaced("/v1/services", Kind::Service),
    KindRow::global("/v1/weight-policies", Kind::WeightPolicy),
    KindRow::global("/v1/traffic-policies", Kind::TrafficPolicy),
    KindRow::global("/v1/access-policies", Kind::AccessPolicy),
    KindRow::namespaced("/v1/http-routes", Kind::HttpRoute),
    KindRow::namespaced("/v1/grpc-routes", Kind::GrpcRoute),
    KindRow::namespaced("/v1/tcp-routes", Kind::TcpRoute),
];

/// The parts of a resource's name, as they stand in the path.
type Named = Path<Vec<String>>;

pub(super) fn routes() -> Router<Rest> {
    KINDS.iter().fold(Router::new(), |router, row| {
        router
            .route(row.path, all(row.kind))
            .route(&row.one(), one(row.kind))
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
