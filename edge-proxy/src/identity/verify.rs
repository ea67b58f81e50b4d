//! Whom to believe: a chain to one of our roots, and exactly one SPIFFE name
//! of our trust domain that is the expected one. Which node somebody is [`Holder`] says.
//!
//! Host names play no part; an address can be anybody's.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use isobar_mesh_api::identity::{Holder, SpiffeId};
use isobar_mesh_api::message::Trust;
use isobar_mesh_api::names::NodeId;
use isobar_mesh_api::validity::Validity;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};

use super::Roots;

/// Most certificates of a peer's chain: a leaf, intermediates, roots that follow one another.
pub const CHAIN_LEN_MAX: usize = 10;

/// Whose certificate is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Any proxy of the trust domain: a node, or a workload's at a node.
    AnyNode,
    /// The proxy of this node, with a node's certificate or a workload's.
    Node(NodeId),
    /// Any proxy or workload of the trust domain.
    Anybody,
    /// This one.
    Exactly(SpiffeId),
}

/// Which side of a connection showed the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who connected.
    Client,
    /// Who was connected to.
    Server,
}

/// Checks certificates.
#[derive(Debug)]
pub struct SpiffeVerifier {
    roots: Vec<TrustAnchor<'static>>,
    trust_domain: String,
    expected: Expected,
    revoked: Arc<Revocations>,
}

/// Nodes whose certificates up to a moment are refused.
#[derive(Debug, Default)]
pub struct Revocations(BTreeMap<NodeId, u64>);

impl Revocations {
    /// Those that the controller told.
    pub fn new(trust: Option<&Trust>) -> Revocations {
        let each = trust.into_iter().flat_map(|trust| &trust.revoked);
        Revocations(each.map(|r| (r.node.clone(), r.begins_before_s)).collect())
    }

    /// Whether a node's certificate that begins at that second counts no more.
    pub fn contain(&self, node: &NodeId, begins_s: u64) -> bool {
        self.0
            .get(node)
            .is_some_and(|&before_s| begins_s < before_s)
    }
}

/// When a certificate begins, seconds since 1970; 0 when it does not say so.
pub fn begins_s(certificate: &CertificateDer<'_>) -> u64 {
    let validity = Validity::read(certificate);
    let since = validity.and_then(|v| v.not_before.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_secs())
}

/// The SHA-256 of a certificate, in hexadecimal.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// Whether a root alone makes a client's certificate believed.
pub fn verify_chain(
    leaf: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
    root: &CertificateDer<'_>,
    now: UnixTime,
) -> bool {
    let verify = || {
        let anchors = [webpki::anchor_from_trusted_cert(root)?];
        let algorithms = provider().signature_verification_algorithms.all;
        let usage = KeyUsage::client_auth();
        EndEntityCert::try_from(leaf)?
            .verify_for_usage(algorithms, &anchors, above, now, usage, None, None)
            .map(|_| ())
    };
    verify().is_ok()
}

/// The cryptography in use: ring.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let make = || Arc::new(rustls::crypto::ring::default_provider());
    Arc::clone(PROVIDER.get_or_init(make))
}

/// Whom a certificate names; `None` without exactly one SPIFFE name. Does not check who signed it.
pub fn holder(certificate: &CertificateDer<'_>) -> Option<Holder> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let mut names = certificate.valid_uri_names();
    let (Some(name), None) = (names.next(), names.next()) else {
        return None;
    };
    let id = SpiffeId::parse(name).ok()?;
    Some(Holder::new(id, certificate.valid_dns_names()))
}

impl SpiffeVerifier {
    /// Believes `expected` of `trust_domain` when one of `roots` signed for it.
    pub fn new(
        roots: &Roots,
        trust_domain: &str,
        expected: Expected,
        revoked: &Arc<Revocations>,
    ) -> SpiffeVerifier {
        SpiffeVerifier {
            roots: roots.0.clone(),
            trust_domain: trust_domain.to_owned(),
            expected,
            revoked: Arc::clone(revoked),
        }
    }

    /// Checks a certificate and the chain above it; whom it names.
    ///
    /// # Errors
    /// No chain to a root, outside its validity, not for this side of a connection, not exactly
    /// one SPIFFE name, or not the expected one; revoked, or a chain longer than [`CHAIN_LEN_MAX`].
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
        side: Side,
    ) -> Result<Holder, Error> {
        if above.len() >= CHAIN_LEN_MAX {
            return Err(CertificateError::BadEncoding.into());
        }
        let usage = match side {
            Side::Client => KeyUsage::client_auth(),
            Side::Server => KeyUsage::server_auth(),
        };
        EndEntityCert::try_from(leaf)
            .and_then(|certificate| {
                let algorithms = provider().signature_verification_algorithms.all;
                certificate
                    .verify_for_usage(algorithms, &self.roots, above, now, usage, None, None)
                    .map(|_| ())
            })
            .map_err(certificate_error)?;
        let wrong_name = CertificateError::ApplicationVerificationFailure;
        let holder = holder(leaf).ok_or(wrong_name.clone())?;
        let is_ours = holder.id.trust_domain == self.trust_domain;
        let expected = match &self.expected {
            Expected::AnyNode => is_ours && holder.node.is_some(),
            Expected::Node(node) => is_ours && holder.node.as_ref() == Some(node),
            Expected::Anybody => is_ours,
            Expected::Exactly(expected) => holder.id == *expected,
        };
        let begins_s = begins_s(leaf);
        let is_revoked = |node: &NodeId| self.revoked.contain(node, begins_s);
        match expected {
            true if holder.node.as_ref().is_some_and(is_revoked) => {
                Err(CertificateError::Revoked.into())
            }
            true => Ok(holder),
            false => Err(wrong_name.into()),
        }
    }
}

fn certificate_error(error: webpki::Error) -> Error {
    let kind = match error {
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        _ => CertificateError::BadEncoding,
    };
    kind.into()
}

fn check_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &provider().signature_verification_algorithms;
    verify_tls13_signature(message, certificate, signature, algorithms)
}

/// TLS 1.2 is never offered.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::PeerIncompatible(
        rustls::PeerIncompatible::Tls12NotOffered,
    ))
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, above, now, Side::Server)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for SpiffeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, above, now, Side::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Believes one identity below a root of which the fingerprint alone is known; the other side shows the root itself.
#[derive(Debug)]
pub struct PinVerifier {
    pin: String,
    expected: SpiffeId,
}

impl PinVerifier {
    /// Believes `expected` below the root with the fingerprint `pin`.
    pub fn new(pin: &str, expected: SpiffeId) -> PinVerifier {
        PinVerifier {
            pin: pin.to_owned(),
            expected,
        }
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = above.iter().find(|c| fingerprint(c) == self.pin);
        let root = pinned.ok_or(CertificateError::UnknownIssuer)?;
        let anchor = webpki::anchor_from_trusted_cert(root).map_err(certificate_error)?;
        let roots = Roots(vec![anchor.to_owned()]);
        let (domain, expected) = (&self.expected.trust_domain, self.expected.clone());
        let nobody = Arc::new(Revocations::default());
        SpiffeVerifier::new(&roots, domain, Expected::Exactly(expected), &nobody).verify(
            leaf,
            above,
            now,
            Side::Server,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
