//! Who this proxy is: its key, its certificate, the roots it trusts.
//!
//! The key is made here and never leaves the node. Files in the data
//! directory: `node-key.pem` and `renewal-token` (mode 0600), `node-chain.pem`, `roots.pem`, `trust.json`. An
//! [`Identity`] is immutable; a renewed certificate is a new one, swapped into
//! the [`IdentityCell`]. Connections look at the cell when they begin.
//!
//! - [`verify`]: whom to believe;
//! - [`files`]: these files.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use isobar_mesh_api::identity::SpiffeId;
use isobar_mesh_api::message::Trust;
use isobar_mesh_api::names::NodeId;
use isobar_mesh_api::validity::Validity;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};

pub mod files;
pub mod verify;

use verify::{Expected, PinVerifier, Revocations, SpiffeVerifier};

/// HTTP/2, the only protocol between programs of the mesh.
const ALPN_H2: &[u8] = b"h2";
/// What the proxy and the controller speak.
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Why a proxy has no identity, or not the one that was offered.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read or written.
    #[error("{doing} {path}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A text is not PEM of the expected kind, or holds none.
    #[error("{0} is not PEM with at least one entry")]
    Pem(&'static str),
    /// A key or request could not be made.
    #[error("making a key or certificate request")]
    Key(#[from] rcgen::Error),
    /// Key, certificate and roots do not fit together.
    #[error("the certificate cannot be used")]
    Tls(#[from] rustls::Error),
    /// The certificate is another node's.
    #[error("the certificate is {0}'s")]
    NotOurs(SpiffeId),
    /// The certificate's dates cannot be read.
    #[error("the certificate's validity cannot be read")]
    Validity,
}

/// A key with its certificate, and whom it trusts.
#[derive(Debug)]
pub struct Identity {
    /// Who the certificate says this is: the node, or the workload beside it.
    pub id: Arc<SpiffeId>,
    /// When the certificate holds.
    pub validity: Validity,
    /// For the mesh port.
    pub server: Arc<ServerConfig>,
    /// Whom listeners believe that take certificates of the mesh: nodes and workloads.
    pub callers: Arc<SpiffeVerifier>,
    /// Whose certificates count no more.
    pub revoked: Arc<Revocations>,
    /// Another root signs now than the one above this certificate.
    pub is_superseded: bool,
    key: Arc<CertifiedKey>,
    roots: Arc<Roots>,
}

/// Whom to trust.
#[derive(Debug)]
pub struct Roots(Vec<TrustAnchor<'static>>);

impl Roots {
    /// Reads one or more certificates.
    ///
    /// # Errors
    /// Not PEM, none in it, or one that is no root certificate.
    pub fn from_pem(pem: &str) -> Result<Roots, IdentityError> {
        let certificates = certificates(pem, "the file of roots")?;
        let anchor = |certificate: &CertificateDer<'static>| {
            let anchor = webpki::anchor_from_trusted_cert(certificate);
            anchor.map(|anchor| anchor.to_owned())
        };
        let anchors: Result<Vec<_>, _> = certificates.iter().map(anchor).collect();
        match anchors {
            Ok(anchors) => Ok(Roots(anchors)),
            Err(_) => Err(IdentityError::Pem("the file of roots")),
        }
    }
}

impl Identity {
    /// Puts key, chain and roots together and checks that the certificate is `node`'s, holds now
    /// and was signed by one of the roots.
    ///
    /// # Errors
    /// Anything that does not fit.
    pub fn new(
        trust_domain: &str,
        node: &NodeId,
        key_pem: &str,
        chain_pem: &str,
        roots_pem: &str,
        trust: Option<&Trust>,
    ) -> Result<Identity, IdentityError> {
        let chain = certificates(chain_pem, "the certificate chain")?;
        let roots = Arc::new(Roots::from_pem(roots_pem)?);
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|_| IdentityError::Pem("the key"))?;
        let (leaf, above) = chain
            .split_first()
            .ok_or(IdentityError::Pem("the certificate chain"))?;
        let revoked = Arc::new(Revocations::new(trust));
        let verifier = SpiffeVerifier::new(&roots, trust_domain, Expected::AnyNode, &revoked);
        let now = rustls::pki_types::UnixTime::now();
        let holder = verifier.verify(leaf, above, now, verify::Side::Client)?;
        if holder.node.as_ref() != Some(node) {
            return Err(IdentityError::NotOurs(holder.id));
        }
        let is_superseded = match trust {
            Some(trust) => !is_below(leaf, above, roots_pem, &trust.signs, now),
            None => false,
        };
        let validity = Validity::read(leaf).ok_or(IdentityError::Validity)?;
        let provider = verify::provider();
        let key = provider.key_provider.load_private_key(key)?;
        let key = Arc::new(CertifiedKey::new(chain, key));
        key.keys_match()?;
        Ok(Identity {
            id: Arc::new(holder.id),
            validity,
            server: Arc::new(server_config(verifier, Arc::clone(&key))?),
            callers: Arc::new(SpiffeVerifier::new(
                &roots,
                trust_domain,
                Expected::Anybody,
                &revoked,
            )),
            revoked,
            is_superseded,
            key,
            roots,
        })
    }

    /// The workload beside this proxy, if the certificate is one of a workload.
    pub fn workload(&self) -> Option<&Arc<SpiffeId>> {
        Some(&self.id).filter(|id| id.as_workload().is_some())
    }

    /// For a connection to the proxy of `node`: nobody else is believed.
    ///
    /// # Errors
    /// Only when the TLS library refuses its own defaults.
    pub fn client_to_node(&self, node: &NodeId) -> Result<Arc<ClientConfig>, rustls::Error> {
        self.client_to(Expected::Node(node.clone()), ALPN_H2)
    }

    /// For a connection to the controller.
    ///
    /// # Errors
    /// Only when the TLS library refuses its own defaults.
    pub fn client_to_controller(&self) -> Result<Arc<ClientConfig>, rustls::Error> {
        let controller = SpiffeId::controller(&self.id.trust_domain);
        self.client_to(Expected::Exactly(controller), ALPN_HTTP1)
    }

    fn client_to(
        &self,
        expected: Expected,
        alpn: &[u8],
    ) -> Result<Arc<ClientConfig>, rustls::Error> {
        let trust_domain = &self.id.trust_domain;
        let verifier = SpiffeVerifier::new(&self.roots, trust_domain, expected, &self.revoked);
        client_config(verifier, Some(Arc::clone(&self.key)), alpn)
    }

    /// Whether the certificate holds at that time.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        now <= self.validity.not_after
    }

    /// Whether the certificate should be renewed: two thirds of its life are over.
    pub fn renewal_due(&self, now: SystemTime) -> bool {
        now >= self.validity.two_thirds()
    }
}

/// For a first connection to the controller, without a certificate of one's own.
///
/// # Errors
/// Only when the TLS library refuses its own defaults.
pub fn client_without_certificate(
    roots: &Roots,
    trust_domain: &str,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let expected = Expected::Exactly(SpiffeId::controller(trust_domain));
    let nobody = Arc::new(Revocations::default());
    let verifier = SpiffeVerifier::new(roots, trust_domain, expected, &nobody);
    client_config(verifier, None, ALPN_HTTP1)
}

/// For a first connection to the controller, of which no more than its root's fingerprint is known.
///
/// # Errors
/// Only when the TLS library refuses its own defaults.
pub fn client_by_pin(pin: &str, trust_domain: &str) -> Result<Arc<ClientConfig>, rustls::Error> {
    client_config(
        PinVerifier::new(pin, SpiffeId::controller(trust_domain)),
        None,
        ALPN_HTTP1,
    )
}

/// Whether the root of that fingerprint alone makes the certificate believed.
fn is_below(
    leaf: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
    roots_pem: &str,
    print: &str,
    now: rustls::pki_types::UnixTime,
) -> bool {
    let roots = certificates(roots_pem, "the file of roots").unwrap_or_default();
    let root = roots.iter().find(|root| verify::fingerprint(root) == print);
    root.is_some_and(|root| verify::verify_chain(leaf, above, root, now))
}

fn server_config(
    verifier: SpiffeVerifier,
    key: Arc<CertifiedKey>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(verify::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(OneKey(key)));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    // A resumed session would skip the verifier, and connections between proxies live long.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_config(
    verifier: impl ServerCertVerifier + 'static,
    key: Option<Arc<CertifiedKey>>,
    alpn: &[u8],
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(verify::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match key {
        Some(key) => builder.with_client_cert_resolver(Arc::new(OneKey(key))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    // Who is meant stands in the certificate's SPIFFE name; the address says nothing.
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// Shows the same certificate to everybody.
#[derive(Debug)]
struct OneKey(Arc<CertifiedKey>);

impl rustls::server::ResolvesServerCert for OneKey {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl rustls::client::ResolvesClientCert for OneKey {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certificates(
    pem: &str,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(IdentityError::Pem(what)),
    }
}

/// The identity of now; empty until the first certificate.
#[derive(Debug, Default)]
pub struct IdentityCell(ArcSwapOption<Identity>);

impl IdentityCell {
    /// The identity, if there is one.
    pub fn get(&self) -> Option<Arc<Identity>> {
        self.0.load_full()
    }

    /// Replaces it. Connections that stand keep theirs.
    pub fn set(&self, identity: Identity) {
        self.0.store(Some(Arc::new(identity)));
    }
}

#[cfg(test)]
pub(crate) mod tests;
