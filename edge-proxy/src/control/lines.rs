//! The control stream itself: lines both ways over a connection that has left HTTP.
//!
//! ```text
//! POST /v1/stream, hello ─▶ 101 ─▶ ─┬─ Lines::read  ◀─ what the controller says
//!                                   └─ Lines::sender ─▶ a task that writes
//! ```

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, HeaderValue, RETRY_AFTER, UPGRADE as UPGRADE_HEADER};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use isobar_mesh_api::message::{STREAM_PATH, UPGRADE};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

/// Lines that wait to be sent; when they do not go, reports are held back and merged.
pub const LINES_MAX: usize = 16;
/// The controller must answer the stream's request in this time.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);
/// The controller has this long to close the stream after this side did.
pub const CLOSE_WAIT_MAX: Duration = Duration::from_secs(1);
/// What is read at once, in bytes.
const READ_LEN: usize = 4096;

type Tls = TlsStream<TcpStream>;

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The connection broke.
    #[error("the connection broke")]
    Http(#[from] hyper::Error),
    /// Not in time.
    #[error("the controller did not answer")]
    Silent,
    /// The controller said no, and perhaps when to ask again.
    #[error("the controller answered {0}")]
    Refused(StatusCode, Option<Duration>),
}

/// An open stream. Dropping it closes it.
#[derive(Debug)]
pub struct Lines {
    /// Takes lines to send, each with its newline.
    pub sender: mpsc::Sender<Bytes>,
    /// What came right behind the answer.
    early: Bytes,
    incoming: ReadHalf<Tls>,
    writer: Writer,
}

/// The task that writes.
#[derive(Debug)]
struct Writer(JoinHandle<()>);

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Lines {
    /// Says `hello`, a line with its newline, over a connection that nothing else is asked on.
    ///
    /// # Errors
    /// Why there is no stream.
    pub async fn open(
        sender: &mut SendRequest<Full<Bytes>>,
        hello: Vec<u8>,
    ) -> Result<Lines, OpenError> {
        let opened = tokio::time::timeout(ANSWER_WAIT_MAX, open(sender, hello)).await;
        let (tls, early) = opened.map_err(|_| OpenError::Silent)??;
        let (incoming, outgoing) = tokio::io::split(tls);
        let (sender, lines) = mpsc::channel(LINES_MAX);
        Ok(Lines {
            sender,
            early,
            incoming,
            writer: Writer(tokio::spawn(write(outgoing, lines))),
        })
    }

    /// What came next; nothing at the end. Cancelling loses nothing.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn read(&mut self) -> std::io::Result<Bytes> {
        if !self.early.is_empty() {
            return Ok(std::mem::take(&mut self.early));
        }
        let mut bytes = BytesMut::with_capacity(READ_LEN);
        self.incoming.read_buf(&mut bytes).await?;
        Ok(bytes.freeze())
    }

    /// Ends this side, once `sender` and its clones are gone, and waits a moment for the other, so that what was sent last
    /// arrives.
    pub async fn close(self) {
        let Lines {
            sender,
            early: _,
            mut incoming,
            writer: _writer,
        } = self;
        drop(sender);
        let mut unread = tokio::io::sink();
        let other_side = tokio::io::copy(&mut incoming, &mut unread);
        let _ = tokio::time::timeout(CLOSE_WAIT_MAX, other_side).await;
    }
}

async fn open(
    sender: &mut SendRequest<Full<Bytes>>,
    hello: Vec<u8>,
) -> Result<(Tls, Bytes), OpenError> {
    let headers = [
        (CONNECTION, HeaderValue::from_static("upgrade")),
        (UPGRADE_HEADER, HeaderValue::from_static(UPGRADE)),
    ];
    let mut request = Request::new(Full::new(Bytes::from(hello)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(STREAM_PATH);
    request.headers_mut().extend(headers);
    let answer = sender.send_request(request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let hint = retry_after(answer.headers());
        return Err(OpenError::Refused(answer.status(), hint));
    }
    let upgraded = hyper::upgrade::on(answer).await?;
    match upgraded.downcast::<TokioIo<Tls>>() {
        // Copied: even when nothing is in it, it would keep the whole buffer of HTTP.
        Ok(parts) => Ok((
            parts.io.into_inner(),
            Bytes::copy_from_slice(&parts.read_buf),
        )),
        // What was dialled is what is upgraded.
        Err(_) => Err(OpenError::Silent),
    }
}

async fn write(mut outgoing: WriteHalf<Tls>, mut lines: mpsc::Receiver<Bytes>) {
    let written = async {
        while let Some(mut line) = lines.recv().await {
            outgoing.write_all_buf(&mut line).await?;
            outgoing.flush().await?;
        }
        outgoing.shutdown().await
    };
    // How a connection broke is seen by who reads it.
    let _: std::io::Result<()> = written.await;
}

/// Seconds of a `Retry-After` (RFC 9110, section 10.2.3); dates are not read, for clocks differ.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}
