//! Worker threads: each a single-threaded runtime with listeners and
//! connections of its own.
//!
//! The kernel spreads new connections over the workers' listeners
//! (`SO_REUSEPORT`). A request stays on the worker that accepted it, from the
//! client's socket to the endpoint's, so the request path wakes no other
//! thread.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use http::Response;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use isobar_mesh_api::names::NodeId;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::body::ResponseBody;
use crate::endpoint::BUFFER_LEN_MAX;
use crate::identity::verify::spiffe_id;
use crate::listen::Sockets;
use crate::neighbour::{CONNECTION_WINDOW, PING_EVERY, PING_WAIT_MAX, STREAM_WINDOW};
use crate::proxy::{Proxy, Worker};
use crate::request;

/// Requests at once on one HTTP/2 connection; more wait at the other end.
pub const STREAMS_MAX: u32 = 1024;
/// Largest head of an HTTP/2 request, in bytes; a larger one is refused (431).
pub const HEAD_LEN_MAX: u32 = 64 * 1024;
/// The TLS handshake of a peer must be over in this time.
pub const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often idle connections are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// When the system is out of files, nothing is accepted for this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The beginning of an HTTP/2 connection that no HTTP/1.1 request shares (RFC 9113, section 3.4).
const HTTP2_BEGIN: &[u8; 4] = b"PRI ";

/// Starts one worker thread. It ends when the proxy has drained.
///
/// # Errors
/// The system gives no thread.
pub fn start(proxy: Arc<Proxy>, index: usize, sockets: Sockets) -> io::Result<JoinHandle<()>> {
    let name = format!("worker-{index}");
    std::thread::Builder::new().name(name).spawn(move || {
        let worker = Arc::new(Worker { index, proxy });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => runtime.block_on(run(worker, sockets)),
            Err(error) => {
                tracing::error!(%error, "a worker cannot start");
                worker.proxy.drain.begin();
            }
        }
    })
}

async fn run(worker: Arc<Worker>, sockets: Sockets) {
    let drain = &worker.proxy.drain;
    let wait_max = worker.proxy.config.limits.drain_wait_max();
    let listen = async {
        tokio::join!(
            listen(&worker, sockets.ingress, Way::Plain),
            listen(&worker, sockets.outbound, Way::Plain),
            listen(&worker, sockets.mesh, Way::Mesh),
            sweep(&worker),
        )
    };
    listen.await;
    drain.wait(wait_max).await;
}

/// How requests come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From clients or local applications: HTTP/1.1, or HTTP/2 by prior knowledge.
    Plain,
    /// From peers: HTTP/2 over mutual TLS.
    Mesh,
}

/// Accepts connections until the drain begins. At the limit it waits for one to end, and the
/// kernel's backlog fills.
async fn listen(worker: &Arc<Worker>, socket: Option<std::net::TcpListener>, way: Way) {
    let drain = &worker.proxy.drain;
    let listener = match socket.map(TcpListener::from_std) {
        None => return,
        Some(Ok(listener)) => listener,
        Some(Err(error)) => {
            tracing::error!(%error, "a socket cannot be used");
            return drain.begin();
        }
    };
    let room = Arc::new(Semaphore::new(worker.proxy.config.limits.connections_max));
    loop {
        let accept = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accept => accepted,
            () = drain.begun() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let worker = Arc::clone(worker);
                drain.spawn(async move {
                    let _permit = permit;
                    if let Err(error) = connection(&worker, stream, way).await {
                        tracing::debug!(%error, "a connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

type ConnectionError = Box<dyn std::error::Error + Send + Sync>;

async fn connection(
    worker: &Arc<Worker>,
    stream: TcpStream,
    way: Way,
) -> Result<(), ConnectionError> {
    stream.set_nodelay(true)?;
    match way {
        Way::Mesh => mesh(worker, stream).await,
        Way::Plain => plain(worker, stream).await,
    }
}

async fn plain(worker: &Arc<Worker>, stream: TcpStream) -> Result<(), ConnectionError> {
    let head_wait = worker.proxy.config.limits.head_wait_max();
    let drain = &worker.proxy.drain;
    let begins_http2 = tokio::select! {
        read = tokio::time::timeout(head_wait, begins_http2(&stream)) => read??,
        () = drain.begun() => return Ok(()),
    };
    let entered = Arc::clone(worker);
    let service = service_fn(move |request| {
        let worker = Arc::clone(&entered);
        async move { infallible(request::entered(&worker, request).await) }
    });
    let io = TokioIo::new(stream);
    if begins_http2 {
        let connection = http2_server().serve_connection(io, service);
        drained(worker, connection, |c| c.graceful_shutdown()).await?;
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_wait)
            .max_buf_size(BUFFER_LEN_MAX)
            .serve_connection(io, service);
        drained(worker, connection, |c| c.graceful_shutdown()).await?;
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
    let worker_of_requests = Arc::clone(worker);
    let home: Arc<NodeId> = Arc::new(home);
    let service = service_fn(move |request| {
        let (worker, home) = (Arc::clone(&worker_of_requests), Arc::clone(&home));
        async move { infallible(request::moved_in(&worker, &home, request).await) }
    });
    let connection = http2_server().serve_connection(TokioIo::new(stream), service);
    drained(worker, connection, |c| c.graceful_shutdown()).await?;
    Ok(())
}

fn infallible(response: Response<ResponseBody>) -> Result<Response<ResponseBody>, Infallible> {
    Ok(response)
}

fn http2_server() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_LEN_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WAIT_MAX);
    builder
}

/// Runs a connection; when the drain begins, lets its requests end and closes it.
async fn drained<C, T, E>(
    worker: &Arc<Worker>,
    connection: C,
    close: impl Fn(Pin<&mut C>),
) -> Result<T, E>
where
    C: Future<Output = Result<T, E>>,
{
    let drain = &worker.proxy.drain;
    let mut connection = pin!(connection);
    let mut begun = pin!(drain.begun());
    let (mut watching, mut closing) = (false, false);
    std::future::poll_fn(|cx| {
        // The token takes a lock each time it is asked. It remembers this task's waker from the
        // first time, so later a look at its flag is enough.
        let ask = !watching || drain.is_begun();
        if !closing && ask {
            watching = true;
            if begun.as_mut().poll(cx).is_ready() {
                closing = true;
                close(connection.as_mut());
            }
        }
        match connection.as_mut().poll(cx) {
            Poll::Ready(ended) => Poll::Ready(ended),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
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

/// Closes connections to endpoints that were idle for too long.
async fn sweep(worker: &Arc<Worker>) {
    let proxy = &worker.proxy;
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP_EVERY) => {}
            () = proxy.drain.begun() => return,
        }
        let now_us = proxy.clock.now_us();
        for endpoint in proxy.table.endpoints() {
            endpoint.sweep(worker.index, now_us);
        }
    }
}
