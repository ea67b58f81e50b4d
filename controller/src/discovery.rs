//! Discovery without Kubernetes: files, DNS and Consul as sources of resources and endpoints.
//!
//! ```text
//! files.rs ───────────────────────────▶ follow.rs ─▶ control task: resources put and deleted
//! dns.rs, consul.rs ─▶ book.rs ─▶ merge.rs ─▶ here ─▶ control task: endpoints registered under a lease
//! ```
//!
//! Who decides, where several sources speak of one thing: a resource belongs to whoever declared it first, an operator or a cluster,
//! then to the files; an endpoint that a `Service` lists, or that registers itself, is as it says; then come DNS and Consul, in the
//! order of the configuration.
//!
//! **Invariant**: silence erases nothing at once. What a source said stays for [`DiscoveryConfig::keep_s`] after it last answered,
//! also over a restart of the controller; what it says is gone is gone with its next answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use isobar_mesh_api::names::NodeId;
use isobar_mesh_api::resource::Resource;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::DiscoveryConfig;
use crate::control_task::{Asked, CHANGES_MAX, Change, ControlError, ControlHandle};
use crate::metrics::Metrics;
use crate::resource_text::{Key, Kind, SOURCE_DISCOVERY};

mod book;
mod consul;
mod dns;
mod files;
mod follow;
mod merge;

use book::Book;
use follow::Follower;
use merge::{LEASE_S, Merged, Nodes, Said, merge, wanted};

/// Answers of sources that wait for the next round.
const HEARD_MAX: usize = 64;
/// Endpoints' leases are looked after this often, and silent sources too.
const ROUND: Duration = Duration::from_secs(LEASE_S / 4);
/// Answers are gathered for so long before they are taken up.
const SETTLE: Duration = Duration::from_millis(100);

/// What a source heard, or why it heard nothing.
struct Heard {
    /// Which source: `dns:cart.internal`.
    source: String,
    said: Result<Vec<Said>, String>,
}

/// The sources of the configuration and the mesh that follows them.
#[derive(Clone)]
pub struct Discovery {
    /// What may change while the program runs.
    pub config: watch::Receiver<DiscoveryConfig>,
    /// The mesh.
    pub control: ControlHandle,
    /// For counts.
    pub metrics: Arc<Metrics>,
}

impl Discovery {
    /// Follows the sources until the signal, or until the control task has ended.
    pub async fn run(self, signal: CancellationToken) {
        let mut book = Book::default();
        let mut changes = self.config.clone();
        loop {
            let config = self.config.borrow().clone();
            // Dropped with everything in it when the configuration changes.
            let follow = self.follow(&config, &mut book);
            tokio::select! {
                () = signal.cancelled() => return,
                ended = follow => {
                    if ended.is_err() {
                        return;
                    }
                }
                is_new = async { changes.wait_for(|new| *new != config).await.is_ok() } => {
                    if !is_new {
                        signal.cancelled().await;
                        return;
                    }
                    tracing::info!("discovery begins anew with the changed configuration");
                }
            }
        }
    }

    /// One configuration's sources, until the control task has ended.
    async fn follow(&self, config: &DiscoveryConfig, book: &mut Book) -> Result<(), ControlError> {
        let (sender, mut heard) = mpsc::channel(HEARD_MAX);
        let mut sources = JoinSet::new();
        let names = self.start(config, &sender, &mut sources);
        // Held, so that without any source nothing is heard instead of an end.
        let _sender = sender;
        let keep = Duration::from_secs(config.keep_s);
        book.begin(&names, &self.control.endpoints(None).await?, Instant::now());
        let mut files = self.files(config.files.clone()).await?;
        let mut due = Instant::now() + SETTLE;
        loop {
            tokio::select! {
                Some(Heard { source, said }) = heard.recv() => {
                    match said {
                        Ok(said) => {
                            self.metrics.discovered(&source, true);
                            if book.said(&source, said, Instant::now()) {
                                due = due.min(Instant::now() + SETTLE);
                            }
                        }
                        Err(why) => {
                            self.metrics.discovered(&source, false);
                            tracing::warn!(source, why, "a source does not answer; what it said last stays in force");
                        }
                    }
                }
                () = files.changed() => {
                    if let Some(is_good) = files.take_up().await? {
                        self.metrics.discovered("files", is_good);
                    }
                }
                () = tokio::time::sleep_until(due) => {
                    book.forget(keep, Instant::now());
                    self.round(config, book).await?;
                    due = Instant::now() + ROUND;
                }
            }
        }
    }

    /// Starts the sources that are asked over the network. Returns their names.
    fn start(
        &self,
        config: &DiscoveryConfig,
        heard: &mpsc::Sender<Heard>,
        sources: &mut JoinSet<()>,
    ) -> Vec<String> {
        let mut names = Vec::new();
        for dns in &config.dns {
            names.push(dns::name(dns));
            sources.spawn(dns::follow(dns.clone(), heard.clone()));
        }
        for consul in &config.consul {
            names.push(consul::name(consul));
            sources.spawn(consul::follow(consul.clone(), heard.clone()));
        }
        names
    }

    async fn files(&self, directory: Option<PathBuf>) -> Result<files::Files, ControlError> {
        let follower = Follower::new(self.control.clone(), crate::resource_text::SOURCE_FILES);
        files::Files::open(directory, follower).await
    }

    /// Brings the mesh in step with what the sources said.
    async fn round(&self, config: &DiscoveryConfig, book: &Book) -> Result<(), ControlError> {
        let known = self.nodes().await?;
        let nodes = Nodes {
            ranges: &config.nodes,
            known: &known,
        };
        let merged = merge(book.all(), &nodes);
        self.metrics
            .set_discovered(merged.endpoints.len(), merged.homeless);
        let registered = self.control.endpoints(None).await?;
        let changes = wanted(&merged.endpoints, book.adopted(), &registered);
        self.register(&changes).await?;
        if book.is_settled() {
            self.declare(&merged).await?;
        }
        Ok(())
    }

    async fn register(&self, changes: &[Change]) -> Result<(), ControlError> {
        for batch in changes.chunks(CHANGES_MAX) {
            let asked = Asked {
                changes: batch.to_vec(),
                who: SOURCE_DISCOVERY.to_owned(),
                ..Asked::default()
            };
            match self.control.change(asked).await {
                Ok(_) => {}
                Err(ControlError::Stopping) => return Err(ControlError::Stopping),
                Err(error) => {
                    tracing::warn!(%error, endpoints = batch.len(), "the mesh does not take what was discovered");
                }
            }
        }
        Ok(())
    }

    /// Services that have host names here and are declared nowhere else.
    async fn declare(&self, merged: &Merged) -> Result<(), ControlError> {
        let mut follower = Follower::new(self.control.clone(), SOURCE_DISCOVERY);
        follower.take_over().await?;
        follower
            .bring_in_step(&merged.services(), &Default::default())
            .await
    }

    /// Where the mesh's nodes are: the hosts of their mesh addresses.
    async fn nodes(&self) -> Result<BTreeMap<NodeId, String>, ControlError> {
        let page = self.control.list(Kind::Node, None, usize::MAX).await?;
        let nodes = page
            .items
            .iter()
            .filter_map(|shown| match &*shown.resource {
                Resource::Node { metadata, spec } => {
                    let address = spec.mesh_address.clone().unwrap_or_default();
                    Some((NodeId::new(&metadata.name).ok()?, address))
                }
                _ => None,
            });
        Ok(nodes.collect())
    }
}

/// What a resource is kept under, for those who compare.
fn key(kind: Kind, name: &str) -> Key {
    Key {
        kind,
        name: name.to_owned(),
    }
}
