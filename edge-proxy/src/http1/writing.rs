//! An answer's body, written as it comes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::Body;

use super::encode::Encoder;
use super::io::Link;
use super::server::Stop;
use crate::body::{BodyError, ResponseBody};

/// An answer's body on its way to the client.
pub(super) struct Writing {
    pub(super) encoder: Encoder,
    pub(super) trailers: Option<HeaderMap>,
    /// Nothing more is to be appended.
    pub(super) ended: bool,
    /// Why the rest will not come. What came before still goes out.
    pub(super) broken: Option<Stop>,
}

impl Writing {
    pub(super) fn poll(
        &mut self,
        link: &Link,
        body: &mut ResponseBody,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stop>> {
        loop {
            let mut io = link.lock();
            if self.ended || self.broken.is_some() || !io.output.has_room() {
                match io.poll_flush(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Stop::Gone)),
                    Poll::Pending => return Poll::Pending,
                }
                if let Some(stop) = self.broken.take() {
                    return Poll::Ready(Err(stop));
                }
                if self.ended {
                    return Poll::Ready(Ok(()));
                }
            }
            drop(io);
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.data(link, data),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Poll::Ready(Some(Err(error))) => {
                    self.broken = Some(Stop::Upstream(match error {
                        BodyError::Refused(fault) => Some(fault),
                        _ => None,
                    }));
                }
                Poll::Ready(None) => self.end(link),
                Poll::Pending => {
                    return match link.lock().poll_flush(cx) {
                        Poll::Ready(Err(_)) => Poll::Ready(Err(Stop::Gone)),
                        _ => Poll::Pending,
                    };
                }
            }
        }
    }

    fn data(&mut self, link: &Link, data: Bytes) {
        let put = self.encoder.data(&mut link.lock().output, data);
        self.broken = put.err().map(|_| Stop::WRONG_LENGTH);
        // A client that gets exactly what was announced needs no word of the end.
        self.ended = self.encoder.is_complete();
    }

    fn end(&mut self, link: &Link) {
        let trailers = self.trailers.take();
        let ended = self.encoder.end(&mut link.lock().output, trailers.as_ref());
        self.ended = ended.is_ok();
        self.broken = ended.err().map(|_| Stop::WRONG_LENGTH);
    }
}
