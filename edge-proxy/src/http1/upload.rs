//! A request's body on its way to an endpoint.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame};

use super::encode::{Encoder, WrongLength};
use super::fault::Fault;
use super::io::Link;
use crate::body::{BodyError, RequestBody};

/// Why a request that was sent has no answer.
#[derive(Debug, thiserror::Error)]
pub enum LostError {
    /// The endpoint's doing: the connection failed.
    #[error("the connection to the endpoint failed")]
    Connection(#[source] io::Error),
    /// The endpoint's doing: what came is no answer.
    #[error("what the endpoint sent is no answer")]
    Fault(#[source] Fault),
    /// The client's doing: its body broke off.
    #[error("the request's body broke off")]
    Body(#[source] BodyError),
    /// The client's doing: its body has another length than its head says.
    #[error("the request's body is malformed")]
    Length(#[from] WrongLength),
}

impl LostError {
    /// Whether it was the client's doing; the endpoint did nothing wrong.
    pub fn is_clients(&self) -> bool {
        matches!(self, LostError::Body(_) | LostError::Length(_))
    }

    /// What was wrong with the endpoint's answer.
    pub fn fault(&self) -> Option<Fault> {
        match self {
            LostError::Connection(_) => Some(Fault::Early),
            LostError::Fault(fault) => Some(*fault),
            LostError::Body(_) | LostError::Length(_) => None,
        }
    }
}

/// A request's body on its way.
#[derive(Debug)]
pub struct Upload {
    link: Arc<Link>,
    encoder: Encoder,
    body: RequestBody,
    /// Whether some of the body was taken, or lost.
    begun: bool,
    /// Whether all of it was.
    ended: bool,
    trailers: Option<HeaderMap>,
}

impl Upload {
    /// Of a body of which nothing was taken; its head stands in the connection's output.
    pub fn new(link: &Arc<Link>, encoder: Encoder, body: RequestBody) -> Upload {
        Upload {
            link: Arc::clone(link),
            encoder,
            body,
            begun: false,
            ended: false,
            trailers: None,
        }
    }

    /// The body, if nothing of it was taken.
    pub fn take_unused(self) -> Option<RequestBody> {
        (!self.begun).then_some(self.body)
    }

    /// No other request may follow on the connection.
    pub fn give_up(&self) {
        self.link.lock().unusable = true;
    }

    /// Sends what there is; ready when all of it was sent.
    ///
    /// # Errors
    /// The client's body or the connection broke off.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LostError>> {
        loop {
            {
                let mut io = self.link.lock();
                if self.ended || !io.output.has_room() {
                    ready!(io.poll_flush(cx)).map_err(LostError::Connection)?;
                }
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.begun = true;
                    self.frame(frame)?;
                }
                Poll::Ready(Some(Err(error))) => {
                    // What broke off with its first piece is not what the client sent any more.
                    self.begun = true;
                    return Poll::Ready(Err(LostError::Body(error)));
                }
                Poll::Ready(None) => self.end()?,
                Poll::Pending => {
                    let mut io = self.link.lock();
                    if let Poll::Ready(flushed) = io.poll_flush(cx) {
                        flushed.map_err(LostError::Connection)?;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn frame(&mut self, frame: Frame<Bytes>) -> Result<(), WrongLength> {
        match frame.into_data() {
            Ok(data) => self
                .encoder
                .data(&mut self.link.lock().output, data)
                .map(|()| self.ended = self.encoder.is_complete()),
            Err(frame) => {
                self.trailers = frame.into_trailers().ok();
                Ok(())
            }
        }
    }

    fn end(&mut self) -> Result<(), WrongLength> {
        self.ended = true;
        let trailers = self.trailers.take();
        let mut io = self.link.lock();
        self.encoder.end(&mut io.output, trailers.as_ref())
    }
}
