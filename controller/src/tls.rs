//! TLS of the stream port: TLS 1.3, ALPN `h2`, client certificates optional but verified.
//!
//! The controller's own certificate lives 24 h like everybody's and is replaced at two thirds of
//! its life, without a restart: handshakes ask [`OwnCertificate`] each time.
//!
//! Sessions are not resumed: a resumed handshake would skip the check of the client's
//! certificate, which may have expired meanwhile. Streams live long, so little is saved by it.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig, VerifierBuilderError,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

use crate::authority::{Authority, AuthorityError, LEAF_VALID, crypto};

/// When the controller's certificate is replaced: at two thirds of its life.
const RENEW_AFTER: Duration = Duration::from_secs(LEAF_VALID.as_secs() * 2 / 3);

/// How long until a failed renewal is tried again.
const RENEW_RETRY: Duration = Duration::from_secs(60);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The authority gave no certificate.
    #[error("the controller has no certificate")]
    Authority(#[from] AuthorityError),
    /// The certificate or the protocol versions do not suit rustls.
    #[error("TLS cannot be set up")]
    Rustls(#[from] rustls::Error),
    /// The root does not suit the verifier of client certificates.
    #[error("client certificates cannot be verified")]
    Verifier(#[from] VerifierBuilderError),
}

/// The controller's certificate, as handshakes find it.
#[derive(Debug)]
pub struct OwnCertificate {
    names: Vec<String>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl OwnCertificate {
    /// A first certificate for these DNS names and IP addresses.
    ///
    /// # Errors
    /// The authority refuses a name.
    pub fn new(authority: &Authority, names: Vec<String>) -> Result<OwnCertificate, TlsError> {
        let current = RwLock::new(issue(authority, &names)?);
        Ok(OwnCertificate { names, current })
    }

    /// Replaces the certificate in time, until the signal.
    pub async fn keep_fresh(&self, authority: &Authority, signal: &CancellationToken) {
        let mut wait = RENEW_AFTER;
        loop {
            tokio::select! {
                () = signal.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = match issue(authority, &self.names) {
                Ok(fresh) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
                    RENEW_AFTER
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the controller's certificate was not renewed"
                    );
                    RENEW_RETRY
                }
            };
        }
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some(current.clone())
    }
}

fn issue(authority: &Authority, names: &[String]) -> Result<Arc<CertifiedKey>, TlsError> {
    let identity = authority.issue_controller(names, SystemTime::now())?;
    let key = CertifiedKey::from_der(identity.chain, identity.key, &crypto())?;
    Ok(Arc::new(key))
}

/// The configuration of the stream port.
///
/// # Errors
/// The root or the certificate does not suit rustls.
pub fn server_config(
    authority: &Authority,
    own: Arc<OwnCertificate>,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(crypto());
    let mut roots = RootCertStore::empty();
    roots.add(authority.root().clone())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(own);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
