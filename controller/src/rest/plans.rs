//! Plans: weights now, generations before, and why a row is as it is.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::snapshot::{PlanId, Row};
use serde::Serialize;

use super::call::{Call, refused};
use super::endpoints::{no_name, service};
use super::paging::Items;
use super::{Rest, body};
use crate::control_loop::{MeshView, SeatView};
use crate::problem::Problem;

const PLANS: &str = "/v1/plans";
const WEIGHTS: &str = "/v1/weights";

pub(super) fn routes() -> Router<Rest> {
    Router::new()
        .route(PLANS, get(plans))
        .route("/v1/plans/current", get(current))
        .route("/v1/plans/{epoch}/{generation}", get(one))
        .route(WEIGHTS, get(weights))
        .route("/v1/explain/{namespace}/{name}/{node}", get(explain))
}

async fn current(State(rest): State<Rest>, call: Call) -> Result<Response, Problem> {
    call.parameters(&[])?;
    let plan = rest.control.plan().await?;
    Ok(body::json(StatusCode::OK, &*plan))
}

/// Generations, the newest first.
async fn plans(State(rest): State<Rest>, call: Call) -> Result<Response, Problem> {
    let parameters = call.parameters(&["limit", "after"])?;
    let asked = rest.pager.asked(PLANS, &parameters)?;
    // A token that passed has the numbers that it was made from.
    let before = asked.after.as_deref().and_then(plan_id);
    let (items, more) = rest.control.generations(before, asked.limit).await?;
    let last = items.last().filter(|_| more);
    let name = |plan: PlanId| format!("{}/{}", plan.epoch, plan.generation);
    let after = last.map(|last| rest.pager.token(PLANS, &name(last.plan)));
    Ok(body::json(StatusCode::OK, &Items { items, after }))
}

/// One generation, with what each node said to it.
async fn one(
    State(rest): State<Rest>,
    Path((epoch, generation)): Path<(String, String)>,
    call: Call,
) -> Result<Response, Problem> {
    call.parameters(&[])?;
    let plan = plan_id(&format!("{epoch}/{generation}"));
    let found = match plan {
        Some(plan) => rest.control.generation(plan).await?,
        None => None,
    };
    match found {
        Some(generation) => Ok(body::json(StatusCode::OK, &generation)),
        None => Err(no_name(
            "there is no such generation, or not any more".to_owned(),
        )),
    }
}

fn plan_id(text: &str) -> Option<PlanId> {
    let (epoch, generation) = text.split_once('/')?;
    Some(PlanId {
        epoch: epoch.parse().ok()?,
        generation: generation.parse().ok()?,
    })
}

/// One row of the plan in force. Rates in requests/s.
#[derive(Debug, Serialize)]
pub struct Weight {
    /// Which service.
    pub service: ServiceName,
    /// The home.
    pub node: NodeId,
    /// What enters.
    pub demand_rps: f64,
    /// What its endpoints can serve.
    pub capacity_rps: f64,
    /// Load by the rows in force.
    pub planned_rps: f64,
    /// `planned_rps / capacity_rps`; 0 without capacity.
    pub planned_utilisation: f64,
    /// Where the demand goes.
    pub row: Row,
}

/// Rows in force, of one service or node or all.
async fn weights(State(rest): State<Rest>, call: Call) -> Result<Response, Problem> {
    let parameters = call.parameters(&["service", "node", "limit", "after"])?;
    let service = match parameters.get("service") {
        Some(text) => {
            let name = ServiceName::new(text);
            Some(name.map_err(|error| refused("service", &error.to_string()))?)
        }
        None => None,
    };
    let node = match parameters.get("node") {
        Some(text) => {
            let name = NodeId::new(text);
            Some(name.map_err(|error| refused("node", &error.to_string()))?)
        }
        None => None,
    };
    let asked = rest.pager.asked(WEIGHTS, &parameters)?;
    let view = rest.control.view().await?;
    let rows = rows(&view, service.as_ref(), node.as_ref());
    let items = Items::cut(rows, &asked, |last| rest.pager.token(WEIGHTS, last));
    Ok(body::json(StatusCode::OK, &items))
}

fn rows<'a>(
    view: &'a MeshView,
    service: Option<&'a ServiceName>,
    node: Option<&'a NodeId>,
) -> impl Iterator<Item = (String, Weight)> + 'a {
    let services = view.services.iter();
    let chosen = services.filter(move |s| service.is_none_or(|name| *name == s.service));
    chosen.flat_map(move |s| {
        let seats = s.nodes.iter();
        let seats = seats.filter(move |seat| node.is_none_or(|name| *name == seat.node));
        seats.map(|seat| {
            let name = format!("{}/{}", s.service, seat.node);
            (name, weight(&s.service, seat))
        })
    })
}

fn weight(service: &ServiceName, seat: &SeatView) -> Weight {
    Weight {
        service: service.clone(),
        node: seat.node.clone(),
        demand_rps: seat.demand_rps,
        capacity_rps: seat.capacity_rps,
        planned_rps: seat.planned_rps,
        planned_utilisation: seat.planned_utilisation,
        row: seat.row.clone(),
    }
}

/// Why a service's row at a node is as it is.
async fn explain(
    State(rest): State<Rest>,
    Path((namespace, name, node)): Path<(String, String, String)>,
    call: Call,
) -> Result<Response, Problem> {
    call.parameters(&[])?;
    let service = service(&namespace, &name)?;
    let node = NodeId::new(&node).map_err(|error| no_name(error.to_string()))?;
    let detail = format!("{service} is not known at {node}");
    match rest.control.explain(service, node).await? {
        Some(found) => Ok(body::json(StatusCode::OK, &*found)),
        None => Err(no_name(detail)),
    }
}
