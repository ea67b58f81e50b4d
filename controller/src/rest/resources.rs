//! What all kinds of resources have in common.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::header::ETAG;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use isobar_mesh_api::names::NodeId;

use serde::Serialize;

use super::call::Call;
use super::paging::Items;
use super::{Rest, body, what_if};
use crate::control_task::{Asked, Change, Etag, Outcome, Shown, Status};
use crate::problem::{FieldProblem, Problem, status_of};
use crate::resource_text::{Declared, Key, Kind, decode, is_of_cluster};
use crate::store::{Answer, StoreError};

/// The parameter of every write that asks what it would do.
pub(super) const DRY_RUN: &str = "dry_run";

/// Resources of a kind, by name, in pages.
pub(super) async fn list(rest: &Rest, kind: Kind, call: &Call) -> Result<Response, Problem> {
    let parameters = call.parameters(&["limit", "after"])?;
    let asked = rest.pager.asked(kind.as_str(), &parameters)?;
    let page = rest.control.list(kind, asked.after, asked.limit).await?;
    let token = |last: String| rest.pager.token(kind.as_str(), &last);
    let items = page.items.into_iter().map(|one| identified(rest, one));
    let items = Items {
        items: items.collect(),
        after: page.last.map(token),
    };
    Ok(body::json(StatusCode::OK, &items))
}

/// One resource, or 404.
pub(super) async fn get(rest: &Rest, key: Key, call: &Call) -> Result<Response, Problem> {
    call.parameters(&[])?;
    match rest.control.get(key.clone()).await? {
        Some(found) => Ok(shown(StatusCode::OK, &identified(rest, found))),
        None => Err(not_found(&key)),
    }
}

/// Says of a node that has enrolled whom its certificate names.
fn identified(rest: &Rest, mut shown: Shown) -> Shown {
    if let Some(Status::Node(status)) = &mut shown.status
        && let Ok(node) = NodeId::new(&shown.resource.metadata().name)
    {
        let identity = rest.enrolled.identity(&node, rest.authority.trust_domain());
        status.identity = identity.map(|id| id.to_string());
    }
    shown
}

/// Creates (201) or replaces (200); answered when the change is on the disk. A dry run answers (200) with
/// what the plan would be.
pub(super) async fn put(
    rest: &Rest,
    key: Key,
    call: &Call,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let dry_run = call.parameters(&[DRY_RUN])?.flag(DRY_RUN)?;
    let expect = call.expect()?;
    let declared = named(decode(body::read(&call.headers, bytes)?)?, &key)?;
    let found = rest.control.get(key.clone()).await?;
    if found.is_some_and(|found| is_of_cluster(&found.resource)) {
        let detail = format!("{key} comes from the Kubernetes cluster; change it there");
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    let asked = Asked {
        changes: vec![Change::Put(declared)],
        expect,
        who: call.who.clone(),
        ..Asked::default()
    };
    write(rest, key, asked, dry_run).await
}

/// Removes (204), or 404; answered when the change is on the disk.
pub(super) async fn delete(rest: &Rest, key: Key, call: &Call) -> Result<Response, Problem> {
    let dry_run = call.parameters(&[DRY_RUN])?.flag(DRY_RUN)?;
    let asked = Asked {
        changes: vec![Change::Delete(key.clone())],
        expect: call.expect()?,
        who: call.who.clone(),
        ..Asked::default()
    };
    write(rest, key, asked, dry_run).await
}

/// Makes one change of one resource, or says what it would do.
pub(super) async fn write(
    rest: &Rest,
    key: Key,
    asked: Asked,
    dry_run: bool,
) -> Result<Response, Problem> {
    let is_delete = matches!(asked.changes.as_slice(), [Change::Delete(_)]);
    if dry_run {
        if is_delete && rest.control.get(key.clone()).await?.is_none() {
            return Err(not_found(&key));
        }
        return what_if::dry_run(rest, asked).await;
    }
    let durable = rest.control.change(asked).await?;
    let outcome = durable.outcomes.first().copied();
    on_disk(durable.on_disk).await?;
    let status = match outcome {
        Some(Outcome::Deleted) => {
            revoke(rest, &key).await?;
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        Some(Outcome::Missing | Outcome::Asked) | None => return Err(not_found(&key)),
        Some(Outcome::Created) => StatusCode::CREATED,
        Some(Outcome::Replaced | Outcome::Renewed) => StatusCode::OK,
    };
    match rest.control.get(key.clone()).await? {
        Some(written) => Ok(shown(status, &written)),
        // Somebody deleted it since.
        None => Err(not_found(&key)),
    }
}

/// A node that is removed is not let in with what it was given before.
async fn revoke(rest: &Rest, key: &Key) -> Result<(), Problem> {
    match (key.kind, NodeId::new(&key.name)) {
        (Kind::Node, Ok(node)) => super::identity::revoke(rest, &node).await,
        _ => Ok(()),
    }
}

/// Checks that a resource is the one that the path names.
fn named(declared: Declared, key: &Key) -> Result<Declared, Problem> {
    if declared.key.kind != key.kind {
        let detail = format!("must be {} at this path", key.kind.as_str());
        return Err(FieldProblem::new("#/kind", detail).into());
    }
    if declared.key.name != key.name {
        let detail = format!(
            "the body is {}, the path says {}",
            declared.key.name,
            short(&key.name)
        );
        return Err(FieldProblem::new("#/metadata/name", detail).into());
    }
    Ok(declared)
}

/// A resource with its tag.
fn shown(status: StatusCode, found: &Shown) -> Response {
    tagged(status, found, &*found.resource)
}

/// An answer with the tag of what was written.
pub(super) fn tagged<T: Serialize, W: Serialize>(
    status: StatusCode,
    answer: &T,
    written: &W,
) -> Response {
    let mut response = body::json(status, answer);
    // Hexadecimal digits in quotes are a header's value.
    if let Ok(tag) = HeaderValue::try_from(Etag::of(written).to_string()) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

/// Waits until a change is on the disk.
pub(super) async fn on_disk(answer: Answer<()>) -> Result<(), Problem> {
    answer.await.map_err(|error| {
        tracing::error!(%error, "a change is in force and not stored");
        let detail = match error {
            StoreError::Full => {
                "the disk is full: the change is in force until the controller restarts, but was not stored; make room \
                 and repeat it"
            }
            _ => {
                "the change is in force until the controller restarts, but was not stored; its log says why"
            }
        };
        Problem::new(status_of(&error), detail)
    })
}

pub(super) fn not_found(key: &Key) -> Problem {
    let detail = format!("there is no {} {}", key.kind.as_str(), short(&key.name));
    Problem::new(StatusCode::NOT_FOUND, detail)
}

/// A name from a path, cut to what an answer repeats.
fn short(name: &str) -> String {
    name.chars().take(128).collect()
}
