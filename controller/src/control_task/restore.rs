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
use super::change::{Outcome, Target};
use super::desired::{Desired, MemoryLimit};
use super::events::Events;
use super::handle::ControlHandle;
use super::history::History;
use super::leases::Registered;
use super::streams::Streams;
use super::timestamp;
use super::{ControlTask, INBOX_LEN_MAX, clock_ms};
use crate::control_loop::{ControlLoop, StoredPlan};
use crate::leadership::Lease;
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

/// What a term begins with.
pub struct Beginning {
    /// Where everything is.
    pub store: Arc<dyn Store>,
    /// Applied over what the store has.
    pub resources: Vec<Declared>,
    /// The control period.
    pub period: Duration,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Whether the term may act.
    pub lease: Lease,
    /// This controller's name, where there are several: the audit says who planned in which epoch.
    pub name: Option<String>,
}

/// Restores the control loop and applies the resources over what the store has. From then on `control` asks this task.
///
/// Returns the task to run, and where [`keep_plans`] finds its plans.
///
/// # Errors
/// The store fails, or a limit is exceeded.
pub async fn restore(
    beginning: Beginning,
    control: &ControlHandle,
) -> Result<(ControlTask, watch::Receiver<Option<Arc<StoredPlan>>>), RestoreError> {
    let Beginning {
        store,
        resources,
        period,
        metrics,
        lease,
        name,
    } = beginning;
    let mut audit = stored_audit(&*store).await?;
    let epoch = next_epoch(&*store, &mut audit, name.as_deref()).await?;
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
    let nodes = restore_plan(&*store, &mut desired, &mut control_loop).await?;
    register_stored(&*store, &mut desired, &mut control_loop).await?;
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
        lease,
        period,
        began,
        kept: (Default::default(), began),
        view: None,
        plan: None,
    };
    control.attach(sender);
    Ok((task, kept))
}

/// Goes on from the last plan. Returns how many nodes it has.
async fn restore_plan(
    store: &dyn Store,
    desired: &mut Desired,
    control_loop: &mut ControlLoop,
) -> Result<usize, RestoreError> {
    let plan = match read_one::<StoredPlan>(store, Tree::Plan, LAST).await {
        Ok(Some(plan)) => plan,
        Ok(None) => return Ok(0),
        // A plan can be made anew; the store's own failures cannot be passed over.
        Err(error @ StoreError::Value { .. }) => {
            tracing::error!(%error, "the last plan is not used");
            return Ok(0);
        }
        Err(error) => return Err(error.into()),
    };
    let nodes = plan.nodes.len();
    let hellos = plan.nodes.iter().map(|node| node.hello.clone());
    hellos.for_each(|hello| desired.remember(hello));
    control_loop.restore_plan(plan);
    Ok(nodes)
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

/// Takes the next epoch; where there are several controllers the audit says which of them took it.
async fn next_epoch(
    store: &dyn Store,
    audit: &mut Audit,
    name: Option<&str>,
) -> Result<u64, StoreError> {
    let last: Option<u64> = read_one(store, Tree::Epoch, LAST).await?;
    let epoch = last.unwrap_or(0).saturating_add(1);
    let mut batch = vec![Write::put(Tree::Epoch, LAST, &epoch)?];
    if let Some(name) = name {
        let target = Target {
            kind: "Epoch",
            name: epoch.to_string(),
        };
        let now = timestamp::rfc3339(clock_ms() / 1000);
        let who = format!("controller {name}");
        batch.extend(audit.add(&now, &who, &target, Outcome::Created, [None, None])?);
    }
    store.apply(batch).await?;
    Ok(epoch)
}

/// Writes each new plan to the store, one at a time: while one is being written only the
/// newest of those that follow is kept, and after each there is a `pause`. Ends after the last, when the control task has
/// ended.
pub async fn keep_plans(
    mut plans: watch::Receiver<Option<Arc<StoredPlan>>>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    lease: Lease,
    pause: Duration,
) {
    while plans.changed().await.is_ok() {
        let Some(plan) = plans.borrow_and_update().clone() else {
            continue;
        };
        if !lease.holds() {
            continue;
        }
        let generation = plan.plan.generation;
        let encoded = tokio::task::spawn_blocking(move || Write::put(Tree::Plan, LAST, &*plan));
        match encoded.await {
            Ok(Ok(write)) => match store.apply(vec![write]).await {
                Ok(()) => {
                    metrics.generation_stored.set(generation as f64);
                    // The last one is laid down before the sender is gone, and that ends the pause.
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = ended(&plans) => {}
                    }
                }
                // The store logged and counted it; the next plan is another try.
                Err(_) => continue,
            },
            Ok(Err(error)) => tracing::error!(%error, "the plan was not stored"),
            // The runtime is shutting down.
            Err(_) => return,
        }
    }
}

/// Returns when the control task has ended.
async fn ended(plans: &watch::Receiver<Option<Arc<StoredPlan>>>) {
    let mut plans = plans.clone();
    while plans.changed().await.is_ok() {}
}
