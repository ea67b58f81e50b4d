//! One connection: its stream, what came and was not used, what is still to be sent.
//!
//! A [`Link`] is shared by the connection's task and by whoever reads a body
//! off it, which is another task when a neighbour gets the request. Its lock is
//! held while bytes move, never across an await, and almost never contended.

use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::buffer::{self, BODY_BUFFER_LEN, BUFFER_LEN};
use super::decode::{Decoder, Piece};
use super::fault::Fault;
use super::head::HeadEnd;
use crate::clock::Clock;
use crate::connection::Stream;

/// Text that waits to be sent; from this many bytes on nothing more is taken in.
const OUTPUT_LEN_MAX: usize = 32 * 1024;
/// What asks a client for the body that it announced.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A connection that a task and a body share.
#[derive(Debug)]
pub struct Link(Mutex<Io>);

impl Link {
    /// A connection on which `input` has come already.
    pub fn new(stream: Stream, input: BytesMut, clock: Clock) -> Arc<Link> {
        Arc::new(Link(Mutex::new(Io {
            stream,
            input,
            output: Output::default(),
            end: HeadEnd::default(),
            body: Decoder::Ended,
            number: 0,
            continue_due: false,
            filled: false,
            input_awaited_since_us: None,
            output_awaited_since_us: None,
            fault: None,
            owner: None,
            unusable: false,
            clock,
        })))
    }

    /// Exclusive use, for as long as bytes move.
    pub fn lock(&self) -> MutexGuard<'_, Io> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The parts of a connection.
#[derive(Debug)]
pub struct Io {
    stream: Stream,
    /// What came and was not used. Without memory while it is empty.
    pub input: BytesMut,
    /// What is to be sent.
    pub output: Output,
    /// How far the next head was looked for in `input`.
    pub end: HeadEnd,
    /// The body that is being received.
    pub body: Decoder,
    /// Counts messages received: a body's reader must not touch the next one's.
    pub number: u64,
    /// The sender of the body waits to be asked for it.
    pub continue_due: bool,
    /// The last receive filled its buffer: a long body is coming.
    filled: bool,
    /// Since when somebody waits for bytes of the body.
    pub input_awaited_since_us: Option<u64>,
    /// Since when the other end has taken nothing of the output.
    pub output_awaited_since_us: Option<u64>,
    /// What was wrong with the body.
    pub fault: Option<Fault>,
    /// The connection's task, to be told of the fault when another reads the body.
    owner: Option<Waker>,
    /// Something went wrong that the current message need not know of; no other may follow it.
    pub unusable: bool,
    clock: Clock,
}

impl Io {
    /// Notes that the body cannot be read to its end.
    pub fn fail(&mut self, fault: Fault) {
        self.fault = Some(fault);
        if let Some(owner) = self.owner.take() {
            owner.wake();
        }
    }

    /// Who is told when the body cannot be read to its end.
    pub fn watch_body(&mut self, cx: &Context<'_>) {
        match &mut self.owner {
            Some(owner) => owner.clone_from(cx.waker()),
            None => self.owner = Some(cx.waker().clone()),
        }
    }

    /// The body is given up; whoever still reads it finds that it has broken off.
    pub fn forget_body(&mut self) {
        self.number += 1;
        self.fault = None;
    }

    /// Receives what there is; 0 = the other end sends no more.
    ///
    /// # Errors
    /// The connection failed.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // Most of the time nothing has come: then no buffer is taken.
        if self.stream.poll_readable(cx).is_pending() {
            self.release();
            return Poll::Pending;
        }
        self.make_room();
        let room = self.input.capacity() - self.input.len();
        let read = pin!(self.stream.read_buf(&mut self.input)).poll(cx);
        match &read {
            Poll::Ready(Ok(len)) => self.filled = *len == room,
            _ => self.release(),
        }
        read
    }

    fn make_room(&mut self) {
        if self.input.capacity() == 0 {
            self.input = buffer::take();
        }
        if self.filled && !self.body.is_ended() {
            // What is behind the body's bytes that were passed on can be had back when these were
            // sent; else this takes new memory.
            self.input.reserve(BODY_BUFFER_LEN);
        } else if self.input.len() == self.input.capacity() {
            self.input.reserve(BUFFER_LEN);
        }
    }

    /// Gives the input's buffer back when there is nothing in it.
    pub fn release(&mut self) {
        if self.input.is_empty() && self.input.capacity() > 0 {
            buffer::give_back(&mut self.input);
        }
    }

    /// The next piece of the body that is being received.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Fault>> {
        loop {
            if let Some(piece) = self.body.decode(&mut self.input)? {
                self.input_awaited_since_us = None;
                if self.body.is_ended() {
                    self.release();
                }
                return Poll::Ready(Ok(piece));
            }
            if self.continue_due {
                self.continue_due = false;
                self.output.text().extend_from_slice(CONTINUE);
                // Whoever waits for the body sees to the rest if it does not go out at once.
                let _ = self.poll_flush(cx);
            }
            match self.poll_fill(cx) {
                Poll::Pending => {
                    let now_us = self.clock.now_us();
                    self.input_awaited_since_us.get_or_insert(now_us);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => self.body.closed()?,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::Early)),
            }
        }
    }

    /// Sends what is to be sent.
    ///
    /// # Errors
    /// The connection failed.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.output.poll_flush(&mut self.stream, cx);
        match flushed {
            Poll::Ready(_) => self.output_awaited_since_us = None,
            Poll::Pending if self.output.moved => {
                self.output_awaited_since_us = Some(self.clock.now_us());
            }
            Poll::Pending => {
                let now_us = self.clock.now_us();
                self.output_awaited_since_us.get_or_insert(now_us);
            }
        }
        flushed
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// The connection failed.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// Its bytes themselves, past what came and what is to be sent.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Whether the other end has closed, or sent what nobody asked for. Asks the runtime, not the
    /// system.
    pub fn is_dead(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.unusable || !self.input.is_empty() || self.poll_fill(&mut cx).is_ready()
    }

    /// Passes an interim response on, as far as there is room.
    pub fn interim(&mut self, status: http::StatusCode, headers: &HeaderMap, cx: &mut Context<'_>) {
        if self.output.has_room() {
            super::encode::interim(self.output.text(), status, headers);
            // Else it goes out before the final response.
            let _ = self.poll_flush(cx);
        }
    }
}

/// What is to be sent: text, then at most one long piece of a body, then a few bytes behind it.
#[derive(Debug, Default)]
pub struct Output {
    text: BytesMut,
    body: Bytes,
    tail: &'static [u8],
    /// Whether the last flush sent anything.
    moved: bool,
}

impl Output {
    /// Whether more can be appended.
    pub fn has_room(&self) -> bool {
        self.body.is_empty() && self.tail.is_empty() && self.text.len() < OUTPUT_LEN_MAX
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.body.is_empty() && self.tail.is_empty()
    }

    /// Where to append text. There is room.
    pub fn text(&mut self) -> &mut BytesMut {
        if self.text.capacity() == 0 {
            self.text = buffer::take();
        }
        &mut self.text
    }

    /// Appends a long piece and what comes behind it. There is room; then there is none.
    pub fn append(&mut self, body: Bytes, tail: &'static [u8]) {
        self.body = body;
        self.tail = tail;
    }

    /// All that waits.
    #[cfg(test)]
    pub fn take_all(&mut self) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.text).to_vec();
        all.extend_from_slice(&std::mem::take(&mut self.body));
        all.extend_from_slice(std::mem::take(&mut self.tail));
        all
    }

    /// Whether the last flush sent anything.
    pub fn has_moved(&self) -> bool {
        self.moved
    }

    fn poll_flush(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.moved = false;
        while !self.is_empty() {
            let sent = match self.body.is_empty() && self.tail.is_empty() {
                true => Pin::new(&mut *stream).poll_write(cx, &self.text),
                false => {
                    let parts = [
                        io::IoSlice::new(&self.text),
                        io::IoSlice::new(&self.body),
                        io::IoSlice::new(self.tail),
                    ];
                    Pin::new(&mut *stream).poll_write_vectored(cx, &parts)
                }
            };
            match ready!(sent)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.advance(len),
            }
        }
        if self.text.capacity() > 0 {
            buffer::give_back(&mut self.text);
        }
        Pin::new(stream).poll_flush(cx)
    }

    fn advance(&mut self, mut len: usize) {
        self.moved = true;
        let of_text = len.min(self.text.len());
        super::head::consume(&mut self.text, of_text);
        len -= of_text;
        let of_body = len.min(self.body.len());
        self.body.advance(of_body);
        len -= of_body;
        self.tail = &self.tail[len..];
    }
}
