//! The authority as the store has it, and what is made of it in memory.

use isobar_mesh_api::validity::Validity;
use rcgen::{Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use super::certificates::LEAF_VALID;
use super::rotation::Stage;
use super::seal::{Seal, Sealed};
use super::{AuthorityError, CLOCK_SKEW, seconds};
use crate::secret::sha256;

/// Everything, under one key of the store: it changes as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Rises with each change that proxies must hear of.
    pub version: u64,
    /// At most one of each stage; exactly one is active.
    pub roots: Vec<KeptRoot>,
}

/// One root and what signs below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRoot {
    /// The SHA-256 of its certificate.
    pub id: String,
    /// Its certificate.
    pub certificate_pem: String,
    /// Its key; absent when it was brought by the user.
    pub key: Option<Sealed>,
    /// Its certificate by the root before it, which those believe who know that one alone.
    pub crossed_pem: Option<String>,
    /// The certificates from the one that signs leaves up to below the root.
    pub chain_pem: String,
    /// The key that signs leaves.
    pub chain_key: Sealed,
    /// Where it stands.
    pub stage: Stage,
    /// Since when, seconds since 1970.
    pub since_s: u64,
}

/// What signs leaves.
pub struct Signing {
    /// The lowest certificate and its key.
    pub issuer: Issuer<'static, KeyPair>,
    /// What stands above a leaf.
    pub above: Vec<CertificateDer<'static>>,
    /// When the first of them ends, seconds since 1970.
    pub ends_s: u64,
}

impl Kept {
    /// The root at a stage.
    pub fn at(&self, stage: Stage) -> Option<&KeptRoot> {
        self.roots.iter().find(|root| root.stage == stage)
    }

    /// The root that signs.
    ///
    /// # Errors
    /// The store has none.
    pub fn active(&self) -> Result<&KeptRoot, AuthorityError> {
        self.at(Stage::Active)
            .ok_or(AuthorityError::Damaged("an active root"))
    }

    /// All roots to believe.
    pub fn roots_pem(&self) -> String {
        self.roots
            .iter()
            .map(|r| r.certificate_pem.as_str())
            .collect()
    }

    /// All roots to believe, the active one first.
    ///
    /// # Errors
    /// The store has something else.
    pub fn roots(&self) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let mut roots: Vec<&KeptRoot> = self.roots.iter().collect();
        roots.sort_by_key(|root| root.stage != Stage::Active);
        roots.into_iter().map(KeptRoot::certificate).collect()
    }
}

impl KeptRoot {
    /// The root's certificate.
    ///
    /// # Errors
    /// The store has something else.
    pub fn certificate(&self) -> Result<CertificateDer<'static>, AuthorityError> {
        CertificateDer::from_pem_slice(self.certificate_pem.as_bytes())
            .map_err(|_| AuthorityError::Damaged("a root certificate"))
    }

    /// What signs below it.
    ///
    /// # Errors
    /// Another sealing key, or the store has something else.
    pub fn signing(&self, seal: &Seal) -> Result<Signing, AuthorityError> {
        let chain = certificates(&self.chain_pem)?;
        let lowest = chain.first().ok_or(AuthorityError::Damaged("a chain"))?;
        let key = open_key(seal, &chain_purpose(&self.id), &self.chain_key)?;
        let issuer = Issuer::from_ca_cert_der(lowest, key).map_err(AuthorityError::Certificate)?;
        let mut ends_s = u64::MAX;
        for certificate in &chain {
            ends_s = ends_s.min(ends(certificate)?);
        }
        Ok(Signing {
            issuer,
            above: chain,
            ends_s,
        })
    }

    /// The root itself as a signer; `None` without its key.
    ///
    /// # Errors
    /// Another sealing key, or the store has something else.
    pub fn issuer(&self, seal: &Seal) -> Result<Option<Issuer<'static, KeyPair>>, AuthorityError> {
        let Some(sealed) = &self.key else {
            return Ok(None);
        };
        let key = open_key(seal, &root_purpose(&self.id), sealed)?;
        let issuer = Issuer::from_ca_cert_der(&self.certificate()?, key);
        issuer.map(Some).map_err(AuthorityError::Certificate)
    }
}

/// What a root's sealed key is for.
pub fn root_purpose(id: &str) -> String {
    format!("root {id}")
}

/// What the sealed key that signs leaves below a root is for.
pub fn chain_purpose(id: &str) -> String {
    format!("issuer below {id}")
}

/// A root's name: the SHA-256 of its certificate.
pub fn root_id(certificate: &CertificateDer<'_>) -> String {
    sha256(certificate)
}

/// All certificates of a PEM text.
///
/// # Errors
/// Something else is in it.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| AuthorityError::Damaged("certificates"))
}

/// When a certificate ends, seconds since 1970.
///
/// # Errors
/// It is none.
pub fn ends(certificate: &CertificateDer<'_>) -> Result<u64, AuthorityError> {
    let validity = Validity::read(certificate).ok_or(AuthorityError::Damaged("a certificate"))?;
    Ok(seconds(validity.not_after))
}

/// A certificate as PEM.
pub fn pem(certificate: &CertificateDer<'_>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", &**certificate), config)
}

fn open_key(seal: &Seal, purpose: &str, sealed: &Sealed) -> Result<KeyPair, AuthorityError> {
    let der = seal.open(purpose, sealed)?;
    KeyPair::try_from(&PrivatePkcs8KeyDer::from(der))
        .map_err(|_| AuthorityError::Damaged("a private key"))
}

/// A node whose certificates up to a moment count no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRevoked {
    /// Certificates that begin before this, seconds since 1970, are refused.
    pub begins_before_s: u64,
    /// When it was said, seconds since 1970.
    pub since_s: u64,
}

impl KeptRevoked {
    /// Everything issued to a node up to now.
    pub fn until(now_s: u64) -> KeptRevoked {
        KeptRevoked {
            begins_before_s: (now_s + 1).saturating_sub(CLOCK_SKEW.as_secs()),
            since_s: now_s,
        }
    }

    /// Whether something that it revokes could still be valid.
    pub fn is_in_force(&self, now_s: u64) -> bool {
        now_s <= self.since_s + LEAF_VALID.as_secs() + CLOCK_SKEW.as_secs()
    }
}
