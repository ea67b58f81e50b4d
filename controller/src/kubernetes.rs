//! Kubernetes: where nodes, services, policies and routes of a cluster come from. The only place that knows it.
//!
//! ```text
//! API server ─▶ watch.rs ─▶ cluster.rs ─▶ declare.rs (nodes.rs, services.rs, routes.rs) ─▶ source.rs ─▶ control task
//!      ▲                                                   │ verdicts, complaints
//!      └────────────────── tell.rs ◀── status.rs ◀─────────┘
//! ```
//!
//! In reading order: [`cluster`] what was seen; [`declare`] what it means; [`status`] what is said of it; [`source`] the task around them.
//! These first three are pure.
//!
//! **Invariant**: a cluster whose API is gone, for an hour or over the controller's own restart, changes nothing in the mesh.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

pub mod cluster;
pub mod declare;
mod nodes;
pub mod reviews;
mod routes;
mod services;
pub mod source;
pub mod status;
mod tell;
mod watch;

pub use nodes::{LATITUDE, LONGITUDE, SITE};
pub use services::{CAPACITY, HOSTS, MESH, PORT, WORKERS};

use crate::config::KubernetesConfig;
use crate::control_task::ControlHandle;
use crate::metrics::Metrics;
use crate::rest::gate::Reviews;
use reviews::KubernetesReviews;
use source::Source;
use watch::SitesMap;

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

/// Reads where the API is. Nothing is asked of it yet: it may be away.
///
/// # Errors
/// See [`KubernetesError`].
pub async fn connect(
    config: &KubernetesConfig,
    control: ControlHandle,
    data_dir: &Path,
    metrics: Arc<Metrics>,
) -> Result<Source, KubernetesError> {
    let found = read(config).await?;
    let namespace = config.namespace.clone();
    let sites = SitesMap {
        namespace: namespace.unwrap_or_else(|| found.default_namespace.clone()),
        name: config.sites_config_map.clone(),
    };
    let data_dir = config.publish_enrolment.then(|| data_dir.to_owned());
    Ok(Source::new(
        client(found)?,
        sites,
        data_dir,
        control,
        metrics,
    ))
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
    let reviews = KubernetesReviews::new(client(read(config).await?)?);
    Ok(Some(Arc::new(reviews)))
}

fn client(found: kube::Config) -> Result<Client, KubernetesError> {
    Client::try_from(found).map_err(|source| KubernetesError::Client(Box::new(source)))
}

/// Where the API is, and who asks.
async fn read(config: &KubernetesConfig) -> Result<kube::Config, KubernetesError> {
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
    Ok(found)
}
