//! Connections of a listener, each in a task of its own, no more at a time than there may be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::drain::Drain;

/// Pause after a failure to accept, such as too many open files.
const RETRY: Duration = Duration::from_millis(100);

/// Accepts until the drain's signal. `serve` gets each connection with its permit, which it keeps as long as the connection counts;
/// connections beyond `connections_max` are closed at once. `port` is what the log calls the listener.
pub async fn accept<F>(
    listener: TcpListener,
    drain: &Drain,
    port: &'static str,
    connections_max: usize,
    serve: impl Fn(TcpStream, SocketAddr, OwnedSemaphorePermit) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(connections_max));
    loop {
        let accepted = tokio::select! {
            () = drain.signal().cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(port, %error, "a connection could not be accepted");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        match permits.clone().try_acquire_owned() {
            Ok(permit) => drain.spawn(serve(socket, address, permit)),
            Err(_) => tracing::warn!(port, "more than {connections_max} connections"),
        }
    }
}
