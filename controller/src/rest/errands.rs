//! What is asked of a program once: log at other levels, measure the way between two nodes.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{post, put};
use isobar_mesh_api::errand::{BenchLink, LinkFigures, Said, What};
use isobar_mesh_api::log_level::{self, LevelError};
use isobar_mesh_api::names::NodeId;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::call::Call;
use super::{Rest, body};
use crate::control_task::Target;
use crate::problem::{FieldProblem, Problem};
use crate::resource_text::typed;

/// Longest that a proxy's answer is waited for.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);

pub(super) fn routes() -> Router<Rest> {
    Router::new()
        .route("/v1/log-levels", put(controller_levels))
        .route("/v1/nodes/{name}/log-levels", put(node_levels))
        .route("/v1/bench-link", post(bench_link))
}

/// What to log.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Levels {
    /// `error`, `warn`, `info`, `debug`, `trace`, or `target=level,…`.
    pub levels: String,
}

/// Which way to measure.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ends {
    /// Who measures.
    pub from: NodeId,
    /// Who answers.
    pub to: NodeId,
}

/// What a way is like.
#[derive(Serialize)]
struct Link {
    from: NodeId,
    to: NodeId,
    #[serde(flatten)]
    figures: LinkFigures,
    throughput_bytes_per_s: f64,
}

async fn controller_levels(
    State(rest): State<Rest>,
    call: Call,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let levels = levels(&call, bytes)?;
    noted(&rest, &call, "LogLevels", format!("controller {levels}")).await?;
    let before = log_level::set(&levels).map_err(wrong)?;
    Ok(answer(&levels, &before))
}

async fn node_levels(
    State(rest): State<Rest>,
    Path(name): Path<String>,
    call: Call,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let levels = levels(&call, bytes)?;
    let node = NodeId::new(&name).map_err(|_| no_node(&name))?;
    known(&rest, &node).await?;
    noted(&rest, &call, "LogLevels", format!("{node} {levels}")).await?;
    match send(&rest, &node, What::LogLevels(levels.clone())).await? {
        Said::LogLevels { before } => Ok(answer(&levels, &before)),
        other => Err(strange(&node, other)),
    }
}

async fn bench_link(
    State(rest): State<Rest>,
    call: Call,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    call.parameters(&[])?;
    let Ends { from, to } = typed(body::read(&call.headers, bytes)?)?;
    if from == to {
        let field = FieldProblem::new("#/to", "must be another node than from");
        return Err(field.into());
    }
    known(&rest, &from).await?;
    let mesh_address = known(&rest, &to).await?;
    if mesh_address.is_empty() {
        let detail = format!("nobody has said yet where {to}'s mesh port is");
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    noted(&rest, &call, "BenchLink", format!("{from} {to}")).await?;
    let link = BenchLink {
        to: to.clone(),
        mesh_address,
    };
    match send(&rest, &from, What::BenchLink(link)).await? {
        Said::Link(figures) => {
            let took_s = (figures.took_us.max(1)) as f64 / 1e6;
            let link = Link {
                throughput_bytes_per_s: figures.bytes as f64 / took_s,
                from,
                to,
                figures,
            };
            Ok(body::json(StatusCode::OK, &link))
        }
        other => Err(strange(&from, other)),
    }
}

fn levels(call: &Call, bytes: Result<Bytes, BytesRejection>) -> Result<String, Problem> {
    call.parameters(&[])?;
    let Levels { levels } = typed(body::read(&call.headers, bytes)?)?;
    log_level::check(&levels).map_err(wrong)?;
    Ok(levels)
}

fn wrong(error: LevelError) -> Problem {
    match error {
        LevelError::NotOurs => Problem::new(StatusCode::CONFLICT, error.to_string()),
        wrong => FieldProblem::new("#/levels", wrong.to_string()).into(),
    }
}

fn answer(levels: &str, before: &str) -> Response {
    body::json(
        StatusCode::OK,
        &json!({ "levels": levels, "before": before }),
    )
}

fn no_node(name: &str) -> Problem {
    let name: String = name.chars().take(128).collect();
    Problem::new(StatusCode::NOT_FOUND, format!("there is no node {name}"))
}

/// Where a node's mesh port is.
async fn known(rest: &Rest, node: &NodeId) -> Result<String, Problem> {
    let view = rest.control.view().await?;
    let found = view.nodes.iter().find(|n| n.node == *node);
    let address = found.map(|n| n.mesh_address.clone());
    address.ok_or_else(|| no_node(node.as_str()))
}

/// Leaves an entry in the audit.
pub(super) async fn noted(
    rest: &Rest,
    call: &Call,
    kind: &'static str,
    name: String,
) -> Result<(), Problem> {
    let target = Target { kind, name };
    let on_disk = rest.control.note(&call.who, target).await?;
    on_disk.await.map_err(|error| {
        tracing::error!(%error, "an entry of the audit was not stored");
        let detail =
            "the audit cannot be written, so nothing was done; the controller's log says why";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    })
}

/// Sends a node on an errand and waits for what it says.
async fn send(rest: &Rest, node: &NodeId, what: What) -> Result<Said, Problem> {
    let unavailable = |detail: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
    let said = rest.control.errand(node.clone(), what).await?;
    match tokio::time::timeout(ANSWER_TIME_MAX, said).await {
        Ok(Ok(said)) => Ok(said),
        Ok(Err(_)) => Err(unavailable(format!("{node} went away before it answered"))),
        Err(_) => {
            let seconds = ANSWER_TIME_MAX.as_secs();
            let detail =
                format!("{node} did not answer within {seconds} s; is it of an earlier version?");
            Err(unavailable(detail))
        }
    }
}

fn strange(node: &NodeId, said: Said) -> Problem {
    let why = match said {
        Said::Failed(why) => why.chars().take(500).collect(),
        _ => "it answered something else than was asked".to_owned(),
    };
    Problem::new(StatusCode::CONFLICT, format!("{node}: {why}"))
}
