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
use futures_util::stream::{SelectAll, select_all};
use kube::Client;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::cluster::{Cluster, Watched};
use super::declare::{Complaint, Declaration};
use super::notices::Notices;
use super::remote;
use super::tell::{Enrolment, Teller};
use super::watch::{Heard, SitesMap, Watch, watch_all};
use crate::control_task::{Change, ControlError, ControlHandle};
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::resource_text::{Declared, Key, Kind, SOURCE_CLUSTER};

/// Files of the data directory that proxies enrol with.
const CA_FILE: &str = "ca.pem";
/// See [`CA_FILE`].
const TOKEN_FILE: &str = "enrol-token";
/// Changes are gathered for so long before they are taken up, so that a burst is one round.
const SETTLE: Duration = Duration::from_millis(100);
/// When the API server did not take a status, or the mesh a resource, another round follows after this.
const AGAIN: Duration = Duration::from_secs(5);

/// How often the mesh is looked at for what an operator must see.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Another cluster of the mesh.
struct Remote {
    /// How it is reached, as it was written.
    kubeconfig: Vec<u8>,
    cluster: Cluster,
    /// Ends its watches.
    _watches: DropGuard,
}

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
    told: Ledger,
    /// Complaints that were made.
    made: BTreeSet<Complaint>,
    teller: Teller,
    cluster: Cluster,
    remotes: BTreeMap<String, Remote>,
    notices: Notices,
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
            cluster: Cluster::new(&sites.namespace),
            client,
            sites,
            data_dir,
            published: None,
            told: Ledger::new(control.clone(), SOURCE_CLUSTER),
            control,
            metrics,
            made: BTreeSet::new(),
            remotes: BTreeMap::new(),
            notices: Notices::default(),
        }
    }

    /// Follows the cluster until the signal, or until the control task has ended.
    pub async fn run(mut self, signal: CancellationToken) {
        if self.told.take_over().await.is_err() {
            return;
        }
        let all = watch_all(&self.client, &self.sites, "", &Watched::ALL, &signal);
        let mut watches = select_all(all);
        let mut due: Option<Instant> = None;
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        loop {
            let round = tokio::time::sleep_until(due.unwrap_or_else(Instant::now));
            tokio::select! {
                () = signal.cancelled() => return,
                _ = looks.tick() => self.look().await,
                heard = watches.next() => {
                    let Some(heard) = heard else { return };
                    if self.hear(heard) {
                        let at = Instant::now() + SETTLE;
                        due = Some(due.map_or(at, |due| due.min(at)));
                    }
                }
                () = round, if due.is_some() => {
                    due = match self.round(&mut watches).await {
                        Ok(true) => None,
                        Ok(false) => Some(Instant::now() + AGAIN),
                        Err(_) => return,
                    };
                }
            }
        }
    }

    /// Takes up what a watch says. Returns whether anything is different.
    fn hear(&mut self, (name, kind, heard): Heard) -> bool {
        let cluster = match &*name {
            "" => &mut self.cluster,
            name => match self.remotes.get_mut(name) {
                Some(remote) => &mut remote.cluster,
                // It was taken away while this was on its way.
                None => return false,
            },
        };
        match heard {
            Ok(change) => cluster.take(kind, change),
            Err(error) => {
                self.metrics.watch_failed(kind.api().plural);
                tracing::warn!(
                    cluster = &*name,
                    kind = kind.api().kind,
                    error = &error as &dyn std::error::Error,
                    "a watch of the Kubernetes API failed; what is known stays in force"
                );
                false
            }
        }
    }

    /// Tells of what has begun in the mesh itself.
    async fn look(&mut self) {
        if let Ok(view) = self.control.view().await {
            let begun = self.notices.on_view(&view, &self.cluster);
            for one in &begun {
                tracing::warn!(kind = one.kind.api().kind, name = %one.name, reason = one.reason, "{}", one.message);
            }
            self.teller.complain(&begun).await;
        }
    }

    /// Follows the other clusters that there are now, and adds what they say.
    async fn add_remotes(&mut self, declaration: &mut Declaration, watches: &mut SelectAll<Watch>) {
        let wanted = remote::kubeconfigs(&self.cluster, declaration);
        let secrets = self.cluster.all(Watched::RemoteCluster);
        let named: BTreeSet<String> = secrets
            .filter_map(|s| s.labels.get(remote::REMOTE).cloned())
            .collect();
        let is_known = self.cluster.is_whole(&[Watched::RemoteCluster]);
        if is_known {
            self.remotes.retain(|name, _| named.contains(name));
        }
        for (name, kubeconfig) in wanted {
            let had = self.remotes.get(&name);
            if had.is_some_and(|remote| remote.kubeconfig == kubeconfig) {
                continue;
            }
            let client = match super::client_of(&kubeconfig).await {
                Ok(client) => client,
                Err(error) => {
                    tracing::warn!(cluster = name, %error, "a remote cluster's kubeconfig is not usable; what is known of it stays in force");
                    continue;
                }
            };
            let signal = CancellationToken::new();
            watches.extend(watch_all(
                &client,
                &self.sites,
                &name,
                &remote::KINDS,
                &signal,
            ));
            // What was seen stays until it is listed anew: another way to it makes it no other cluster.
            let cluster = self
                .remotes
                .remove(&name)
                .map_or_else(Cluster::default, |had| had.cluster);
            let followed = Remote {
                kubeconfig,
                cluster,
                _watches: signal.drop_guard(),
            };
            self.remotes.insert(name, followed);
        }
        let is_whole = |name: &String| {
            let remote = self.remotes.get(name);
            remote.is_some_and(|remote| remote.cluster.is_whole(&remote::KINDS))
        };
        for (name, followed) in self.remotes.iter().filter(|(name, _)| is_whole(name)) {
            remote::add(declaration, name, &followed.cluster);
        }
        let told = remote::told_of(self.told.all());
        let absent = told
            .iter()
            .filter(|name| !is_whole(name) && (named.contains(*name) || !is_known));
        absent.for_each(|name| remote::carry(declaration, name, self.told.all()));
    }

    /// Brings mesh and statuses in step with what was seen. Returns whether all was taken.
    async fn round(&mut self, watches: &mut SelectAll<Watch>) -> Result<bool, ControlError> {
        let mut declaration = Declaration::of(&self.cluster);
        self.add_remotes(&mut declaration, watches).await;
        let mut all_taken = self.tell_mesh(&declaration).await?;
        // A list that is half read says nothing of what is missing.
        let is_whole = |kind: Watched| self.cluster.is_whole(looked_at(kind));
        declaration.verdicts.retain(|said| is_whole(said.kind));
        declaration.complaints.retain(|said| is_whole(said.kind));
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
            .set_kubernetes(self.told.all().len(), refused.count(), self.made.len());
        Ok(all_taken)
    }

    /// Brings what proxies need to enrol up to date in the cluster. Returns whether it is.
    async fn publish(&mut self) -> bool {
        let Some(data_dir) = &self.data_dir else {
            return true;
        };
        let read = |name: &str| std::fs::read_to_string(data_dir.join(name));
        let Ok(roots) = read(CA_FILE) else {
            tracing::error!("the roots in the data directory cannot be read");
            return false;
        };
        let token = read(TOKEN_FILE).ok();
        let enrolment = Enrolment { roots, token };
        if self.published.as_ref() != Some(&enrolment) {
            if enrolment.token.is_none() {
                tracing::info!(
                    "the token that proxies enrol with is with the controller that made it; the Secret isobar-enrolment stays as it is"
                );
            }
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
            self.told.all().get(*key) != Some(*declared) && self.cluster.is_whole(sources(key.kind))
        };
        let news = declaration.resources.iter().filter(is_news);
        let mut changes: Vec<Change> = news.map(|(_, new)| Change::Put(new.clone())).collect();
        let is_gone = |key: &&Key| {
            let (declared, held) = (&declaration.resources, &declaration.held);
            !declared.contains_key(*key) && !held.contains(*key) && self.is_known(key.kind)
        };
        let gone = self.told.all().keys().filter(is_gone);
        changes.extend(gone.map(|key| Change::Delete(key.clone())));
        self.told.tell(&changes).await
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
const SOURCES: [(Kind, &[Watched]); 8] = [
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
    (Kind::AccessPolicy, &[Watched::AccessPolicy]),
    (Kind::HttpRoute, &OF_ROUTES[0]),
    (Kind::GrpcRoute, &OF_ROUTES[1]),
    (Kind::TcpRoute, &OF_ROUTES[2]),
];

/// What is looked at for what is said of an object, of all that is watched.
fn looked_at(kind: Watched) -> &'static [Watched] {
    match kind {
        Watched::Node | Watched::MeshNode => sources(Kind::Node),
        Watched::Service => &[
            Watched::Service,
            Watched::EndpointSlice,
            Watched::Namespace,
            Watched::Node,
        ],
        Watched::HttpRoute | Watched::GrpcRoute | Watched::TcpRoute | Watched::Gateway => {
            &OF_GATEWAYS
        }
        // What stands for itself is seen when it is said of.
        _ => &[],
    }
}

/// A route's status names services that are missing, and a gateway's counts its routes.
const OF_GATEWAYS: [Watched; 10] = [
    Watched::HttpRoute,
    Watched::GrpcRoute,
    Watched::TcpRoute,
    Watched::GatewayClass,
    Watched::Gateway,
    Watched::ReferenceGrant,
    Watched::Namespace,
    Watched::Service,
    Watched::EndpointSlice,
    Watched::Node,
];

/// What routes are made of: a class that is not listed yet could hide whose gateway a parent is, a grant that a backend is allowed.
const OF_ROUTES: [[Watched; 5]; 3] = [
    of_routes(Watched::HttpRoute),
    of_routes(Watched::GrpcRoute),
    of_routes(Watched::TcpRoute),
];

const fn of_routes(kind: Watched) -> [Watched; 5] {
    [
        kind,
        Watched::Service,
        Watched::GatewayClass,
        Watched::Gateway,
        Watched::ReferenceGrant,
    ]
}
