//! Everything out, everything in: for a backup, an upgrade, another machine.

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::call::Call;
use super::resources::{DRY_RUN, on_disk};
use super::{Rest, body, what_if};
use crate::control_task::{Asked, CHANGES_MAX, Change, Outcome, Registered};
use crate::problem::{FieldProblem, Problem};
use crate::resource_text::{check_endpoint, decode_list, typed};

/// How an export is written; another is refused.
pub const EXPORT_VERSION: u32 = 1;
/// Longest import, in bytes.
pub const IMPORT_LEN_MAX: usize = 64 << 20;
/// The parameter that removes what an import does not have.
const PRUNE: &str = "prune";

/// Everything that operators wrote and endpoints registered.
#[derive(Debug, Serialize)]
struct Export<'a> {
    version: u32,
    resources: Vec<&'a isobar_mesh_api::resource::Resource>,
    endpoints: &'a [Registered],
}

/// An export on its way back.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Import {
    version: u32,
    #[serde(default)]
    resources: Vec<Value>,
    #[serde(default)]
    endpoints: Vec<Registered>,
}

/// What an import came to.
#[derive(Debug, Default, Serialize)]
struct Count {
    created: usize,
    replaced: usize,
    deleted: usize,
}

pub(super) fn routes() -> Router<Rest> {
    let import = post(import).layer(DefaultBodyLimit::max(IMPORT_LEN_MAX));
    Router::new()
        .route("/v1/export", get(export))
        .route("/v1/import", import)
}

async fn export(State(rest): State<Rest>, call: Call) -> Result<Response, Problem> {
    call.parameters(&[])?;
    let (declared, endpoints) = rest.control.export().await?;
    let export = Export {
        version: EXPORT_VERSION,
        resources: declared.iter().map(|d| &*d.resource).collect(),
        endpoints: &endpoints,
    };
    Ok(body::json(StatusCode::OK, &export))
}

/// Writes all resources of an export, or none.
async fn import(
    State(rest): State<Rest>,
    call: Call,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let parameters = call.parameters(&[DRY_RUN, PRUNE])?;
    let (dry_run, prune) = (parameters.flag(DRY_RUN)?, parameters.flag(PRUNE)?);
    let import: Import = typed(body::read_up_to(&call.headers, bytes, IMPORT_LEN_MAX)?)?;
    if import.version != EXPORT_VERSION {
        let detail = format!(
            "is {}; this controller reads {EXPORT_VERSION}",
            import.version
        );
        return Err(FieldProblem::new("#/version", detail).into());
    }
    if import.resources.len() + import.endpoints.len() > CHANGES_MAX {
        let detail = format!("more than {CHANGES_MAX} resources");
        return Err(FieldProblem::new("#/resources", detail).into());
    }
    let below = |problem: FieldProblem| {
        let pointer = format!("#/resources{}", problem.pointer.trim_start_matches('#'));
        FieldProblem::new(pointer, problem.detail)
    };
    let declared = decode_list(Value::Array(import.resources)).map_err(below)?;
    for (at, registered) in import.endpoints.iter().enumerate() {
        check_endpoint(&format!("#/endpoints/{at}"), &registered.endpoint)?;
    }
    let puts = declared.into_iter().map(Change::Put);
    let registrations = import.endpoints.into_iter().map(Change::Register);
    let asked = Asked {
        changes: puts.chain(registrations).collect(),
        who: call.who.clone(),
        prune,
        ..Asked::default()
    };
    if dry_run {
        return what_if::dry_run(&rest, asked).await;
    }
    let durable = rest.control.change(asked).await?;
    on_disk(durable.on_disk).await?;
    let mut count = Count::default();
    for outcome in durable.outcomes {
        match outcome {
            Outcome::Created => count.created += 1,
            Outcome::Replaced => count.replaced += 1,
            Outcome::Deleted => count.deleted += 1,
            Outcome::Missing | Outcome::Renewed | Outcome::Asked => {}
        }
    }
    Ok(body::json(StatusCode::OK, &count))
}
