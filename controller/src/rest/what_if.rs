//! What a change would do to the plan, without making it.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::{Rest, body};
use crate::control_loop::PlanDifference;
use crate::control_task::{Asked, ControlError, Hypothesis};
use crate::problem::Problem;

/// Most plans tried out at once; one more is answered 503. Each is a copy of the mesh and a solve of its own.
const TRIALS_MAX: usize = 2;

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
