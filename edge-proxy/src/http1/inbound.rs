//! A body that is received: a request's from a client, or an answer's from an endpoint.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::decode::Piece;
use super::fault::Fault;
use super::io::Link;

/// Reads one body off a connection.
#[derive(Debug)]
pub struct Inbound {
    link: Arc<Link>,
    number: u64,
}

impl Inbound {
    /// The body that has just begun on this connection.
    pub fn new(link: &Arc<Link>) -> Inbound {
        Inbound {
            number: link.lock().number,
            link: Arc::clone(link),
        }
    }

    /// The body of the message with that number.
    pub(super) fn numbered(link: &Arc<Link>, number: u64) -> Inbound {
        Inbound {
            number,
            link: Arc::clone(link),
        }
    }

    /// The connection.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The next piece; `None` = it has ended.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let mut io = self.link.lock();
        if io.number != self.number {
            // The connection went on without this body: nobody wanted it any more.
            return Poll::Ready(Some(Err(Fault::Early)));
        }
        if let Some(fault) = io.fault {
            return Poll::Ready(Some(Err(fault)));
        }
        io.poll_body(cx).map(|piece| match piece {
            Ok(Piece::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Piece::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(Piece::End) => None,
            Err(fault) => {
                io.fail(fault);
                Some(Err(fault))
            }
        })
    }

    /// Whether it has ended.
    pub fn is_ended(&self) -> bool {
        let io = self.link.lock();
        io.number == self.number && io.fault.is_none() && io.body.is_ended()
    }

    /// How long the rest is, if that was announced.
    pub fn size_hint(&self) -> SizeHint {
        match self.link.lock().body.remaining() {
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::new(),
        }
    }
}
