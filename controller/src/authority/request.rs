//! What a certificate request may ask: a key of its own, and no more than its holder's own names.

use isobar_mesh_api::identity::{SpiffeId, node_name};
use isobar_mesh_api::names::NodeId;
use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, PublicKey, PublicKeyData,
    SanType,
};

use super::AuthorityError;

/// Reads a request for `id` at `node` and returns the key in it.
///
/// # Errors
/// [`AuthorityError::Request`]: no request, or not signed by its own key. [`AuthorityError::RequestAsks`]: another
/// name, an authority's rights, or a weak key.
pub fn key(csr_pem: &str, id: &SpiffeId, node: &NodeId) -> Result<PublicKey, AuthorityError> {
    let request =
        CertificateSigningRequestParams::from_pem(csr_pem).map_err(AuthorityError::Request)?;
    let params = &request.params;
    let (own, at) = (id.to_string(), node_name(&id.trust_domain, node));
    let is_own = |san: &SanType| match san {
        SanType::URI(uri) => uri.as_str() == own,
        SanType::DnsName(name) => id.as_workload().is_some() && name.as_str() == at,
        _ => false,
    };
    if !params.subject_alt_names.iter().all(is_own) {
        return Err(AuthorityError::RequestAsks(
            "asks for a name that is not its holder's own; leave names away",
        ));
    }
    if matches!(params.is_ca, IsCa::Ca(_)) {
        return Err(AuthorityError::RequestAsks(
            "asks for the rights of an authority",
        ));
    }
    let usual = [
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    if !params.extended_key_usages.iter().all(|u| usual.contains(u)) {
        return Err(AuthorityError::RequestAsks(
            "asks for more than a server's and a client's usage",
        ));
    }
    match is_strong(&request.public_key) {
        true => Ok(request.public_key),
        false => Err(AuthorityError::RequestAsks(
            "has a key that is not taken: make one of ECDSA P-256, P-384 or Ed25519",
        )),
    }
}

/// The point's length must fit the curve: a request's signature algorithm does not fix its curve.
fn is_strong(key: &PublicKey) -> bool {
    let algorithm = key.algorithm();
    let len = key.der_bytes().len();
    (*algorithm == rcgen::PKCS_ECDSA_P256_SHA256 && len == 65)
        || (*algorithm == rcgen::PKCS_ECDSA_P384_SHA384 && len == 97)
        || (*algorithm == rcgen::PKCS_ED25519 && len == 32)
}
