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
use hyper::body::{Body, Frame, SizeHint};

use crate::http1::fault::Fault;
use crate::http1::inbound::Inbound;
use crate::http1::io::Link;

mod response;

pub use response::ResponseBody;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection it came on failed.
    #[error("the body broke off")]
    Broken(#[source] hyper::Error),
    /// What came is no body, or came too late.
    #[error("the body is refused")]
    Refused(#[source] Fault),
    /// The stream of HTTP/3 that it came on failed.
    #[cfg(feature = "http3")]
    #[error("the stream broke off")]
    Stream(#[source] h3::error::StreamError),
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
pub struct RequestBody {
    content: RequestContent,
    /// The connection that the request came on, when it is HTTP/1.1.
    client: Option<Arc<Link>>,
}

#[derive(Debug)]
enum RequestContent {
    /// All of it came with its head.
    Whole(Bytes),
    /// Passed on as it comes.
    Stream(Incoming),
    /// Passed on as it comes, its beginning kept.
    Kept(KeptBody),
}

/// Where a body comes from.
#[derive(Debug)]
enum Incoming {
    Http1(Inbound),
    Http2(hyper::body::Incoming),
    /// In a box: the others are small.
    #[cfg(feature = "http3")]
    Http3(Box<crate::http3::inbound::Inbound>),
}

impl RequestBody {
    /// None.
    pub fn empty() -> RequestBody {
        RequestContent::Whole(Bytes::new()).into()
    }

    /// All of it.
    pub fn of(bytes: Bytes) -> RequestBody {
        RequestContent::Whole(bytes).into()
    }

    /// One that comes on an HTTP/2 connection; it can be sent once.
    pub fn new(incoming: hyper::body::Incoming) -> RequestBody {
        match incoming.is_end_stream() {
            true => RequestBody::empty(),
            false => RequestContent::Stream(Incoming::Http2(incoming)).into(),
        }
    }

    /// One that comes on a stream of HTTP/3; it can be sent once.
    #[cfg(feature = "http3")]
    pub fn of_http3(incoming: crate::http3::inbound::Inbound) -> RequestBody {
        match incoming.is_ended() {
            true => RequestBody::empty(),
            false => RequestContent::Stream(Incoming::Http3(Box::new(incoming))).into(),
        }
    }

    /// One that came with its head on this HTTP/1.1 connection.
    pub fn came_whole(bytes: Bytes, client: &Arc<Link>) -> RequestBody {
        RequestBody {
            content: RequestContent::Whole(bytes),
            client: Some(Arc::clone(client)),
        }
    }

    /// One that comes on an HTTP/1.1 connection; it can be sent once.
    pub fn coming(inbound: Inbound) -> RequestBody {
        RequestBody {
            client: Some(Arc::clone(inbound.link())),
            content: RequestContent::Stream(Incoming::Http1(inbound)),
        }
    }

    /// All of it, when it is here and was not taken.
    pub fn whole(&self) -> Option<Bytes> {
        match &self.content {
            RequestContent::Whole(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }

    /// The connection that the request came on, when it is HTTP/1.1: the way back for interim
    /// answers.
    pub fn client(&self) -> Option<Arc<Link>> {
        self.client.clone()
    }

    /// The same body, its beginning kept from now on, and the handle to take it back by.
    pub fn keep(self, keep: Keep) -> (RequestBody, Again) {
        let RequestBody { content, client } = self;
        let (content, again) = match content {
            RequestContent::Whole(bytes) => {
                let again = match bytes.is_empty() || bytes.len() <= keep.kept_len_max {
                    true => AgainOf::Whole(bytes.clone()),
                    false => AgainOf::Nothing,
                };
                (RequestContent::Whole(bytes), again)
            }
            RequestContent::Stream(incoming) => {
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
                let again = AgainOf::Kept(Arc::clone(&kept));
                (RequestContent::Kept(KeptBody::first(kept)), again)
            }
            RequestContent::Kept(body) => {
                let again = AgainOf::Kept(Arc::clone(&body.kept));
                (RequestContent::Kept(body), again)
            }
        };
        let again = Again {
            of: again,
            client: client.clone(),
        };
        (RequestBody { content, client }, again)
    }
}

impl From<RequestContent> for RequestBody {
    fn from(content: RequestContent) -> RequestBody {
        RequestBody {
            content,
            client: None,
        }
    }
}

impl Incoming {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Incoming::Http1(inbound) => {
                let polled = inbound.poll(cx);
                polled.map(|frame| frame.map(|frame| frame.map_err(BodyError::Refused)))
            }
            Incoming::Http2(incoming) => {
                Pin::new(incoming).poll_frame(cx).map_err(BodyError::Broken)
            }
            #[cfg(feature = "http3")]
            Incoming::Http3(incoming) => incoming.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Incoming::Http1(inbound) => inbound.is_ended(),
            Incoming::Http2(incoming) => incoming.is_end_stream(),
            #[cfg(feature = "http3")]
            Incoming::Http3(incoming) => incoming.is_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Incoming::Http1(inbound) => inbound.size_hint(),
            Incoming::Http2(incoming) => incoming.size_hint(),
            #[cfg(feature = "http3")]
            Incoming::Http3(incoming) => incoming.size_hint(),
        }
    }
}

/// Takes a request's body back.
#[derive(Debug)]
pub struct Again {
    of: AgainOf,
    client: Option<Arc<Link>>,
}

#[derive(Debug)]
enum AgainOf {
    /// It is longer than what is kept.
    Nothing,
    Whole(Bytes),
    Kept(Arc<Mutex<Kept>>),
}

impl Again {
    /// Whether something was read of it since this was last asked.
    pub fn has_moved(&self) -> bool {
        let moved = |kept: &Mutex<Kept>| std::mem::take(&mut lock(kept).moved);
        self.kept().is_some_and(moved)
    }

    /// Whether it was larger than it may be.
    pub fn was_too_large(&self) -> bool {
        self.kept().is_some_and(|kept| lock(kept).too_large)
    }

    /// Whether whoever sends it broke off.
    pub fn broke_off(&self) -> bool {
        self.kept().is_some_and(|kept| lock(kept).broken)
    }

    /// All of the body, when it has come to its end and was kept.
    pub fn all(&self) -> Option<Bytes> {
        let kept = match &self.of {
            AgainOf::Nothing => return None,
            AgainOf::Whole(bytes) => return Some(bytes.clone()),
            AgainOf::Kept(kept) => lock(kept),
        };
        let is_all = kept.complete && kept.incoming.is_end_stream();
        is_all.then(|| kept.frames.concat().into())
    }

    fn kept(&self) -> Option<&Mutex<Kept>> {
        match &self.of {
            AgainOf::Nothing | AgainOf::Whole(_) => None,
            AgainOf::Kept(kept) => Some(kept),
        }
    }

    /// The body from its beginning, when all that was sent of it was kept. The copy that was sent
    /// ends with an error at its next poll.
    pub fn take(&self) -> Option<RequestBody> {
        let content = match &self.of {
            AgainOf::Nothing => return None,
            AgainOf::Whole(bytes) => RequestContent::Whole(bytes.clone()),
            AgainOf::Kept(kept) => RequestContent::Kept(KeptBody::again(kept)?),
        };
        Some(RequestBody {
            content,
            client: self.client.clone(),
        })
    }
}

impl KeptBody {
    fn again(kept: &Arc<Mutex<Kept>>) -> Option<KeptBody> {
        let copy = {
            let mut state = lock(kept);
            if !state.complete {
                return None;
            }
            state.copy += 1;
            state.copy
        };
        Some(KeptBody {
            kept: Arc::clone(kept),
            copy,
            next: 0,
        })
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
        let polled = kept.incoming.poll(cx);
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
        polled
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
        match &mut self.get_mut().content {
            RequestContent::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            RequestContent::Whole(bytes) => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))))
            }
            RequestContent::Stream(incoming) => incoming.poll(cx),
            RequestContent::Kept(kept) => kept.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            RequestContent::Whole(bytes) => bytes.is_empty(),
            RequestContent::Stream(incoming) => incoming.is_end_stream(),
            RequestContent::Kept(body) => {
                let kept = lock(&body.kept);
                let all_sent = !kept.complete || body.next >= kept.frames.len();
                kept.copy == body.copy && all_sent && kept.incoming.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            RequestContent::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            RequestContent::Stream(incoming) => incoming.size_hint(),
            RequestContent::Kept(body) => {
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
