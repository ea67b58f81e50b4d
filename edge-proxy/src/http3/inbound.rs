//! A request's body that comes on a stream of HTTP/3.

use std::fmt;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::server::RequestStream;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, request};
use hyper::body::{Frame, SizeHint};

use crate::body::BodyError;
use crate::http1::fault::Fault;

type Receiving = RequestStream<h3_quinn::RecvStream, Bytes>;

/// Reads one body. **Invariant**: as many bytes as were announced, neither more nor fewer; so nobody behind can be made to
/// see two requests in one.
pub struct Inbound {
    stream: Receiving,
    /// What was read to find out whether there is a body.
    first: Option<Bytes>,
    /// Bytes that were announced and have not come, where a length was announced.
    left: Option<u64>,
    at: At,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Data,
    Trailers,
    End,
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound")
            .field("left", &self.left)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl Inbound {
    /// The body of a request with this head. Nothing says with a head whether a body follows: one is looked for, and waited
    /// for where the method means none and no length is announced.
    ///
    /// # Errors
    /// The length is no number; the client broke off, or sends what no request may have.
    pub async fn begin(stream: Receiving, head: &request::Parts) -> Result<Inbound, BodyError> {
        let left = announced(&head.headers).map_err(BodyError::Refused)?;
        let mut body = Inbound {
            stream,
            first: None,
            left,
            at: At::Data,
        };
        let means_none = [
            Method::GET,
            Method::HEAD,
            Method::DELETE,
            Method::OPTIONS,
            Method::TRACE,
        ];
        let waits = left.is_none() && means_none.contains(&head.method);
        let begun = std::future::poll_fn(|cx| match body.poll(cx) {
            Poll::Pending if !waits => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
            Poll::Ready(frame) => Poll::Ready(frame),
        });
        if let Some(frame) = begun.await.transpose()? {
            body.first = frame.into_data().ok();
        }
        Ok(body)
    }

    /// The next piece; `None` = it has ended.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        while self.at == At::Data {
            let data = match ready!(self.stream.poll_recv_data(cx)) {
                Ok(Some(mut data)) => data.copy_to_bytes(data.remaining()),
                Ok(None) => {
                    if self.left.is_some_and(|left| left > 0) {
                        return self.refuse(Fault::Early);
                    }
                    self.at = At::Trailers;
                    break;
                }
                Err(error) => return self.broken(error),
            };
            if let Some(left) = &mut self.left {
                match left.checked_sub(data.len() as u64) {
                    Some(rest) => *left = rest,
                    None => return self.refuse(Fault::Surplus),
                }
            }
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
        if self.at == At::End {
            return Poll::Ready(None);
        }
        match ready!(self.stream.poll_recv_trailers(cx)) {
            Ok(trailers) => {
                self.at = At::End;
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Err(error) => self.broken(error),
        }
    }

    /// Whether it has ended.
    pub fn is_ended(&self) -> bool {
        self.at == At::End && self.first.is_none()
    }

    /// How long the rest is, if that was announced.
    pub fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, Bytes::len) as u64;
        match self.left {
            Some(left) => SizeHint::with_exact(left + first),
            None => SizeHint::new(),
        }
    }

    fn refuse(&mut self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.at = At::End;
        Poll::Ready(Some(Err(BodyError::Refused(fault))))
    }

    fn broken(
        &mut self,
        error: h3::error::StreamError,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.at = At::End;
        Poll::Ready(Some(Err(BodyError::Stream(error))))
    }
}

fn announced(headers: &HeaderMap) -> Result<Option<u64>, Fault> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else {
        return Ok(None);
    };
    let text = length.to_str().map_err(|_| Fault::Length)?;
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match (is_number, lengths.next()) {
        (true, None) => text.parse().map(Some).map_err(|_| Fault::Length),
        _ => Err(Fault::Length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_length_that_is_a_number() {
        let check = |lengths: &[&'static str], expected| {
            let mut headers = HeaderMap::new();
            for length in lengths {
                headers.append(CONTENT_LENGTH, http::HeaderValue::from_static(length));
            }
            assert_eq!(announced(&headers), expected, "{lengths:?}");
        };
        check(&[], Ok(None));
        check(&["0"], Ok(Some(0)));
        check(&["17"], Ok(Some(17)));
        for wrong in ["", "+1", "-1", "1, 1", "0x1", "18446744073709551616"] {
            check(&[wrong], Err(Fault::Length));
        }
        check(&["1", "1"], Err(Fault::Length));
    }
}
