//! HTTP/3 (RFC 9114): what a listener for HTTPS serves over QUIC on the UDP port of the same number. A build feature,
//! `http3`; without it none of this is compiled.
//!
//! ```text
//! worker's UDP socket ─ QUIC, TLS 1.3 ─ HTTP/3 ─ request ──► the same request::entered as HTTP/1.1 and HTTP/2
//! ```
//!
//! A connection stays with the worker that its first packet came to, also when its client's address changes
//! ([`sockets`]). A process that drains keeps its sockets until its last connection has ended and refuses new ones at
//! once; the process that takes over opens its own as soon as the port is free. Clients come by TCP meanwhile, as they
//! always may: `Alt-Svc` is only said while the sockets are open.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::HeaderValue;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, IdleTimeout, Incoming, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Limits;
use crate::connection::counts::Refusal;
use crate::connection::http::CLIENT_STREAMS_MAX;
use crate::connection::{Downstream, Known};
use crate::forwarded::Client;
use crate::golden::Direction;
use crate::listener::{Listener, ListenerCell};
use crate::neighbour::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::proxy::Worker;
use crate::proxy_protocol::Ends;
use crate::tls::Termination;

pub mod inbound;
mod serve;
pub mod sockets;

/// What a client and a server of HTTP/3 agree on by ALPN.
const ALPN: &[u8] = b"h3";
/// One-way streams that a client may open: its control stream, two for the compression of heads, and some that only
/// extensions know.
const UNI_STREAMS_MAX: u32 = 8;
/// Attempts to connect that wait for a worker; further ones are refused.
const INCOMING_MAX: usize = 1024;
/// Bytes of early packets that are kept: for one attempt, and for all of a worker.
const EARLY_LEN_MAX: u64 = 64 * 1024;
const EARLY_LEN_MAX_ALL: u64 = 4 * 1024 * 1024;
/// How often a port is tried again that somebody else has.
const OPEN_EVERY: Duration = Duration::from_millis(250);
/// For how long a client may remember that there is HTTP/3, in seconds.
const REMEMBERED_S: u32 = 3600;

/// What QUIC needs to know of a listener.
///
/// # Errors
/// The TLS library does not have what QUIC begins with.
pub fn server_config(
    termination: &Termination,
    limits: &Limits,
) -> Result<Arc<ServerConfig>, quinn::crypto::rustls::NoInitialCipherSuite> {
    let mut tls = rustls::ServerConfig::clone(&termination.config);
    tls.alpn_protocols = vec![ALPN.to_vec()];
    // Early data could be replayed.
    tls.max_early_data_size = 0;
    let tls = QuicServerConfig::try_from(tls)?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(CLIENT_STREAMS_MAX.into())
        .max_concurrent_uni_streams(UNI_STREAMS_MAX.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(CONNECTION_WINDOW.into())
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(idle_timeout(limits)));
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config
        .transport_config(Arc::new(transport))
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(EARLY_LEN_MAX)
        .incoming_buffer_size_total(EARLY_LEN_MAX_ALL);
    Ok(Arc::new(config))
}

fn idle_timeout(limits: &Limits) -> IdleTimeout {
    let longest = IdleTimeout::from(VarInt::from_u32(u32::MAX));
    IdleTimeout::try_from(limits.idle_wait_max()).unwrap_or(longest)
}

/// Serves HTTP/3 beside a listener's TCP socket of this worker, if the listener has it, until the drain begins or the
/// listener goes. Connections go on.
pub async fn listen(worker: Arc<Worker>, cell: Arc<ListenerCell>, tcp: Option<SocketAddr>) {
    let Some(address) = tcp.filter(|_| cell.get().quic.is_some()) else {
        return;
    };
    let Some(socket) = socket(&worker, &cell, address).await else {
        return;
    };
    let endpoint = match endpoint(&worker, &cell.get(), socket) {
        Ok(endpoint) => endpoint,
        Err(error) => return tracing::error!(%error, %address, "no HTTP/3 on this UDP socket"),
    };
    announce(&cell.get(), address);
    let room = Arc::new(Semaphore::new(worker.proxy.config.limits.connections_max));
    let drain = &worker.proxy.drain;
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = drain.begun() => break,
            () = cell.removed.cancelled() => break,
        };
        match incoming {
            Some(incoming) => admit(&worker, cell.get(), &room, incoming, address),
            None => break,
        }
    }
    // Whoever comes now is told at once; the sockets go with the last connection.
    drain.spawn(async move {
        let refusing = async {
            while let Some(incoming) = endpoint.accept().await {
                incoming.refuse();
            }
        };
        tokio::select! {
            () = endpoint.wait_idle() => {}
            () = refusing => {}
        }
    });
}

/// This worker's UDP socket, as soon as the port is free; `None` when there is none for it, or no need any more.
async fn socket(worker: &Worker, cell: &ListenerCell, address: SocketAddr) -> Option<UdpSocket> {
    let workers = worker.proxy.unrouted.len();
    let mut is_told = false;
    loop {
        match cell.datagrams.take(worker.index, address, workers) {
            Ok(socket) => return socket,
            Err(error) if !is_told => {
                is_told = true;
                tracing::warn!(%address, %error, "HTTP/3 waits for its UDP port");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(OPEN_EVERY) => {}
            () = worker.proxy.drain.begun() => return None,
            () = cell.removed.cancelled() => return None,
        }
    }
}

fn endpoint(worker: &Worker, listener: &Listener, socket: UdpSocket) -> std::io::Result<Endpoint> {
    let workers = worker.proxy.unrouted.len();
    let index = worker.index;
    let mut config = quinn::EndpointConfig::default();
    config.cid_generator(move || Box::new(sockets::Marked { index, workers }));
    let server = listener.quic.as_deref().cloned();
    Endpoint::new(config, server, socket, Arc::new(TokioRuntime))
}

/// From now on clients that come by TCP are told.
fn announce(listener: &Listener, address: SocketAddr) {
    let port = listener.http3_port.unwrap_or(address.port());
    let text = format!("h3=\":{port}\"; ma={REMEMBERED_S}");
    if let Ok(value) = HeaderValue::from_str(&text) {
        // Another worker may have said it already.
        let _ = listener.alt_svc.set(value);
    }
}

/// Takes a connection, sends it around to show that its address is its own, or refuses it.
fn admit(
    worker: &Arc<Worker>,
    listener: Arc<Listener>,
    room: &Arc<Semaphore>,
    incoming: Incoming,
    address: SocketAddr,
) {
    let (Some(termination), Some(quic)) = (&listener.termination, listener.quic.clone()) else {
        return incoming.refuse();
    };
    // Nobody who only pretends an address holds a place in a handshake that others wait for.
    if termination.handshakes.available_permits() == 0 && incoming.may_retry() {
        // What cannot be sent around is refused as it is dropped.
        drop(incoming.retry());
        return;
    }
    let Ok(place) = Arc::clone(room).try_acquire_owned() else {
        return incoming.refuse();
    };
    let worker = Arc::clone(worker);
    let drain = worker.proxy.drain.clone();
    drain.spawn(async move {
        connection(worker, listener, quic, place, incoming, address).await;
    });
}

async fn connection(
    worker: Arc<Worker>,
    listener: Arc<Listener>,
    quic: Arc<ServerConfig>,
    _place: OwnedSemaphorePermit,
    incoming: Incoming,
    address: SocketAddr,
) {
    listener.counts.accepted.fetch_add(1, Relaxed);
    let wait_max = worker.proxy.config.limits.handshake_wait_max();
    let accepted = tokio::time::timeout(wait_max, accept(&worker, &listener, quic, incoming)).await;
    let connection = match accepted {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(listener = listener.name, %error, "a QUIC handshake failed");
            return listener.counts.refuse(Refusal::Handshake);
        }
        Err(_) => return listener.counts.refuse(Refusal::HandshakeWait),
    };
    listener.counts.handshakes.fetch_add(1, Relaxed);
    let downstream = Arc::new(downstream(worker, &listener, &connection, address));
    serve::connection(downstream, connection).await;
}

async fn accept(
    worker: &Worker,
    listener: &Listener,
    quic: Arc<ServerConfig>,
    incoming: Incoming,
) -> Result<quinn::Connection, quinn::ConnectionError> {
    let handshakes = listener.termination.as_ref();
    let _permit = match handshakes {
        Some(termination) => {
            let permit = termination.handshakes.acquire().await.ok();
            termination.believe(worker.proxy.identity.get().as_deref());
            permit
        }
        None => None,
    };
    incoming.accept_with(quic)?.await
}

/// What is known of the client.
fn downstream(
    worker: Arc<Worker>,
    listener: &Listener,
    connection: &quinn::Connection,
    address: SocketAddr,
) -> Downstream {
    let peer = connection.remote_address();
    let local_ip = connection.local_ip().unwrap_or(address.ip());
    let shown = connection.peer_identity();
    let shown = shown.and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let leaf = shown.as_ref().and_then(|chain| chain.first());
    let identity = Known::of(&worker.proxy, leaf, peer.ip());
    let is_trusted = listener.trusted_sources.contain(peer.ip());
    Downstream {
        client: Client::new(listener.forwarded, peer.ip(), is_trusted, true),
        identity,
        ends: Ends {
            source: peer,
            destination: SocketAddr::new(local_ip, address.port()),
        },
        direction: Direction::Ingress,
        may_connect: false,
        alt_svc: listener.alt_svc.get().cloned(),
        worker,
    }
}
