//! One controller's terms as the leader: what runs only while it leads.
//!
//! ```text
//! Role::Leading ─▶ read the store anew ─▶ next epoch ─▶ control task, discovery, the authority's keeper ─▶ lease gone: all end
//! ```
//!
//! Where one controller has the store to itself there is one term, which begins before the ports open and ends with the
//! program.
//!
//! **Invariant**: what others may have written is read again at the beginning of each term, after its lease was won.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::config::Config;
use crate::control_task::{Beginning, ControlHandle, keep_plans, restore};
use crate::discovery::Discovery;
use crate::drain::Drain;
use crate::enrolled::Enrolled;
use crate::files::{Readers, write_whole};
use crate::leadership::{Leadership, Role};
use crate::metrics::Metrics;
use crate::program::{InCluster, ProgramError};
use crate::refusals::Refusals;
use crate::resource_text::Declared;
use crate::rest::gate::Gate;
use crate::store::Store;
use crate::tokens::{self, Tokens};

/// The token by which any node may enrol, in the data directory, where that is open.
const OPEN_TOKEN_FILE: &str = "enrol-token";
/// Least time between two writes of the plan where several controllers share the store, which keeps a history.
const SHARED_PLAN_PAUSE: Duration = Duration::from_secs(5);
/// Time between two looks of a controller that does not lead at what the authority has become.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(5);

/// What terms need.
pub(crate) struct Terms {
    pub config: Config,
    pub store: Arc<dyn Store>,
    pub metrics: Arc<Metrics>,
    pub authority: Arc<Authority>,
    pub tokens: Arc<Tokens>,
    pub enrolled: Arc<Enrolled>,
    /// Kept by each term.
    pub refusals: Arc<Refusals>,
    pub gate: Arc<Gate>,
    pub control: ControlHandle,
    pub leadership: Leadership,
    /// Followed anew by each term, as is the cluster.
    pub discovery: Discovery,
    pub cluster: InCluster,
    /// Of the configuration's files: applied by the first term of this program.
    pub resources: Mutex<Vec<Declared>>,
}

/// A term that runs. Dropping it cuts everything of it off.
pub(crate) struct Term {
    number: u64,
    drain: Drain,
}

impl Drop for Term {
    fn drop(&mut self) {
        self.drain.abort();
    }
}

impl Terms {
    /// Begins a term; `signal` ends it in order.
    ///
    /// # Errors
    /// The store fails, or what it has cannot be used.
    pub async fn begin(
        &self,
        number: u64,
        signal: &CancellationToken,
    ) -> Result<Term, ProgramError> {
        let term = Term {
            number,
            drain: Drain::new(signal.child_token()),
        };
        let now = SystemTime::now();
        if self.config.store.is_shared() {
            self.authority.reload(now).await?;
            self.tokens.reload().await?;
            self.enrolled.reload().await?;
            self.refusals.reload().await?;
        }
        if let Some(credentials) = self.gate.credentials() {
            credentials.reload().await?;
            credentials.make_first(&self.config.data_dir, now).await?;
        }
        self.open_token(now).await?;
        let resources = std::mem::take(&mut *self.lock_resources());
        let lease = self.leadership.lease(number);
        let beginning = Beginning {
            store: self.store.clone(),
            resources: resources.clone(),
            period: self.config.period(),
            metrics: self.metrics.clone(),
            lease: lease.clone(),
            name: self.config.shared_name(),
        };
        let restored = restore(beginning, &self.control).await;
        if restored.is_err() {
            *self.lock_resources() = resources;
        }
        let (task, plans) = restored?;
        let (signal, metrics) = (term.drain.signal(), self.metrics.clone());
        let pause = match self.config.store.is_shared() {
            true => SHARED_PLAN_PAUSE,
            false => Duration::ZERO,
        };
        let store = self.store.clone();
        term.drain.spawn_essential(task.run(signal.clone()));
        self.cluster
            .follow(&self.config, &self.control, &metrics, &term.drain);
        let (ended, refusals) = (signal.clone(), self.refusals.clone());
        term.drain.spawn(async move { refusals.keep(&ended).await });
        let discovery = self.discovery.clone();
        term.drain.spawn(discovery.run(signal.clone()));
        term.drain
            .spawn(keep_plans(plans, store, metrics.clone(), lease, pause));
        let (signal, keeper) = (signal.clone(), self.authority.clone());
        term.drain
            .spawn(async move { keeper.keep(&metrics.authority, &signal).await });
        Ok(term)
    }

    /// Begins and ends terms until the signal, or until a part of one has failed.
    pub async fn run(
        self,
        mut current: Option<Term>,
        drain_time: Duration,
        signal: CancellationToken,
    ) {
        let mut role = self.leadership.role();
        role.mark_changed();
        loop {
            tokio::select! {
                fine = until_end(&current) => match fine {
                    true => break,
                    false => return,
                },
                () = signal.cancelled() => break,
                changed = role.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(FOLLOW_INTERVAL), if current.is_none() => self.follow().await,
            }
            let now = role.borrow_and_update().clone();
            if let Some(term) = current.take_if(|term| now != Role::Leading(term.number)) {
                term.drain.abort();
                self.end(term, Duration::ZERO).await;
            }
            if let (Role::Leading(number), None) = (now, &current) {
                self.leadership.set_acting(true);
                let begun = tokio::select! {
                    begun = self.begin(number, &signal) => begun,
                    () = signal.cancelled() => break,
                };
                match begun {
                    Ok(term) => current = Some(term),
                    Err(error) => {
                        let error: &(dyn std::error::Error + 'static) = &error;
                        tracing::error!(error, "this controller cannot lead now; another may");
                        self.control.detach();
                        self.leadership.set_acting(false);
                        self.leadership.stand_down();
                    }
                }
            }
        }
        if let Some(term) = current {
            self.end(term, drain_time).await;
        }
        self.leadership.set_acting(false);
    }

    async fn end(&self, term: Term, within: Duration) {
        self.control.detach();
        term.drain.finish(within).await;
        self.leadership.set_acting(false);
    }

    fn lock_resources(&self) -> MutexGuard<'_, Vec<Declared>> {
        self.resources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What a controller that does not lead must know: whom to believe.
    async fn follow(&self) {
        if !self.config.store.is_shared() {
            return;
        }
        if let Err(error) = self.authority.reload(SystemTime::now()).await {
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::warn!(error, "the authority was not read anew");
        }
    }

    /// Makes the token by which any node may enrol, or takes it away, as the configuration says.
    async fn open_token(&self, now: SystemTime) -> Result<(), ProgramError> {
        let path: PathBuf = self.config.data_dir.join(OPEN_TOKEN_FILE);
        let tokens = &self.tokens;
        // Where there are several controllers, the file is with the one that made the token.
        let is_kept = tokens.has(tokens::OPEN) && (path.exists() || self.config.store.is_shared());
        if self.config.enrols_openly() {
            tracing::warn!("every node may enrol that has the token in enrol-token");
            if !is_kept {
                let text = tokens.create_open(&self.authority.pin()?, now).await?;
                write_whole(&path, format!("{text}\n").as_bytes(), Readers::Owner)?;
            }
        } else if tokens.revoke(tokens::OPEN).await? {
            // Of a run before, when it was open; there may be none.
            let _ = std::fs::remove_file(&path);
        }
        Ok(())
    }
}

/// Waits for the term's signal, or a part of it that fails: `false`. For ever without one.
async fn until_end(term: &Option<Term>) -> bool {
    match term {
        Some(term) => term.drain.until_signal_or_failure().await,
        None => std::future::pending().await,
    }
}
