//! Who changed what.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;

use super::call::Call;
use super::paging::Items;
use super::{Rest, body};
use crate::problem::Problem;

const PATH: &str = "/v1/audit";

pub(super) fn routes() -> Router<Rest> {
    Router::new().route(PATH, get(audit))
}

/// The newest first.
async fn audit(State(rest): State<Rest>, call: Call) -> Result<Response, Problem> {
    let parameters = call.parameters(&["limit", "after"])?;
    let asked = rest.pager.asked(PATH, &parameters)?;
    // A token that passed has the number that it was made from.
    let before = asked.after.and_then(|number| number.parse().ok());
    let (items, more) = rest.control.audit(before, asked.limit).await?;
    let last = items.last().filter(|_| more);
    let after = last.map(|entry| rest.pager.token(PATH, &entry.number.to_string()));
    Ok(body::json(StatusCode::OK, &Items { items, after }))
}
