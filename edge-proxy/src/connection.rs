//! What a connection turns out to be, and who serves it.
//!
//! ```text
//! mesh port ── mutual TLS ── HTTP/2 of a peer
//! client ───── first bytes ─┬─ HTTP/2 by prior knowledge
//!                           └─ HTTP/1.1
//! ```
//!
//! - [`Stream`]: one type for what is read and written, with or without TLS;
//! - [`Downstream`]: what is known of the client, for every request of its connection;
//! - [`http`]: serving HTTP on it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::identity::verify::spiffe_id;
use crate::proxy::Worker;

pub mod http;
mod stream;

pub use stream::Stream;

/// The TLS handshake of a peer must be over in this time.
pub const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(5);

/// The beginning of an HTTP/2 connection that no HTTP/1.1 request shares (RFC 9113, section 3.4).
const HTTP2_BEGIN: &[u8; 4] = b"PRI ";

/// How connections come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From clients or local applications: HTTP/1.1, or HTTP/2 by prior knowledge.
    Plain,
    /// From peers: HTTP/2 over mutual TLS.
    Mesh,
}

/// What every request of one connection shares: who serves it and whom it came from.
#[derive(Debug)]
pub struct Downstream {
    /// The worker that accepted it.
    pub worker: Arc<Worker>,
    /// The client's address.
    pub client: SocketAddr,
}

type ConnectionError = Box<dyn std::error::Error + Send + Sync>;

/// Serves one connection until it ends.
///
/// # Errors
/// What ended it, when it did not end as it should.
pub async fn run(
    worker: &Arc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    way: Way,
) -> Result<(), ConnectionError> {
    stream.set_nodelay(true)?;
    match way {
        Way::Mesh => mesh(worker, stream).await,
        Way::Plain => plain(worker, stream, peer).await,
    }
}

async fn plain(
    worker: &Arc<Worker>,
    stream: TcpStream,
    client: SocketAddr,
) -> Result<(), ConnectionError> {
    let head_wait = worker.proxy.config.limits.head_wait_max();
    let begins_http2 = tokio::select! {
        read = tokio::time::timeout(head_wait, begins_http2(&stream)) => read??,
        () = worker.proxy.drain.begun() => return Ok(()),
    };
    let downstream = Arc::new(Downstream {
        worker: Arc::clone(worker),
        client,
    });
    let stream = Stream::Tcp(stream);
    match begins_http2 {
        true => http::http2(downstream, stream).await?,
        false => http::http1(downstream, stream).await?,
    }
    Ok(())
}

async fn mesh(worker: &Arc<Worker>, stream: TcpStream) -> Result<(), ConnectionError> {
    let Some(identity) = worker.proxy.identity.get() else {
        return Err("a peer came before this proxy has a certificate".into());
    };
    let acceptor = TlsAcceptor::from(Arc::clone(&identity.server));
    let accepted = tokio::select! {
        accepted = tokio::time::timeout(HANDSHAKE_WAIT_MAX, acceptor.accept(stream)) => accepted,
        () = worker.proxy.drain.begun() => return Ok(()),
    };
    let stream = accepted??;
    // The verifier has seen this certificate; who it names counts for the whole connection.
    let certificates = stream.get_ref().1.peer_certificates();
    let id = certificates.and_then(|chain| spiffe_id(chain.first()?));
    let Some(home) = id.and_then(|id| id.as_node().cloned()) else {
        return Err("a peer without a node's name".into());
    };
    http::mesh(worker, home, Stream::Tls(Box::new(stream))).await?;
    Ok(())
}

/// Whether a connection's first bytes are HTTP/2's. Takes nothing from the stream.
async fn begins_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; HTTP2_BEGIN.len()];
    loop {
        let n = stream.peek(&mut first).await?;
        if n == first.len() || first[..n] != HTTP2_BEGIN[..n] || n == 0 {
            return Ok(first == *HTTP2_BEGIN);
        }
        // The rest of these few bytes is under way; peeking again at once would only spin.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
