//! A place's distance: a TCP relay that delays every byte by half a round trip.
//!
//! ```text
//! proxy A ──▶ relay A→B ── bytes, each after half the round trip ──▶ mesh port of B
//!         ◀──          ◀── the same on the way back ───────────────
//! ```
//!
//! One relay per ordered pair of nodes; proxy A is told the relay's address
//! instead of B's. Order and bytes are kept, only time is added. The far end
//! is looked up in B's `addresses.json` at every connection, so B may start
//! later or again. Bandwidth is not limited; the handshake of a new connection
//! takes half a round trip less than a real one's.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::addresses;

/// Most pieces under way in one direction of a connection; beyond it the sender is made to wait.
const PIECES_MAX: usize = 512;
/// Longest piece, in bytes.
const PIECE_LEN_MAX: usize = 16 * 1024;
/// How much later than asked the runtime's millisecond timer wakes, on average.
const TIMER_LATE: Duration = Duration::from_micros(500);

/// One direction's far end and delay.
#[derive(Debug, Clone)]
pub struct Link {
    /// The far node's `addresses.json`.
    pub to: PathBuf,
    /// The round trip to emulate.
    pub rtt: Duration,
}

impl Link {
    /// Accepts and relays until dropped.
    pub async fn serve(self, listener: TcpListener) {
        loop {
            let Ok((near, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let link = self.clone();
            // Ends with either side's connection; the process ends with all of them.
            tokio::spawn(async move {
                let _ = link.relay(near).await;
            });
        }
    }

    async fn relay(&self, near: TcpStream) -> io::Result<()> {
        let mesh: SocketAddr = addresses::read(&self.to, "mesh").map_err(io::Error::other)?;
        let far = TcpStream::connect(mesh).await?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let delay = (self.rtt / 2).saturating_sub(TIMER_LATE);
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        tokio::join!(
            delayed(near_read, far_write, delay),
            delayed(far_read, near_write, delay),
        );
        Ok(())
    }
}

/// Copies with a delay; an end or a failure on one side ends the other after the same delay.
async fn delayed(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    delay: Duration,
) {
    let (under_way, mut due) = mpsc::channel::<(Instant, BytesMut)>(PIECES_MAX);
    let read = async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE_LEN_MAX);
            match from.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {
                    let piece = (Instant::now() + delay, buffer.split());
                    if under_way.send(piece).await.is_err() {
                        break;
                    }
                }
            }
        }
    };
    let write = async move {
        while let Some((at, piece)) = due.recv().await {
            sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_arrive_whole_in_order_and_not_before_their_time() {
        let directory = tempfile::tempdir().unwrap();
        let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = directory.path().join("addresses.json");
        let text = format!("{{\"mesh\": \"{}\"}}", echo.local_addr().unwrap());
        std::fs::write(&to, text).unwrap();
        tokio::spawn(async move {
            let (mut socket, _) = echo.accept().await.unwrap();
            let (mut read, mut write) = socket.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let rtt = Duration::from_millis(40);
        tokio::spawn(Link { to, rtt }.serve(listener));

        let sent: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
        let mut socket = TcpStream::connect(address).await.unwrap();
        let begin = Instant::now();
        socket.write_all(b"!").await.unwrap();
        let mut mark = [0];
        socket.read_exact(&mut mark).await.unwrap();
        assert!(begin.elapsed() >= rtt - 2 * TIMER_LATE);
        let (mut read, mut write) = socket.split();
        let mut got = Vec::new();
        let (written, _) = tokio::join!(
            async {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            },
            async { read.read_to_end(&mut got).await.unwrap() }
        );
        let () = written;
        assert!(got == sent);
    }
}
