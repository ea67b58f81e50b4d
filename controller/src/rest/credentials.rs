//! Credentials by REST: an admin makes, lists and revokes them.

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use std::time::SystemTime;

use super::{Rest, body};
use crate::credentials::{CredentialError, Credentials};
use crate::problem::{FieldProblem, Problem, status_of};

pub(super) fn routes() -> Router<Rest> {
    Router::new()
        .route("/v1/credentials", get(list).post(create))
        .route("/v1/credentials/{name}", axum::routing::delete(revoke))
}

async fn list(State(rest): State<Rest>) -> Result<Response, Problem> {
    let items = credentials(&rest)?.list();
    Ok(body::json(StatusCode::OK, &json!({ "items": items })))
}

/// The answer has the token; nothing tells it again.
async fn create(
    State(rest): State<Rest>,
    headers: HeaderMap,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let asked = body::decode(&headers, bytes)?;
    let created = credentials(&rest)?.create(asked, SystemTime::now()).await;
    let (credential, token) = created?;
    tracing::info!(
        name = credential.name,
        role = credential.role.as_str(),
        "a credential was made"
    );
    let said = json!({ "credential": credential, "token": token });
    Ok(body::json(StatusCode::CREATED, &said))
}

async fn revoke(State(rest): State<Rest>, Path(name): Path<String>) -> Result<Response, Problem> {
    match credentials(&rest)?.revoke(&name).await? {
        true => {
            tracing::info!(name, "a credential was revoked");
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        false => {
            let name: String = name.chars().take(128).collect();
            let detail = format!("there is no credential {name}");
            Err(Problem::new(StatusCode::NOT_FOUND, detail))
        }
    }
}

fn credentials(rest: &Rest) -> Result<&Credentials, Problem> {
    rest.gate.credentials().ok_or_else(|| {
        let detail =
            "this controller asks nobody who they are (rest_open), so it has no credentials";
        Problem::new(StatusCode::CONFLICT, detail)
    })
}

impl From<CredentialError> for Problem {
    fn from(error: CredentialError) -> Problem {
        let status = match &error {
            CredentialError::Field { field, problem } => {
                return FieldProblem::new(format!("#/{field}"), problem).into();
            }
            CredentialError::Exists(_) | CredentialError::LastAdmin(_) => StatusCode::CONFLICT,
            CredentialError::Full => StatusCode::INSUFFICIENT_STORAGE,
            CredentialError::Store(cause) if cause.is_passing() => StatusCode::SERVICE_UNAVAILABLE,
            CredentialError::Store(cause) => {
                tracing::error!(error = %cause, "credentials were not stored");
                return Problem::new(status_of(cause), format!("{error}: {cause}"));
            }
            CredentialError::File(_) | CredentialError::Random(_) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "credentials failed"
                );
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Problem::new(status, error.to_string())
    }
}
