//! Whom a certificate that a peer shows names.

use isobar_mesh_api::identity::{Holder, IdentityError, SpiffeId};
use rustls::pki_types::CertificateDer;

/// Whom a verified peer certificate names.
///
/// # Errors
/// Not exactly one URI among its names (SPIFFE X.509-SVID, section 2), not an identity of this
/// mesh, or of another trust domain.
pub fn peer_identity(leaf: &CertificateDer<'_>, trust_domain: &str) -> Result<Holder, PeerError> {
    let certificate = webpki::EndEntityCert::try_from(leaf).map_err(PeerError::Certificate)?;
    let mut uris = certificate.valid_uri_names();
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(PeerError::NotOneUri);
    };
    let id = SpiffeId::parse(uri)?;
    if id.trust_domain != trust_domain {
        return Err(PeerError::TrustDomain(id.trust_domain));
    }
    Ok(Holder::new(id, certificate.valid_dns_names()))
}

/// Why a peer's certificate names nobody.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// It does not parse.
    #[error("the client certificate does not parse")]
    Certificate(#[source] webpki::Error),
    /// None, or several.
    #[error("the client certificate must carry exactly one URI")]
    NotOneUri,
    /// The URI is not an identity.
    #[error("the client certificate carries no identity of this mesh")]
    Identity(#[from] IdentityError),
    /// An identity of another mesh.
    #[error("the client certificate is of trust domain {0:?}")]
    TrustDomain(String),
}
