//! What a change would do to the plan, without making it.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use isobar_mesh_api::names::{NodeId, ServiceName};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::call::Call;
use super::{Rest, body};
use crate::control_loop::PlanDifference;
use crate::control_task::{Asked, Change, ControlError, Hypothesis};
use crate::problem::{FieldProblem, Problem};
use crate::resource_text::{Key, Kind, decode_list, typed};

/// Most plans tried out at once; one more is answered 503. Each is a copy of the mesh and a solve of its own.
const TRIALS_MAX: usize = 2;

/// Most that may be supposed to enter at a node, requests/s.
const DEMAND_RPS_MAX: f64 = 1e9;
/// Most times that a demand may be supposed to grow.
const DEMAND_TIMES_MAX: f64 = 1_000.0;

/// Room for trials. Cloning is a reference count.
#[derive(Debug, Clone)]
pub struct Trials(Arc<Semaphore>);

impl Default for Trials {
    fn default() -> Trials {
        Trials(Arc::new(Semaphore::new(TRIALS_MAX)))
    }
}

/// The answer's wire form.
#[derive(Serialize)]
struct Tried {
    /// Nothing was changed.
    dry_run: bool,
    /// How the plan would differ.
    plan: PlanDifference,
}

pub(super) fn routes() -> Router<Rest> {
    Router::new().route("/v1/what-if", post(what_if))
}

/// What is supposed, all at once; changes first, then failures, then demand.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Supposition {
    /// Resources to create or replace, as in a PUT.
    pub resources: Vec<Value>,
    /// Resources to delete.
    pub delete: Vec<Named>,
    /// Nodes that are gone.
    pub fail: Vec<NodeId>,
    /// How much enters where.
    pub demand: Vec<Demand>,
}

/// Which resource.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Its kind.
    pub kind: String,
    /// Its name, `namespace/name` for services and routes.
    pub name: String,
}

/// How much enters. Either `rps` at a node, or `times` what enters now, at all nodes.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Demand {
    /// For which service.
    pub service: ServiceName,
    /// Where.
    pub node: Option<NodeId>,
    /// Requests/s.
    pub rps: Option<f64>,
    /// Times what enters now.
    pub times: Option<f64>,
}

/// The plan for a load, a failure or a policy that there is not.
async fn what_if(
    State(rest): State<Rest>,
    call: Call,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    call.parameters(&[])?;
    let said: Supposition = typed(body::read(&call.headers, bytes)?)?;
    let asked = changes(said.resources, said.delete)?;
    let (fail, demand) = (said.fail, said.demand);
    if asked.changes.is_empty() && fail.is_empty() && demand.is_empty() {
        let detail = "supposes nothing; give resources, delete, fail or demand";
        return Err(FieldProblem::new("#", detail).into());
    }
    for (at, entry) in demand.iter().enumerate() {
        check(entry).map_err(|detail| FieldProblem::new(format!("#/demand/{at}"), detail))?;
    }
    let plan = trial(&rest, move |hypothesis| {
        hypothesis.change(&asked)?;
        suppose(hypothesis, &fail, &demand)
    });
    let (dry_run, plan) = (true, plan.await??);
    Ok(body::json(StatusCode::OK, &Tried { dry_run, plan }))
}

fn changes(resources: Vec<Value>, delete: Vec<Named>) -> Result<Asked, Problem> {
    let below = |problem: FieldProblem| {
        let pointer = format!("#/resources{}", problem.pointer.trim_start_matches('#'));
        FieldProblem::new(pointer, problem.detail)
    };
    let declared = decode_list(Value::Array(resources)).map_err(below)?;
    let mut changes: Vec<Change> = declared.into_iter().map(Change::Put).collect();
    for (at, named) in delete.into_iter().enumerate() {
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == named.kind);
        let Some(kind) = kind else {
            let known = Kind::ALL.map(Kind::as_str).join(", ");
            let pointer = format!("#/delete/{at}/kind");
            return Err(FieldProblem::new(pointer, format!("known are {known}")).into());
        };
        let name = named.name;
        changes.push(Change::Delete(Key { kind, name }));
    }
    Ok(Asked {
        changes,
        ..Asked::default()
    })
}

fn check(entry: &Demand) -> Result<(), &'static str> {
    let fine = |value: f64, max: f64| (0.0..=max).contains(&value);
    match (&entry.node, entry.rps, entry.times) {
        (Some(_), Some(rps), None) if fine(rps, DEMAND_RPS_MAX) => Ok(()),
        (None, None, Some(times)) if fine(times, DEMAND_TIMES_MAX) => Ok(()),
        (Some(_), Some(_), None) => Err("has rps that are not from 0 to 1 000 000 000"),
        (None, None, Some(_)) => Err("has times that are not from 0 to 1 000"),
        _ => Err("needs node and rps, or times alone"),
    }
}

fn suppose(hypothesis: &mut Hypothesis, fail: &[NodeId], demand: &[Demand]) -> Result<(), Problem> {
    for (at, node) in fail.iter().enumerate() {
        if !hypothesis.fail(node) {
            let detail = format!("there is no node {node}");
            return Err(FieldProblem::new(format!("#/fail/{at}"), detail).into());
        }
    }
    for (at, entry) in demand.iter().enumerate() {
        let service = &entry.service;
        let known = match (&entry.node, entry.rps, entry.times) {
            (Some(node), Some(rps), _) => hypothesis.demand(service, node, rps),
            (_, _, times) => hypothesis.demand_times(service, times.unwrap_or(1.0)),
        };
        if !known {
            let detail = "names a service or node that there is not";
            return Err(FieldProblem::new(format!("#/demand/{at}"), detail).into());
        }
    }
    Ok(())
}

/// Says what a write would do.
pub(super) async fn dry_run(rest: &Rest, asked: Asked) -> Result<Response, Problem> {
    let plan = trial(rest, move |hypothesis| hypothesis.change(&asked)).await??;
    let dry_run = true;
    Ok(body::json(StatusCode::OK, &Tried { dry_run, plan }))
}

/// Tries something on a copy of the mesh. What `suppose` refuses is the inner error.
///
/// # Errors
/// Too many trials at once, or the controller is stopping (503).
pub(super) async fn trial<E: Send + 'static>(
    rest: &Rest,
    suppose: impl FnOnce(&mut Hypothesis) -> Result<(), E> + Send + 'static,
) -> Result<Result<PlanDifference, E>, Problem> {
    let busy = |_| {
        let detail = format!("{TRIALS_MAX} plans are being tried out already; ask again");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    };
    let room = rest.trials.0.clone().try_acquire_owned().map_err(busy)?;
    let mut hypothesis = rest.control.fork().await?;
    let tried = tokio::task::spawn_blocking(move || {
        let _room = room;
        hypothesis.remember();
        suppose(&mut hypothesis)?;
        Ok(hypothesis.difference())
    });
    // The runtime is shutting down.
    tried.await.map_err(|_| ControlError::Stopping.into())
}
