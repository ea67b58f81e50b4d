//! Connections of the REST port, with TLS or without, and what is known of who is at the other end.
//!
//! Handshakes run beside one another, each with a time limit: who is slow keeps nobody waiting. Where the port speaks TLS and
//! somebody does not, they are told so in plain text and that is all.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_util::either::Either;

use super::READ_TIME_MAX;
use crate::accept::accept;
use crate::drain::Drain;
use crate::operator_tls::{Holder, OperatorTls};

/// Most connections at once; one more is closed at once.
pub const CONNECTIONS_MAX: usize = 4096;
/// Longest that a handshake may take.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// Connections whose handshake is done and that nobody serves yet.
const READY_MAX: usize = 64;
/// The first byte of a TLS connection: a handshake record (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// What who speaks plain HTTP to a TLS port is told.
const USE_HTTPS: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\n\
    Connection: close\r\nContent-Length: 85\r\n\r\n\
    {\"title\":\"Bad Request\",\"status\":400,\"detail\":\"this port speaks HTTPS; use https://\"}\n";

/// Where a request comes from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The address at the other end.
    pub address: SocketAddr,
    /// Whom the client certificate names, where one was shown.
    pub holder: Option<Arc<Holder>>,
}

/// TLS for a listener.
#[derive(Clone)]
pub struct Tls {
    /// Makes handshakes.
    pub acceptor: TlsAcceptor,
    /// Says whose certificate was shown.
    pub operators: Arc<OperatorTls>,
}

/// Connections that are ready to be served.
pub struct RestPort {
    ready: mpsc::Receiver<(Io, Origin)>,
    address: SocketAddr,
}

/// One connection.
pub struct Io {
    stream: Either<TcpStream, Box<tokio_rustls::server::TlsStream<TcpStream>>>,
    _permit: OwnedSemaphorePermit,
}

impl RestPort {
    /// Accepts from a listener until the drain's signal.
    ///
    /// # Errors
    /// The listener has no address.
    pub fn open(
        listener: TcpListener,
        tls: Option<Tls>,
        drain: &Drain,
    ) -> std::io::Result<RestPort> {
        let address = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(READY_MAX);
        let door = Door {
            tls,
            sender,
            drain: drain.clone(),
        };
        drain.spawn(door.accept(listener));
        Ok(RestPort { ready, address })
    }
}

/// What accepts.
#[derive(Clone)]
struct Door {
    tls: Option<Tls>,
    sender: mpsc::Sender<(Io, Origin)>,
    drain: Drain,
}

impl Door {
    async fn accept(self, listener: TcpListener) {
        let drain = self.drain.clone();
        let serve = move |socket, address, permit| {
            let door = self.clone();
            async move {
                let signal = door.drain.signal().clone();
                tokio::select! {
                    () = signal.cancelled() => {}
                    () = door.greet(socket, address, permit) => {}
                }
            }
        };
        accept(listener, &drain, "rest", CONNECTIONS_MAX, serve).await;
    }

    /// Makes the handshake, and hands the connection over.
    async fn greet(self, socket: TcpStream, address: SocketAddr, permit: OwnedSemaphorePermit) {
        let options = SockRef::from(&socket);
        let limited = options.set_tcp_user_timeout(Some(READ_TIME_MAX));
        if let Err(error) = limited.and_then(|()| options.set_tcp_nodelay(true)) {
            tracing::debug!(%error, "a connection has no time limit for reading");
        }
        let (stream, holder) = match &self.tls {
            None => (Either::Left(socket), None),
            Some(tls) => {
                let handshake = tokio::time::timeout(HANDSHAKE_TIME_MAX, shake(tls, socket));
                match handshake.await {
                    Ok(Some((stream, holder))) => (Either::Right(Box::new(stream)), holder),
                    Ok(None) | Err(_) => return,
                }
            }
        };
        let io = Io {
            stream,
            _permit: permit,
        };
        // Nobody takes it when the server has ended.
        let _ = self.sender.send((io, Origin { address, holder })).await;
    }
}

/// A TLS connection and whom it names; `None` when there is none.
async fn shake(
    tls: &Tls,
    mut socket: TcpStream,
) -> Option<(
    tokio_rustls::server::TlsStream<TcpStream>,
    Option<Arc<Holder>>,
)> {
    let mut first = [0];
    let read = socket.peek(&mut first).await.ok()?;
    if read > 0 && first[0] != HANDSHAKE_RECORD {
        // Who hangs up first does not hear it.
        let _ = socket.write_all(USE_HTTPS.as_bytes()).await;
        let _ = socket.shutdown().await;
        return None;
    }
    match tls.acceptor.accept(socket).await {
        Ok(stream) => {
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let holder = tls.operators.holder(chain, SystemTime::now());
            Some((stream, holder.map(Arc::new)))
        }
        Err(error) => {
            tracing::debug!(%error, "a TLS handshake with the REST port failed");
            None
        }
    }
}

impl Listener for RestPort {
    type Io = Io;
    type Addr = Origin;

    async fn accept(&mut self) -> (Io, Origin) {
        match self.ready.recv().await {
            Some(ready) => ready,
            // The drain has begun, and the server ends by itself.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Origin> {
        Ok(Origin {
            address: self.address,
            holder: None,
        })
    }
}

impl Connected<IncomingStream<'_, RestPort>> for Origin {
    fn connect_info(stream: IncomingStream<'_, RestPort>) -> Origin {
        stream.remote_addr().clone()
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
