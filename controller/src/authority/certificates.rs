//! What certificates of the mesh look like: roots, intermediates, leaves.
//!
//! ```text
//! root (ten years) ─▶ intermediate (90 days) ─▶ leaf (24 h, one SPIFFE URI)
//!   └▶ the next root, while it takes over: who knows the old root alone believes the new one
//! ```

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use isobar_mesh_api::identity::SpiffeId;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AuthorityError, CLOCK_SKEW, random};
use crate::secret::hex;

/// How long a leaf certificate is valid.
pub const LEAF_VALID: Duration = Duration::from_secs(24 * 3600);
/// How long an intermediate is valid.
pub const INTERMEDIATE_VALID: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long a root is valid: ten years.
pub const ROOT_VALID: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What the authority's keys are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// ECDSA over P-256 with SHA-256.
    #[default]
    EcdsaP256,
    /// Ed25519.
    Ed25519,
}

/// A new key.
///
/// # Errors
/// The system gives no random numbers.
pub fn new_key(algorithm: Algorithm) -> Result<KeyPair, AuthorityError> {
    let algorithm = match algorithm {
        Algorithm::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        Algorithm::Ed25519 => &rcgen::PKCS_ED25519,
    };
    KeyPair::generate_for(algorithm).map_err(AuthorityError::Certificate)
}

/// What a root says of itself; each has a name of its own, so that chains are found by name.
///
/// # Errors
/// No random numbers, or the trust domain is no URI.
pub fn root(trust_domain: &str, now: SystemTime) -> Result<CertificateParams, AuthorityError> {
    let mut params = params("Isobar", now, ROOT_VALID)?;
    let name = format!("Isobar root {}", hex(&random::<4>()?));
    params.distinguished_name.push(DnType::CommonName, name);
    let domain = format!("spiffe://{trust_domain}");
    params.subject_alt_names = vec![SanType::URI(ia5(&domain)?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// A new intermediate below a root.
///
/// # Errors
/// No random numbers.
pub fn intermediate(
    key: &KeyPair,
    root: &Issuer<'_, KeyPair>,
    now: SystemTime,
) -> Result<CertificateDer<'static>, AuthorityError> {
    let mut params = params("Isobar", now, INTERMEDIATE_VALID)?;
    let name = format!("Isobar intermediate {}", hex(&random::<4>()?));
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    let signed = params.signed_by(key, root);
    Ok(signed.map_err(AuthorityError::Certificate)?.into())
}

/// A leaf for a key, with its one identity and these names beside it.
///
/// # Errors
/// A name that is none, or no random numbers.
pub fn leaf(
    id: &SpiffeId,
    names: &[String],
    key: &impl PublicKeyData,
    issuer: &Issuer<'_, KeyPair>,
    now: SystemTime,
) -> Result<CertificateDer<'static>, AuthorityError> {
    let mut params = params("Isobar", now, LEAF_VALID)?;
    let mut sans = vec![SanType::URI(ia5(&id.to_string())?)];
    for name in names {
        sans.push(match name.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(ia5(name)?),
        });
    }
    params.subject_alt_names = sans;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    let signed = params.signed_by(key, issuer);
    Ok(signed.map_err(AuthorityError::Certificate)?.into())
}

fn params(
    organisation: &str,
    now: SystemTime,
    valid: Duration,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, organisation);
    let now = time::OffsetDateTime::from(now);
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + valid;
    let mut serial: [u8; 16] = random()?;
    // Positive and not zero (RFC 5280, section 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn ia5(text: &str) -> Result<Ia5String, AuthorityError> {
    Ia5String::try_from(text).map_err(AuthorityError::Certificate)
}
