//! TLS towards servers that are no nodes of the mesh: who gives out issuers' keys, a collector.
//!
//! Such a server is believed by a file of roots, or by those of the system. The file is looked at for each connection and
//! read again when it has changed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::identity::verify::provider;

/// Where systems keep the roots that they believe.
const SYSTEM_ROOTS: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];
/// Largest file of roots, in bytes.
const ROOTS_LEN_MAX: u64 = 4 * 1024 * 1024;

/// Why a server is not believed, or not reached.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// Nobody named a file of roots, and the system has none.
    #[error("this node has no roots of its own; name a file of them")]
    None,
    /// The file of roots cannot be read.
    #[error("reading the roots in {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// There is no certificate in it.
    #[error("{} has no certificate in PEM", .0.display())]
    Empty(PathBuf),
    /// The server's name is none that a certificate could have.
    #[error("the name of the server")]
    Name(#[from] InvalidDnsNameError),
    /// TLS cannot be set up.
    #[error("setting up TLS")]
    Setup(#[from] rustls::Error),
    /// The handshake failed: also when the roots do not vouch for the server.
    #[error("the TLS handshake failed")]
    Handshake(#[source] std::io::Error),
}

/// What a file was when it was read.
type Stamp = (PathBuf, SystemTime, u64);

/// By what servers are believed.
#[derive(Debug)]
pub struct Roots {
    file: Option<PathBuf>,
    read: Mutex<Option<(Stamp, Arc<ClientConfig>)>>,
}

impl Roots {
    /// Those in this file; without one, the system's.
    pub fn new(file: Option<PathBuf>) -> Roots {
        let read = Mutex::default();
        Roots { file, read }
    }

    /// TLS over this connection with who the roots say has this name.
    ///
    /// # Errors
    /// The roots cannot be read, or do not vouch for the server.
    pub async fn connect(
        &self,
        host: &str,
        tcp: TcpStream,
    ) -> Result<TlsStream<TcpStream>, RootsError> {
        let config = self.config().await?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned())?;
        let connected = TlsConnector::from(config).connect(name, tcp).await;
        connected.map_err(RootsError::Handshake)
    }

    async fn config(&self) -> Result<Arc<ClientConfig>, RootsError> {
        let usual = || {
            SYSTEM_ROOTS
                .iter()
                .map(PathBuf::from)
                .find(|path| path.exists())
        };
        let path = self.file.clone().or_else(usual).ok_or(RootsError::None)?;
        let lock = || self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let before = lock().clone();
        let at = path.clone();
        let read = tokio::task::spawn_blocking(move || read(&path, before));
        let failed = |error| RootsError::Read(at, std::io::Error::other(error));
        let (stamp, config) = read.await.map_err(failed)??;
        *lock() = Some((stamp, Arc::clone(&config)));
        Ok(config)
    }
}

/// What is in the file; what was read before, when it has not changed since.
fn read(
    path: &Path,
    before: Option<(Stamp, Arc<ClientConfig>)>,
) -> Result<(Stamp, Arc<ClientConfig>), RootsError> {
    let failed = |error| RootsError::Read(path.to_owned(), error);
    let meta = std::fs::metadata(path).map_err(failed)?;
    let stamp = (
        path.to_owned(),
        meta.modified().map_err(failed)?,
        meta.len(),
    );
    if let Some(before) = before.filter(|(then, _)| *then == stamp) {
        return Ok(before);
    }
    let pem = read_up_to(path, ROOTS_LEN_MAX).map_err(failed)?;
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_slice_iter(&pem).flatten();
    roots.add_parsable_certificates(found);
    if roots.is_empty() {
        return Err(RootsError::Empty(path.to_owned()));
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((stamp, Arc::new(config)))
}

/// A file's bytes, unless it is longer than it can be.
pub(crate) fn read_up_to(path: &Path, len_max: u64) -> std::io::Result<Vec<u8>> {
    match std::fs::metadata(path)?.len() > len_max {
        true => Err(std::io::Error::other("the file is longer than it can be")),
        false => std::fs::read(path),
    }
}

/// Bytes of either kind of connection, plain or TLS: what speaks over it is compiled once.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}
