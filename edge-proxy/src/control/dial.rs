//! Connections to the controller: HTTP/1.1 over TLS, the controller named by its
//! certificate.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longest wait for a connection, its handshakes included.
pub const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);
/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// TCP or TLS failed; also when the other end is not the controller.
    #[error("connecting to {address}")]
    Connect {
        /// Where.
        address: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// By this machine's clock the controller's certificate has ended, or has not begun.
    #[error(
        "connecting to {address}: its certificate is not valid at {now_s} s since 1970, which is this machine's clock; set \
         the clock, or keep it right by NTP"
    )]
    Clock {
        /// Where.
        address: String,
        /// What time it is here, seconds since 1970.
        now_s: u64,
        /// What went wrong.
        source: std::io::Error,
    },
    /// Not in time.
    #[error("connecting to {0} took too long")]
    TooSlow(String),
    /// HTTP could not begin.
    #[error("beginning HTTP")]
    Http(#[from] hyper::Error),
}

/// A connection to the controller. Dropping it closes it, unless it carries a stream by then.
#[derive(Debug)]
pub struct Dialled {
    /// Sends requests.
    pub sender: http1::SendRequest<Full<Bytes>>,
    /// The address that this node has towards the controller.
    pub local_ip: IpAddr,
    driver: JoinHandle<()>,
}

impl Drop for Dialled {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Connects to the controller at `host:port`.
///
/// # Errors
/// It cannot be reached in [`CONNECT_WAIT_MAX`], or is not the controller.
pub async fn dial(address: &str, config: Arc<ClientConfig>) -> Result<Dialled, DialError> {
    match tokio::time::timeout(CONNECT_WAIT_MAX, connect(address, config)).await {
        Ok(connected) => connected,
        Err(_) => Err(DialError::TooSlow(address.to_owned())),
    }
}

async fn connect(address: &str, config: Arc<ClientConfig>) -> Result<Dialled, DialError> {
    let failed = |source| DialError::Connect {
        address: address.to_owned(),
        source,
    };
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let local_ip = stream.local_addr().map_err(failed)?.ip();
    // The name plays no part: the certificate must say that this is the controller.
    let anyone = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
    let tls = TlsConnector::from(config)
        .connect(anyone, stream)
        .await
        .map_err(|source| match is_of_time(&source) {
            true => DialError::Clock {
                address: address.to_owned(),
                now_s: crate::skew::seconds(SystemTime::now()),
                source,
            },
            false => failed(source),
        })?;
    let (sender, driver) = begin(tls).await?;
    Ok(Dialled {
        sender,
        local_ip,
        driver,
    })
}

/// Begins HTTP over a connection; what drives it goes on by itself.
///
/// # Errors
/// It broke.
pub async fn begin(
    tls: TlsStream<TcpStream>,
) -> hyper::Result<(http1::SendRequest<Full<Bytes>>, JoinHandle<()>)> {
    let (sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "the connection to the controller ended");
        }
    });
    Ok((sender, driver))
}

/// Whether a handshake failed over a certificate's dates.
fn is_of_time(error: &std::io::Error) -> bool {
    use rustls::{CertificateError, Error};
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    let Some(Error::InvalidCertificate(error)) = inner else {
        return false;
    };
    matches!(
        error,
        CertificateError::Expired
            | CertificateError::NotValidYet
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYetContext { .. }
    )
}
