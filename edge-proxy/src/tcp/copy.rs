//! Bytes both ways between two connections.
//!
//! Each way ends by itself: when one side has said all it will say, the other side is told (half-close), and the other
//! way goes on. A buffer is taken when bytes may be there and given back when none are, so that an idle connection has
//! none.

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::connection::Stream;

/// Bytes that are read at once.
pub const BUFFER_LEN: usize = 16 * 1024;
/// Buffers that one worker keeps for the next use; more are freed.
pub const BUFFERS_KEPT_MAX: usize = 64;
/// Reads in a row before other connections get their turn.
const ROUNDS_MAX: usize = 16;

/// Bytes that came from clients and went to them, since the start.
#[derive(Debug, Default)]
pub struct Bytes {
    /// From clients.
    pub received: AtomicU64,
    /// To clients.
    pub sent: AtomicU64,
}

/// Ends a connection so that the other side sees that it was not its end.
pub trait Abort {
    /// Prepares for being dropped.
    fn abort(&mut self);
}

impl Abort for TcpStream {
    fn abort(&mut self) {
        reset(self);
    }
}

impl Abort for Stream {
    fn abort(&mut self) {
        reset(self.tcp());
    }
}

/// Lets a socket be reset when it is dropped, instead of closed.
pub fn reset(stream: &TcpStream) {
    // When it cannot be set, the other side sees an end instead.
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Copies until both ways have ended; `own` has the connection's bytes alone, while it is told of.
///
/// # Errors
/// One side failed, or nothing came from either for `idle_max`.
pub async fn both_ways<D, U>(
    downstream: &mut D,
    upstream: &mut U,
    count: &Bytes,
    own: Option<&Bytes>,
    idle_max: Duration,
) -> io::Result<()>
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (OneWay::default(), OneWay::default());
    let mut moved_at = Instant::now();
    let mut idle = pin!(tokio::time::sleep_until(moved_at + idle_max));
    std::future::poll_fn(|cx| {
        let polled = up
            .poll(cx, downstream, upstream, &count.received)
            .and_then(|received| Ok((received, down.poll(cx, upstream, downstream, &count.sent)?)));
        if let Some(own) = own {
            own.received.store(up.passed, Relaxed);
            own.sent.store(down.passed, Relaxed);
        }
        let (received, sent) = polled?;
        if up.ended && down.ended {
            return Poll::Ready(Ok(()));
        }
        if received || sent {
            moved_at = Instant::now();
        }
        // The timer is set again only when it fires: bytes that come do not touch it.
        while idle.as_mut().poll(cx).is_ready() {
            if moved_at.elapsed() >= idle_max {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            idle.as_mut().reset(moved_at + idle_max);
        }
        Poll::Pending
    })
    .await
}

/// One direction.
#[derive(Debug, Default)]
struct OneWay {
    /// Read and not written yet: `buffer[begin..end]`.
    buffer: Option<Box<[u8]>>,
    begin: usize,
    end: usize,
    /// The reader has said all.
    is_read: bool,
    /// And the writer was told.
    ended: bool,
    needs_flush: bool,
    /// Bytes that were passed on.
    passed: u64,
}

impl OneWay {
    /// Goes on until it would have to wait; whether any byte moved.
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        count: &AtomicU64,
    ) -> io::Result<bool>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut moved = false;
        for _ in 0..ROUNDS_MAX {
            match self.step(cx, reader, writer, count) {
                Poll::Ready(Ok(())) if self.ended => return Ok(moved),
                Poll::Ready(Ok(())) => moved = true,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(moved),
            }
        }
        cx.waker().wake_by_ref();
        Ok(moved)
    }

    fn step<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        count: &AtomicU64,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        if let Some(buffer) = self.buffer.as_ref().filter(|_| self.begin < self.end) {
            let bytes = &buffer[self.begin..self.end];
            let n = ready!(Pin::new(&mut *writer).poll_write(cx, bytes))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            count.fetch_add(n as u64, Relaxed);
            self.passed += n as u64;
            self.begin += n;
            self.needs_flush = true;
            return Poll::Ready(Ok(()));
        }
        if self.is_read {
            self.give_back();
            ready!(Pin::new(writer).poll_shutdown(cx))?;
            self.ended = true;
            return Poll::Ready(Ok(()));
        }
        let mut buffer = self.buffer.take().unwrap_or_else(take_buffer);
        let mut read = ReadBuf::new(&mut buffer);
        let polled = Pin::new(reader).poll_read(cx, &mut read);
        let len = read.filled().len();
        self.buffer = Some(buffer);
        match polled {
            Poll::Ready(Ok(())) => {
                (self.begin, self.end) = (0, len);
                self.is_read = len == 0;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.give_back();
                if self.needs_flush {
                    ready!(Pin::new(writer).poll_flush(cx))?;
                    self.needs_flush = false;
                }
                Poll::Pending
            }
        }
    }

    fn give_back(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            KEPT.with_borrow_mut(|kept| {
                if kept.len() < BUFFERS_KEPT_MAX {
                    kept.push(buffer);
                }
            });
        }
    }
}

thread_local! {
    /// Buffers of this worker that nobody uses now.
    static KEPT: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

fn take_buffer() -> Box<[u8]> {
    let kept = KEPT.with_borrow_mut(Vec::pop);
    kept.unwrap_or_else(|| vec![0; BUFFER_LEN].into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    /// A client and an endpoint with a copy between them, and how it ended.
    async fn between<F>(
        idle_max: Duration,
        talk: impl FnOnce(tokio::io::DuplexStream, tokio::io::DuplexStream) -> F,
    ) -> (io::Result<()>, [u64; 2])
    where
        F: Future<Output = ()>,
    {
        let (client, mut downstream) = duplex(1000);
        let (mut upstream, endpoint) = duplex(1000);
        let count = Bytes::default();
        let copy = both_ways(&mut downstream, &mut upstream, &count, None, idle_max);
        let (ended, ()) = tokio::join!(copy, talk(client, endpoint));
        (
            ended,
            [count.received.load(Relaxed), count.sent.load(Relaxed)],
        )
    }

    #[tokio::test]
    async fn each_way_ends_by_itself() {
        let (ended, counts) = between(
            Duration::from_secs(60),
            |mut client, mut endpoint| async move {
                client.write_all(b"question").await.unwrap();
                client.shutdown().await.unwrap();
                let mut heard = String::new();
                endpoint.read_to_string(&mut heard).await.unwrap();
                assert_eq!(heard, "question");
                // The client has said all; the answer still comes.
                let answer = vec![7; 100_000];
                let mut received = Vec::new();
                let say = async {
                    endpoint.write_all(&answer).await.unwrap();
                    endpoint.shutdown().await.unwrap();
                };
                let (_, ()) = tokio::join!(client.read_to_end(&mut received), say);
                assert!(received == answer);
            },
        )
        .await;
        ended.unwrap();
        assert_eq!(counts, [8, 100_000]);
    }

    #[tokio::test]
    async fn silence_ends_it() {
        let (client, mut downstream) = duplex(1000);
        let (mut upstream, endpoint) = duplex(1000);
        let count = Bytes::default();
        let idle_max = Duration::from_millis(20);
        let ended = both_ways(&mut downstream, &mut upstream, &count, None, idle_max).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop((client, endpoint));
    }

    #[tokio::test]
    async fn idle_connections_have_no_buffer() {
        let (mut client, mut downstream) = duplex(64);
        let (_endpoint, mut upstream) = duplex(64);
        client.write_all(b"x").await.unwrap();
        let count = AtomicU64::new(0);
        let mut way = OneWay::default();
        std::future::poll_fn(|cx| {
            Poll::Ready(way.poll(cx, &mut downstream, &mut upstream, &count))
        })
        .await
        .unwrap();
        assert_eq!(count.load(Relaxed), 1);
        assert!(way.buffer.is_none());
    }
}
