//! The development authority: one root key that signs the mesh's certificates.
//!
//! Made at the first start and kept in the data directory: `ca.key` (mode 0600), `ca.pem`, which
//! proxies need to trust the controller, and `enrol-token` (mode 0600), the credential of a proxy
//! that has no certificate yet. Who holds the token may enrol as any node.
//!
//! **Invariant**: of a certificate request only the public key is used, after the request's own
//! signature proved that the sender has the private one. Names and usages are decided here.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use isobar_mesh_api::identity::{IdentityError, SpiffeId, Subject};
use isobar_mesh_api::message::Certificate;
use isobar_mesh_api::names::NodeId;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use subtle::ConstantTimeEq;

use crate::files::{FileError, Readers, read_if_there, write_whole};

/// How long a leaf certificate is valid.
pub const LEAF_VALID: Duration = Duration::from_secs(24 * 3600);

/// How long the root is valid: ten years.
const ROOT_VALID: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How far back a certificate's validity begins, for edge servers whose clock is late.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// Random bytes of the enrolment token, which is written in hexadecimal.
const TOKEN_BYTES: usize = 32;

/// What went wrong in the authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file of the data directory.
    #[error("the authority's files are not usable")]
    File(#[from] FileError),
    /// The root certificate is there and its key is not.
    #[error(
        "{} is missing beside its certificate; restore it from a backup, or move ca.pem away to \
         begin a new authority, after which every proxy must enrol anew",
        .0.display()
    )]
    KeyMissing(PathBuf),
    /// A file holds something else than it should.
    #[error("{} does not hold {what}", .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// The root is for another trust domain.
    #[error(
        "the authority in {} is of trust domain {have:?}, the configuration says {want:?}; \
         change it back, or use another data_dir",
        .path.display()
    )]
    TrustDomain {
        /// The root certificate.
        path: PathBuf,
        /// What the root says.
        have: String,
        /// What the configuration says.
        want: String,
    },
    /// The certificate request is not one, or its signature is wrong.
    #[error("csr_pem is not a certificate request signed by its own key")]
    Request(#[source] rcgen::Error),
    /// Making or signing a certificate failed.
    #[error("a certificate cannot be made")]
    Certificate(#[source] rcgen::Error),
    /// The system gave no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// Signs the mesh's certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    roots_pem: String,
    trust_domain: String,
    token: String,
}

/// The controller's own certificate and key.
pub struct Identity {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

impl Authority {
    /// Reads the authority from a directory, or makes it there.
    ///
    /// # Errors
    /// Files that cannot be read or written, are damaged, or are of another trust domain.
    pub fn open(
        directory: &Path,
        trust_domain: &str,
        now: SystemTime,
    ) -> Result<Authority, AuthorityError> {
        let key_path = directory.join("ca.key");
        let root_path = directory.join("ca.pem");
        let key_text = read_if_there(&key_path)?;
        let root_text = read_if_there(&root_path)?;
        if key_text.is_none() && root_text.is_some() {
            return Err(AuthorityError::KeyMissing(key_path));
        }
        let key = match key_text {
            Some(text) => KeyPair::from_pem(&text).map_err(|_| AuthorityError::Damaged {
                path: key_path,
                what: "a private key",
            })?,
            None => {
                let key = new_key()?;
                write_whole(&key_path, key.serialize_pem().as_bytes(), Readers::Owner)?;
                key
            }
        };
        let roots_pem = match root_text {
            Some(text) => text,
            None => {
                let text = new_root(trust_domain, &key, now)?;
                write_whole(&root_path, text.as_bytes(), Readers::All)?;
                text
            }
        };
        let root = read_root(&root_path, &roots_pem, trust_domain)?;
        let issuer = Issuer::from_ca_cert_der(&root, key).map_err(AuthorityError::Certificate)?;
        Ok(Authority {
            issuer,
            root,
            roots_pem,
            trust_domain: trust_domain.to_owned(),
            token: read_or_make_token(&directory.join("enrol-token"))?,
        })
    }

    /// The trust domain of all certificates.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The root certificate.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// Whether this is the enrolment token. Takes the same time wherever a wrong one differs.
    pub fn is_token(&self, token: &str) -> bool {
        bool::from(self.token.as_bytes().ct_eq(token.as_bytes()))
    }

    /// A certificate for a node's own key.
    ///
    /// # Errors
    /// [`AuthorityError::Request`] when the request is not sound.
    pub fn issue_node(
        &self,
        node: &NodeId,
        csr_pem: &str,
        now: SystemTime,
    ) -> Result<Certificate, AuthorityError> {
        let request =
            CertificateSigningRequestParams::from_pem(csr_pem).map_err(AuthorityError::Request)?;
        let id = SpiffeId::node(&self.trust_domain, node);
        let leaf = self.issue(&id, Vec::new(), &request.public_key, now)?;
        Ok(Certificate {
            chain_pem: leaf.pem(),
            roots_pem: self.roots_pem.clone(),
        })
    }

    /// A new key and certificate for the controller itself, for these DNS names and IP addresses.
    ///
    /// # Errors
    /// A name that is neither, or no random numbers.
    pub fn issue_controller(
        &self,
        names: &[String],
        now: SystemTime,
    ) -> Result<Identity, AuthorityError> {
        let id = SpiffeId {
            trust_domain: self.trust_domain.clone(),
            subject: Subject::Workload {
                namespace: "isobar".to_owned(),
                account: "controller".to_owned(),
            },
        };
        let key = new_key()?;
        let sans = names
            .iter()
            .map(|name| match name.parse::<IpAddr>() {
                Ok(ip) => Ok(SanType::IpAddress(ip)),
                Err(_) => ia5(name).map(SanType::DnsName),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let leaf = self.issue(&id, sans, &key, now)?;
        Ok(Identity {
            chain: vec![leaf.into()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }

    fn issue(
        &self,
        id: &SpiffeId,
        mut sans: Vec<SanType>,
        key: &impl PublicKeyData,
        now: SystemTime,
    ) -> Result<rcgen::Certificate, AuthorityError> {
        sans.insert(0, SanType::URI(ia5(&id.to_string())?));
        let mut params = params("Isobar", now, LEAF_VALID)?;
        params.subject_alt_names = sans;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params
            .signed_by(key, &self.issuer)
            .map_err(AuthorityError::Certificate)
    }
}

/// Who a verified peer certificate says its holder is.
///
/// # Errors
/// Not exactly one URI among its names (SPIFFE X.509-SVID, section 2), not an identity of this
/// mesh, or of another trust domain.
pub fn peer_identity(leaf: &CertificateDer<'_>, trust_domain: &str) -> Result<SpiffeId, PeerError> {
    let certificate = webpki::EndEntityCert::try_from(leaf).map_err(PeerError::Certificate)?;
    let mut uris = certificate.valid_uri_names();
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(PeerError::NotOneUri);
    };
    let id = SpiffeId::parse(uri)?;
    if id.trust_domain != trust_domain {
        return Err(PeerError::TrustDomain(id.trust_domain));
    }
    Ok(id)
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

fn new_key() -> Result<KeyPair, AuthorityError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Certificate)
}

fn new_root(trust_domain: &str, key: &KeyPair, now: SystemTime) -> Result<String, AuthorityError> {
    let mut params = params("Isobar development authority", now, ROOT_VALID)?;
    let domain = format!("spiffe://{trust_domain}");
    params.subject_alt_names = vec![SanType::URI(ia5(&domain)?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root = params
        .self_signed(key)
        .map_err(AuthorityError::Certificate)?;
    Ok(root.pem())
}

/// The first certificate of the file, if it is of this trust domain.
fn read_root(
    path: &Path,
    text: &str,
    trust_domain: &str,
) -> Result<CertificateDer<'static>, AuthorityError> {
    let damaged = || AuthorityError::Damaged {
        path: path.to_owned(),
        what: "a root certificate",
    };
    let root = CertificateDer::from_pem_slice(text.as_bytes()).map_err(|_| damaged())?;
    let parsed = webpki::EndEntityCert::try_from(&root).map_err(|_| damaged())?;
    let uri = parsed.valid_uri_names().next().ok_or_else(damaged)?;
    let have = uri.strip_prefix("spiffe://").ok_or_else(damaged)?;
    if have != trust_domain {
        return Err(AuthorityError::TrustDomain {
            path: path.to_owned(),
            have: have.to_owned(),
            want: trust_domain.to_owned(),
        });
    }
    Ok(root)
}

fn read_or_make_token(path: &Path) -> Result<String, AuthorityError> {
    if let Some(text) = read_if_there(path)? {
        let token = text.trim();
        // An empty token would make renewal without a certificate possible.
        if token.len() < TOKEN_BYTES {
            return Err(AuthorityError::Damaged {
                path: path.to_owned(),
                what: "an enrolment token of at least 32 characters",
            });
        }
        return Ok(token.to_owned());
    }
    let bytes: [u8; TOKEN_BYTES] = random()?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    write_whole(path, format!("{token}\n").as_bytes(), Readers::Owner)?;
    Ok(token)
}

fn params(
    name: &str,
    now: SystemTime,
    valid: Duration,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, name);
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

/// Random bytes.
///
/// # Errors
/// The system gives none.
pub fn random<const N: usize>() -> Result<[u8; N], AuthorityError> {
    let mut bytes = [0; N];
    crypto()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| AuthorityError::Random)?;
    Ok(bytes)
}

/// The cryptography of the whole program.
pub fn crypto() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const TD: &str = "isobar.local";

    fn open(directory: &Path) -> Result<Authority, AuthorityError> {
        Authority::open(directory, TD, SystemTime::now())
    }

    fn request(names: &[&str], is_ca: IsCa) -> String {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.is_ca = is_ca;
        let key = new_key().unwrap();
        params.serialize_request(&key).unwrap().pem().unwrap()
    }

    #[test]
    fn root_and_token_are_kept_and_secret() {
        let directory = tempfile::tempdir().unwrap();
        let first = open(directory.path()).unwrap();
        let second = open(directory.path()).unwrap();
        assert_eq!(first.roots_pem, second.roots_pem);
        assert_eq!(first.token, second.token);
        assert!(second.is_token(&first.token));
        for wrong in ["", "x", &first.token[1..], &"0".repeat(64)] {
            assert!(!first.is_token(wrong), "{wrong:?}");
        }
        for secret in ["ca.key", "enrol-token"] {
            let meta = std::fs::metadata(directory.path().join(secret)).unwrap();
            assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{secret}");
        }
    }

    #[test]
    fn damage_is_named() {
        type Spoil = fn(&Path);
        let cases: [(&str, Spoil); 5] = [
            ("ca.key is missing", |d| {
                std::fs::remove_file(d.join("ca.key")).unwrap()
            }),
            ("a private key", |d| {
                std::fs::write(d.join("ca.key"), "x").unwrap()
            }),
            ("a root certificate", |d| {
                std::fs::write(d.join("ca.pem"), "x").unwrap()
            }),
            ("enrolment token", |d| {
                std::fs::write(d.join("enrol-token"), "\n").unwrap()
            }),
            ("trust domain", |d| {
                std::fs::remove_file(d.join("ca.pem")).unwrap();
                Authority::open(d, "other.example", SystemTime::now()).unwrap();
            }),
        ];
        for (what, spoil) in cases {
            let directory = tempfile::tempdir().unwrap();
            open(directory.path()).unwrap();
            spoil(directory.path());
            let error = open(directory.path()).err().unwrap().to_string();
            assert!(error.contains(what), "{what}: {error}");
        }
    }

    #[test]
    fn only_the_key_of_a_request_is_used() {
        let directory = tempfile::tempdir().unwrap();
        let authority = open(directory.path()).unwrap();
        let node = NodeId::new("edge-1").unwrap();
        let greedy = request(
            &["controller.example", "10.0.0.1"],
            IsCa::Ca(BasicConstraints::Unconstrained),
        );
        let issued = authority
            .issue_node(&node, &greedy, SystemTime::now())
            .unwrap();
        let leaf = CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap();
        let id = peer_identity(&leaf, TD).unwrap();
        assert_eq!(id, SpiffeId::node(TD, &node));
        assert!(matches!(
            peer_identity(&leaf, "x"),
            Err(PeerError::TrustDomain(_))
        ));
        let parsed = webpki::EndEntityCert::try_from(&leaf).unwrap();
        assert_eq!(parsed.valid_dns_names().count(), 0);
        let anchor = webpki::anchor_from_trusted_cert(authority.root()).unwrap();
        let verify = |at: SystemTime| {
            let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
            parsed
                .verify_for_usage(
                    crypto().signature_verification_algorithms.all,
                    std::slice::from_ref(&anchor),
                    &[],
                    rustls::pki_types::UnixTime::since_unix_epoch(since),
                    webpki::KeyUsage::client_auth(),
                    None,
                    None,
                )
                .is_ok()
        };
        assert!(verify(SystemTime::now()));
        assert!(!verify(
            SystemTime::now() + LEAF_VALID + Duration::from_secs(60)
        ));
    }

    #[test]
    fn unsound_requests_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let authority = open(directory.path()).unwrap();
        let node = NodeId::new("edge-1").unwrap();
        let sound = request(&[], IsCa::NoCa);
        let body: String = sound.lines().filter(|l| !l.starts_with('-')).collect();
        let mut forged = sound.clone();
        let at = forged.len() - 45;
        let other = if forged.as_bytes()[at] == b'A' {
            "B"
        } else {
            "A"
        };
        forged.replace_range(at..=at, other);
        for text in ["", "x", &body, &forged] {
            let error = authority.issue_node(&node, text, SystemTime::now()).err();
            assert!(matches!(error, Some(AuthorityError::Request(_))), "{text}");
        }
    }
}
