//! A control stream over an upgraded HTTP/1.1 connection: nothing is left between the lines and TLS.
//!
//! ```text
//! POST /v1/stream, hello ─▶ 101 ─▶ the connection in two ─┬─ lines up   ─▶ LineReader
//!                                                         └─ lines down ◀─ what the answer's body would have been
//! ```
//!
//! An HTTP/2 connection holds 28 KiB of buffers as long as it lives; one of these holds none.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, UPGRADE as UPGRADE_HEADER};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use isobar_mesh_api::message::UPGRADE;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf, ReadHalf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::server::TlsStream;

use super::{Body, Streamed};

/// The connection under HTTP.
pub(super) type Tls = Box<TlsStream<TcpStream>>;

/// How long the connection may take to change hands after its answer.
const UPGRADE_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a peer may take to see the stream's end.
const END_TIME_MAX: Duration = Duration::from_secs(5);
/// What is read at once, in bytes: on the stack, so that a silent stream has no buffer.
const READ_LEN: usize = 4096;

/// The direction from the proxy.
pub(super) struct Incoming {
    half: ReadHalf<Tls>,
    /// What came right behind the request.
    early: Bytes,
}

impl Incoming {
    /// What came, given to `take` piece by piece; 0 bytes at the end.
    pub fn poll_read<T>(
        &mut self,
        context: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Poll<std::io::Result<T>> {
        if !self.early.is_empty() {
            return Poll::Ready(Ok(take(&std::mem::take(&mut self.early))));
        }
        let mut bytes = [MaybeUninit::uninit(); READ_LEN];
        let mut read = ReadBuf::uninit(&mut bytes);
        Pin::new(&mut self.half)
            .poll_read(context, &mut read)
            .map_ok(|()| take(read.filled()))
    }
}

/// Two ends of a stream whose connection is about to change hands.
pub(super) struct Way {
    upgrade: OnUpgrade,
    incoming: oneshot::Sender<Incoming>,
}

impl Way {
    /// A way over the connection of a request, and where its direction from the proxy will come out.
    pub fn new(upgrade: OnUpgrade) -> (Way, oneshot::Receiver<Incoming>) {
        let (incoming, receiver) = oneshot::channel();
        (Way { upgrade, incoming }, receiver)
    }

    /// Carries lines until `down` ends, the proxy is gone, or the connection never changed hands.
    pub async fn carry(self, mut down: Streamed) {
        let upgraded = tokio::time::timeout(UPGRADE_TIME_MAX, self.upgrade).await;
        let Ok(Ok(upgraded)) = upgraded else {
            return;
        };
        let Ok(parts) = upgraded.downcast::<TokioIo<Tls>>() else {
            return;
        };
        let (half, mut writing) = tokio::io::split(parts.io.into_inner());
        // Even when nothing is in it, it would keep the whole buffer of HTTP.
        let early = Bytes::copy_from_slice(&parts.read_buf);
        drop(parts.read_buf);
        if self.incoming.send(Incoming { half, early }).is_err() {
            return;
        }
        while let Some(Ok(frame)) = down.frame().await {
            let Ok(mut lines) = frame.into_data() else {
                continue;
            };
            let written = async {
                writing.write_all_buf(&mut lines).await?;
                writing.flush().await
            };
            if written.await.is_err() {
                return;
            }
        }
        let _ = tokio::time::timeout(END_TIME_MAX, writing.shutdown()).await;
    }
}

/// Whether a request asks for such a stream.
pub(super) fn is_asked(headers: &HeaderMap) -> bool {
    let asked = headers.get(UPGRADE_HEADER);
    asked.is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(UPGRADE.as_bytes()))
}

/// The answer that changes the connection.
pub(super) fn switching() -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::default()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE_HEADER, HeaderValue::from_static(UPGRADE));
    response
}
