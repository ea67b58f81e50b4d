//! What a cluster adds to a controller: where resources come from, the port that the API server calls, who leads.
//!
//! Built without Kubernetes there is nothing here but the same names; the configuration's check refuses a cluster then.

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[cfg(feature = "kubernetes")]
use super::certificate_names;
use super::ports::listen;
#[cfg(feature = "kubernetes")]
use super::ports::local_address;
use super::{Program, ProgramError};
use crate::authority::Authority;
use crate::config::Config;
use crate::control_task::ControlHandle;
use crate::drain::Drain;
use crate::metrics::Metrics;
use crate::stream::Accounts;

/// The cluster of the configuration, if there is one.
pub(crate) struct InCluster {
    #[cfg(feature = "kubernetes")]
    joined: Option<crate::kubernetes::Joined>,
}

/// The port that the API server calls, if there is one.
#[derive(Default)]
pub(super) struct ClusterPort {
    listener: Option<TcpListener>,
    /// Where it is.
    pub address: Option<SocketAddr>,
}

#[cfg(feature = "kubernetes")]
impl InCluster {
    /// Reads where the cluster is.
    pub async fn join(config: &Config) -> Result<InCluster, ProgramError> {
        let joined = match &config.kubernetes {
            Some(cluster) => Some(crate::kubernetes::join(cluster).await?),
            None => None,
        };
        Ok(InCluster { joined })
    }

    /// Takes the port that the cluster calls.
    pub(super) async fn listen(&self, config: &Config) -> Result<ClusterPort, ProgramError> {
        let asked = config
            .kubernetes
            .as_ref()
            .and_then(|cluster| cluster.listen);
        let Some(address) = asked else {
            return Ok(ClusterPort::default());
        };
        let field = "kubernetes.listen";
        let listener = listen(field, address).await?;
        Ok(ClusterPort {
            address: Some(local_address(field, &listener, address)?),
            listener: Some(listener),
        })
    }

    /// Follows the cluster until the drain's signal: for a term, as only who leads can take what it says.
    pub fn follow(
        &self,
        config: &Config,
        control: &ControlHandle,
        metrics: &Arc<Metrics>,
        drain: &Drain,
    ) {
        if let Some(joined) = &self.joined {
            let source = joined.source(control.clone(), &config.data_dir, metrics.clone());
            let signal = drain.signal().clone();
            drain.spawn(async move { source.run(signal).await });
        }
    }

    /// Serves what the cluster calls, whoever leads. Returns who vouches for its accounts.
    pub(super) fn serve(
        &self,
        config: &Config,
        port: ClusterPort,
        (authority, control): (&Arc<Authority>, &ControlHandle),
        drain: &Drain,
    ) -> Result<Option<Arc<dyn Accounts>>, ProgramError> {
        let Some(joined) = &self.joined else {
            return Ok(None);
        };
        let names = certificate_names(config);
        let own = crate::tls::OwnCertificate::new(authority, names)?;
        let own = Arc::new(own);
        let (fresh, signer, signal) = (own.clone(), authority.clone(), drain.signal().clone());
        drain.spawn(async move { fresh.keep_fresh(&signer, &signal).await });
        let parts = crate::kubernetes::PortParts {
            own,
            authority: authority.clone(),
            control: control.clone(),
            stream: stream_address(config),
        };
        Ok(Some(joined.serve(port.listener, parts, drain)?))
    }
}

/// The stream port as proxies in pods reach it, when the configuration does not say.
#[cfg(feature = "kubernetes")]
fn stream_address(config: &Config) -> String {
    let host = config
        .stream_names
        .first()
        .map_or("localhost", String::as_str);
    format!("{host}:{}", config.stream_listen.port())
}

#[cfg(not(feature = "kubernetes"))]
impl InCluster {
    /// There is none.
    pub async fn join(_: &Config) -> Result<InCluster, ProgramError> {
        Ok(InCluster {})
    }

    /// There is none.
    pub(super) async fn listen(&self, _: &Config) -> Result<ClusterPort, ProgramError> {
        Ok(ClusterPort::default())
    }

    /// There is none.
    pub fn follow(&self, _: &Config, _: &ControlHandle, _: &Arc<Metrics>, _: &Drain) {}

    /// There is none.
    pub(super) fn serve(
        &self,
        _: &Config,
        port: ClusterPort,
        _: (&Arc<Authority>, &ControlHandle),
        _: &Drain,
    ) -> Result<Option<Arc<dyn Accounts>>, ProgramError> {
        drop(port.listener);
        Ok(None)
    }
}

/// The time for which this controller has the cluster's Lease: without one as long as it runs.
pub struct LeaseTerm {
    #[cfg(feature = "kubernetes")]
    contender: Option<crate::kubernetes::lease::Contender>,
    probes: Probes,
}

impl LeaseTerm {
    /// Waits until this controller leads; none when it was told to stop before. What answers probes runs from here on.
    ///
    /// # Errors
    /// The cluster's API is not known, or the probes' port is taken.
    pub async fn begin(
        config: &Config,
        shutdown: &CancellationToken,
    ) -> Result<Option<LeaseTerm>, ProgramError> {
        let probes = Probes::open(config, shutdown).await?;
        #[cfg(feature = "kubernetes")]
        {
            let contender = match &config.kubernetes {
                Some(cluster) => crate::kubernetes::join(cluster).await?.contender(),
                None => None,
            };
            let mut term = LeaseTerm { contender, probes };
            if let Some(contender) = &mut term.contender
                && !contender.win(shutdown).await
            {
                return Ok(None);
            }
            Ok(Some(term))
        }
        #[cfg(not(feature = "kubernetes"))]
        Ok(Some(LeaseTerm { probes }))
    }

    /// Leads with a running program until it has ended. Who leads no longer is cut off, as by a crash: another may lead already.
    ///
    /// # Errors
    /// [`ProgramError::LeadLost`], or as [`Program::wait`].
    pub async fn lead(mut self, program: Program) -> Result<(), ProgramError> {
        self.probes.is_ready.store(true, Relaxed);
        let ended = tokio::select! {
            ended = program.wait() => ended,
            () = self.until_lost() => Err(ProgramError::LeadLost),
        };
        self.probes.is_ready.store(false, Relaxed);
        #[cfg(feature = "kubernetes")]
        if let Some(contender) = &mut self.contender
            && !matches!(ended, Err(ProgramError::LeadLost))
        {
            contender.give_back().await;
        }
        ended
    }

    #[cfg(feature = "kubernetes")]
    async fn until_lost(&mut self) {
        match &mut self.contender {
            Some(contender) => contender.hold().await,
            None => std::future::pending().await,
        }
    }

    #[cfg(not(feature = "kubernetes"))]
    async fn until_lost(&mut self) {
        std::future::pending().await
    }
}

/// Says whether this controller runs and leads, before there is anything else to ask.
struct Probes {
    is_ready: Arc<AtomicBool>,
}

impl Probes {
    async fn open(config: &Config, shutdown: &CancellationToken) -> Result<Probes, ProgramError> {
        let is_ready = Arc::new(AtomicBool::new(false));
        let asked = config
            .kubernetes
            .as_ref()
            .and_then(|cluster| cluster.probe_listen);
        if let Some(address) = asked {
            let listener = listen("kubernetes.probe_listen", address).await?;
            let router = router(is_ready.clone());
            let signal = shutdown.clone();
            // It ends with the program: nobody waits for it, and it has nothing to finish.
            tokio::spawn(async move {
                let serving = axum::serve(listener, router);
                tokio::select! {
                    ended = serving.into_future() => if let Err(error) = ended {
                        tracing::error!(%error, "the probes are not answered");
                    },
                    () = signal.cancelled() => {}
                }
            });
        }
        Ok(Probes { is_ready })
    }
}

fn router(is_ready: Arc<AtomicBool>) -> Router {
    let ready = move || async move {
        match is_ready.load(Relaxed) {
            true => (StatusCode::OK, "leads\n"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "stands by\n"),
        }
    };
    Router::new()
        .route("/livez", get(|| async { "runs\n" }))
        .route("/readyz", get(ready))
}
