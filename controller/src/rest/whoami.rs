//! Who a caller is, so that a program does not offer what would be refused.

use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use serde::Serialize;

use super::call::Call;
use super::{Rest, body};
use crate::access::{Caller, Role};
use crate::problem::Problem;

pub(super) fn routes() -> Router<Rest> {
    Router::new().route("/v1/whoami", get(whoami))
}

/// The answer's wire form.
#[derive(Serialize)]
struct Me<'a> {
    /// The credential's name; `anonymous` where nobody is asked.
    name: &'a str,
    /// What it may do.
    role: Role,
    /// Where it may write; everywhere when empty.
    namespaces: &'a [String],
}

async fn whoami(Extension(caller): Extension<Caller>, call: Call) -> Result<Response, Problem> {
    call.parameters(&[])?;
    let me = Me {
        name: &caller.name,
        role: caller.role,
        namespaces: &caller.namespaces,
    };
    Ok(body::json(StatusCode::OK, &me))
}
