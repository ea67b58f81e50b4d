//! Towards an endpoint: a request is written, its answer read, by the task that has the request.
//!
//! A connection belongs to one request at a time. When the answer's body has
//! ended it can be used again, unless somebody said otherwise. Should the
//! answer begin while the request's body is still under way, the rest of that
//! body becomes a task of its own, so that both bodies can flow at once.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Response, StatusCode, request};
use hyper::body::{Body, Frame, SizeHint};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::decode::Decoder;
use super::encode::{self, Encoder};
use super::fault::Fault;
use super::head::{self, BodyLength, ResponseHead, SMALL_LEN_MAX};
use super::inbound::Inbound;
use super::io::{Io, Link};
use super::upload::{LostError, Upload};
use super::{HEAD_LEN_MAX, Upgrade};
use crate::body::{BodyError, RequestBody};
use crate::clock::Clock;
use crate::connection::Stream;

/// A connection to an endpoint, with its exclusive use.
#[derive(Debug)]
pub struct Connection {
    link: Arc<Link>,
}

impl Connection {
    /// On a new stream.
    pub fn new(stream: TcpStream, clock: Clock) -> Connection {
        Connection {
            link: Link::new(Stream::Tcp(stream), bytes::BytesMut::new(), clock),
        }
    }

    /// Whether the endpoint closed it, or sent what nobody asked for. Costs no system call unless
    /// something came.
    pub fn is_dead(&self) -> bool {
        self.link.lock().is_dead()
    }

    /// What it is made of.
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }
}

/// What came of sending a request.
#[derive(Debug)]
pub enum Sent {
    /// The answer's head came.
    Answered(Response<Reply>),
    /// Nothing was sent; here is the body, whole.
    Unsent(RequestBody),
    /// It was sent at least in part, and then the connection failed.
    Lost(LostError),
}

/// Sends one request and waits for the head of its answer.
pub async fn send(connection: Connection, head: &request::Parts, body: RequestBody) -> Sent {
    let mut exchange = Exchange::begin(connection, head, body);
    let answer = std::future::poll_fn(|cx| exchange.poll(head, cx)).await;
    match answer {
        Ok(answer) => Sent::Answered(exchange.answered(answer)),
        Err(error) => match exchange.take_back() {
            Some(body) => Sent::Unsent(body),
            None => Sent::Lost(error),
        },
    }
}

/// One request on its connection, until the head of its answer has come.
struct Exchange {
    connection: Connection,
    /// The body, while it is not sent.
    upload: Option<Upload>,
    /// A body that was sent in one piece, to send it again.
    whole: Option<RequestBody>,
    /// The way back to the client, for interim answers.
    client: Option<Arc<Link>>,
    /// The request could not be sent to its end.
    broken: Option<LostError>,
    /// Whether any byte went out, and whether any came.
    sent: bool,
    heard: bool,
}

impl Exchange {
    fn begin(connection: Connection, head: &request::Parts, body: RequestBody) -> Exchange {
        let client = body.client();
        let exact = match body.is_end_stream() {
            true => Some(0),
            false => body.size_hint().exact(),
        };
        let length = encode::request_length(&head.headers, exact);
        let mut encoder = Encoder::new(length);
        let mut io = connection.link.lock();
        encode::request(io.output.text(), head, length);
        let whole = body.whole().is_some_and(|bytes| {
            let put = encoder.data(&mut io.output, bytes);
            put.is_ok() && encoder.is_complete()
        });
        drop(io);
        let (upload, whole) = match whole {
            true => (None, Some(body)),
            false => (Some(Upload::new(&connection.link, encoder, body)), None),
        };
        Exchange {
            connection,
            upload,
            whole,
            client,
            broken: None,
            sent: false,
            heard: false,
        }
    }

    fn poll(
        &mut self,
        head: &request::Parts,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Answer, LostError>> {
        if self.broken.is_none()
            && let Err(error) = self.poll_send(cx)
        {
            // The endpoint may have answered before it closed.
            self.broken = Some(error);
        }
        let mut io = self.connection.link.lock();
        let answered = poll_answer(&mut io, head, self.client.as_ref(), &mut self.heard, cx);
        match answered {
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.broken.take().unwrap_or(error))),
            // It waits for the rest of a request that will not come.
            Poll::Pending => match self.broken.take_if(|error| error.is_clients()) {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            },
            ready => ready,
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), LostError> {
        let polled = match &mut self.upload {
            Some(upload) => upload.poll(cx),
            None if self.sent => return Ok(()),
            None => {
                let flushed = self.connection.link.lock().poll_flush(cx);
                flushed.map_err(LostError::Connection)
            }
        };
        match polled {
            Poll::Ready(Ok(())) => {
                self.sent = true;
                self.upload = None;
                Ok(())
            }
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => {
                self.sent |= self.connection.link.lock().output.has_moved();
                Ok(())
            }
        }
    }

    /// The body, when nothing of the request was sent: an endpoint may close an idle connection at
    /// any time, also just now. Whether what was sent can be sent again is for others to say.
    fn take_back(&mut self) -> Option<RequestBody> {
        if self.sent || self.heard {
            return None;
        }
        let unsent = self.whole.take();
        unsent.or_else(|| self.upload.take().and_then(Upload::take_unused))
    }

    fn answered(self, answer: Answer) -> Response<Reply> {
        let Answer { head, body } = answer;
        let connection = self.connection;
        let unsent = self.upload.filter(|_| self.broken.is_none());
        let upload = unsent.map(|mut upload| {
            let task = tokio::spawn(async move {
                let sent = std::future::poll_fn(|cx| upload.poll(cx)).await;
                if let Err(error) = sent {
                    tracing::debug!(%error, "a request's body was not sent to its end");
                    upload.give_up();
                }
            });
            UploadTask(task)
        });
        let tunnel = head.response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let content = match body {
            _ if tunnel => Content::Tunnel,
            Some(bytes) => Content::Whole(bytes),
            None => Content::Stream(Inbound::new(&connection.link)),
        };
        let reply = Reply {
            content,
            keep_alive: head.keep_alive && self.broken.is_none(),
            connection: Some(connection),
            upload,
        };
        head.response.map(|()| reply)
    }
}

/// The head of an answer, and its body if that came with it.
struct Answer {
    head: ResponseHead,
    body: Option<Bytes>,
}

fn poll_answer(
    io: &mut Io,
    request: &request::Parts,
    client: Option<&Arc<Link>>,
    heard: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<Result<Answer, LostError>> {
    loop {
        let Io { end, input, .. } = &mut *io;
        let found = end.find(input, HEAD_LEN_MAX).map_err(LostError::Fault)?;
        let Some(len) = found else {
            match ready!(io.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Err(LostError::Fault(Fault::Early))),
                Ok(_) => *heard = true,
                Err(error) => return Poll::Ready(Err(LostError::Connection(error))),
            }
            continue;
        };
        let answer = take_answer(io, len, request).map_err(LostError::Fault)?;
        let response = &answer.head.response;
        let status = response.status();
        if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Poll::Ready(Ok(answer));
        }
        // 100 answers an `Expect` that was answered here (`Io::continue_due`).
        if status != StatusCode::CONTINUE
            && let Some(client) = client
        {
            client.lock().interim(status, response.headers(), cx);
        }
    }
}

/// Takes an answer's head of that length off the input, and its body if all of it is there.
fn take_answer(io: &mut Io, len: usize, request: &request::Parts) -> Result<Answer, Fault> {
    let copied = io.input.len().min(len.max(SMALL_LEN_MAX));
    let bytes = Bytes::copy_from_slice(&io.input[..copied]);
    let head = head::response(&bytes.slice(..len), &request.method)?;
    let status = head.response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS && request.extensions.get::<Upgrade>().is_none() {
        return Err(Fault::Upgrade);
    }
    let body = match head.length {
        _ if status.is_informational() => None,
        BodyLength::Exactly(body_len) => usize::try_from(body_len)
            .ok()
            .and_then(|body_len| body_len.checked_add(len))
            .filter(|&end| end <= copied),
        _ => None,
    };
    head::consume(&mut io.input, body.unwrap_or(len));
    if status.is_informational() {
        return Ok(Answer { head, body: None });
    }
    io.number += 1;
    let Some(end) = body else {
        io.body = Decoder::new(head.length);
        return Ok(Answer { head, body: None });
    };
    if !io.input.is_empty() {
        return Err(Fault::Surplus);
    }
    io.release();
    Ok(Answer {
        head,
        body: Some(bytes.slice(len..end)),
    })
}

/// The rest of a body, sent while the answer comes. Ends with the answer.
#[derive(Debug)]
struct UploadTask(JoinHandle<()>);

impl Drop for UploadTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer's body and the connection it comes on.
#[derive(Debug)]
pub struct Reply {
    content: Content,
    keep_alive: bool,
    connection: Option<Connection>,
    upload: Option<UploadTask>,
}

#[derive(Debug)]
enum Content {
    /// All of it is here.
    Whole(Bytes),
    /// It comes.
    Stream(Inbound),
    /// The connection speaks another protocol from here on.
    Tunnel,
}

impl Reply {
    /// The next piece; `None` = it has ended.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.content {
            Content::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Content::Stream(inbound) => {
                let polled = inbound.poll(cx);
                polled.map(|frame| frame.map(|frame| frame.map_err(BodyError::Refused)))
            }
            Content::Tunnel => Poll::Ready(None),
        }
    }

    /// Whether all of it has come off the connection.
    pub fn has_come(&self) -> bool {
        match &self.content {
            Content::Whole(_) => true,
            Content::Stream(inbound) => inbound.is_ended(),
            Content::Tunnel => false,
        }
    }

    /// Whether nothing is left to be read.
    pub fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Stream(inbound) => inbound.is_ended(),
            Content::Tunnel => true,
        }
    }

    /// How long the rest is, if that was announced.
    pub fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(inbound) => inbound.size_hint(),
            Content::Tunnel => SizeHint::with_exact(0),
        }
    }

    /// All of it, if it is here.
    pub fn take_whole(&mut self) -> Option<Bytes> {
        match &mut self.content {
            Content::Whole(bytes) => Some(std::mem::take(bytes)),
            _ => None,
        }
    }

    /// Nothing else will be asked on its connection.
    pub fn close_behind(&mut self) {
        self.keep_alive = false;
    }

    /// The connection, once the body has come, if it can be used again.
    pub fn take_connection(&mut self) -> Option<Connection> {
        let sent = self
            .upload
            .as_ref()
            .is_none_or(|upload| upload.0.is_finished());
        match self.keep_alive && sent && self.has_come() {
            true => self.connection.take(),
            false => None,
        }
    }

    /// The connection, when it speaks another protocol now.
    pub(crate) fn take_tunnel(&mut self) -> Option<Connection> {
        match &self.content {
            Content::Tunnel => self.connection.take(),
            _ => None,
        }
    }
}
