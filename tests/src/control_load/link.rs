//! One connection to the controller: TLS, HTTP, and the control stream that it becomes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use isobar_edge_proxy::control::dial;
use isobar_edge_proxy::control::lines::{Lines, OpenError};
use isobar_mesh_api::message::{Down, Hello, LineBuffer, Up, decode_line, encode_line};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// A proxy waits this long for a connection, as the real one does.
const CONNECT_WAIT_MAX: Duration = dial::CONNECT_WAIT_MAX;
/// Connections come from this many addresses, so that their ports suffice.
const ADDRESSES: u32 = 64;

/// Why there is no stream, or no longer one.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("connecting")]
    Connect(#[from] std::io::Error),
    #[error("connecting took too long")]
    Slow,
    #[error("the connection broke")]
    Http(#[from] hyper::Error),
    #[error("there is no stream")]
    Open(#[from] OpenError),
    #[error("the controller closed the stream")]
    Closed,
    #[error("a line that is no message")]
    Line(#[from] isobar_mesh_api::message::LineError),
}

/// How to reach the controller, and whom to believe.
#[derive(Clone)]
pub(super) struct Door {
    pub address: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl Door {
    /// Believes the controller by its roots, which are at `roots_pem`.
    ///
    /// # Errors
    /// No roots, or none that can be used.
    pub fn new(address: SocketAddr, roots_pem: &str) -> Result<Door> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots_pem.as_bytes()) {
            roots.add(root.context("reading ca.pem")?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        tls.resumption = rustls::client::Resumption::disabled();
        let tls = Arc::new(tls);
        Ok(Door { address, tls })
    }

    /// Connects, with a certificate if there is one already. `number` says from which of the machine's own addresses.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn connect(
        &self,
        number: u32,
        certified: Option<Arc<CertifiedKey>>,
    ) -> Result<Connection, LinkError> {
        let connected = tokio::time::timeout(CONNECT_WAIT_MAX, self.dial(number, certified)).await;
        connected.map_err(|_| LinkError::Slow)?
    }

    async fn dial(
        &self,
        number: u32,
        certified: Option<Arc<CertifiedKey>>,
    ) -> Result<Connection, LinkError> {
        let socket = TcpSocket::new_v4()?;
        if self.address.ip().is_loopback() {
            let from = Ipv4Addr::new(127, 0, 1, 1 + (number % ADDRESSES) as u8);
            socket.bind(SocketAddr::from((from, 0)))?;
        }
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        let mut tls = ClientConfig::clone(&self.tls);
        if let Some(certified) = certified {
            tls.client_auth_cert_resolver = Arc::new(Own(certified));
        }
        let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        let stream = TlsConnector::from(Arc::new(tls))
            .connect(name, stream)
            .await?;
        let (sender, driver) = dial::begin(stream).await?;
        Ok(Connection { sender, driver })
    }
}

/// The certificate of one simulated proxy.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A connection. Dropping it closes it.
pub(super) struct Connection {
    pub sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// An open control stream.
pub(super) struct Link {
    lines: Lines,
    buffer: LineBuffer,
}

impl Link {
    /// Opens a stream.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open(
        door: &Door,
        number: u32,
        certified: Arc<CertifiedKey>,
        hello: Hello,
    ) -> Result<Link, LinkError> {
        let mut connection = door.connect(number, Some(certified)).await?;
        let hello = encode_line(&Up::Hello(hello))?;
        Ok(Link {
            lines: Lines::open(&mut connection.sender, hello).await?,
            buffer: LineBuffer::new(),
        })
    }

    /// Sends a message. Returns `false` when what was sent before does not go out.
    ///
    /// # Errors
    /// It does not fit a line.
    pub fn send(&self, up: &Up) -> Result<bool, LinkError> {
        let line = encode_line(up)?;
        Ok(self.lines.sender.try_send(line.into()).is_ok())
    }

    /// The next message. Cancelling loses nothing.
    ///
    /// # Errors
    /// The stream has ended, or says what is no message.
    pub async fn next(&mut self) -> Result<Down, LinkError> {
        loop {
            if let Some(line) = self.buffer.next_line() {
                return Ok(decode_line(line)?);
            }
            let bytes = self.lines.read().await?;
            if bytes.is_empty() {
                return Err(LinkError::Closed);
            }
            self.buffer.push(&bytes)?;
        }
    }
}
