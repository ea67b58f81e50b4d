//! TLS of the REST port: which certificate operators are shown, and which of theirs count.
//!
//! ```text
//! rest_certificate_file, else the mesh's own certificate ─▶ shown
//! the mesh's authority, rest_client_ca_file ─▶ who a client certificate says it is ─▶ rest_clients ─▶ a role
//! ```
//!
//! Files are read again when they change; those that cannot be used change nothing. Clients are asked for a certificate only
//! where one can give a role, so no browser asks its user for nothing.
//!
//! **Invariant**: an identity of this mesh's trust domain counts only below the mesh's own roots; an authority that operators
//! bring cannot speak for nodes and workloads.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use isobar_mesh_api::validity::Validity;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::access::{Caller, Role};
use crate::authority::{Authority, crypto, peer_identity, seconds};
use crate::files::{FileError, read_if_there};
use crate::tls::{CHAIN_LEN_MAX, OwnCertificate, Peers, TlsError};

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Most client certificates that are given a role.
pub const CLIENTS_MAX: usize = 256;

/// Files of the REST port.
#[derive(Debug, Clone, Default)]
pub struct OperatorFiles {
    /// The certificate that is shown, and its key; the mesh's own when absent.
    pub shown: Option<(PathBuf, PathBuf)>,
    /// Roots of operators' certificates.
    pub client_ca: Option<PathBuf>,
}

/// Which client certificate has which role.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestClient {
    /// Its one URI: a SPIFFE ID of this mesh, or another one of `rest_client_ca_file`.
    #[serde(default)]
    pub identity: Option<String>,
    /// Its subject's common name, below `rest_client_ca_file`.
    #[serde(default)]
    pub subject: Option<String>,
    /// What it may do.
    pub role: Role,
    /// Where an operator may write; everywhere when empty.
    #[serde(default)]
    pub namespaces: Vec<String>,
}

/// A file of the REST port that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OperatorTlsError {
    /// It cannot be read.
    #[error("a file of the REST port's TLS cannot be read")]
    File(#[from] FileError),
    /// It is not there.
    #[error("there is no {}", .0.display())]
    Missing(PathBuf),
    /// Not what it should be.
    #[error("{} has no {what} in PEM", .path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// Certificate and key are no pair, or of a kind that is not known.
    #[error("{} and its key cannot be used together", .path.display())]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The roots do not suit the verifier.
    #[error("{} has no roots that certificates can be checked by", .path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
    /// TLS itself.
    #[error("the REST port has no TLS")]
    Tls(#[from] TlsError),
}

/// Whom a client certificate names, and from when until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The names that [`RestClient::identity`] may fit.
    pub identity: Option<String>,
    /// The name that [`RestClient::subject`] may fit.
    pub subject: Option<String>,
    /// The node of this mesh, or where the workload's proxy is, and when the certificate begins: it may be revoked meanwhile.
    pub node: Option<(isobar_mesh_api::names::NodeId, u64)>,
    /// When the certificate ends, seconds since 1970.
    pub ends_s: u64,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.identity.as_ref().or(self.subject.as_ref());
        f.write_str(name.map_or("nobody", String::as_str))
    }
}

/// What handshakes of the REST port go by.
pub struct OperatorTls {
    own: Arc<OwnCertificate>,
    authority: Arc<Authority>,
    files: OperatorFiles,
    clients: Vec<RestClient>,
    shown: RwLock<Option<Arc<CertifiedKey>>>,
    brought: RwLock<Option<Arc<dyn ClientCertVerifier>>>,
}

impl std::fmt::Debug for OperatorTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OperatorTls")
    }
}

impl OperatorTls {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be used.
    pub fn new(
        own: Arc<OwnCertificate>,
        authority: Arc<Authority>,
        files: OperatorFiles,
        clients: Vec<RestClient>,
    ) -> Result<OperatorTls, OperatorTlsError> {
        let tls = OperatorTls {
            own,
            authority,
            files,
            clients,
            shown: RwLock::default(),
            brought: RwLock::default(),
        };
        tls.read_files()?;
        Ok(tls)
    }

    /// What a listener needs. TLS 1.3 and 1.2: operators bring their own programs.
    ///
    /// # Errors
    /// The protocol versions do not suit rustls.
    pub fn server_config(self: &Arc<Self>) -> Result<ServerConfig, OperatorTlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::new(crypto()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(TlsError::from)?;
        let asks = !self.clients.is_empty();
        let mut config = match asks {
            true => builder.with_client_cert_verifier(self.clone()),
            false => builder.with_no_client_auth(),
        }
        .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A resumed handshake would skip the check of the client's certificate.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Reads files again whenever they change, until the signal.
    pub async fn keep_fresh(&self, signal: &CancellationToken) {
        let mut failed = None;
        loop {
            tokio::select! {
                () = signal.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let said = self.read_files().err().map(|error| chain_of(&error));
            if let Some(error) = said.as_ref().filter(|_| said != failed) {
                tracing::error!(
                    error,
                    "a file of the REST port's TLS cannot be used; what was read last stays in force"
                );
            }
            failed = said;
        }
    }

    fn read_files(&self) -> Result<(), OperatorTlsError> {
        if let Some((chain, key)) = &self.files.shown {
            let fresh = Arc::new(read_pair(chain, key)?);
            let mut shown = self.shown.write().unwrap_or_else(PoisonError::into_inner);
            let is_same = shown.as_ref().is_some_and(|now| now.cert == fresh.cert);
            if !is_same {
                tracing::info!(file = %chain.display(), "the REST port shows this certificate");
                *shown = Some(fresh);
            }
        }
        if let Some(path) = &self.files.client_ca {
            let fresh = read_roots(path)?;
            let mut brought = self.brought.write().unwrap_or_else(PoisonError::into_inner);
            *brought = Some(fresh);
        }
        Ok(())
    }

    fn brought(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        let brought = self.brought.read().unwrap_or_else(PoisonError::into_inner);
        brought.clone()
    }

    fn mesh(&self) -> &Arc<Peers> {
        self.own.peers()
    }

    /// Whom a chain names that a handshake has accepted; `None` when it names nobody.
    pub fn holder(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Option<Holder> {
        let (leaf, above) = chain.split_first()?;
        let since = UnixTime::since_unix_epoch(Duration::from_secs(seconds(now)));
        let validity = Validity::read(leaf)?;
        let ends_s = seconds(validity.not_after);
        if self.mesh().verify_client_cert(leaf, above, since).is_ok() {
            let holder = peer_identity(leaf, self.authority.trust_domain()).ok()?;
            let begins_s = seconds(validity.not_before);
            return Some(Holder {
                identity: Some(holder.id.to_string()),
                subject: None,
                node: holder.node.map(|node| (node, begins_s)),
                ends_s,
            });
        }
        Some(Holder {
            identity: self.foreign_identity(leaf),
            subject: common_name(leaf),
            node: None,
            ends_s,
        })
    }

    /// The one URI of a certificate that an authority of operators' own signed, unless it is an identity of this mesh.
    fn foreign_identity(&self, leaf: &CertificateDer<'_>) -> Option<String> {
        let certificate = webpki::EndEntityCert::try_from(leaf).ok()?;
        let mut uris = certificate.valid_uri_names();
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return None;
        };
        let own = format!("spiffe://{}", self.authority.trust_domain());
        let rest = uri
            .get(..own.len())
            .filter(|begin| begin.eq_ignore_ascii_case(&own));
        rest.is_none().then(|| uri.to_owned())
    }

    /// Who the holder of a certificate is to the REST API; `None` when it has no role, has ended or was revoked.
    pub fn who(&self, holder: &Holder, now: SystemTime) -> Option<Caller> {
        let is_revoked = |(node, begins_s): &(_, u64)| self.authority.is_revoked(node, *begins_s);
        if seconds(now) > holder.ends_s || holder.node.as_ref().is_some_and(is_revoked) {
            return None;
        }
        let fits = |client: &&RestClient| {
            let same =
                |want: &Option<String>, have: &Option<String>| want.is_some() && want == have;
            same(&client.identity, &holder.identity) || same(&client.subject, &holder.subject)
        };
        self.clients.iter().find(fits).map(|client| Caller {
            name: holder.to_string(),
            role: client.role,
            namespaces: client.namespaces.clone(),
        })
    }
}

impl ResolvesServerCert for OperatorTls {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        match shown.as_ref() {
            Some(brought) => Some(brought.clone()),
            None => self.own.resolve(hello),
        }
    }
}

impl ClientCertVerifier for OperatorTls {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if above.len() >= CHAIN_LEN_MAX {
            return Err(CertificateError::BadEncoding.into());
        }
        let by_mesh = self.mesh().verify_client_cert(leaf, above, now);
        match (by_mesh, self.brought()) {
            (Ok(verified), _) => Ok(verified),
            // What the mesh revoked is not looked at by another authority.
            (Err(error), None) => Err(error),
            (Err(error), Some(_)) if is_revoked(&error) => Err(error),
            (Err(_), Some(brought)) => brought.verify_client_cert(leaf, above, now),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.mesh()
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.mesh()
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.mesh().supported_verify_schemes()
    }
}

fn is_revoked(error: &rustls::Error) -> bool {
    let revoked = rustls::Error::InvalidCertificate(CertificateError::Revoked);
    *error == revoked
}

/// The one common name of a certificate's subject.
fn common_name(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let (Some(name), None) = (names.next(), names.next()) else {
        return None;
    };
    name.as_str().ok().map(str::to_owned)
}

fn read_text(path: &Path) -> Result<String, OperatorTlsError> {
    read_if_there(path)?.ok_or_else(|| OperatorTlsError::Missing(path.to_owned()))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, OperatorTlsError> {
    let text = read_text(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| OperatorTlsError::Pem {
        path: path.to_owned(),
        what: "certificate",
    })
}

fn read_pair(chain: &Path, key: &Path) -> Result<CertifiedKey, OperatorTlsError> {
    let certificates = read_certificates(chain)?;
    let text = read_text(key)?;
    let secret = PrivateKeyDer::from_pem_slice(text.as_bytes());
    let secret = secret.map_err(|_| OperatorTlsError::Pem {
        path: key.to_owned(),
        what: "private key",
    })?;
    let failed = |source| OperatorTlsError::Pair {
        path: chain.to_owned(),
        source,
    };
    CertifiedKey::from_der(certificates, secret, &crypto()).map_err(failed)
}

fn read_roots(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, OperatorTlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(read_certificates(path)?);
    let provider = Arc::new(crypto());
    let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    built.map_err(|source| OperatorTlsError::Roots {
        path: path.to_owned(),
        source,
    })
}

/// An error with what caused it, in one line.
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
