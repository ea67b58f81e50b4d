//! The authority, enrolment tokens and revocations by REST.

use std::time::SystemTime;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use isobar_mesh_api::names::NodeId;
use serde::Deserialize;
use serde_json::json;

use super::{Rest, body};
use crate::authority::AuthorityError;
use crate::authority::rotation::Step;
use crate::problem::{FieldProblem, Problem, status_of};
use crate::tokens::{TokenAsked, TokenError};

pub(super) fn routes() -> Router<Rest> {
    Router::new()
        .route("/v1/authority", get(status))
        .route("/v1/authority/import", post(import))
        .route("/v1/authority/steps", post(step))
        .route("/v1/tokens", get(tokens).post(create_token))
        .route("/v1/tokens/{id}", delete(revoke_token))
        .route("/v1/revocations/{node}", put(revoke_node))
}

async fn status(State(rest): State<Rest>) -> Result<Response, Problem> {
    let status = rest.authority.status(SystemTime::now())?;
    Ok(body::json(StatusCode::OK, &status))
}

/// A step of a rotation to take now.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StepAsked {
    step: StepName,
    /// Takes it although connected nodes have not said that they are ready.
    #[serde(default)]
    force: bool,
}

#[derive(Clone, Copy, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum StepName {
    Begin,
    Switch,
    Retire,
    Renew,
}

async fn step(
    State(rest): State<Rest>,
    headers: HeaderMap,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let asked: StepAsked = body::decode(&headers, bytes)?;
    let step = match asked.step {
        StepName::Begin => Step::Begin,
        StepName::Switch => Step::Switch,
        StepName::Retire => Step::Retire,
        StepName::Renew => Step::Renew,
    };
    let now = SystemTime::now();
    let behind = rest.authority.status(now)?.nodes_behind;
    let waits = matches!(step, Step::Switch | Step::Retire) && !asked.force;
    if waits && behind > 0 {
        let detail = format!(
            "{behind} connected nodes have not said yet that they know the roots of now; wait, or send force: true"
        );
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    rest.authority.step(step, now).await?;
    tracing::info!(?step, "a step of the authority was asked for");
    Ok(body::json(StatusCode::OK, &rest.authority.status(now)?))
}

/// An authority that is brought.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ImportAsked {
    chain_pem: String,
    key_pem: String,
}

async fn import(
    State(rest): State<Rest>,
    headers: HeaderMap,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let asked: ImportAsked = body::decode(&headers, bytes)?;
    let now = SystemTime::now();
    let imported = rest
        .authority
        .import(&asked.chain_pem, &asked.key_pem, now)
        .await;
    imported?;
    tracing::info!("an authority was imported");
    Ok(body::json(StatusCode::OK, &rest.authority.status(now)?))
}

async fn tokens(State(rest): State<Rest>) -> Response {
    let items = rest.tokens.list();
    body::json(StatusCode::OK, &json!({ "items": items }))
}

/// The answer has the token's text; nothing tells it again.
async fn create_token(
    State(rest): State<Rest>,
    headers: HeaderMap,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let asked: TokenAsked = body::decode(&headers, bytes)?;
    let pin = rest.authority.pin()?;
    let (token, text) = rest.tokens.create(asked, &pin, SystemTime::now()).await?;
    tracing::info!(id = token.id, "an enrolment token was made");
    let said = json!({ "token": token, "text": text });
    Ok(body::json(StatusCode::CREATED, &said))
}

async fn revoke_token(
    State(rest): State<Rest>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    match rest.tokens.revoke(&id).await {
        Ok(true) => Ok(StatusCode::NO_CONTENT.into_response()),
        Ok(false) => {
            let id: String = id.chars().take(128).collect();
            let detail = format!("there is no token {id}");
            Err(Problem::new(StatusCode::NOT_FOUND, detail))
        }
        Err(error) => Err(TokenError::from(error).into()),
    }
}

async fn revoke_node(
    State(rest): State<Rest>,
    Path(node): Path<String>,
) -> Result<Response, Problem> {
    let node = NodeId::new(&node)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    revoke(&rest, &node).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Refuses everything that was issued to a node so far.
pub(super) async fn revoke(rest: &Rest, node: &NodeId) -> Result<(), Problem> {
    let forgotten = rest.enrolled.forget(node).await;
    forgotten.map_err(AuthorityError::from)?;
    rest.authority.revoke(node, SystemTime::now()).await?;
    tracing::info!(%node, "a node's certificates were revoked");
    Ok(())
}

impl From<AuthorityError> for Problem {
    fn from(error: AuthorityError) -> Problem {
        let status = match &error {
            AuthorityError::Import(detail) => {
                return FieldProblem::new("#/chain_pem", *detail).into();
            }
            AuthorityError::Step(_) => StatusCode::CONFLICT,
            AuthorityError::Store(cause) if cause.is_passing() => StatusCode::SERVICE_UNAVAILABLE,
            _ => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the authority failed"
                );
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Problem::new(status, error.to_string())
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Problem {
        let status = match &error {
            TokenError::Field { field, problem } => {
                return FieldProblem::new(format!("#/{field}"), problem).into();
            }
            TokenError::Full => StatusCode::INSUFFICIENT_STORAGE,
            TokenError::Store(cause) if cause.is_passing() => StatusCode::SERVICE_UNAVAILABLE,
            TokenError::Store(cause) => {
                tracing::error!(error = %cause, "a token was not stored");
                return Problem::new(status_of(cause), format!("{error}: {cause}"));
            }
            TokenError::Random(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a token failed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
            TokenError::Wrong
            | TokenError::Expired
            | TokenError::UsedUp
            | TokenError::NotFor(_) => StatusCode::FORBIDDEN,
        };
        Problem::new(status, error.to_string())
    }
}
