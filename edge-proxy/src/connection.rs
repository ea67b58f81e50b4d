//! What a connection turns out to be, and who serves it.
//!
//! ```text
//! mesh port ── mutual TLS ── HTTP/2 of a peer: moved requests and tunnels
//!
//! listener ─ header of the PROXY protocol? ─┬─ http: first bytes ─┬─ HTTP/2 by prior knowledge
//!                                           │                     └─ HTTP/1.1
//!                                           ├─ https: TLS ends ── ALPN, the same two
//!                                           ├─ tcp: by listener or original destination ── TCP
//!                                           ├─ tls-passthrough: by server name ──────────── TCP
//!                                           └─ detect: first bytes, one of all these
//! ```
//!
//! - [`Stream`]: one type for what is read and written, with or without TLS;
//! - [`Downstream`]: what is known of the client, for every request of its connection; [`known`]: who it is, and who a peer is;
//! - [`http`] and [`crate::http1`]: serving HTTP/2 and HTTP/1.1 on it; [`crate::tcp`]: serving anything else;
//! - [`counts`]: what happened on a listener.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ::http::header::ALT_SVC;
use ::http::{HeaderValue, Response};
use bytes::BytesMut;
use isobar_mesh_api::identity::SpiffeId;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::body::ResponseBody;
use crate::client_hello::{self, HELLO_LEN_MAX, Hello};
use crate::config::listener::{Intercept, ListenerProtocol, ProxyProtocol};
use crate::detect::{self, Protocol};
use crate::forwarded::Client;
use crate::golden::Direction;
use crate::http1;
use crate::listener::Listener;
use crate::proxy::Worker;
use crate::proxy_protocol::{self, Begin, Ends};
use crate::tcp;
use crate::tls::Termination;

mod connect;
pub mod counts;
pub mod http;
pub mod known;
mod look;
pub(crate) mod pace;
mod stream;

use counts::{Detected, Refusal};
pub use known::{Known, Peer};
use look::{Seen, look};
pub use stream::Stream;

/// The TLS handshake of a peer must be over in this time.
pub const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(5);
/// A header of the PROXY protocol must be there in this time; where it is not needed, a client that says nothing
/// waits that long before it is served.
pub const PROXY_HEADER_WAIT_MAX: Duration = Duration::from_secs(3);

/// The listener of local applications.
const OUTBOUND: &str = "outbound";

/// The beginning of an HTTP/2 connection that no HTTP/1.1 request shares (RFC 9113, section 3.4).
const HTTP2_BEGIN: &[u8; 4] = b"PRI ";

/// What every request of one connection shares: who serves it and whom it came from.
#[derive(Debug)]
pub struct Downstream {
    /// The worker that accepted it.
    pub worker: Arc<Worker>,
    /// What endpoints are told of the client.
    pub client: Client,
    /// Who it is, where that is known.
    pub identity: Option<Known>,
    /// Whom it comes from and whom it was for.
    pub ends: Ends,
    /// Whether it is a client or an application of this node.
    pub direction: Direction,
    /// Whether it may ask for a service's bytes by `CONNECT`.
    pub may_connect: bool,
    /// What tells it where there is HTTP/3, if there is.
    pub alt_svc: Option<HeaderValue>,
}

impl Downstream {
    /// An answer that also says where there is HTTP/3, if there is, unless it says another place.
    pub(crate) fn announce(&self, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        if let Some(alt_svc) = &self.alt_svc {
            let headers = response.headers_mut();
            headers.entry(ALT_SVC).or_insert_with(|| alt_svc.clone());
        }
        response
    }

    /// Who it is now: a certificate may have ended or been revoked since the connection began.
    pub fn caller(&self) -> Option<&SpiffeId> {
        let known = self.identity.as_ref()?;
        known.holds(&self.worker.proxy).then_some(&*known.id)
    }
}

/// Why a connection ended, when it did not end as it should.
pub(crate) type ConnectionError = Box<dyn std::error::Error + Send + Sync>;

/// What a connection is for.
enum Purpose {
    Http1(Stream),
    Http2(Stream),
    Tcp(Stream, tcp::Target),
}

impl Purpose {
    fn stream(&self) -> &Stream {
        match self {
            Purpose::Http1(stream) | Purpose::Http2(stream) | Purpose::Tcp(stream, _) => stream,
        }
    }
}

/// Serves one connection of a client or a local application until it ends.
///
/// Its task is as large as the largest of all that it may turn out to be. What is no HTTP/1.1 is boxed, so that an idle
/// connection of HTTP/1.1 has no place for it.
///
/// # Errors
/// What ended it, when it did not end as it should.
pub(crate) async fn front(
    worker: &Arc<Worker>,
    mut stream: TcpStream,
    peer: SocketAddr,
    listener: &Arc<Listener>,
) -> Result<(), ConnectionError> {
    listener.counts.accepted.fetch_add(1, Relaxed);
    let arrival = async {
        let ends = ends(listener, &mut stream, peer).await?;
        let purpose = purpose(worker, listener, stream, ends.destination).await?;
        Ok::<_, ConnectionError>((ends, purpose))
    };
    // A connection that was accepted just before the drain began has its first request served.
    let (ends, purpose) = tokio::select! {
        arrived = arrival => arrived.inspect_err(|error| {
            if let Some(refusal) = error.downcast_ref::<Refusal>() {
                listener.counts.refuse(*refusal);
                // Of the others nobody knows yet whether they would have become a connection.
                if *refusal == Refusal::NoService {
                    tcp::not_served(worker, listener, peer);
                }
            }
        })?,
        () = worker.proxy.drain.idle_over() => return Ok(()),
    };
    // What stands in a request was written by its source, not by the proxy that told of the source.
    let is_trusted = listener.trusted_sources.contain(ends.source.ip());
    let (proxy, came) = (&worker.proxy, purpose.stream());
    let identity = Known::of(proxy, came.shown(), peer.ip())
        .or_else(|| Known::beside(proxy, listener, came.tcp(), peer.ip()));
    let downstream = |is_tls| {
        Arc::new(Downstream {
            worker: Arc::clone(worker),
            client: Client::new(listener.forwarded, ends.source.ip(), is_trusted, is_tls),
            identity: identity.clone(),
            ends,
            direction: direction(listener),
            may_connect: listener.connect,
            alt_svc: listener.alt_svc.get().filter(|_| is_tls).cloned(),
        })
    };
    match purpose {
        Purpose::Http1(stream) => {
            http1::server::serve(&downstream(stream.is_tls()), stream, BytesMut::new()).await;
        }
        Purpose::Http2(stream) => {
            Box::pin(http::http2(downstream(stream.is_tls()), stream)).await?;
        }
        Purpose::Tcp(stream, target) => {
            let id = identity.map(|known| known.id);
            Box::pin(tcp::entered(worker, listener, ends, id, target, stream)).await?;
        }
    }
    Ok(())
}

/// Whether what comes to it is from clients or from applications of this node.
pub(crate) fn direction(listener: &Listener) -> Direction {
    match listener.name == OUTBOUND {
        true => Direction::Outbound,
        false => Direction::Ingress,
    }
}

/// Whom a connection comes from and whom it was for, as far as somebody is believed about it.
async fn ends(
    listener: &Listener,
    stream: &mut TcpStream,
    peer: SocketAddr,
) -> Result<Ends, ConnectionError> {
    let own = Ends {
        source: peer,
        destination: destination(listener, stream)?,
    };
    if listener.proxy_protocol == ProxyProtocol::Off {
        return Ok(own);
    }
    let is_trusted = listener.trusted_sources.contain(peer.ip());
    let is_needed = listener.proxy_protocol == ProxyProtocol::Require;
    if is_needed && !is_trusted {
        return Err(Refusal::UntrustedSource.into());
    }
    let begin = look(
        stream,
        proxy_protocol::V2_LEN_MAX,
        PROXY_HEADER_WAIT_MAX,
        |bytes| match proxy_protocol::parse(bytes) {
            Ok(Begin::Incomplete) => None,
            told => Some(told),
        },
    );
    match begin.await? {
        Seen::Told(Ok(Begin::Header { len, addresses })) if is_trusted => {
            look::skip(stream, len).await?;
            Ok(addresses.unwrap_or(own))
        }
        Seen::Told(Ok(Begin::Header { .. })) => Err(Refusal::UntrustedSource.into()),
        Seen::Told(Err(_)) => Err(Refusal::ProxyHeader.into()),
        // Without a header: what it begins with is its own.
        _ if is_needed => Err(Refusal::ProxyHeader.into()),
        _ => Ok(own),
    }
}

/// Where the client meant to connect to.
fn destination(listener: &Listener, stream: &TcpStream) -> io::Result<SocketAddr> {
    let local = stream.local_addr()?;
    if listener.intercept != Intercept::Redirect {
        return Ok(local);
    }
    let socket = socket2::SockRef::from(stream);
    let original = match local.is_ipv4() {
        true => socket.original_dst_v4(),
        false => socket.original_dst_v6(),
    };
    // Who connects to the listener itself has no other.
    Ok(original
        .ok()
        .and_then(|address| address.as_socket())
        .unwrap_or(local))
}

async fn purpose(
    worker: &Worker,
    listener: &Arc<Listener>,
    stream: TcpStream,
    destination: SocketAddr,
) -> Result<Purpose, ConnectionError> {
    match listener.protocol {
        ListenerProtocol::Http => {
            let wait_max = worker.proxy.config.limits.head_wait_max();
            Ok(match begins_http2(&stream, wait_max).await? {
                true => Purpose::Http2(Stream::Tcp(stream)),
                false => Purpose::Http1(Stream::Tcp(stream)),
            })
        }
        ListenerProtocol::Https => Box::pin(over_tls(worker, listener, stream)).await,
        ListenerProtocol::Tcp => {
            let target = tcp::Target::by_destination(listener, destination)?;
            let stream = match &listener.termination {
                Some(termination) => {
                    Box::pin(handshake(worker, listener, termination, stream)).await?
                }
                None => Stream::Tcp(stream),
            };
            Ok(Purpose::Tcp(stream, target))
        }
        ListenerProtocol::TlsPassthrough => by_server_name(listener, stream, destination).await,
        ListenerProtocol::Detect => match detect(listener, &stream).await? {
            Protocol::Http1 => Ok(Purpose::Http1(Stream::Tcp(stream))),
            Protocol::Http2 => Ok(Purpose::Http2(Stream::Tcp(stream))),
            Protocol::Tls if listener.termination.is_some() => {
                Box::pin(over_tls(worker, listener, stream)).await
            }
            Protocol::Tls => by_server_name(listener, stream, destination).await,
            Protocol::Tcp => {
                let target = tcp::Target::by_destination(listener, destination)?;
                Ok(Purpose::Tcp(Stream::Tcp(stream), target))
            }
        },
    }
}

async fn detect(listener: &Listener, stream: &TcpStream) -> io::Result<Protocol> {
    let seen = look(
        stream,
        detect::LINE_LEN_MAX,
        listener.detect_wait_max,
        detect::protocol,
    )
    .await?;
    let protocol = match &seen {
        Seen::Told(protocol) => *protocol,
        Seen::TooFew(bytes) => detect::after_waiting(bytes),
    };
    listener.counts.detect(match (seen, protocol) {
        (Seen::TooFew(_), Protocol::Tcp) => Detected::TimedOut,
        (_, protocol) => Detected::As(protocol),
    });
    Ok(protocol)
}

/// HTTP over TLS that ends here.
async fn over_tls(
    worker: &Worker,
    listener: &Listener,
    stream: TcpStream,
) -> Result<Purpose, ConnectionError> {
    let termination = listener.termination.as_ref().ok_or(Refusal::Handshake)?;
    let stream = handshake(worker, listener, termination, stream).await?;
    Ok(match stream.alpn() {
        Some(b"h2") => Purpose::Http2(stream),
        _ => Purpose::Http1(stream),
    })
}

async fn handshake(
    worker: &Worker,
    listener: &Listener,
    termination: &Termination,
    stream: TcpStream,
) -> Result<Stream, ConnectionError> {
    let accept = async {
        let _permit = termination.handshakes.acquire().await;
        termination.believe(worker.proxy.identity.get().as_deref());
        TlsAcceptor::from(Arc::clone(&termination.config))
            .accept(stream)
            .await
    };
    let wait_max = worker.proxy.config.limits.handshake_wait_max();
    match tokio::time::timeout(wait_max, accept).await {
        Ok(Ok(stream)) => {
            listener.counts.handshakes.fetch_add(1, Relaxed);
            Ok(Stream::Tls(Box::new(stream)))
        }
        Ok(Err(error)) => {
            tracing::debug!(listener = listener.name, %error, "a TLS handshake failed");
            Err(Refusal::Handshake.into())
        }
        Err(_) => Err(Refusal::HandshakeWait.into()),
    }
}

/// TLS that is passed through to the service of the name that the client asks for.
async fn by_server_name(
    listener: &Arc<Listener>,
    stream: TcpStream,
    destination: SocketAddr,
) -> Result<Purpose, ConnectionError> {
    let hello =
        look(
            &stream,
            HELLO_LEN_MAX,
            listener.detect_wait_max,
            |bytes| match client_hello::parse(bytes) {
                Ok(Hello::Incomplete) => None,
                Ok(Hello::Whole { server_name }) => Some(Ok(server_name)),
                Err(error) => Some(Err(error)),
            },
        );
    let Seen::Told(Ok(name)) = hello.await? else {
        return Err(Refusal::ClientHello.into());
    };
    let target = tcp::Target::by_server_name(listener, name.as_deref(), destination)?;
    Ok(Purpose::Tcp(Stream::Tcp(stream), target))
}

/// Serves one connection of a peer, HTTP/2 over mutual TLS, until it ends.
///
/// # Errors
/// What ended it, when it did not end as it should.
pub(crate) async fn mesh(
    worker: &Arc<Worker>,
    stream: TcpStream,
    from: SocketAddr,
) -> Result<(), ConnectionError> {
    let Some(identity) = worker.proxy.identity.get() else {
        return Err("a peer came before this proxy has a certificate".into());
    };
    let acceptor = TlsAcceptor::from(Arc::clone(&identity.server));
    let accepting = Box::pin(acceptor.accept(stream));
    let accepted = tokio::select! {
        accepted = tokio::time::timeout(HANDSHAKE_WAIT_MAX, accepting) => accepted,
        () = worker.proxy.drain.idle_over() => return Ok(()),
    };
    let stream = accepted??;
    // The verifier has seen this certificate; whom it names counts for the whole connection.
    let certificates = stream.get_ref().1.peer_certificates();
    let leaf = certificates.and_then(|chain| chain.first());
    let Some(peer) = leaf.and_then(|leaf| Peer::of(leaf, from.ip())) else {
        return Err("a peer without a node's name".into());
    };
    http::mesh(worker, Arc::new(peer), Stream::Tls(Box::new(stream))).await?;
    Ok(())
}

/// Whether a connection's first bytes are HTTP/2's. Takes nothing from the stream.
async fn begins_http2(stream: &TcpStream, wait_max: Duration) -> io::Result<bool> {
    let begin = look(stream, HTTP2_BEGIN.len(), wait_max, |bytes| {
        let is_known = bytes.len() == HTTP2_BEGIN.len() || !HTTP2_BEGIN.starts_with(bytes);
        is_known.then_some(bytes == HTTP2_BEGIN)
    });
    match begin.await? {
        Seen::Told(begins) => Ok(begins),
        // Whoever says nothing for so long, or ends here, has no request.
        Seen::TooFew(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
