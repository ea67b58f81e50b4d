//! Bodies, streamed both ways.
//!
//! Nothing is gathered before it is sent on. The beginning of a request's body,
//! as much as its service's policy says, is also kept until it is answered, so
//! that it can be sent again: home, when a neighbour refuses it, or to another
//! endpoint. With a longer body it cannot.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::expiry::Expiry;
use crate::limit::Limit;
use crate::observe::Observation;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection it came on failed.
    #[error("the body broke off")]
    Broken(#[source] hyper::Error),
    /// The request was brought home; this copy of its body ended.
    #[error("the body was taken back")]
    TakenBack,
    /// It is larger than its service takes.
    #[error("the body is too large")]
    TooLarge,
    /// Nothing came of it for too long, or it did not end in time.
    #[error("the body took too long")]
    TooSlow,
}

/// What is kept and let through of a request's body, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Of its beginning, to send it again.
    pub kept_len_max: usize,
    /// Of all of it; more breaks it off.
    pub len_max: u64,
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
    pub fn keep(self, keep: Keep) -> (RequestBody, Again) {
        match self {
            RequestBody::Empty => (RequestBody::Empty, Again(None)),
            RequestBody::Whole(incoming) => {
                let kept = Arc::new(Mutex::new(Kept {
                    incoming,
                    frames: Vec::new(),
                    keep,
                    len: 0,
                    complete: true,
                    copy: 0,
                    moved: false,
                    too_large: false,
                    broken: false,
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
    /// Whether something was read of it since this was last asked.
    pub fn has_moved(&self) -> bool {
        let moved = |kept: &Arc<Mutex<Kept>>| std::mem::take(&mut lock(kept).moved);
        self.0.as_ref().is_some_and(moved)
    }

    /// Whether it was larger than it may be.
    pub fn was_too_large(&self) -> bool {
        self.0.as_ref().is_some_and(|kept| lock(kept).too_large)
    }

    /// Whether whoever sends it broke off.
    pub fn broke_off(&self) -> bool {
        self.0.as_ref().is_some_and(|kept| lock(kept).broken)
    }

    /// The body from its beginning, when all that was sent of it was kept. The copy that was sent
    /// ends with an error at its next poll.
    pub fn take(&self) -> Option<RequestBody> {
        let Some(kept) = &self.0 else {
            return Some(RequestBody::Empty);
        };
        let copy = {
            let mut state = lock(kept);
            if !state.complete {
                return None;
            }
            state.copy += 1;
            state.copy
        };
        Some(RequestBody::Kept(KeptBody {
            kept: Arc::clone(kept),
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
    keep: Keep,
    /// What was read so far, when `complete`.
    frames: Vec<Bytes>,
    /// Bytes read so far.
    len: u64,
    /// Whether `frames` is all that was read.
    complete: bool,
    /// The copy that may read.
    copy: u32,
    /// Something was read since somebody asked.
    moved: bool,
    /// More was read than `keep` lets through.
    too_large: bool,
    /// Whoever sends it broke off.
    broken: bool,
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
            kept.moved = true;
            kept.len += frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
            if kept.len > kept.keep.len_max {
                kept.too_large = true;
                return Poll::Ready(Some(Err(BodyError::TooLarge)));
            }
            match frame.data_ref() {
                Some(bytes) if kept.complete && kept.len <= kept.keep.kept_len_max as u64 => {
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
        kept.broken |= matches!(polled, Poll::Ready(Some(Err(_))));
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
    Own(Full<Bytes>),
    Stream(Incoming),
}

impl ResponseBody {
    /// A body of the proxy's own.
    pub fn full(bytes: Bytes) -> ResponseBody {
        ResponseBody {
            content: Content::Own(Full::new(bytes)),
            observation: None,
            left: u64::MAX,
            watch: None,
        }
    }

    /// Passed on as it comes; `observation` ends with it.
    pub fn stream(incoming: Incoming, observation: Observation) -> ResponseBody {
        let mut body = ResponseBody {
            content: Content::Stream(incoming),
            left: observation.body_len_max(),
            observation: Some(observation),
            watch: None,
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
        self.watch = None;
    }

    /// A limit ends it here: what comes after would be more than is allowed.
    fn limited(&mut self, limit: Limit) {
        if let Some(observation) = self.observation.take() {
            observation.limited(limit);
        }
        self.watch = None;
        self.content = Content::Own(Full::default());
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
                if this.is_end_stream() {
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
