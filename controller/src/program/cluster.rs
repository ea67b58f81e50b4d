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

use super::{Program, ProgramError, certificate_names, listen, local_address};
use crate::authority::Authority;
use crate::config::Config;
use crate::control_task::ControlHandle;
use crate::drain::Drain;
use crate::metrics::Metrics;
use crate::stream::Accounts;

/// The cluster of the configuration, if there is one.
#[derive(Default)]
pub(super) struct InCluster {
    #[cfg(feature = "kubernetes")]
    joined: Option<crate::kubernetes::Joined>,
    listener: Option<TcpListener>,
    /// Where the API server calls.
    pub address: Option<SocketAddr>,
}

#[cfg(feature = "kubernetes")]
impl InCluster {
    /// Reads where the cluster is and takes the port that it calls.
    pub async fn open(config: &Config) -> Result<InCluster, ProgramError> {
        let Some(cluster) = &config.kubernetes else {
            return Ok(InCluster::default());
        };
        let joined = Some(crate::kubernetes::join(cluster).await?);
        let Some(address) = cluster.listen else {
            return Ok(InCluster {
                joined,
                ..InCluster::default()
            });
        };
        let field = "kubernetes.listen";
        let listener = listen(field, address).await?;
        Ok(InCluster {
            joined,
            address: Some(local_address(field, &listener, address)?),
            listener: Some(listener),
        })
    }

    /// Follows the cluster and serves what it calls. Returns who vouches for its accounts.
    pub fn spawn(
        self,
        config: &Config,
        (authority, control, metrics): (&Arc<Authority>, &ControlHandle, &Arc<Metrics>),
        drain: &Drain,
    ) -> Result<Option<Arc<dyn Accounts>>, ProgramError> {
        let Some(joined) = self.joined else {
            return Ok(None);
        };
        let source = joined.source(control.clone(), &config.data_dir, metrics.clone());
        let signal = drain.signal().clone();
        drain.spawn(async move { source.run(signal).await });
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
        Ok(Some(joined.serve(self.listener, parts, drain)?))
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
    pub async fn open(_: &Config) -> Result<InCluster, ProgramError> {
        Ok(InCluster::default())
    }

    /// There is none.
    pub fn spawn(
        self,
        _: &Config,
        _: (&Arc<Authority>, &ControlHandle, &Arc<Metrics>),
        _: &Drain,
    ) -> Result<Option<Arc<dyn Accounts>>, ProgramError> {
        drop(self.listener);
        Ok(None)
    }
}

/// The time for which this controller leads: without a Lease as long as it runs.
pub struct Term {
    #[cfg(feature = "kubernetes")]
    contender: Option<crate::kubernetes::lease::Contender>,
    probes: Probes,
}

impl Term {
    /// Waits until this controller leads; none when it was told to stop before. What answers probes runs from here on.
    ///
    /// # Errors
    /// The cluster's API is not known, or the probes' port is taken.
    pub async fn begin(
        config: &Config,
        shutdown: &CancellationToken,
    ) -> Result<Option<Term>, ProgramError> {
        let probes = Probes::open(config, shutdown).await?;
        #[cfg(feature = "kubernetes")]
        {
            let contender = match &config.kubernetes {
                Some(cluster) => crate::kubernetes::join(cluster).await?.contender(),
                None => None,
            };
            let mut term = Term { contender, probes };
            if let Some(contender) = &mut term.contender
                && !contender.win(shutdown).await
            {
                return Ok(None);
            }
            Ok(Some(term))
        }
        #[cfg(not(feature = "kubernetes"))]
        Ok(Some(Term { probes }))
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
