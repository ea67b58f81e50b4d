//! What can go wrong with etcd, and what an operator can do about it.

use std::error::Error;
use std::path::PathBuf;

use http::StatusCode;
use rustls::AlertDescription;

/// Why etcd did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// A file of the configuration.
    #[error("{} {problem}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// An endpoint is not one.
    #[error("{0:?} is no endpoint; write http://host:port or https://host:port")]
    Endpoint(String),
    /// A member cannot be reached.
    #[error("etcd at {endpoint} cannot be reached")]
    Connect {
        /// Which.
        endpoint: String,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// A member shows a certificate that is not believed.
    #[error(
        "the certificate of etcd at {endpoint} is not believed; it must be signed by store.ca_file and name that host"
    )]
    Untrusted {
        /// Which.
        endpoint: String,
        /// What is wrong with it.
        #[source]
        source: std::io::Error,
    },
    /// A member does not believe this controller's certificate, or wants one.
    #[error(
        "etcd at {endpoint} takes no connection without a certificate that it believes; store.cert_file must be signed by \
         its --trusted-ca-file, be in time and be for clientAuth"
    )]
    Unwelcome {
        /// Which.
        endpoint: String,
        /// What it said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A connection broke.
    #[error("the connection to etcd at {endpoint} broke{}", if_tls(.endpoint))]
    Broken {
        /// Which.
        endpoint: String,
        /// What went wrong.
        #[source]
        source: hyper::Error,
    },
    /// No answer in time.
    #[error("etcd at {0} did not answer in time; has its cluster lost its quorum?")]
    TooSlow(String),
    /// An answer longer than is read.
    #[error("an answer of etcd is longer than is read")]
    TooLong,
    /// A refusal.
    #[error("etcd refused: {message} (HTTP {status}){}", advice(*.status, .message))]
    Refused {
        /// Of HTTP.
        status: StatusCode,
        /// Its words.
        message: String,
    },
    /// An answer of another shape.
    #[error("etcd at {0} answered something else than its API says; is it etcd 3.4 or later?")]
    Strange(String),
}

impl EtcdError {
    /// A connection that was not opened.
    pub(super) fn not_connected(endpoint: &str, source: std::io::Error) -> EtcdError {
        let endpoint = endpoint.to_owned();
        match tls_error(&source) {
            Some(rustls::Error::InvalidCertificate(_)) => EtcdError::Untrusted { endpoint, source },
            Some(rustls::Error::AlertReceived(alert)) if is_about_certificates(*alert) => {
                let source = source.into();
                EtcdError::Unwelcome { endpoint, source }
            }
            _ => EtcdError::Connect { endpoint, source },
        }
    }

    /// A connection that ended before the answer. What a member thinks of a client's certificate, the client hears of by
    /// then at the earliest (RFC 8446, section 4.4.2.4).
    pub(super) fn broken(endpoint: &str, source: hyper::Error) -> EtcdError {
        let endpoint = endpoint.to_owned();
        match tls_error(&source) {
            Some(rustls::Error::AlertReceived(alert)) if is_about_certificates(*alert) => {
                let source = source.into();
                EtcdError::Unwelcome { endpoint, source }
            }
            _ => EtcdError::Broken { endpoint, source },
        }
    }

    /// Whether another member, or the same one later, could do it.
    pub fn is_passing(&self) -> bool {
        match self {
            EtcdError::Connect { .. }
            | EtcdError::Untrusted { .. }
            | EtcdError::Unwelcome { .. }
            | EtcdError::Broken { .. }
            | EtcdError::TooSlow(_)
            | EtcdError::Strange(_) => true,
            // No leader, no quorum, timed out, overloaded; the rest is about the request.
            EtcdError::Refused { status, message } => {
                status.is_server_error() && !message.contains("database space exceeded")
            }
            EtcdError::File { .. } | EtcdError::Endpoint(_) | EtcdError::TooLong => false,
        }
    }

    /// Whether a new token may do.
    pub(super) fn is_about_the_token(&self) -> bool {
        let words = ["auth token", NO_USER, "revision of auth store is old"];
        matches!(self, EtcdError::Refused { status, message }
            if *status == StatusCode::UNAUTHORIZED || words.iter().any(|words| message.contains(words)))
    }
}

/// A member that speaks TLS closes a connection that does not.
fn if_tls(endpoint: &str) -> &'static str {
    match endpoint.starts_with("http:") {
        true => "; if it speaks TLS, write https:// in store.endpoints and set store.ca_file",
        false => "",
    }
}

/// Etcd's words where its authentication is on and nobody said who asks.
const NO_USER: &str = "user name is empty";

/// Go's and gRPC's words for a connection that does not come about or breaks: etcd's JSON API has one to its own member.
const UNREACHED: [&str; 4] = ["connection", "transport", "tcp ", "EOF"];

/// What to do about a refusal, as the rest of a sentence; empty where that is not known.
fn advice(status: StatusCode, message: &str) -> &'static str {
    let says = |words: &str| message.contains(words);
    if says("CommonName") {
        "; while etcd's authentication is on, its JSON API takes no client certificate with a common name: make \
         store.cert_file one without (an empty CN), and say who asks with store.user and store.password_file"
    } else if says("invalid user ID or password") {
        "; store.user and the file store.password_file must be as `etcdctl user add` or `etcdctl user passwd` set them"
    } else if says("permission denied") {
        "; the role of store.user must have readwrite on store.prefix: \
         `etcdctl role grant-permission ROLE readwrite --prefix=true PREFIX/`"
    } else if says(NO_USER) {
        "; etcd's authentication is on: set store.user and store.password_file"
    } else if says("authentication is not enabled") {
        "; leave out store.user, or turn it on with `etcdctl auth enable`"
    } else if status == StatusCode::SERVICE_UNAVAILABLE && UNREACHED.iter().any(|w| says(w)) {
        "; etcd's JSON API does not reach its own member: with --client-cert-auth, etcd's certificate (--cert-file) must be \
         for clientAuth beside serverAuth; its log says more"
    } else {
        ""
    }
}

/// What TLS says, however deep it is wrapped.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref::<rustls::Error>() {
        return Some(found);
    }
    // The source of an `io::Error` is the source of what it wraps, which is passed over.
    let inner = match error.downcast_ref::<std::io::Error>() {
        Some(error) => error.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    };
    tls_error(inner?)
}

fn is_about_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateRequired
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_do() {
        let cases = [
            (
                400,
                "CommonName of client sending a request against gateway will be ignored and not used as expected",
                "store.cert_file",
            ),
            (
                400,
                "etcdserver: authentication failed, invalid user ID or password",
                "store.password_file",
            ),
            (403, "etcdserver: permission denied", "readwrite"),
            (400, "etcdserver: user name is empty", "set store.user"),
            (503, "connection closed", "clientAuth"),
            (
                503,
                "write tcp 127.0.0.1:38180->127.0.0.1:45623: write: broken pipe",
                "clientAuth",
            ),
            (
                503,
                "connection error: desc = \"transport: failed to write client preface\"",
                "clientAuth",
            ),
        ];
        for (status, message, expected) in cases {
            let error = EtcdError::Refused {
                status: StatusCode::from_u16(status).unwrap(),
                message: message.to_owned(),
            };
            let said = error.to_string();
            assert!(said.contains(message) && said.contains(expected), "{said}");
            assert_eq!(error.is_passing(), status == 503, "{said}");
        }
        let (status, message) = (
            StatusCode::SERVICE_UNAVAILABLE,
            "etcdserver: no leader".to_owned(),
        );
        let said = EtcdError::Refused { status, message }.to_string();
        assert!(said.ends_with("(HTTP 503 Service Unavailable)"), "{said}");
    }

    #[test]
    fn what_tls_says_is_found_however_it_is_wrapped() {
        let alert = |alert| std::io::Error::other(rustls::Error::AlertReceived(alert));
        let error = EtcdError::not_connected("e", alert(AlertDescription::CertificateRequired));
        assert!(matches!(error, EtcdError::Unwelcome { .. }), "{error}");
        let twice = std::io::Error::other(alert(AlertDescription::UnknownCA));
        assert!(tls_error(&twice).is_some());
        let error = EtcdError::not_connected("e", alert(AlertDescription::InternalError));
        assert!(matches!(error, EtcdError::Connect { .. }), "{error}");
        let other = rustls::CertificateError::UnknownIssuer.into();
        let error = EtcdError::not_connected("e", std::io::Error::other::<rustls::Error>(other));
        assert!(matches!(error, EtcdError::Untrusted { .. }), "{error}");
    }
}
