//! From the store to a running control loop, and the last plan back into the store.
//!
//! A restarted controller plans under a higher epoch, which is on the disk before the first plan
//! is made, so that no two plans ever bear the same name. It begins with the last plan and the nodes
//! in it, which are expected back for a few periods, so that nothing jumps while they return.

use std::sync::Arc;
use std::time::{Duration, Instant};

use isobar_mesh_api::resource::Resource;
use tokio::sync::{mpsc, watch};

use super::audit::{Audit, AuditEntry};
use super::change::Change;
use super::desired::{Desired, MemoryLimit};
use super::events::Events;
use super::handle::ControlHandle;
use super::history::History;
use super::leases::Registered;
use super::streams::Streams;
use super::timestamp;
use super::{ControlTask, INBOX_LEN_MAX, clock_ms};
use crate::control_loop::{ControlLoop, StoredPlan};
use crate::metrics::Metrics;
use crate::resource_text::{Declared, Kind, declare};
use crate::store::{Store, StoreError, Tree, Write, read_all, read_one};

/// The one key of the trees that have one.
pub(super) const LAST: &str = "last";

/// Why the control loop does not start.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The store.
    #[error("the last state cannot be restored")]
    Store(#[from] StoreError),
    /// The resource files and the store have too much together.
    #[error("the resources do not fit: {0}")]
    Limit(#[from] MemoryLimit),
}

/// Restores the control loop and applies `resources` over what the store has.
///
/// Returns the task to run, the handle to it, and where [`keep_plans`] finds its plans.
///
/// # Errors
/// The store fails, or a limit is exceeded.
pub async fn restore(
    store: Arc<dyn Store>,
    resources: Vec<Declared>,
    period: Duration,
    metrics: Arc<Metrics>,
) -> Result<
    (
        ControlTask,
        ControlHandle,
        watch::Receiver<Option<Arc<StoredPlan>>>,
    ),
    RestoreError,
> {
    let epoch = next_epoch(&*store).await?;
    let mut control_loop = ControlLoop::new(epoch, period);
    let mut desired = Desired::default();
    desired.settle_schedules((clock_ms() / 1000) as i64, &mut control_loop);
    put_stored(&*store, &mut desired, &mut control_loop).await?;
    let mut batch = Vec::new();
    let now = timestamp::rfc3339(clock_ms() / 1000);
    for declared in resources {
        let declared = desired.dated(declared, &now);
        let key = declared.key.clone();
        batch.push(Write::put(key.kind.tree(), &key.name, &*declared.resource)?);
        desired.put(declared, &mut control_loop)?;
    }
    store.apply(batch).await?;
    let mut nodes = 0;
    match read_one::<StoredPlan>(&*store, Tree::Plan, LAST).await {
        Ok(Some(plan)) => {
            nodes = plan.nodes.len();
            plan.nodes
                .iter()
                .for_each(|node| desired.remember(node.hello.clone()));
            control_loop.restore_plan(plan);
        }
        Ok(None) => {}
        // A plan can be made anew; the store's own failures cannot be passed over.
        Err(error @ StoreError::Value { .. }) => {
            tracing::error!(%error, "the last plan is not used");
        }
        Err(error) => return Err(error.into()),
    }
    register_stored(&*store, &mut desired, &mut control_loop).await?;
    let audit = stored_audit(&*store).await?;
    tracing::info!(plan = %control_loop.plan_id(), nodes, "the control loop is restored");
    let (sender, inbox) = mpsc::channel(INBOX_LEN_MAX);
    let (plans, kept) = watch::channel(None);
    let began = Instant::now();
    let task = ControlTask {
        control_loop,
        desired,
        audit,
        events: Events::default(),
        history: History::default(),
        streams: Streams::new(metrics.clone()),
        taps: Default::default(),
        errands: Default::default(),
        inbox,
        store,
        plans,
        metrics,
        period,
        began,
        kept: (Default::default(), began),
        view: None,
        plan: None,
    };
    Ok((task, ControlHandle::new(sender), kept))
}

/// Puts what the store has. A resource that cannot be read any more is logged and left out.
async fn put_stored(
    store: &dyn Store,
    desired: &mut Desired,
    control_loop: &mut ControlLoop,
) -> Result<(), RestoreError> {
    for kind in Kind::ALL {
        let stored: Vec<(String, Resource)> = read_all(store, kind.tree()).await?;
        for (key, resource) in stored {
            match declare(resource) {
                Ok(declared) => {
                    desired.put(declared, control_loop)?;
                }
                Err(problem) => {
                    tracing::error!(kind = kind.as_str(), key, %problem, "a stored resource is not used");
                }
            }
        }
    }
    Ok(())
}

/// Registers the endpoints that the store has; their leases begin anew.
async fn register_stored(
    store: &dyn Store,
    desired: &mut Desired,
    control_loop: &mut ControlLoop,
) -> Result<(), RestoreError> {
    let endpoints: Vec<(String, Registered)> = read_all(store, Tree::Endpoints).await?;
    for (_, registered) in endpoints {
        let change = Change::Register(registered);
        desired.make(change, Duration::ZERO, |_| false, control_loop)?;
    }
    desired.settle_endpoints(control_loop);
    Ok(())
}

async fn stored_audit(store: &dyn Store) -> Result<Audit, StoreError> {
    let entries: Vec<(String, AuditEntry)> = read_all(store, Tree::Audit).await?;
    let entries = entries.into_iter().map(|(_, entry)| entry);
    Ok(Audit::restore(entries.collect()))
}

async fn next_epoch(store: &dyn Store) -> Result<u64, StoreError> {
    let last: Option<u64> = read_one(store, Tree::Epoch, LAST).await?;
    let epoch = last.unwrap_or(0).saturating_add(1);
    store
        .apply(vec![Write::put(Tree::Epoch, LAST, &epoch)?])
        .await?;
    Ok(epoch)
}

/// Writes each new plan to the store, one at a time: while one is being written only the
/// newest of those that follow is kept. Ends after the last, when the control task has ended.
pub async fn keep_plans(
    mut plans: watch::Receiver<Option<Arc<StoredPlan>>>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
) {
    while plans.changed().await.is_ok() {
        let Some(plan) = plans.borrow_and_update().clone() else {
            continue;
        };
        let generation = plan.plan.generation;
        let encoded = tokio::task::spawn_blocking(move || Write::put(Tree::Plan, LAST, &*plan));
        match encoded.await {
            Ok(Ok(write)) => match store.apply(vec![write]).await {
                Ok(()) => metrics.generation_stored.set(generation as f64),
                // The store logged and counted it; the next plan is another try.
                Err(_) => continue,
            },
            Ok(Err(error)) => tracing::error!(%error, "the plan was not stored"),
            // The runtime is shutting down.
            Err(_) => return,
        }
    }
}
