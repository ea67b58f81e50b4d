//! The controller as a whole: what is opened in which order, what runs, how it ends.
//!
//! ```text
//! store (locks the directory) ─▶ authority ─▶ resources ─▶ control loop ─▶ listeners ─▶ addresses.json
//! ```
//!
//! **Invariant**: everything that can refuse to start does so before a port is open, and
//! `addresses.json` is there only while both ports answer.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::authority::{Authority, AuthorityError, AuthorityOptions};
use crate::config::{Config, ConfigError};
use crate::control_task::{ControlError, RestoreError, keep_plans, restore};
use crate::credentials::CredentialError;
use crate::drain::Drain;
use crate::enrolled::Enrolled;
use crate::files::{FileError, Readers, create_directory, read_if_there, write_whole};
use crate::metrics::{Metrics, UPKEEP_INTERVAL};
use crate::operator_tls::OperatorTlsError;
use crate::plain_calls::PlainCalls;
use crate::problem::FieldProblem;
use crate::reload::Reloader;
use crate::resource_text::{Declared, Format, TEXT_LEN_MAX, decode_list, parse};
use crate::rest::{EventReaders, Pager, Rest, Trials};
use crate::store::format::bring_up_to_date;
use crate::store::sled::SledStore;
use crate::store::{Store, StoreError};
use crate::stream::{Admission, StreamPort};
use crate::tls::{OwnCertificate, TlsError, server_config};
use crate::tokens::{self, TokenError, Tokens};

mod cluster;
mod operators;

use cluster::InCluster;
pub use cluster::Term;
use operators::{certificate_names, open_gate, open_refusals, open_rest_port};

/// The file in the data directory that says where the controller listens.
pub const ADDRESSES_FILE: &str = "addresses.json";

/// Where the key that opens the stored authority may be, when the configuration names no file.
const AUTHORITY_KEY_VARIABLE: &str = "ISOBAR_AUTHORITY_KEY";

/// The token by which any node may enrol, in the data directory, where that is open.
const OPEN_TOKEN_FILE: &str = "enrol-token";

/// Where the controller listens: the content of [`ADDRESSES_FILE`].
///
/// Written in one step when both ports answer, removed at the end; with port 0 in the
/// configuration this is how to find the real ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// REST API.
    pub rest: SocketAddr,
    /// Control stream and enrolment.
    pub stream: SocketAddr,
    /// What the API server of a cluster calls, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<SocketAddr>,
}

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
    let Some(term) = Term::begin(&config, &shutdown).await? else {
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
        let store = open_store(&config, &metrics).await?;
        let addresses_path = forget_addresses(&config);
        let identity = Identities::open(&config, &store, SystemTime::now()).await?;
        let names = certificate_names(&config);
        let own = Arc::new(OwnCertificate::new(&identity.authority, names)?);
        let resources = read_resources(&config.resources)?;
        let (task, control, plans) =
            restore(store.clone(), resources, config.period(), metrics.clone()).await?;
        let (operators, gate) = open_gate(&config, &store, &own, &identity.authority).await?;
        let cluster = InCluster::open(&config).await?;
        let (reloader, discovery) = Reloader::new(config.clone(), control.clone(), metrics.clone());
        let (rest_at, stream_at, addresses) = open_ports(&config, cluster.address).await?;
        let drain = Drain::new(shutdown);
        // From here on an early return cuts off what was spawned.
        let program = Program {
            addresses,
            addresses_path,
            drain: drain.clone(),
            drain_time: config.drain(),
            reloader: Arc::new(reloader),
        };
        drain.spawn_essential(task.run(drain.signal().clone()));
        let accounts = cluster.spawn(&config, (&identity.authority, &control, &metrics), &drain)?;
        drain.spawn(discovery.run(drain.signal().clone()));
        drain.spawn(keep_plans(plans, store.clone(), metrics.clone()));
        drain.spawn(fold_metrics(metrics.clone(), drain.signal().clone()));
        let acceptor = TlsAcceptor::from(Arc::new(server_config(own.clone())?));
        identity.spawn(own, &metrics, &drain);
        let refusals = open_refusals(store, &drain).await?;
        let plain = Arc::new(PlainCalls::default());
        let rest_port = open_rest_port(&config, rest_at, operators, &drain)?;
        let rest = Rest {
            control: control.clone(),
            metrics: metrics.clone(),
            signal: drain.signal().clone(),
            pager: Pager::default(),
            trials: Trials::default(),
            authority: identity.authority.clone(),
            tokens: identity.tokens.clone(),
            enrolled: identity.enrolled.clone(),
            gate,
            refusals: refusals.clone(),
            plain: plain.clone(),
            readers: EventReaders::default(),
        };
        drain.spawn_essential(rest.serve(rest_port));
        let port = StreamPort {
            acceptor,
            authority: identity.authority,
            tokens: identity.tokens,
            enrolled: identity.enrolled,
            guessed: Arc::default(),
            refusals,
            plain,
            admission: Admission::default(),
            accounts,
            control,
            metrics,
            drain: drain.clone(),
        };
        drain.spawn_essential(port.serve(stream_at));
        program.publish_addresses()?;
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

    fn publish_addresses(&self) -> Result<(), ProgramError> {
        // Two socket addresses always have a JSON form.
        let text = serde_json::to_vec(&self.addresses).unwrap_or_default();
        write_whole(&self.addresses_path, &text, Readers::All)?;
        let Addresses { rest, stream, .. } = self.addresses;
        tracing::info!(%rest, %stream, "listening");
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.drain.abort();
    }
}

/// Where addresses will be written; what a run left there that crashed is gone.
fn forget_addresses(config: &Config) -> PathBuf {
    let path = config.data_dir.join(ADDRESSES_FILE);
    // There may be none.
    let _ = std::fs::remove_file(&path);
    path
}

async fn open_store(config: &Config, metrics: &Metrics) -> Result<Arc<dyn Store>, StoreError> {
    let path = config.data_dir.join("store");
    let store = SledStore::open(&path, metrics.store.clone()).await?;
    bring_up_to_date(&store).await?;
    Ok(Arc::new(store))
}

/// Both ports: for REST and for control streams.
async fn open_ports(
    config: &Config,
    cluster: Option<SocketAddr>,
) -> Result<(TcpListener, TcpListener, Addresses), ProgramError> {
    let rest = listen("rest_listen", config.rest_listen).await?;
    let stream = listen("stream_listen", config.stream_listen).await?;
    let addresses = Addresses {
        rest: local_address("rest_listen", &rest, config.rest_listen)?,
        stream: local_address("stream_listen", &stream, config.stream_listen)?,
        cluster,
    };
    Ok((rest, stream, addresses))
}

async fn listen(field: &'static str, address: SocketAddr) -> Result<TcpListener, ProgramError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| ProgramError::Listen {
        field,
        address,
        source,
    })
}

fn local_address(
    field: &'static str,
    listener: &TcpListener,
    address: SocketAddr,
) -> Result<SocketAddr, ProgramError> {
    listener
        .local_addr()
        .map_err(|source| ProgramError::Listen {
            field,
            address,
            source,
        })
}

/// Who is who: what signs certificates, and what lets proxies have one.
struct Identities {
    authority: Arc<Authority>,
    tokens: Arc<Tokens>,
    enrolled: Arc<Enrolled>,
}

impl Identities {
    async fn open(
        config: &Config,
        store: &Arc<dyn Store>,
        now: SystemTime,
    ) -> Result<Identities, ProgramError> {
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
        let authority = Authority::open(store.clone(), &config.data_dir, options, now).await?;
        let tokens = Tokens::open(store.clone()).await?;
        let enrolled = Enrolled::open(store.clone(), config.renewal_grace()).await?;
        let path = config.data_dir.join(OPEN_TOKEN_FILE);
        let is_kept = tokens.has(tokens::OPEN) && path.exists();
        if config.enrols_openly() {
            tracing::warn!("every node may enrol that has the token in enrol-token");
            if !is_kept {
                let text = tokens.create_open(&authority.pin()?, now).await?;
                write_whole(&path, format!("{text}\n").as_bytes(), Readers::Owner)?;
            }
        } else if tokens.revoke(tokens::OPEN).await? {
            // Of a run before, when it was open; there may be none.
            let _ = std::fs::remove_file(&path);
        }
        Ok(Identities {
            authority: Arc::new(authority),
            tokens: Arc::new(tokens),
            enrolled: Arc::new(enrolled),
        })
    }

    /// Keeps the authority and the controller's own certificate fresh.
    fn spawn(&self, own: Arc<OwnCertificate>, metrics: &Metrics, drain: &Drain) {
        let (signal, signer) = (drain.signal().clone(), self.authority.clone());
        drain.spawn(async move { own.keep_fresh(&signer, &signal).await });
        let (signal, keeper) = (drain.signal().clone(), self.authority.clone());
        let gauges = metrics.authority.clone();
        drain.spawn(async move { keeper.keep(&gauges, &signal).await });
    }
}

/// The resources of the configuration's files, in order.
///
/// # Errors
/// One is missing, too long or wrong.
pub(crate) fn read_resources(paths: &[PathBuf]) -> Result<Vec<Declared>, ProgramError> {
    let mut all = Vec::new();
    for path in paths {
        all.extend(read_resource_file(path)?);
    }
    Ok(all)
}

/// JSON when the file's name says so, else YAML.
fn read_resource_file(path: &Path) -> Result<Vec<Declared>, ProgramError> {
    let missing = || ProgramError::ResourceFileMissing(path.to_owned());
    let text = read_if_there(path)?.ok_or_else(missing)?;
    if text.len() > TEXT_LEN_MAX {
        return Err(ProgramError::ResourceFileTooLong(path.to_owned()));
    }
    let format = match path.extension().is_some_and(|end| end == "json") {
        true => Format::Json,
        false => Format::Yaml,
    };
    let read = parse(text.as_bytes(), format).and_then(decode_list);
    read.map_err(|source| ProgramError::ResourceFile {
        path: path.to_owned(),
        source,
    })
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
