//! A connection that was HTTP/1.1's and speaks another protocol now: its bytes, from the first one behind the last
//! message on.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::io::Link;
use crate::tcp::copy::{Abort, reset};

/// One side of an upgraded connection.
#[derive(Debug)]
pub struct Tunnel(Arc<Link>);

impl Tunnel {
    /// Of a connection on which both sides have agreed.
    pub fn new(link: &Arc<Link>) -> Tunnel {
        Tunnel(Arc::clone(link))
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut io = self.0.lock();
        if io.input.is_empty() {
            return Pin::new(io.stream()).poll_read(cx, buffer);
        }
        let len = io.input.len().min(buffer.remaining());
        buffer.put_slice(&io.input[..len]);
        io.input.advance(len);
        io.release();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut io = self.0.lock();
        ready!(io.poll_flush(cx))?;
        Pin::new(io.stream()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut io = self.0.lock();
        ready!(io.poll_flush(cx))?;
        Pin::new(io.stream()).poll_write_vectored(cx, slices)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut io = self.0.lock();
        ready!(io.poll_flush(cx))?;
        io.poll_shutdown(cx)
    }
}

impl Abort for Tunnel {
    fn abort(&mut self) {
        reset(self.0.lock().stream().tcp());
    }
}
