//! TLS that ends at ingress: which certificate a client is shown, and how it changes without a connection lost.
//!
//! A [`Termination`] belongs to a listener. Its certificates are replaced at once when their files change; connections
//! that stand keep theirs. Files that cannot be used change nothing: what was read last stays in force.
//!
//! Sessions are resumed by tickets: the client keeps them, this side keeps nothing for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use tokio::sync::Semaphore;

use crate::config::listener::CertificateFiles;
use crate::identity::Identity;
use crate::identity::verify::{SpiffeVerifier, provider};

pub mod certificate;

use certificate::{Certificate, CertificateError, Stamp};

/// HTTP/2 before HTTP/1.1, as a client may choose.
const ALPN_HTTP: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// TLS for the clients of one listener.
#[derive(Debug)]
pub struct Termination {
    /// What a handshake needs.
    pub config: Arc<ServerConfig>,
    /// One permit per handshake under way.
    pub handshakes: Semaphore,
    /// Whose certificates are asked for, where they are.
    callers: Option<Arc<Callers>>,
    shown: Arc<Shown>,
    files: Vec<CertificateFiles>,
    /// What the files looked like when they were last read.
    stamps: Mutex<Vec<Stamp>>,
}

impl Termination {
    /// Reads the certificates. `is_http` offers HTTP's protocols by ALPN; `asks_callers` asks for certificates of the mesh, by
    /// TLS 1.3 alone, and resumes no session, which would skip their check.
    ///
    /// # Errors
    /// Files that cannot be read or do not fit together, by their index.
    pub fn new(
        files: &[CertificateFiles],
        is_http: bool,
        asks_callers: bool,
        handshakes_max: usize,
    ) -> Result<Termination, (usize, CertificateError)> {
        let stamps = Stamp::of_all(files);
        let shown = Arc::new(Shown(ArcSwap::from_pointee(BySni::read(files)?)));
        let broken = |error| (0, CertificateError::Tls(error));
        let callers = asks_callers.then(Arc::<Callers>::default);
        let versions: &[_] = match asks_callers {
            true => &[&rustls::version::TLS13],
            false => &[&rustls::version::TLS13, &rustls::version::TLS12],
        };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(broken)?;
        let mut config = match &callers {
            Some(callers) => builder
                .with_client_cert_verifier(Arc::clone(callers) as Arc<dyn ClientCertVerifier>),
            None => builder.with_no_client_auth(),
        }
        .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        if is_http {
            config.alpn_protocols = ALPN_HTTP.map(<[u8]>::to_vec).to_vec();
        }
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        if !asks_callers {
            config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(broken)?;
            config.send_tls13_tickets = 1;
        }
        Ok(Termination {
            config: Arc::new(config),
            handshakes: Semaphore::new(handshakes_max),
            callers,
            shown,
            files: files.to_vec(),
            stamps: Mutex::new(stamps),
        })
    }

    /// Whom handshakes from now on believe, where certificates of the mesh are asked for.
    pub fn believe(&self, identity: Option<&Identity>) {
        let Some(callers) = &self.callers else {
            return;
        };
        let now = identity.map(|identity| &identity.callers);
        let known = callers.0.load();
        if known.as_ref().map(Arc::as_ptr) != now.map(Arc::as_ptr) {
            callers.0.store(now.cloned());
        }
    }

    /// Reads the files again when they look other than at the last reading. `None`: they do not.
    pub fn reload(&self) -> Option<Result<(), CertificateError>> {
        let now = Stamp::of_all(&self.files);
        let mut stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        if *stamps == now {
            return None;
        }
        // Also when they cannot be used: they are read again when they change once more.
        *stamps = now;
        Some(match BySni::read(&self.files) {
            Ok(read) => {
                self.shown.0.store(Arc::new(read));
                Ok(())
            }
            Err((_, error)) => Err(error),
        })
    }
}

/// Who may show a certificate: whom the node believes now; nobody is asked before it believes anybody.
#[derive(Debug, Default)]
struct Callers(ArcSwapOption<SpiffeVerifier>);

impl Callers {
    fn now(&self) -> Result<Arc<SpiffeVerifier>, rustls::Error> {
        let now = self.0.load_full();
        now.ok_or_else(|| rustls::CertificateError::UnknownIssuer.into())
    }
}

impl ClientCertVerifier for Callers {
    fn offer_client_auth(&self) -> bool {
        self.0.load().is_some()
    }

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
        self.now()?.verify_client_cert(leaf, above, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ClientCertVerifier::verify_tls12_signature(&*self.now()?, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ClientCertVerifier::verify_tls13_signature(&*self.now()?, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The certificates in force.
#[derive(Debug)]
struct Shown(ArcSwap<BySni>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().find(hello.server_name())
    }
}

/// Certificates by the name that a client asks for.
#[derive(Debug, Default)]
struct BySni {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By the part behind `*.`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    /// For other names and for none.
    default: Option<Arc<CertifiedKey>>,
}

impl BySni {
    /// Of two certificates for one name the first has it.
    fn read(all: &[CertificateFiles]) -> Result<BySni, (usize, CertificateError)> {
        let mut by_sni = BySni::default();
        for (index, files) in all.iter().enumerate() {
            let Certificate { key, names } =
                Certificate::read(files).map_err(|error| (index, error))?;
            for name in names {
                match name.strip_prefix("*.") {
                    Some(domain) => by_sni
                        .wildcard
                        .entry(domain.to_owned())
                        .or_insert_with(|| Arc::clone(&key)),
                    None => by_sni.exact.entry(name).or_insert_with(|| Arc::clone(&key)),
                };
            }
            if files.default {
                by_sni.default = Some(key);
            }
        }
        Ok(by_sni)
    }

    /// The certificate of this name, else of its wildcard (one label), else the default.
    fn find(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let named = |name: &str| {
            let wildcard = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(name).or_else(wildcard)
        };
        // The TLS library gives names in lower case.
        name.and_then(named).or(self.default.as_ref()).cloned()
    }
}
