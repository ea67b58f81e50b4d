//! The controller as a whole: what is opened in which order, what runs, how it ends.
//!
//! ```text
//! store (locks the directory) ─▶ authority ─▶ resources ─▶ control loop ─▶ listeners ─▶ addresses.json
//! ```
//!
//! **Invariant**: everything that can refuse to start does so before a port is open, and
//! `addresses.json` is there only while both ports answer.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isobar_mesh_api::names::NodeId;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::authority::{Authority, AuthorityError, AuthorityOptions};
use crate::config::{Config, ConfigError, StoreKind};
use crate::control_task::{ControlError, ControlHandle, RestoreError};
use crate::credentials::CredentialError;
use crate::drain::Drain;
use crate::election::{Leader, Timing};
use crate::enrolled::Enrolled;
use crate::etcd::{Etcd, EtcdError};
use crate::files::{FileError, create_directory};
use crate::leadership::Leadership;
use crate::leadership::etcd::EtcdBallot;
use crate::link::Links;
use crate::memory;
use crate::metrics::{Metrics, UPKEEP_INTERVAL};
use crate::operator_tls::{OperatorTls, OperatorTlsError};
use crate::plain_calls::PlainCalls;
use crate::problem::FieldProblem;
use crate::refusals::Refusals;
use crate::reload::Reloader;
use crate::resource_text::TEXT_LEN_MAX;
use crate::rest::{EventReaders, Pager, Rest, Trials};
use crate::store::etcd::{EtcdStore, Fence};
use crate::store::format::bring_up_to_date;
use crate::store::sled::SledStore;
use crate::store::{Store, StoreError};
use crate::stream::{Accounts, Admission, StreamPort};
use crate::term::Terms;
use crate::tls::{OwnCertificate, TlsError, server_config};
use crate::tokens::{TokenError, Tokens};

mod cluster;
mod operators;
mod ports;
mod resource_files;

pub(crate) use cluster::InCluster;
pub use cluster::LeaseTerm;
use operators::{certificate_names, open_gate, open_rest_port};
pub use ports::{ADDRESSES_FILE, Addresses};
use ports::{forget_addresses, open_ports};
pub(crate) use resource_files::read_resources;

/// Where the key that opens the stored authority may be, when the configuration names no file.
const AUTHORITY_KEY_VARIABLE: &str = "ISOBAR_AUTHORITY_KEY";

/// Why the controller did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The configuration is wrong.
    #[error("the configuration is wrong")]
    Config(#[from] ConfigError),
    /// A file of the data directory.
    #[error("the data directory is not usable")]
    File(#[from] FileError),
    /// The store does not open.
    #[error("the store does not open")]
    Store(#[from] StoreError),
    /// Etcd's client.
    #[error("etcd cannot be asked")]
    Etcd(#[from] EtcdError),
    /// The authority does not open.
    #[error("the certificate authority does not open")]
    Authority(#[from] AuthorityError),
    /// The operators' credentials do not open.
    #[error("the operators' credentials do not open")]
    Credentials(#[from] CredentialError),
    /// TLS cannot be set up.
    #[error("the stream port has no TLS")]
    Tls(#[from] TlsError),
    /// TLS of the REST port cannot be set up.
    #[error("the REST port has no TLS")]
    OperatorTls(#[from] OperatorTlsError),
    /// The enrolment tokens do not open.
    #[error("the enrolment tokens do not open")]
    Tokens(#[from] TokenError),
    /// The last state does not load.
    #[error("the control loop does not start")]
    Restore(#[from] RestoreError),
    /// A resource file is not there.
    #[error("there is no resource file {}", .0.display())]
    ResourceFileMissing(PathBuf),
    /// A resource file is longer than it may be.
    #[error("the resource file {} is longer than {TEXT_LEN_MAX} bytes", .0.display())]
    ResourceFileTooLong(PathBuf),
    /// A resource file has something wrong in it.
    #[error("the resource file {} is wrong", .path.display())]
    ResourceFile {
        /// Which file.
        path: PathBuf,
        /// Which resource and field.
        #[source]
        source: FieldProblem,
    },
    /// The mesh does not take the resources of a file.
    #[error("the resources of the configuration are not in force")]
    Resources(#[source] ControlError),
    /// A port is taken or not ours to take.
    #[error("cannot listen on {address} ({field})")]
    Listen {
        /// The configuration's field.
        field: &'static str,
        /// What it says.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The cluster cannot be followed.
    #[cfg(feature = "kubernetes")]
    #[error("the Kubernetes API cannot be followed")]
    Kubernetes(#[from] crate::kubernetes::KubernetesError),
    /// Another contender has the Lease, or it was not renewed in time.
    #[error("this controller leads no longer; it contends again when it is started again")]
    LeadLost,
    /// A task without which the controller is of no use has ended; the log says why.
    #[error("a part of the controller has failed")]
    PartFailed,
}

/// Runs the controller until `shutdown` is cancelled, then ends streams and requests in order. One that contends for a Lease does nothing
/// before it leads.
///
/// # Errors
/// It did not start, or a part of it failed.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ProgramError> {
    config.check()?;
    let Some(term) = LeaseTerm::begin(&config, &shutdown).await? else {
        return Ok(());
    };
    let program = Program::start(config, shutdown).await?;
    term.lead(program).await
}

/// A running controller. Dropping it cuts everything off, as a crash would.
pub struct Program {
    addresses: Addresses,
    addresses_path: PathBuf,
    drain: Drain,
    drain_time: Duration,
    reloader: Arc<Reloader>,
}

impl Program {
    /// Starts everything; returns when both ports answer.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub async fn start(
        config: Config,
        shutdown: CancellationToken,
    ) -> Result<Program, ProgramError> {
        config.check()?;
        create_directory(&config.data_dir)?;
        let metrics = Arc::new(Metrics::new());
        let (store, shared) = open_store(&config, &metrics).await?;
        let addresses_path = forget_addresses(&config);
        let (terms, reloader, doors) = open_terms(&config, store, &metrics).await?;
        let (authority, leadership) = (terms.authority.clone(), terms.leadership.clone());
        let tls = Arc::new(server_config(doors.own.clone())?);
        // Where there are several controllers, the election says when the first term begins.
        let first = match shared {
            Some(_) => None,
            None => Some(terms.begin(1, &shutdown).await?),
        };
        let cluster_at = terms.cluster.listen(&config).await?;
        let (rest_at, stream_at, addresses) = open_ports(&config, cluster_at.address).await?;
        let drain = Drain::new(shutdown);
        let signal = drain.signal();
        // From here on an early return cuts off what was spawned.
        let program = Program {
            addresses,
            addresses_path,
            drain: drain.clone(),
            drain_time: config.drain(),
            reloader: Arc::new(reloader),
        };
        let known = (&authority, &terms.control);
        let accounts = terms.cluster.serve(&config, cluster_at, known, &drain)?;
        let name = config.shared_name();
        let name = name.and_then(|name| NodeId::new(&name).ok());
        let links = Links::new(name, authority.clone(), leadership.clone());
        let rest_port = open_rest_port(&config, rest_at, doors.operators, &drain)?;
        let rest = open_rest(&terms, links, signal);
        let port = open_stream(&rest, tls.into(), accounts, &drain);
        if let Some(shared) = shared {
            let (ballot, timing) = open_ballot(&config, shared, addresses);
            let standing = leadership.stand(ballot, timing, metrics.clone(), signal.clone());
            drain.spawn_essential(standing);
        }
        drain.spawn_essential(terms.run(first, config.drain(), signal.clone()));
        drain.spawn(fold_metrics(metrics, signal.clone()));
        drain.spawn(memory::keep_small(signal.clone()));
        let (own, ended) = (doors.own, signal.clone());
        drain.spawn(async move { own.keep_fresh(&authority, &ended).await });
        drain.spawn_essential(rest.serve(rest_port));
        drain.spawn_essential(port.serve(stream_at));
        addresses.publish(&program.addresses_path)?;
        Ok(program)
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What brings a changed configuration into force.
    pub fn reloader(&self) -> Arc<Reloader> {
        self.reloader.clone()
    }

    /// Waits for the stop signal, then ends streams and requests in order; what is not done by
    /// the configuration's `drain_ms` is cut off.
    ///
    /// # Errors
    /// A part of the controller failed before the signal.
    pub async fn wait(self) -> Result<(), ProgramError> {
        let asked = self.drain.until_signal_or_failure().await;
        tracing::info!("stopping");
        // There may be none, if somebody cleaned up.
        let _ = std::fs::remove_file(&self.addresses_path);
        if !self.drain.finish(self.drain_time).await {
            tracing::warn!("not everything ended in time and was cut off");
        }
        match asked {
            true => Ok(()),
            false => Err(ProgramError::PartFailed),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.drain.abort();
    }
}

/// A client of etcd, and what makes its writes conditional on leading.
type Shared = (Arc<Etcd>, Fence);

/// The store, and etcd where it is there.
async fn open_store(
    config: &Config,
    metrics: &Metrics,
) -> Result<(Arc<dyn Store>, Option<Shared>), ProgramError> {
    let (store, shared): (Arc<dyn Store>, _) = match config.store.kind {
        StoreKind::Sled => {
            let path = config.data_dir.join("store");
            let store = SledStore::open(&path, metrics.store.clone()).await?;
            (Arc::new(store), None)
        }
        StoreKind::Etcd => {
            let etcd = Arc::new(Etcd::new(&config.store.etcd())?);
            let (fence, prefix) = (Fence::default(), &config.store.prefix);
            let counts = metrics.store.clone();
            let store = EtcdStore::new(etcd.clone(), prefix, fence.clone(), counts);
            (Arc::new(store), Some((etcd, fence)))
        }
    };
    bring_up_to_date(&*store).await?;
    Ok((store, shared))
}

/// What shows who this controller is, and asks operators who they are.
struct Doors {
    own: Arc<OwnCertificate>,
    operators: Arc<OperatorTls>,
}

/// Everything that terms need, as the store has it now.
async fn open_terms(
    config: &Config,
    store: Arc<dyn Store>,
    metrics: &Arc<Metrics>,
) -> Result<(Terms, Reloader, Doors), ProgramError> {
    let key_text = match config.authority_key_file {
        Some(_) => None,
        None => std::env::var(AUTHORITY_KEY_VARIABLE).ok(),
    };
    let options = AuthorityOptions {
        trust_domain: config.trust_domain.clone(),
        algorithm: config.authority_algorithm,
        key_file: config.authority_key_file.clone(),
        key_text,
    };
    let now = SystemTime::now();
    let authority = Authority::open(store.clone(), &config.data_dir, options, now).await?;
    let authority = Arc::new(authority);
    let own = Arc::new(OwnCertificate::new(&authority, certificate_names(config))?);
    let (operators, gate) = open_gate(config, &store, &own, &authority).await?;
    let control = ControlHandle::default();
    let (reloader, discovery) = Reloader::new(config.clone(), control.clone(), metrics.clone());
    let terms = Terms {
        authority,
        tokens: Tokens::open(store.clone()).await?.into(),
        enrolled: Enrolled::open(store.clone(), config.renewal_grace())
            .await?
            .into(),
        refusals: Refusals::open(store.clone()).await?.into(),
        gate,
        control,
        discovery,
        leadership: match config.store.is_shared() {
            true => Leadership::among_others(),
            false => Leadership::alone(),
        },
        resources: read_resources(&config.resources)?.into(),
        cluster: InCluster::join(config).await?,
        config: config.clone(),
        metrics: metrics.clone(),
        store,
    };
    Ok((terms, reloader, Doors { own, operators }))
}

/// This controller's part in the election.
fn open_ballot(
    config: &Config,
    (etcd, fence): Shared,
    addresses: Addresses,
) -> (EtcdBallot, Timing) {
    let me = Leader {
        name: config.name.clone().unwrap_or_default(),
        address: config.advertised(addresses.stream),
    };
    let timing = config.store.timing(config.period());
    let ballot = EtcdBallot::new(etcd, &config.store.prefix, me, timing, fence);
    (ballot, timing)
}

fn open_rest(terms: &Terms, links: Links, signal: &CancellationToken) -> Rest {
    Rest {
        control: terms.control.clone(),
        metrics: terms.metrics.clone(),
        signal: signal.clone(),
        pager: Pager::default(),
        trials: Trials::default(),
        authority: terms.authority.clone(),
        tokens: terms.tokens.clone(),
        enrolled: terms.enrolled.clone(),
        gate: terms.gate.clone(),
        refusals: terms.refusals.clone(),
        plain: Arc::new(PlainCalls::default()),
        readers: EventReaders::default(),
        past: Arc::default(),
        links,
    }
}

/// The stream port, which knows what the REST API knows.
fn open_stream(
    rest: &Rest,
    acceptor: TlsAcceptor,
    accounts: Option<Arc<dyn Accounts>>,
    drain: &Drain,
) -> StreamPort {
    StreamPort {
        acceptor,
        authority: rest.authority.clone(),
        tokens: rest.tokens.clone(),
        enrolled: rest.enrolled.clone(),
        guessed: Arc::default(),
        refusals: rest.refusals.clone(),
        plain: rest.plain.clone(),
        admission: Admission::default(),
        accounts,
        links: rest.links.clone(),
        rest: rest.clone().router(),
        control: rest.control.clone(),
        metrics: rest.metrics.clone(),
        drain: drain.clone(),
    }
}

async fn fold_metrics(metrics: Arc<Metrics>, signal: CancellationToken) {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        tokio::select! {
            () = signal.cancelled() => return,
            _ = ticks.tick() => metrics.upkeep(),
        }
    }
}
