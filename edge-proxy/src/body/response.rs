//! An answer's body.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Body, Frame, SizeHint};

use super::BodyError;
use crate::answer::Answer;
use crate::expiry::Expiry;
use crate::golden::Outcome;
use crate::http1::client::{Connection, Reply};
use crate::limit::Limit;
use crate::observe::{Conclusion, Observation, Over};
use crate::story::Story;

/// A response's body on its way downstream, with what is to be noted when it ends. In a box: it passes through many hands.
#[derive(Debug)]
pub struct ResponseBody(Box<State>);

#[derive(Debug)]
struct State {
    content: Content,
    observation: Option<Observation>,
    source: Source,
    /// What is remembered of the request, if anybody wants to hear it.
    story: Option<Arc<Story>>,
    /// Bytes that may still come.
    left: u64,
    watch: Option<Watch>,
}

/// Whose answer it is.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// The route's.
    Route,
    /// The proxy's own.
    Own(Answer),
    /// An endpoint's or a neighbour's; how that ended, once it has.
    Upstream(Option<Over>),
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
        ResponseBody(Box::new(State {
            content: Content::Own(Some(bytes)),
            observation: None,
            source: Source::Route,
            story: None,
            left: u64::MAX,
            watch: None,
        }))
    }

    /// The body of an answer that the proxy chose.
    pub(crate) fn answer(bytes: Bytes, answer: Answer) -> ResponseBody {
        let mut body = ResponseBody::full(bytes);
        body.0.source = Source::Own(answer);
        body
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
        let mut state = Box::new(State {
            content,
            left: observation.body_len_max(),
            observation: Some(observation),
            source: Source::Upstream(None),
            story: None,
            watch: None,
        });
        if state.has_come() {
            state.ended();
        }
        ResponseBody(state)
    }

    /// What came of the request, and how long it took, is noted when the answer is over; that may be now.
    pub(crate) fn conclude(&mut self, conclusion: Conclusion<'_>) {
        let outcome = match (&mut self.0.observation, self.0.source) {
            (Some(observation), _) => return observation.conclude(&conclusion),
            (None, Source::Upstream(over)) => {
                let over = over.unwrap_or_else(|| conclusion.lost());
                return conclusion.note(over);
            }
            (None, Source::Own(answer)) => answer.outcome(),
            (None, Source::Route) => Outcome::Route,
        };
        conclusion.note_now(outcome);
    }

    /// Has what is remembered of the request end with this body.
    pub(crate) fn end_story(&mut self, story: Arc<Story>, status: StatusCode) {
        let answer = match self.0.source {
            Source::Own(answer) => Some(answer),
            _ => None,
        };
        story.answered(status, answer);
        self.0.story = Some(story);
    }

    /// All of it, if it is here already; then it was the last of it.
    pub(crate) fn take_whole(&mut self) -> Option<Bytes> {
        let whole = match &mut self.0.content {
            Content::Http1(reply) => reply.take_whole(),
            Content::Own(full) => full.take(),
            Content::Http2(_) => None,
        };
        if let (Some(story), Some(bytes)) = (&self.0.story, &whole) {
            story.sent(bytes.len());
        }
        whole
    }

    /// The connection to an endpoint that speaks another protocol from now on, and what ends with it.
    pub(crate) fn take_tunnel(&mut self) -> Option<(Connection, Observation)> {
        let state = &mut *self.0;
        let Content::Http1(reply) = &mut state.content else {
            return None;
        };
        let connection = reply.take_tunnel()?;
        state.watch = None;
        let mut observation = state.observation.take()?;
        observation.switched();
        Some((connection, observation))
    }
}

impl State {
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
            self.source = Source::Upstream(Some(observation.completed(connection)));
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
        let this = &mut *self.get_mut().0;
        let polled = match &mut this.content {
            Content::Own(full) => {
                let whole = full.take();
                if let (Some(story), Some(bytes)) = (&this.story, &whole) {
                    story.sent(bytes.len());
                }
                return Poll::Ready(whole.map(|bytes| Ok(Frame::data(bytes))));
            }
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
                if let (Some(trailers), Some(observation)) =
                    (frame.trailers_ref(), &mut this.observation)
                {
                    observation.trailers(trailers);
                }
                if let Some(watch) = &mut this.watch {
                    watch.moved = true;
                }
                if let Some(story) = &this.story {
                    story.sent(len as usize);
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
        self.0.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0.content {
            Content::Own(full) => {
                SizeHint::with_exact(full.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Http1(reply) => reply.size_hint(),
            Content::Http2(incoming) => incoming.size_hint(),
        }
    }
}
