//! Kubernetes: where nodes, services, policies and routes of a cluster come from. The only place that knows it.
//!
//! ```text
//! API server ─▶ watch.rs ─▶ cluster.rs ─▶ declare.rs (nodes.rs, services.rs, routes.rs) ─▶ source.rs ─▶ control task
//!      ▲                                                   │ verdicts, complaints
//!      └────────────────── tell.rs ◀── status.rs ◀─────────┘
//! ```
//!
//! In reading order: [`cluster`] what was seen; [`declare`] what it means; [`status`] what is said of it; [`source`] the task around them.
//! These first three are pure. Beside them: `port.rs`, what the API server calls (the webhook for [`crate::injection`], [`load`] for
//! autoscalers, callers by `callers.rs`); `bundles.rs`, by whom it knows us; [`election`] and [`lease`], who leads; `remote.rs`, other
//! clusters of the mesh; `notices.rs`, what an operator must see of it.
//!
//! **Invariant**: a cluster whose API is gone, for an hour or over the controller's own restart, changes nothing in the mesh.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::net::TcpListener;

mod bundles;
mod callers;
pub mod cluster;
pub mod declare;
pub mod election;
mod gateways;
pub mod lease;
pub mod load;
mod nodes;
mod notices;
mod port;
mod remote;
pub mod reviews;
mod routes;
mod services;
pub mod source;
pub mod status;
mod tell;
mod watch;

pub use gateways::INGRESS_PORT;
pub use nodes::{LATITUDE, LONGITUDE, SITE};
pub use remote::REMOTE;
pub use services::{CAPACITY, HOSTS, MESH, PORT, WORKERS};

use crate::authority::Authority;
use crate::config::KubernetesConfig;
use crate::control_task::ControlHandle;
use crate::drain::Drain;
use crate::injection::Injection;
use crate::metrics::Metrics;
use crate::rest::gate::Reviews;
use crate::stream::Accounts;
use crate::tls::{OwnCertificate, TlsError};
use callers::Callers;
use lease::Contender;
use port::Port;
use reviews::KubernetesReviews;
use source::Source;
use watch::SitesMap;

/// Which image of the proxy is added to pods, when the configuration does not say.
const PROXY_IMAGE_VARIABLE: &str = "ISOBAR_PROXY_IMAGE";

/// Why a cluster cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// The kubeconfig.
    #[error("the kubeconfig {} is not usable", .path.display())]
    Kubeconfig {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// There is none, and this is no pod.
    #[error("this is not a pod with a service account, and kubernetes.kubeconfig names no file")]
    NotInCluster(#[source] Box<kube::config::InClusterError>),
    /// The client cannot be made.
    #[error("no client for the Kubernetes API")]
    Client(#[source] Box<kube::Error>),
}

/// A cluster whose API is known; nothing was asked of it yet: it may be away.
pub struct Joined {
    client: Client,
    /// The controller's own.
    namespace: String,
    config: KubernetesConfig,
}

/// What the port for the API server needs beside the cluster.
pub struct PortParts {
    /// Its certificate is made for the names that this one has.
    pub own: Arc<OwnCertificate>,
    /// Signs certificates.
    pub authority: Arc<Authority>,
    /// The task that owns the control loop.
    pub control: ControlHandle,
    /// How a proxy in a pod reaches the stream port.
    pub stream: String,
}

/// Reads where the API is.
///
/// # Errors
/// See [`KubernetesError`].
pub async fn join(config: &KubernetesConfig) -> Result<Joined, KubernetesError> {
    let found = match &config.kubeconfig {
        Some(path) => {
            let failed = |source| KubernetesError::Kubeconfig {
                path: path.clone(),
                source: Box::new(source),
            };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            let options = KubeConfigOptions::default();
            let found = kube::Config::from_custom_kubeconfig(file, &options).await;
            found.map_err(failed)?
        }
        None => kube::Config::incluster()
            .map_err(|source| KubernetesError::NotInCluster(Box::new(source)))?,
    };
    let namespace = config.namespace.clone();
    let namespace = namespace.unwrap_or_else(|| found.default_namespace.clone());
    let client =
        Client::try_from(found).map_err(|source| KubernetesError::Client(Box::new(source)))?;
    Ok(Joined {
        client,
        namespace,
        config: config.clone(),
    })
}

impl Joined {
    /// What follows the cluster.
    pub fn source(&self, control: ControlHandle, data_dir: &Path, metrics: Arc<Metrics>) -> Source {
        let sites = SitesMap {
            namespace: self.namespace.clone(),
            name: self.config.sites_config_map.clone(),
        };
        let data_dir = self.config.publish_enrolment.then(|| data_dir.to_owned());
        Source::new(self.client.clone(), sites, data_dir, control, metrics)
    }

    /// Contends for the Lease, if it is told to. Its name among contenders is its pod's.
    pub fn contender(&self) -> Option<Contender> {
        self.config.lease.then(|| {
            let pod = std::env::var("HOSTNAME").unwrap_or_default();
            // Two processes of one machine are two contenders.
            let me = format!("{pod}_{}_{:08x}", std::process::id(), rand_id());
            let lasts = Duration::from_secs(self.config.lease_s);
            Contender::new(
                self.client.clone(),
                &self.namespace,
                lease::LEASE,
                &me,
                lasts,
            )
        })
    }

    /// Serves what the API server calls, and keeps it known there. Returns who vouches for pods' accounts.
    ///
    /// # Errors
    /// The certificate does not suit TLS.
    pub fn serve(
        &self,
        listener: Option<TcpListener>,
        parts: PortParts,
        drain: &Drain,
    ) -> Result<Arc<dyn Accounts>, TlsError> {
        let callers = Arc::new(Callers::new(self.client.clone()));
        let Some(listener) = listener else {
            return Ok(callers);
        };
        let image = self.config.proxy_image.clone();
        let image = image.or_else(|| std::env::var(PROXY_IMAGE_VARIABLE).ok());
        let controller = self.config.proxy_controller.clone();
        let injection = image
            .filter(|image| !image.is_empty())
            .map(|image| Injection {
                image,
                controller: controller.unwrap_or(parts.stream),
                roots_pem: None,
            });
        let port = Port {
            acceptor: port::acceptor(parts.own)?,
            authority: parts.authority.clone(),
            control: parts.control,
            callers: callers.clone(),
            injection,
            reviews: port::reviews(),
            drain: drain.clone(),
        };
        drain.spawn_essential(port.serve(listener));
        let signal = drain.signal().clone();
        drain.spawn(bundles::keep(
            self.client.clone(),
            parts.authority,
            signal.clone(),
        ));
        let front = callers.clone();
        drain.spawn(async move { front.keep(&signal).await });
        Ok(callers)
    }
}

/// Who asks the cluster about tokens of operators, if the configuration says so.
///
/// # Errors
/// See [`KubernetesError`].
pub async fn reviews(
    config: &KubernetesConfig,
) -> Result<Option<Arc<dyn Reviews>>, KubernetesError> {
    if !config.operators {
        return Ok(None);
    }
    let joined = join(config).await?;
    Ok(Some(Arc::new(KubernetesReviews::new(joined.client))))
}

/// How a remote cluster is reached. Its kubeconfig has all it needs in itself.
async fn client_of(kubeconfig: &[u8]) -> Result<Client, KubernetesError> {
    let path = || PathBuf::from("of a remote cluster");
    let failed = |source| KubernetesError::Kubeconfig {
        path: path(),
        source: Box::new(source),
    };
    let read = Kubeconfig::from_yaml(&String::from_utf8_lossy(kubeconfig)).map_err(failed)?;
    let options = KubeConfigOptions::default();
    let found = kube::Config::from_custom_kubeconfig(read, &options).await;
    let found = found.map_err(failed)?;
    Client::try_from(found).map_err(|source| KubernetesError::Client(Box::new(source)))
}

fn rand_id() -> u32 {
    crate::authority::random().map_or(0, u32::from_ne_bytes)
}
