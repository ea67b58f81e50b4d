//! Bodies, streamed both ways.
//!
//! Nothing is gathered before it is sent on. A moved request's first
//! [`KEEP_LEN_MAX`] bytes are also kept until it is answered, so that a request
//! which a neighbour refuses can be brought home; with a longer body it cannot.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::observe::Observation;

/// Of a moved request's body, this much is kept to send it again, in bytes.
pub const KEEP_LEN_MAX: usize = 64 * 1024;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection it came on failed.
    #[error("the body broke off")]
    Broken(#[source] hyper::Error),
    /// The request was brought home; this copy of its body ended.
    #[error("the body was taken back")]
    TakenBack,
}

/// A request's body on its way upstream.
#[derive(Debug)]
pub enum RequestBody {
    /// None.
    Empty,
    /// Passed on as it comes.
    Whole(Incoming),
    /// Passed on as it comes, its beginning kept.
    Kept(KeptBody),
}

impl RequestBody {
    /// A body that can be sent once.
    pub fn new(incoming: Incoming) -> RequestBody {
        match incoming.is_end_stream() {
            true => RequestBody::Empty,
            false => RequestBody::Whole(incoming),
        }
    }

    /// The same body, its beginning kept from now on, and the handle to take it back by.
    pub fn keep(self) -> (RequestBody, Again) {
        match self {
            RequestBody::Empty => (RequestBody::Empty, Again(None)),
            RequestBody::Whole(incoming) => {
                let kept = Arc::new(Mutex::new(Kept {
                    incoming,
                    frames: Vec::new(),
                    len: 0,
                    complete: true,
                    copy: 0,
                }));
                let again = Again(Some(Arc::clone(&kept)));
                (RequestBody::Kept(KeptBody::first(kept)), again)
            }
            RequestBody::Kept(body) => {
                let again = Again(Some(Arc::clone(&body.kept)));
                (RequestBody::Kept(body), again)
            }
        }
    }
}

/// Takes a request's body back.
#[derive(Debug)]
pub struct Again(Option<Arc<Mutex<Kept>>>);

impl Again {
    /// The body from its beginning, when all that was sent of it was kept. The copy that was sent
    /// ends with an error at its next poll.
    pub fn take(self) -> Option<RequestBody> {
        let Some(kept) = self.0 else {
            return Some(RequestBody::Empty);
        };
        let copy = {
            let mut state = lock(&kept);
            if !state.complete {
                return None;
            }
            state.copy += 1;
            state.copy
        };
        Some(RequestBody::Kept(KeptBody {
            kept,
            copy,
            next: 0,
        }))
    }
}

/// One copy of a kept body.
#[derive(Debug)]
pub struct KeptBody {
    kept: Arc<Mutex<Kept>>,
    copy: u32,
    next: usize,
}

#[derive(Debug)]
struct Kept {
    incoming: Incoming,
    /// What was read so far, when `complete`.
    frames: Vec<Bytes>,
    len: usize,
    /// Whether `frames` is all that was read.
    complete: bool,
    /// The copy that may read.
    copy: u32,
}

impl KeptBody {
    fn first(kept: Arc<Mutex<Kept>>) -> KeptBody {
        KeptBody {
            kept,
            copy: 0,
            next: 0,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut kept = lock(&self.kept);
        if kept.copy != self.copy {
            return Poll::Ready(Some(Err(BodyError::TakenBack)));
        }
        if kept.complete
            && let Some(bytes) = kept.frames.get(self.next)
        {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(bytes.clone()))));
        }
        let polled = Pin::new(&mut kept.incoming).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            match frame.data_ref() {
                Some(bytes) if kept.complete && kept.len + bytes.len() <= KEEP_LEN_MAX => {
                    kept.len += bytes.len();
                    let bytes = bytes.clone();
                    kept.frames.push(bytes);
                    self.next += 1;
                }
                // Too long, or trailers: from here on it cannot be sent again.
                _ => {
                    kept.complete = false;
                    kept.frames = Vec::new();
                }
            }
        }
        polled.map_err(BodyError::Broken)
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Whole(incoming) => {
                Pin::new(incoming).poll_frame(cx).map_err(BodyError::Broken)
            }
            RequestBody::Kept(kept) => kept.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Whole(incoming) => incoming.is_end_stream(),
            RequestBody::Kept(body) => {
                let kept = lock(&body.kept);
                let all_sent = !kept.complete || body.next >= kept.frames.len();
                kept.copy == body.copy && all_sent && kept.incoming.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Whole(incoming) => incoming.size_hint(),
            RequestBody::Kept(body) => {
                let kept = lock(&body.kept);
                let ahead: usize = match kept.complete {
                    true => kept.frames[body.next.min(kept.frames.len())..]
                        .iter()
                        .map(Bytes::len)
                        .sum(),
                    false => 0,
                };
                match kept.incoming.size_hint().exact() {
                    Some(rest) => SizeHint::with_exact(rest + ahead as u64),
                    None => SizeHint::new(),
                }
            }
        }
    }
}

/// A response's body on its way downstream, with what is to be noted when it ends.
#[derive(Debug)]
pub struct ResponseBody {
    content: Content,
    observation: Option<Observation>,
}

#[derive(Debug)]
enum Content {
    Own(Full<Bytes>),
    Stream(Incoming),
}

impl ResponseBody {
    /// A body of the proxy's own.
    pub fn full(bytes: Bytes) -> ResponseBody {
        ResponseBody {
            content: Content::Own(Full::new(bytes)),
            observation: None,
        }
    }

    /// Passed on as it comes; `observation` ends with it.
    pub fn stream(incoming: Incoming, observation: Observation) -> ResponseBody {
        let mut body = ResponseBody {
            content: Content::Stream(incoming),
            observation: Some(observation),
        };
        if body.is_end_stream() {
            body.ended();
        }
        body
    }

    fn ended(&mut self) {
        if let Some(observation) = self.observation.take() {
            observation.completed();
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
            Content::Own(full) => {
                let frame = Pin::new(full).poll_frame(cx);
                return frame.map_err(|never| match never {});
            }
            Content::Stream(incoming) => Pin::new(incoming).poll_frame(cx),
        };
        match &polled {
            Poll::Ready(None) => this.ended(),
            Poll::Ready(Some(Err(_))) => {
                if let Some(observation) = this.observation.take() {
                    observation.failed();
                }
            }
            // Whoever knows the length does not ask again after the last frame.
            Poll::Ready(Some(Ok(_))) if this.is_end_stream() => this.ended(),
            _ => {}
        }
        polled.map_err(BodyError::Broken)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(full) => full.is_end_stream(),
            Content::Stream(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(full) => full.size_hint(),
            Content::Stream(incoming) => incoming.size_hint(),
        }
    }
}
