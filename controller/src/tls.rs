//! TLS of the stream port: TLS 1.3, ALPN `h2`, client certificates optional but verified.
//!
//! The controller's own certificate lives 24 h like everybody's and is replaced at two thirds of
//! its life, or when another root signs, without a restart: handshakes ask [`OwnCertificate`] each time. So they do for whom to
//! believe ([`Peers`]), which changes with roots and revocations.
//!
//! Sessions are not resumed: a resumed handshake would skip the check of the client's
//! certificate, which may have expired meanwhile. Streams live long, so little is saved by it.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig, VerifierBuilderError,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
};
use tokio_util::sync::CancellationToken;

use crate::authority::certificates::LEAF_VALID;
use crate::authority::{Authority, AuthorityError, begins_s, crypto, peer_identity};

/// When the controller's certificate is replaced: at two thirds of its life.
const RENEW_AFTER: Duration = Duration::from_secs(LEAF_VALID.as_secs() * 2 / 3);

/// How long until a failed renewal is tried again.
const RENEW_RETRY: Duration = Duration::from_secs(60);

/// Most certificates of a peer's chain: a leaf, intermediates of a chain that was brought, a crossed root.
pub const CHAIN_LEN_MAX: usize = 8;

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

/// The controller's certificate and whom it believes, as handshakes find them.
#[derive(Debug)]
pub struct OwnCertificate {
    names: Vec<String>,
    current: RwLock<Arc<CertifiedKey>>,
    peers: Arc<Peers>,
}

impl OwnCertificate {
    /// A first certificate for these DNS names and IP addresses.
    ///
    /// # Errors
    /// The authority refuses a name.
    pub fn new(authority: &Arc<Authority>, names: Vec<String>) -> Result<OwnCertificate, TlsError> {
        Ok(OwnCertificate {
            current: RwLock::new(issue(authority, &names)?),
            peers: Arc::new(Peers::new(authority.clone())?),
            names,
        })
    }

    /// Whose client certificates are believed.
    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// Replaces the certificate in time, and when whom to believe has changed, until the signal.
    pub async fn keep_fresh(&self, authority: &Authority, signal: &CancellationToken) {
        let mut trust = authority.trust();
        let mut wait = RENEW_AFTER;
        loop {
            tokio::select! {
                () = signal.cancelled() => return,
                // The authority lives as long as this task.
                _ = trust.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
            let renewed = self
                .peers
                .renew()
                .and_then(|()| issue(authority, &self.names));
            wait = match renewed {
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

/// Checks client certificates by the roots and revocations of now.
pub struct Peers {
    authority: Arc<Authority>,
    by_roots: RwLock<Arc<dyn ClientCertVerifier>>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Peers")
    }
}

impl Peers {
    fn new(authority: Arc<Authority>) -> Result<Peers, TlsError> {
        let by_roots = RwLock::new(by_roots(&authority)?);
        Ok(Peers {
            authority,
            by_roots,
        })
    }

    fn renew(&self) -> Result<(), TlsError> {
        let fresh = by_roots(&self.authority)?;
        *self
            .by_roots
            .write()
            .unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    fn current(&self) -> Arc<dyn ClientCertVerifier> {
        let current = self.by_roots.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }
}

fn by_roots(authority: &Authority) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in authority.roots()? {
        roots.add(root)?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(crypto()));
    Ok(builder.allow_unauthenticated().build()?)
}

impl ClientCertVerifier for Peers {
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
        let verified = self.current().verify_client_cert(leaf, above, now)?;
        let holder = peer_identity(leaf, self.authority.trust_domain());
        let node = holder.ok().and_then(|holder| holder.node);
        match node.is_some_and(|node| self.authority.is_revoked(&node, begins_s(leaf))) {
            true => Err(CertificateError::Revoked.into()),
            false => Ok(verified),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let current = self.current();
        current.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let current = self.current();
        current.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.current().supported_verify_schemes()
    }
}

/// HTTP/2's name in TLS.
pub const ALPN_H2: &[u8] = b"h2";

/// The configuration of the stream port.
///
/// # Errors
/// The root or the certificate does not suit rustls.
pub fn server_config(own: Arc<OwnCertificate>) -> Result<ServerConfig, TlsError> {
    let peers = own.peers.clone();
    let mut config = ServerConfig::builder_with_provider(Arc::new(crypto()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(peers)
        .with_cert_resolver(own);
    config.alpn_protocols = vec![ALPN_H2.to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
