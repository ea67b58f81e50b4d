//! What all kinds of resources have in common.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::{Rest, body};
use crate::control_task::Shown;
use crate::problem::{FieldProblem, Problem};
use crate::resource_text::{Key, Kind, decode};

/// A list's wire form.
#[derive(Serialize)]
struct List<'a> {
    items: &'a [Shown],
}

/// All resources of a kind, by name.
pub(super) async fn list(rest: &Rest, kind: Kind) -> Result<Response, Problem> {
    let found = rest.control.list(kind).await?;
    Ok(body::json(StatusCode::OK, &List { items: &found }))
}

/// One resource, or 404.
pub(super) async fn get(rest: &Rest, key: Key) -> Result<Response, Problem> {
    match rest.control.get(key.clone()).await? {
        Some(found) => Ok(body::json(StatusCode::OK, &found)),
        None => Err(not_found(&key)),
    }
}

/// Creates (201) or replaces (200); answered when the change is on the disk.
pub(super) async fn put(
    rest: &Rest,
    key: Key,
    headers: &HeaderMap,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let declared = decode(body::read(headers, bytes)?)?;
    if declared.key.kind != key.kind {
        let detail = format!("must be {} at this path", key.kind.as_str());
        return Err(FieldProblem::new("#/kind", detail).into());
    }
    if declared.key.name != key.name {
        let detail = format!(
            "the body is {}, the path says {}",
            declared.key.name, key.name
        );
        return Err(FieldProblem::new("#/metadata/name", detail).into());
    }
    let durable = rest.control.put(declared).await?;
    on_disk(durable.on_disk).await?;
    let status = match durable.changed {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    match rest.control.get(key.clone()).await? {
        Some(written) => Ok(body::json(status, &written)),
        // Somebody deleted it since.
        None => Err(not_found(&key)),
    }
}

/// Removes (204), or 404; answered when the change is on the disk.
pub(super) async fn delete(rest: &Rest, key: Key) -> Result<Response, Problem> {
    let durable = rest.control.delete(key.clone()).await?;
    on_disk(durable.on_disk).await?;
    match durable.changed {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Err(not_found(&key)),
    }
}

async fn on_disk(answer: crate::store::Answer<()>) -> Result<(), Problem> {
    answer.await.map_err(|error| {
        tracing::error!(%error, "a change is in force and not stored");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the change is in force until the controller restarts, but was not stored; its log says why",
        )
    })
}

fn not_found(key: &Key) -> Problem {
    let name: String = key.name.chars().take(128).collect();
    let detail = format!("there is no {} {name}", key.kind.as_str());
    Problem::new(StatusCode::NOT_FOUND, detail)
}
