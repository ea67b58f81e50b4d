//! The stream port: enrolment and control streams over HTTP and TLS.
//!
//! ```text
//! accept ─▶ a turn (admission.rs) ─▶ TLS (who is it?) ─▶ HTTP ─┬─ POST /v1/enrol  ─▶ enrol.rs: a certificate
//!                                                              └─ POST /v1/stream ─▶ session.rs: lines both ways
//!                                     another leads: relay.rs passes both on; what others pass on is answered here
//! ```
//!
//! Proxies speak HTTP/1.1, which upgrade.rs leaves behind when a stream begins; controllers speak HTTP/2 among themselves.
//!
//! **Invariant**: who a peer is comes out of its certificate, verified in this connection's
//! own handshake, and out of nothing else.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::ConnectInfo;
use bytes::Bytes;
use http::header::{HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use isobar_mesh_api::enrol::ENROL_PATH;
use isobar_mesh_api::identity::Holder;
use isobar_mesh_api::message::STREAM_PATH;
use isobar_mesh_api::names::{AccountName, NodeId};
use rustls::server::Acceptor;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use crate::accept::accept;
use crate::authority::{Authority, begins_s, peer_identity};
use crate::control_task::ControlHandle;
use crate::drain::Drain;
use crate::enrolled::Enrolled;
use crate::link::{Behalf, LINK_WINDOW, Links, REQUESTS_PER_LINK_MAX};
use crate::metrics::Metrics;
use crate::plain_calls::PlainCalls;
use crate::problem::Problem;
use crate::refusals::{Door, Refusals, Refused};
use crate::rest::Relayed;
use crate::rest::port::Origin;
use crate::tls::ALPN_H2;
use crate::tokens::Tokens;
use admission::HANDSHAKE_TIME_MAX;
use upgrade::Way;

mod admission;
mod enrol;
pub(crate) mod relay;
mod session;
mod upgrade;

pub use admission::Admission;
pub use enrol::{AccountError, Accounts, BoxedPod, Guessed, OfPod};

/// Most connections at a time; further ones are closed at once.
pub const CONNECTIONS_MAX: usize = 20_000;
/// How long a connection may take to send its TLS client hello.
const CLIENT_HELLO_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a peer without a certificate may stay: enough to enrol.
const STRANGER_TIME_MAX: Duration = Duration::from_secs(30);
/// How often a silent connection is asked for a sign of life, and how long it may take.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How often a peer is asked that gives none.
const KEEP_ALIVE_TRIES: u32 = 2;
/// How long a request's head may take, and how long none may come.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// Requests one connection may have open: its stream, an enrolment, and their successors.
const REQUESTS_MAX: u32 = 8;
/// What a peer may send before the reader took it, in bytes; a line may be longer.
const WINDOW_BYTES: u32 = 256 * 1024;
/// What is held for a peer that does not read, in bytes.
const SEND_BYTES: usize = 256 * 1024;
/// Longest request head, in bytes.
const HEAD_BYTES_MAX: u32 = 16 * 1024;

/// What every connection needs.
#[derive(Clone)]
pub struct StreamPort {
    /// TLS, see [`crate::tls::server_config`].
    pub acceptor: TlsAcceptor,
    /// Signs certificates.
    pub authority: Arc<Authority>,
    /// What lets proxies enrol.
    pub tokens: Arc<Tokens>,
    /// Proxies that have enrolled.
    pub enrolled: Arc<Enrolled>,
    /// Who was wrong about which token.
    pub guessed: Arc<Guessed>,
    /// Who was refused.
    pub refusals: Arc<Refusals>,
    /// Who calls services without showing who they are.
    pub plain: Arc<PlainCalls>,
    /// Who gets in when everybody comes at once.
    pub admission: Admission,
    /// Whose tokens of the platform's own accounts are good, if anybody's are.
    pub accounts: Option<Arc<dyn Accounts>>,
    /// Where what comes is passed on to while another controller leads.
    pub links: Links,
    /// What other controllers pass on from operators is answered by this.
    pub rest: axum::Router,
    /// The task that owns the control loop.
    pub control: ControlHandle,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Where tasks run and end.
    pub drain: Drain,
}

/// The body of every response on this port.
type Body = Either<Full<Bytes>, Streamed>;

/// A body that comes bit by bit.
enum Streamed {
    /// A control stream of this controller.
    Lines(session::LineBody),
    /// A control stream of the leader.
    Relayed(mpsc::Receiver<Bytes>),
    /// An answer of the REST API.
    Rest(axum::body::Body),
}

impl http_body::Body for Streamed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        match self.get_mut() {
            Streamed::Lines(lines) => Pin::new(lines)
                .poll_frame(context)
                .map_err(|never| match never {}),
            Streamed::Relayed(lines) => lines
                .poll_recv(context)
                .map(|lines| lines.map(|lines| Ok(http_body::Frame::data(lines)))),
            Streamed::Rest(body) => Pin::new(body).poll_frame(context),
        }
    }
}

/// Who is at the other end of one connection.
struct Peer {
    /// The node in its certificate; `None` for a stranger.
    node: Option<NodeId>,
    /// The account, when that certificate is one of a workload.
    account: Option<AccountName>,
    /// The controller in its certificate: it speaks on behalf of others.
    controller: Option<NodeId>,
    /// When that certificate begins, seconds since 1970.
    begins_s: u64,
    /// Where it comes from.
    address: IpAddr,
    /// Ends the connection at once, without waiting for a peer that does not read.
    kill: CancellationToken,
    /// Whether the connection has a control stream.
    has_stream: AtomicBool,
    /// The stream that the connection is for when it has left HTTP, and its lines down.
    carried: Mutex<Option<(Way, Streamed)>>,
}

impl Peer {
    /// What its certificate, if it showed one, says about who comes from there.
    fn new(holder: Option<Holder>, begins_s: u64, address: IpAddr) -> Peer {
        Peer {
            controller: holder.as_ref().and_then(|h| h.id.as_controller().cloned()),
            account: holder.as_ref().and_then(Holder::account),
            node: holder.and_then(|holder| holder.node),
            begins_s,
            address,
            kill: CancellationToken::new(),
            has_stream: AtomicBool::new(false),
            carried: Mutex::default(),
        }
    }

    /// Leaves a stream to the connection, which has it when it has left HTTP.
    fn carry(&self, way: Way, down: Streamed) {
        *self.lock() = Some((way, down));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Way, Streamed)>> {
        self.carried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves a connection until it ends; after the signal it takes no more requests.
async fn until_over<C, E>(connection: C, end: fn(Pin<&mut C>), signal: CancellationToken)
where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = signal.cancelled() => {
            end(connection.as_mut());
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the stream port broke");
    }
}

impl StreamPort {
    /// Serves a listener until the drain's signal.
    pub async fn serve(self, listener: TcpListener) {
        let drain = self.drain.clone();
        let serve = move |socket, address: SocketAddr, permit| {
            // Boxed step by step: what is over leaves no place behind in the task of a stream.
            let begun = Box::pin(self.clone().begin(socket, address.ip()));
            async move {
                let serving = begun.await;
                if let Some(serving) = serving {
                    serving.await;
                }
                drop(permit);
            }
        };
        accept(listener, &drain, "stream", CONNECTIONS_MAX, serve).await;
    }

    /// Finds out who comes; what answers them, if anybody is there.
    async fn begin(
        self,
        socket: TcpStream,
        address: IpAddr,
    ) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        // Without the first small lines wait for acknowledgements, without the second nobody sees that a peer is off the
        // network; a socket that refuses is as good as gone.
        let _ = socket.set_nodelay(true);
        let keep_alive = TcpKeepalive::new()
            .with_time(KEEP_ALIVE)
            .with_interval(KEEP_ALIVE);
        let _ =
            SockRef::from(&socket).set_tcp_keepalive(&keep_alive.with_retries(KEEP_ALIVE_TRIES));
        let signal = self.drain.signal().clone();
        let tls = tokio::select! {
            () = signal.cancelled() => return None,
            shaken = self.handshake(socket) => shaken?,
        };
        match self.identify(&tls) {
            Ok((holder, begins_s)) => {
                let peer = Arc::new(Peer::new(holder, begins_s, address));
                Some(Box::pin(self.requests(tls, peer)))
            }
            Err(error) => {
                self.metrics.handshakes_failed.increment(1);
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a client certificate names no node"
                );
                None
            }
        }
    }

    /// Speaks TLS when there is a turn; `None` when there is nobody to go on with.
    async fn handshake(&self, socket: TcpStream) -> Option<TlsStream<TcpStream>> {
        let failed = |error: std::io::Error| {
            self.metrics.handshakes_failed.increment(1);
            tracing::debug!(%error, "a TLS handshake failed");
        };
        let too_slow = |_| failed(std::io::ErrorKind::TimedOut.into());
        let hello = LazyConfigAcceptor::new(Acceptor::default(), socket);
        let hello = tokio::time::timeout(CLIENT_HELLO_TIME_MAX, hello).await;
        let hello = hello.map_err(too_slow).ok()?.map_err(failed).ok()?;
        let Some(_turn) = self.admission.turn().await else {
            self.metrics.deferred.handshakes.increment(1);
            return None;
        };
        let tls = hello.into_stream(self.acceptor.config().clone());
        let tls = tokio::time::timeout(HANDSHAKE_TIME_MAX, tls).await;
        tls.map_err(too_slow).ok()?.map_err(failed).ok()
    }

    fn identify(
        &self,
        tls: &TlsStream<TcpStream>,
    ) -> Result<(Option<Holder>, u64), crate::authority::PeerError> {
        let (_, session) = tls.get_ref();
        let Some(leaf) = session.peer_certificates().and_then(<[_]>::first) else {
            return Ok((None, 0));
        };
        let holder = peer_identity(leaf, self.authority.trust_domain())?;
        Ok((Some(holder), begins_s(leaf)))
    }

    /// Answers what comes over a connection until it ends. No `async fn`: its arguments would be kept beside what became of
    /// them, a kilobyte and a half a stream.
    fn requests(
        self,
        tls: TlsStream<TcpStream>,
        peer: Arc<Peer>,
    ) -> impl Future<Output = ()> + Send {
        let signal = self.drain.signal().clone();
        let stranger = peer.node.is_none() && peer.controller.is_none();
        let (requests_max, window) = match peer.controller {
            Some(_) => (REQUESTS_PER_LINK_MAX as u32, LINK_WINDOW),
            None => (REQUESTS_MAX, WINDOW_BYTES),
        };
        let patience = async move {
            match stranger {
                true => tokio::time::sleep(STRANGER_TIME_MAX).await,
                false => std::future::pending().await,
            }
        };
        let answering = peer.clone();
        let service = service_fn(move |request| {
            let (port, peer) = (self.clone(), answering.clone());
            // Boxed, for the task of a stream would keep the place of the largest of all answers.
            let answered = Box::pin(port.answer(request, peer));
            async move { Ok::<_, std::convert::Infallible>(answered.await) }
        });
        let is_http2 = tls.get_ref().1.alpn_protocol() == Some(ALPN_H2);
        let io = TokioIo::new(Box::new(tls));
        let http: Pin<Box<dyn Future<Output = ()> + Send>> = match is_http2 {
            true => {
                let connection = http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .keep_alive_interval(KEEP_ALIVE)
                    .keep_alive_timeout(KEEP_ALIVE)
                    .max_concurrent_streams(requests_max)
                    .initial_stream_window_size(WINDOW_BYTES)
                    .initial_connection_window_size(window)
                    .max_send_buf_size(SEND_BYTES)
                    .max_header_list_size(HEAD_BYTES_MAX)
                    .serve_connection(io, service);
                Box::pin(until_over(connection, |c| c.graceful_shutdown(), signal))
            }
            false => {
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIME_MAX)
                    .max_buf_size(HEAD_BYTES_MAX as usize)
                    .serve_connection(io, service)
                    .with_upgrades();
                Box::pin(until_over(connection, |c| c.graceful_shutdown(), signal))
            }
        };
        async move {
            tokio::select! {
                () = peer.kill.cancelled() => return,
                () = patience => return,
                () = http => {}
            }
            let carried = peer.lock().take();
            if let Some((way, down)) = carried {
                tokio::select! {
                    () = peer.kill.cancelled() => {}
                    () = Box::pin(way.carry(down)) => {}
                }
            }
        }
    }

    /// Notes who was refused; what was only written wrongly is no attempt.
    fn refused(&self, door: Door, peer: &Peer, what: String, problem: &Problem) {
        let status = problem.status.as_u16();
        if !matches!(status, 401 | 403 | 422 | 429) {
            return;
        }
        self.refusals.add(&Refused {
            door,
            address: peer.address,
            who: peer
                .node
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            what,
            reason: problem.detail.clone(),
            status,
        });
    }

    /// Whether this controller leads and goes on leading. Before its term has begun, and when it is about to end, another try
    /// soon finds who answers; nobody is told to stay away then.
    fn acts(&self) -> bool {
        let is_ending = self.drain.signal().is_cancelled();
        self.links.acts() && self.control.is_attached() && !is_ending
    }

    /// Answers an operator's request that another controller passed on.
    async fn relayed_to_rest(&self, request: Request<Incoming>, address: IpAddr) -> Response<Body> {
        let mut request = request.map(axum::body::Body::new);
        // Whoever showed a certificate to the other controller was not passed on.
        let from = Origin {
            address: SocketAddr::new(address, 0),
            holder: None,
        };
        request.extensions_mut().insert(ConnectInfo(from));
        request.extensions_mut().insert(Relayed);
        let answered = self.rest.clone().call(request).await;
        let response = answered.unwrap_or_else(|never| match never {});
        response.map(|body| Either::Right(Streamed::Rest(body)))
    }

    async fn answer(self, request: Request<Incoming>, mut peer: Arc<Peer>) -> Response<Body> {
        if peer.controller.is_some() {
            let behalf = Behalf::read(request.headers());
            if !matches!(request.uri().path(), ENROL_PATH | STREAM_PATH) {
                return self.relayed_to_rest(request, behalf.address).await;
            }
            peer = Arc::new(Peer {
                node: behalf.node,
                account: behalf.account,
                controller: peer.controller.clone(),
                begins_s: behalf.begins_s,
                address: behalf.address,
                kill: CancellationToken::new(),
                has_stream: AtomicBool::new(false),
                carried: Mutex::default(),
            });
        }
        // What another controller passed on is answered here, or not at all.
        let passes_on = peer.controller.is_none() && !self.links.answers_here();
        let path = request.uri().path().to_owned();
        let answered = match (request.method(), path.as_str()) {
            (&Method::POST, ENROL_PATH) if passes_on => relay::enrol(&self, request, &peer).await,
            (&Method::POST, STREAM_PATH) if passes_on => relay::open(&self, request, &peer).await,
            (_, ENROL_PATH | STREAM_PATH) if !self.links.answers_here() => Err(Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "this controller does not lead",
            )),
            (&Method::POST, ENROL_PATH) => {
                let answered = enrol::enrol(&self, request, &peer).await;
                match &answered {
                    Ok(_) => self.metrics.enrolments_granted.increment(1),
                    Err(_) => self.metrics.enrolments_refused.increment(1),
                }
                answered
            }
            (&Method::POST, STREAM_PATH) => {
                let opened = session::open(&self, request, &peer).await;
                if let Err(problem) = &opened {
                    self.refused(Door::Stream, &peer, "a control stream".to_owned(), problem);
                }
                opened
            }
            (_, ENROL_PATH | STREAM_PATH) => {
                Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "use POST"))
            }
            _ => Err(Problem::new(
                StatusCode::NOT_FOUND,
                "this port has POST /v1/enrol and POST /v1/stream; the REST API is elsewhere",
            )),
        };
        answered.unwrap_or_else(|problem| {
            let mut response = problem.to_response();
            if !passes_on && self.acts() && problem.status == StatusCode::SERVICE_UNAVAILABLE {
                let seconds = HeaderValue::from(admission::RETRY_AFTER.as_secs());
                response.headers_mut().insert(RETRY_AFTER, seconds);
            }
            response.map(|bytes| Either::Left(Full::new(bytes)))
        })
    }
}
