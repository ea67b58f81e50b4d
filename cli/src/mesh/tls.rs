//! TLS to the controller: whom to believe, and what to do when nobody can be.
//!
//! | said | believed |
//! |---|---|
//! | a pin | the certificate with that SHA-256: the one that is shown, for whatever name, or one that it is below |
//! | a file of roots | what is below one of them |
//! | nothing | what this machine's own roots are good for |
//!
//! A controller's own certificate comes with its root, so a pin of the root is enough to know it by, and outlives every
//! renewal. Names and dates are checked in all cases but that of a pinned leaf.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, anyhow, bail};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::context::{Chosen, read_secret};

/// Where systems keep the roots that they believe.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The SHA-256 of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; 32]);

impl std::str::FromStr for Pin {
    type Err = anyhow::Error;

    /// 64 hexadecimal digits, with or without `sha256:` before and colons between them.
    fn from_str(text: &str) -> anyhow::Result<Pin> {
        let text = text.trim();
        let lower = text.to_ascii_lowercase();
        let digits = lower
            .strip_prefix("sha256:")
            .unwrap_or(&lower)
            .replace(':', "");
        let bytes = isobar_controller::secret::unhex(&digits);
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Pin).with_context(|| {
            format!("{text:?} is no SHA-256 of a certificate: 64 hexadecimal digits, as isobar ca status and openssl x509 -fingerprint -sha256 write it")
        })
    }
}

impl std::fmt::Display for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sha256:{}", isobar_controller::secret::hex(&self.0))
    }
}

impl Pin {
    fn of(certificate: &CertificateDer<'_>) -> Pin {
        let digest =
            isobar_controller::secret::unhex(&isobar_controller::secret::sha256(certificate));
        let bytes = digest.and_then(|bytes| bytes.try_into().ok());
        Pin(bytes.expect("a SHA-256 has 32 bytes"))
    }
}

/// Makes TLS connections to one controller.
pub struct Tls {
    connector: TlsConnector,
    verifier: Arc<Verifier>,
}

impl Tls {
    /// What the context says.
    ///
    /// # Errors
    /// A file that cannot be read, or is not what it should be.
    pub fn new(chosen: &Chosen) -> anyhow::Result<Tls> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let pin = chosen.pin.as_deref().map(str::parse).transpose()?;
        let roots = match (&chosen.ca_file, pin) {
            (Some(path), _) => roots(path)?,
            (None, Some(_)) => RootCertStore::empty(),
            (None, None) => system_roots(),
        };
        let verifier = Arc::new(Verifier {
            pin,
            roots,
            provider: provider.clone(),
            shown: Mutex::default(),
        });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());
        let config = match (&chosen.certificate_file, &chosen.key_file) {
            (None, None) => builder.with_no_client_auth(),
            (Some(chain), Some(key)) => {
                let secret = read_secret(key)?;
                let secret = PrivateKeyDer::from_pem_slice(secret.as_bytes())
                    .map_err(|_| anyhow!("{} has no private key in PEM", key.display()))?;
                let chain_shown = chain.display();
                let paired = builder.with_client_auth_cert(certificates(chain)?, secret);
                paired.with_context(|| {
                    format!(
                        "{chain_shown} and {} cannot be used together",
                        key.display()
                    )
                })?
            }
            _ => bail!(
                "a client certificate needs its key, and a key its certificate: --cert-file and --key-file"
            ),
        };
        Ok(Tls {
            connector: TlsConnector::from(Arc::new(config)),
            verifier,
        })
    }

    /// Makes the handshake.
    ///
    /// # Errors
    /// It failed; the message says what to do.
    pub async fn connect(
        &self,
        host: &str,
        socket: TcpStream,
    ) -> anyhow::Result<TlsStream<TcpStream>> {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(name.to_owned());
        let name = name.with_context(|| format!("{host:?} is no host name"))?;
        let shaken = self.connector.connect(name, socket).await;
        shaken.map_err(|error| self.explain(error))
    }

    fn explain(&self, error: std::io::Error) -> anyhow::Error {
        let cause = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>());
        let shown = self.verifier.shown.lock();
        let shown = *shown.unwrap_or_else(PoisonError::into_inner);
        let advice = match cause {
            Some(Error::InvalidCertificate(cause)) => self.advice(cause, shown),
            Some(Error::InvalidMessage(_)) => {
                Some("what is there speaks no TLS; is it http:// and another port?".to_owned())
            }
            Some(Error::AlertReceived(alert)) => Some(format!(
                "the controller refused the handshake ({alert:?}): a client certificate that it does not know, that has \
                 ended or was revoked? Leave --cert-file away, or show one below its rest_client_ca_file"
            )),
            _ => None,
        };
        match advice {
            Some(advice) => anyhow::Error::new(error).context(advice),
            None => anyhow::Error::new(error).context("the TLS handshake failed"),
        }
    }

    fn advice(&self, cause: &CertificateError, shown: Option<Pin>) -> Option<String> {
        let shown = shown.map_or_else(String::new, |pin| pin.to_string());
        Some(match cause {
            CertificateError::UnknownIssuer if self.verifier.pin.is_some() => format!(
                "the controller shows {shown}, and nothing with the pinned SHA-256. Has its root changed (isobar ca status on \
                 the controller's machine)? If not, somebody else answers"
            ),
            CertificateError::UnknownIssuer => format!(
                "nobody vouches for the controller's certificate. If it is the mesh's own, trust it by --ca-file (ca.pem in the \
                 controller's data directory), or by --pin {shown} once you have compared that with \
                 openssl x509 -noout -fingerprint -sha256 -in ca.pem there; isobar context set keeps either"
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the controller's certificate is for other names; ask it under one of them, or start it with --rest-name"
                    .to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the controller's certificate has expired, or this machine's clock is wrong".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the controller's certificate is not valid yet: this machine's clock is late, or the controller's early".to_owned()
            }
            _ => return None,
        })
    }
}

/// Checks what the controller shows.
#[derive(Debug)]
struct Verifier {
    pin: Option<Pin>,
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
    /// The last certificate of the last chain: its root, when it came with one.
    shown: Mutex<Option<Pin>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let last = above.last().unwrap_or(leaf);
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(Pin::of(last));
        if self.pin.is_some_and(|pin| pin == Pin::of(leaf)) {
            return Ok(ServerCertVerified::assertion());
        }
        let mut roots = self.roots.clone();
        if let Some(pin) = self.pin {
            let pinned = above.iter().filter(|one| Pin::of(one) == pin);
            roots.add_parsable_certificates(pinned.map(|one| one.clone().into_owned()));
        }
        if roots.is_empty() {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let built =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone());
        let built = built.build().map_err(|_| CertificateError::UnknownIssuer)?;
        built.verify_server_cert(leaf, above, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.ok().filter(|found: &Vec<_>| !found.is_empty());
    found.with_context(|| format!("{} has no certificate in PEM", path.display()))
}

fn roots(path: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(path)?);
    match added {
        0 => bail!("{} has no root that can be believed", path.display()),
        _ => Ok(roots),
    }
}

/// This machine's roots; none where it has none.
fn system_roots() -> RootCertStore {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = SYSTEM_ROOTS.iter().map(PathBuf::from);
    let all = named.into_iter().chain(usual);
    let found = all
        .filter(|path| path.exists())
        .find_map(|path| roots(&path).ok());
    found.unwrap_or_else(RootCertStore::empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_read_as_everybody_writes_them() {
        let plain = "ab".repeat(32);
        let colons = vec!["AB"; 32].join(":");
        for text in [
            plain.clone(),
            format!("sha256:{plain}"),
            format!("SHA256:{colons}"),
            colons,
        ] {
            assert_eq!(
                text.parse::<Pin>().unwrap().to_string(),
                format!("sha256:{plain}")
            );
        }
        for text in ["", "ab", &plain[1..], &"xy".repeat(32)] {
            assert!(text.parse::<Pin>().is_err(), "{text}");
        }
    }
}
