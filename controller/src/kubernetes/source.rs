//! The task that keeps the mesh in step with a cluster, on one screen: see [`Source::run`].
//!
//! ```text
//! watches ─▶ Cluster (what was seen) ─▶ settle ─▶ Declaration (pure) ─┬─▶ control task: put what differs, delete what is gone
//!                                                                     └─▶ API server: statuses, events
//! ```
//!
//! **Invariant**: each round computes the whole from the whole. What the mesh was told is compared with, never added to; what was stored
//! by a controller before this one is taken over by its label.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kube::Client;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cluster::{Cluster, Watched};
use super::declare::{Complaint, Declaration};
use super::tell::{Enrolment, Teller};
use super::watch::{SitesMap, watch_all};
use crate::control_task::{Asked, CHANGES_MAX, Change, ControlError, ControlHandle, Expect};
use crate::metrics::Metrics;
use crate::resource_text::{Declared, Key, Kind, SOURCE_CLUSTER, declare, is_of_cluster};

/// Files of the data directory that proxies enrol with.
const CA_FILE: &str = "ca.pem";
/// See [`CA_FILE`].
const TOKEN_FILE: &str = "enrol-token";
/// Changes are gathered for so long before they are taken up, so that a burst is one round.
const SETTLE: Duration = Duration::from_millis(100);
/// When the API server did not take a status, or the mesh a resource, another round follows after this.
const AGAIN: Duration = Duration::from_secs(5);

/// A cluster and the mesh that follows it.
pub struct Source {
    client: Client,
    sites: SitesMap,
    /// Where roots and token lie, if the cluster is to have them.
    data_dir: Option<PathBuf>,
    /// What it has of them.
    published: Option<Enrolment>,
    control: ControlHandle,
    metrics: Arc<Metrics>,
    /// What the mesh was told.
    told: BTreeMap<Key, Declared>,
    /// Complaints that were made.
    made: BTreeSet<Complaint>,
    teller: Teller,
    cluster: Cluster,
}

impl Source {
    pub(super) fn new(
        client: Client,
        sites: SitesMap,
        data_dir: Option<PathBuf>,
        control: ControlHandle,
        metrics: Arc<Metrics>,
    ) -> Source {
        Source {
            teller: Teller::new(client.clone()),
            client,
            sites,
            data_dir,
            published: None,
            control,
            metrics,
            told: BTreeMap::new(),
            made: BTreeSet::new(),
            cluster: Cluster::default(),
        }
    }

    /// Follows the cluster until the signal, or until the control task has ended.
    pub async fn run(mut self, signal: CancellationToken) {
        if self.take_over().await.is_err() {
            return;
        }
        let mut watches = watch_all(&self.client, &self.sites);
        let mut due: Option<Instant> = None;
        loop {
            let round = tokio::time::sleep_until(due.unwrap_or_else(Instant::now));
            tokio::select! {
                () = signal.cancelled() => return,
                heard = watches.next() => {
                    let Some((kind, heard)) = heard else { return };
                    match heard {
                        Ok(change) => {
                            if self.cluster.take(kind, change) {
                                let at = Instant::now() + SETTLE;
                                due = Some(due.map_or(at, |due| due.min(at)));
                            }
                        }
                        Err(error) => {
                            self.metrics.watch_failed(kind.api().plural);
                            tracing::warn!(
                                kind = kind.api().kind,
                                error = &error as &dyn std::error::Error,
                                "a watch of the Kubernetes API failed; what is known stays in force"
                            );
                        }
                    }
                }
                () = round, if due.is_some() => {
                    due = match self.round().await {
                        Ok(true) => None,
                        Ok(false) => Some(Instant::now() + AGAIN),
                        Err(_) => return,
                    };
                }
            }
        }
    }

    /// What a controller before this one stored of a cluster.
    async fn take_over(&mut self) -> Result<(), ControlError> {
        for kind in Kind::ALL {
            for shown in self.control.list(kind, None, usize::MAX).await?.items {
                if is_of_cluster(&shown.resource)
                    && let Ok(declared) = declare((*shown.resource).clone())
                {
                    self.told.insert(declared.key.clone(), declared);
                }
            }
        }
        Ok(())
    }

    /// Brings mesh and statuses in step with what was seen. Returns whether all was taken.
    async fn round(&mut self) -> Result<bool, ControlError> {
        let declaration = Declaration::of(&self.cluster);
        let mut all_taken = self.tell_mesh(&declaration).await?;
        let complaints: BTreeSet<Complaint> = declaration.complaints.into_iter().collect();
        for new in complaints.difference(&self.made) {
            tracing::warn!(kind = new.kind.api().kind, name = %new.name, reason = new.reason, "{}", new.message);
        }
        let new: Vec<Complaint> = complaints.difference(&self.made).cloned().collect();
        self.teller.complain(&new).await;
        self.made = complaints;
        let now = k8s_openapi::jiff::Timestamp::now().as_second();
        let now = k8s_openapi::jiff::Timestamp::from_second(now).unwrap_or_default();
        all_taken &= self
            .teller
            .judge(&self.cluster, &declaration.verdicts, &now.to_string())
            .await;
        all_taken &= self.publish().await;
        let refused = declaration.verdicts.iter().filter(|v| v.accepted.is_err());
        self.metrics
            .set_kubernetes(self.told.len(), refused.count(), self.made.len());
        Ok(all_taken)
    }

    /// Brings what proxies need to enrol up to date in the cluster. Returns whether it is.
    async fn publish(&mut self) -> bool {
        let Some(data_dir) = &self.data_dir else {
            return true;
        };
        let read = |name: &str| std::fs::read_to_string(data_dir.join(name));
        let (Ok(roots), Ok(token)) = (read(CA_FILE), read(TOKEN_FILE)) else {
            tracing::error!("roots and token of the data directory cannot be read");
            return false;
        };
        let enrolment = Enrolment { roots, token };
        if self.published.as_ref() != Some(&enrolment) {
            if !self.teller.publish(&self.sites.namespace, &enrolment).await {
                return false;
            }
            self.published = Some(enrolment);
        }
        true
    }

    /// Puts what differs from what the mesh was told, deletes what is gone.
    async fn tell_mesh(&mut self, declaration: &Declaration) -> Result<bool, ControlError> {
        let is_news = |(key, declared): &(&Key, &Declared)| {
            self.told.get(*key) != Some(*declared) && self.cluster.is_whole(sources(key.kind))
        };
        let news = declaration.resources.iter().filter(is_news);
        let mut changes: Vec<Change> = news.map(|(_, new)| Change::Put(new.clone())).collect();
        let is_gone = |key: &&Key| {
            let (declared, held) = (&declaration.resources, &declaration.held);
            !declared.contains_key(*key) && !held.contains(*key) && self.is_known(key.kind)
        };
        let gone = self.told.keys().filter(is_gone);
        changes.extend(gone.map(|key| Change::Delete(key.clone())));
        let mut all_taken = true;
        for batch in changes.chunks(CHANGES_MAX) {
            match self.change(batch).await {
                Ok(()) => {}
                Err(ControlError::Stopping) => return Err(ControlError::Stopping),
                // One that does not fit keeps out the others of its batch.
                Err(_) => {
                    for one in batch.chunks(1) {
                        match self.change(one).await {
                            Ok(()) => {}
                            Err(ControlError::Stopping) => return Err(ControlError::Stopping),
                            Err(error) => {
                                all_taken = false;
                                let about = one[0].target();
                                tracing::warn!(%about, %error, "the mesh does not take a resource of the cluster");
                            }
                        }
                    }
                }
            }
        }
        Ok(all_taken)
    }

    /// Their way to the disk is the store's; a failure there is logged and counted there.
    async fn change(&mut self, changes: &[Change]) -> Result<(), ControlError> {
        let asked = Asked {
            changes: changes.to_vec(),
            expect: Expect::Anything,
            prune: false,
            who: SOURCE_CLUSTER.to_owned(),
        };
        self.control.change(asked).await?;
        for change in changes {
            match change {
                Change::Put(declared) => {
                    let key = declared.key.clone();
                    self.told.insert(key, declared.clone());
                }
                Change::Delete(key) => drop(self.told.remove(key)),
                // Endpoints that register themselves are none of the cluster's.
                Change::Register(_) | Change::Deregister(_) => {}
            }
        }
        Ok(())
    }

    /// Whether the cluster said what there is of a kind, so that the rest is gone.
    fn is_known(&self, kind: Kind) -> bool {
        let sources = sources(kind);
        let first = sources
            .first()
            .is_some_and(|of| self.cluster.is_known(&[*of]));
        first && self.cluster.is_whole(sources)
    }
}

/// The objects that a kind is made of; the first is what it is made for. None for a kind that no cluster is the source of.
fn sources(kind: Kind) -> &'static [Watched] {
    let found = SOURCES.iter().find(|(of, _)| *of == kind);
    found.map_or(&[], |(_, watched)| watched)
}

/// See [`sources`].
const SOURCES: [(Kind, &[Watched]); 6] = [
    (
        Kind::Node,
        &[Watched::Node, Watched::MeshNode, Watched::Sites],
    ),
    (
        Kind::Service,
        &[Watched::Service, Watched::EndpointSlice, Watched::Namespace],
    ),
    (Kind::WeightPolicy, &[Watched::WeightPolicy]),
    (Kind::TrafficPolicy, &[Watched::TrafficPolicy]),
    (Kind::HttpRoute, &[Watched::HttpRoute, Watched::Service]),
    (Kind::GrpcRoute, &[Watched::GrpcRoute, Watched::Service]),
];
