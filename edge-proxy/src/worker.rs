//! Worker threads: each a single-threaded runtime with listeners and
//! connections of its own.
//!
//! The kernel spreads new connections over the workers' listeners
//! (`SO_REUSEPORT`). A request stays on the worker that accepted it, from the
//! client's socket to the endpoint's, so the request path wakes no other
//! thread.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::connection::{self, ConnectionError};
use crate::listen::{Front, Sockets};
use crate::proxy::{Proxy, Worker};

/// How often idle connections are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// When the system is out of files, nothing is accepted for this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Starts one worker thread. It ends when the proxy has drained.
///
/// # Errors
/// The system gives no thread.
pub fn start(
    proxy: Arc<Proxy>,
    index: usize,
    sockets: Sockets,
    more: mpsc::Receiver<Front>,
) -> io::Result<JoinHandle<()>> {
    let name = format!("worker-{index}");
    std::thread::Builder::new().name(name).spawn(move || {
        let expiry = Arc::default();
        let worker = Arc::new(Worker {
            index,
            proxy,
            expiry,
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => runtime.block_on(run(worker, sockets, more)),
            Err(error) => {
                tracing::error!(%error, "a worker cannot start");
                worker.proxy.drain.begin();
            }
        }
    })
}

async fn run(worker: Arc<Worker>, sockets: Sockets, more: mpsc::Receiver<Front>) {
    let drain = &worker.proxy.drain;
    let limits = &worker.proxy.config.limits;
    let listen = async {
        tokio::join!(
            fronts(&worker, sockets.fronts, more),
            mesh(&worker, sockets.mesh),
            sweep(&worker),
        )
    };
    let serve = async {
        listen.await;
        drain
            .wait(limits.drain_idle_max(), limits.drain_wait_max())
            .await;
    };
    tokio::select! {
        () = serve => {}
        // Never ends by itself.
        () = worker.expiry.run(worker.proxy.clock) => {}
    }
}

/// Accepts on all listeners, each in a task of its own, also on those that come later.
async fn fronts(worker: &Arc<Worker>, fronts: Vec<Front>, mut more: mpsc::Receiver<Front>) {
    let mut listening = JoinSet::new();
    for front in fronts {
        listening.spawn(listen_on(Arc::clone(worker), front));
    }
    loop {
        tokio::select! {
            Some(front) = more.recv() => drop(listening.spawn(listen_on(Arc::clone(worker), front))),
            Some(_) = listening.join_next() => {}
            () = worker.proxy.drain.begun() => break,
        }
    }
    while listening.join_next().await.is_some() {}
}

async fn listen_on(worker: Arc<Worker>, Front { listener, socket }: Front) {
    #[cfg(feature = "http3")]
    let beside = {
        // On the UDP port of the same number.
        let at = socket.local_addr().ok();
        crate::http3::listen(Arc::clone(&worker), Arc::clone(&listener), at)
    };
    #[cfg(not(feature = "http3"))]
    let beside = std::future::ready(());
    let served = Arc::clone(&listener);
    let serve = move |worker: Arc<Worker>, stream, peer| {
        let listener = served.get();
        async move { connection::front(&worker, stream, peer, &listener).await }
    };
    let accepting = async {
        tokio::select! {
            () = listen(&worker, socket, serve) => {}
            () = listener.removed.cancelled() => {}
        }
    };
    tokio::join!(accepting, beside);
}

async fn mesh(worker: &Arc<Worker>, sockets: Vec<std::net::TcpListener>) {
    let mut listening = JoinSet::new();
    for socket in sockets {
        let worker = Arc::clone(worker);
        // A task of their own kind: it has no place for what only clients' connections need.
        let serve = |worker: Arc<Worker>, stream, peer| async move {
            connection::mesh(&worker, stream, peer).await
        };
        listening.spawn(async move { listen(&worker, socket, serve).await });
    }
    while listening.join_next().await.is_some() {}
}

/// Accepts connections until the drain begins, and has each served. At the limit it waits for one to end, and the
/// kernel's backlog fills.
async fn listen<F>(
    worker: &Arc<Worker>,
    socket: std::net::TcpListener,
    serve: impl Fn(Arc<Worker>, TcpStream, SocketAddr) -> F + Clone + Send + 'static,
) where
    F: Future<Output = Result<(), ConnectionError>> + Send + 'static,
{
    let drain = &worker.proxy.drain;
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
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
            Ok((stream, peer)) => {
                // A client that is gone already is found out by who serves it.
                let _ = stream.set_nodelay(true);
                let (worker, serve) = (Arc::clone(worker), serve.clone());
                drain.spawn(async move {
                    let _permit = permit;
                    // Begun in here: what is handed in and then waited for would have two places.
                    if let Err(error) = serve(worker, stream, peer).await {
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
