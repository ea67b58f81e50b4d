//! Who changed what, and who was refused.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde::Serialize;

use super::call::Call;
use super::paging::Items;
use super::{Rest, body};
use crate::control_task::timestamp::rfc3339;
use crate::problem::Problem;
use crate::refusals::RefusedEntry;

const PATH: &str = "/v1/audit";
const REFUSED_PATH: &str = "/v1/audit/refused";

pub(super) fn routes() -> Router<Rest> {
    Router::new()
        .route(PATH, get(audit))
        .route(REFUSED_PATH, get(refused))
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

/// An entry with its times as people read them.
#[derive(Serialize)]
struct Said {
    since: String,
    at: String,
    #[serde(flatten)]
    entry: RefusedEntry,
}

impl Said {
    fn of(entry: RefusedEntry) -> Said {
        Said {
            since: rfc3339(entry.first_s),
            at: rfc3339(entry.last_s),
            entry,
        }
    }
}

/// The newest first.
async fn refused(State(rest): State<Rest>, call: Call) -> Result<Response, Problem> {
    let parameters = call.parameters(&["limit", "after"])?;
    let asked = rest.pager.asked(REFUSED_PATH, &parameters)?;
    let before = asked.after.and_then(|number| number.parse().ok());
    let (items, more) = rest.refusals.page(before, asked.limit);
    let last = items.last().filter(|_| more);
    let token = |number: u64| rest.pager.token(REFUSED_PATH, &number.to_string());
    let after = last.map(|entry| token(entry.number));
    let items = items.into_iter().map(Said::of).collect();
    Ok(body::json(StatusCode::OK, &Items { items, after }))
}
