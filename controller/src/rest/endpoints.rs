//! Endpoints that register themselves, each under a lease.

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::resource::EndpointSpec;
use serde::Deserialize;

use super::call::Call;
use super::paging::Items;
use super::resources::{DRY_RUN, on_disk, tagged};
use super::{Rest, body, what_if};
use crate::control_task::{Asked, Change, LEASE_S_MAX, Outcome, Place, Registered};
use crate::problem::{FieldProblem, Problem};
use crate::resource_text::{check_endpoint, typed};

/// A lease when nothing is said, in seconds.
pub const LEASE_S_DEFAULT: u64 = 30;

/// What an endpoint says of itself.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Registration {
    /// Requests it works on at once, 1 to 100 000.
    pub workers: u32,
    /// What it serves within its latency target, requests/s; learned when absent.
    pub capacity_rps: Option<f64>,
    /// How long it stays without another word, in seconds, 1 to 86 400.
    pub lease_s: u64,
}

impl Default for Registration {
    fn default() -> Registration {
        Registration {
            workers: 16,
            capacity_rps: None,
            lease_s: LEASE_S_DEFAULT,
        }
    }
}

pub(super) fn routes() -> Router<Rest> {
    let one = get(read).put(register).delete(deregister);
    Router::new()
        .route("/v1/endpoints", get(all))
        .route("/v1/services/{namespace}/{name}/endpoints", get(of_service))
        .route(
            "/v1/services/{namespace}/{name}/endpoints/{node}/{address}",
            one,
        )
}

type OfService = Path<(String, String)>;
type One = Path<(String, String, String, String)>;

async fn all(State(rest): State<Rest>, call: Call) -> Result<Response, Problem> {
    list(&rest, &call, None).await
}

async fn of_service(
    State(rest): State<Rest>,
    Path((namespace, name)): OfService,
    call: Call,
) -> Result<Response, Problem> {
    let service = service(&namespace, &name)?;
    list(&rest, &call, Some(service)).await
}

async fn list(rest: &Rest, call: &Call, service: Option<ServiceName>) -> Result<Response, Problem> {
    let parameters = call.parameters(&["limit", "after"])?;
    let list = service.as_ref().map_or("endpoints", ServiceName::as_str);
    let asked = rest.pager.asked(list, &parameters)?;
    let found = rest.control.endpoints(service.clone()).await?;
    let names = found
        .into_iter()
        .map(|leased| (leased.registered.name(), leased));
    let items = Items::cut(names, &asked, |last| rest.pager.token(list, last));
    Ok(body::json(StatusCode::OK, &items))
}

async fn read(State(rest): State<Rest>, Path(one): One, call: Call) -> Result<Response, Problem> {
    call.parameters(&[])?;
    let place = place(one)?;
    let found = rest.control.endpoints(Some(place.service.clone())).await?;
    match found
        .iter()
        .find(|leased| leased.registered.place() == place)
    {
        Some(leased) => Ok(tagged(StatusCode::OK, leased, &leased.registered)),
        None => Err(not_registered()),
    }
}

/// Registers (201), or begins the lease anew (200).
async fn register(
    State(rest): State<Rest>,
    Path(one): One,
    call: Call,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let dry_run = call.parameters(&[DRY_RUN])?.flag(DRY_RUN)?;
    let Place {
        service,
        node,
        address,
    } = place(one)?;
    let said: Registration = match body::read(&call.headers, bytes)? {
        serde_json::Value::Null => Registration::default(),
        value => typed(value)?,
    };
    if !(1..=LEASE_S_MAX).contains(&said.lease_s) {
        let detail = format!("must be from 1 to {LEASE_S_MAX}");
        return Err(FieldProblem::new("#/lease_s", detail).into());
    }
    let endpoint = EndpointSpec {
        node,
        address,
        workers: said.workers,
        capacity_rps: said.capacity_rps,
    };
    check_endpoint("#", &endpoint)?;
    let registered = Registered {
        service,
        endpoint,
        lease_s: said.lease_s,
        source: None,
    };
    let asked = Asked {
        changes: vec![Change::Register(registered.clone())],
        expect: call.expect()?,
        who: call.who,
        ..Asked::default()
    };
    if dry_run {
        return what_if::dry_run(&rest, asked).await;
    }
    let durable = rest.control.change(asked).await?;
    on_disk(durable.on_disk).await?;
    let status = match durable.outcomes.first() {
        Some(Outcome::Created) => StatusCode::CREATED,
        _ => StatusCode::OK,
    };
    Ok(tagged(status, &registered, &registered))
}

async fn deregister(
    State(rest): State<Rest>,
    Path(one): One,
    call: Call,
) -> Result<Response, Problem> {
    let dry_run = call.parameters(&[DRY_RUN])?.flag(DRY_RUN)?;
    let asked = Asked {
        changes: vec![Change::Deregister(place(one)?)],
        expect: call.expect()?,
        who: call.who,
        ..Asked::default()
    };
    if dry_run {
        return what_if::dry_run(&rest, asked).await;
    }
    let durable = rest.control.change(asked).await?;
    on_disk(durable.on_disk).await?;
    match durable.outcomes.first() {
        Some(Outcome::Deleted) => Ok(StatusCode::NO_CONTENT.into_response()),
        _ => Err(not_registered()),
    }
}

fn place(
    (namespace, name, node, address): (String, String, String, String),
) -> Result<Place, Problem> {
    let node = NodeId::new(&node).map_err(|error| no_name(error.to_string()))?;
    Ok(Place {
        service: service(&namespace, &name)?,
        node,
        address,
    })
}

pub(super) fn service(namespace: &str, name: &str) -> Result<ServiceName, Problem> {
    let service = ServiceName::new(&format!("{namespace}/{name}"));
    service.map_err(|error| no_name(error.to_string()))
}

/// A part of a path that can be no name: there is nothing under it.
pub(super) fn no_name(detail: String) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, detail)
}

fn not_registered() -> Problem {
    let detail = "no such endpoint is registered; those that a Service lists are part of it";
    Problem::new(StatusCode::NOT_FOUND, detail)
}
