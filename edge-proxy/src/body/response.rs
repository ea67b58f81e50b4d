//! An answer's body.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::BodyError;
use crate::expiry::Expiry;
use crate::http1::client::{Connection, Reply};
use crate::limit::Limit;
use crate::observe::Observation;

/// A response's body on its way downstream, with what is to be noted when it ends.
#[derive(Debug)]
pub struct ResponseBody {
    content: Content,
    observation: Option<Observation>,
    /// Bytes that may still come.
    left: u64,
    watch: Option<Watch>,
}

/// A wait for the next piece, in its worker's list.
#[derive(Debug)]
struct Watch {
    expiry: Arc<Expiry>,
    key: u32,
    /// Something came since.
    moved: bool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.expiry.remove(self.key);
    }
}

#[derive(Debug)]
enum Content {
    Own(Option<Bytes>),
    Http1(Reply),
    Http2(hyper::body::Incoming),
}

impl ResponseBody {
    /// A body of the proxy's own.
    pub fn full(bytes: Bytes) -> ResponseBody {
        ResponseBody {
            content: Content::Own(Some(bytes)),
            observation: None,
            left: u64::MAX,
            watch: None,
        }
    }

    /// A neighbour's, passed on as it comes; `observation` ends with it.
    pub fn stream(incoming: hyper::body::Incoming, observation: Observation) -> ResponseBody {
        ResponseBody::with(Content::Http2(incoming), observation)
    }

    /// An endpoint's, passed on as it comes; `observation` ends with it, and takes its connection.
    pub fn reply(reply: Reply, observation: Observation) -> ResponseBody {
        ResponseBody::with(Content::Http1(reply), observation)
    }

    fn with(content: Content, observation: Observation) -> ResponseBody {
        let mut body = ResponseBody {
            content,
            left: observation.body_len_max(),
            observation: Some(observation),
            watch: None,
        };
        if body.has_come() {
            body.ended();
        }
        body
    }

    /// All of it, if it is here already; then it was the last of it.
    pub(crate) fn take_whole(&mut self) -> Option<Bytes> {
        match &mut self.content {
            Content::Http1(reply) => reply.take_whole(),
            Content::Own(full) => full.take(),
            Content::Http2(_) => None,
        }
    }

    /// The connection to an endpoint that speaks another protocol from now on, and what ends with it.
    pub(crate) fn take_tunnel(&mut self) -> Option<(Connection, Observation)> {
        let Content::Http1(reply) = &mut self.content else {
            return None;
        };
        let connection = reply.take_tunnel()?;
        self.watch = None;
        let mut observation = self.observation.take()?;
        observation.switched();
        Some((connection, observation))
    }

    /// Whether the endpoint's or neighbour's part is over.
    fn has_come(&self) -> bool {
        match &self.content {
            Content::Http1(reply) => reply.has_come(),
            other => other.is_end_stream(),
        }
    }

    fn ended(&mut self) {
        if let Some(observation) = self.observation.take() {
            let connection = match &mut self.content {
                Content::Http1(reply) => reply.take_connection(),
                _ => None,
            };
            observation.completed(connection);
        }
        self.watch = None;
    }

    /// A limit ends it here: what comes after would be more than is allowed.
    fn limited(&mut self, limit: Limit) {
        if let Some(observation) = self.observation.take() {
            observation.limited(limit);
        }
        self.watch = None;
        self.content = Content::Own(None);
    }

    /// Nothing came; `true` when it was waited for long enough.
    fn is_late(&mut self, cx: &Context<'_>) -> bool {
        if let Some(watch) = &mut self.watch {
            let moved = std::mem::take(&mut watch.moved);
            return watch.expiry.is_over(watch.key, moved, cx.waker());
        }
        self.watch = self.observation.as_ref().and_then(|observation| {
            let (expiry, key) = observation.watch(cx.waker())?;
            Some(Watch {
                expiry,
                key,
                moved: false,
            })
        });
        false
    }
}

impl Content {
    fn is_end_stream(&self) -> bool {
        match self {
            Content::Own(full) => full.as_ref().is_none_or(Bytes::is_empty),
            Content::Http1(reply) => reply.is_end_stream(),
            Content::Http2(incoming) => incoming.is_end_stream(),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = match &mut this.content {
            Content::Own(full) => return Poll::Ready(full.take().map(|b| Ok(Frame::data(b)))),
            Content::Http1(reply) => reply.poll(cx),
            Content::Http2(incoming) => {
                Pin::new(incoming).poll_frame(cx).map_err(BodyError::Broken)
            }
        };
        match &polled {
            Poll::Ready(None) => this.ended(),
            Poll::Ready(Some(Err(_))) => {
                if let Some(observation) = this.observation.take() {
                    observation.failed();
                }
                this.watch = None;
            }
            Poll::Ready(Some(Ok(frame))) => {
                let len = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
                match this.left.checked_sub(len) {
                    Some(left) => this.left = left,
                    None => {
                        this.limited(Limit::ResponseBody);
                        return Poll::Ready(Some(Err(BodyError::TooLarge)));
                    }
                }
                if let Some(watch) = &mut this.watch {
                    watch.moved = true;
                }
                // Whoever knows the length does not ask again after the last frame.
                if this.has_come() {
                    this.ended();
                }
            }
            Poll::Pending if this.is_late(cx) => {
                let limit = this.observation.as_ref().map(Observation::late_limit);
                this.limited(limit.unwrap_or(Limit::IdleTimeout));
                return Poll::Ready(Some(Err(BodyError::TooSlow)));
            }
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(full) => {
                SizeHint::with_exact(full.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Http1(reply) => reply.size_hint(),
            Content::Http2(incoming) => incoming.size_hint(),
        }
    }
}
