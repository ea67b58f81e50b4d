//! Events as they happen: Server-Sent Events (HTML standard, section 9.2).
//!
//! A reader that falls behind by the whole ring of kept events is told `lagged` and dropped; one that does not read at
//! all is cut off by the kernel, see [`super::READ_TIME_MAX`].

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http_body::Frame;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::Rest;
use super::call::Call;
use crate::control_task::{Event, Subscription};
use crate::problem::Problem;

/// Most readers at once; one more is answered 503.
pub const READERS_MAX: usize = 64;
/// How often a reader hears something, so that both ends notice when the other is gone.
const COMMENT_INTERVAL: Duration = Duration::from_secs(15);

/// Room for readers. Cloning is a reference count.
#[derive(Debug, Clone)]
pub struct EventReaders(Arc<Semaphore>);

impl Default for EventReaders {
    fn default() -> EventReaders {
        EventReaders(Arc::new(Semaphore::new(READERS_MAX)))
    }
}

pub(super) fn routes() -> Router<Rest> {
    Router::new().route("/v1/events", get(events))
}

/// What happens from now on, or since the event that `Last-Event-ID` names.
async fn events(State(rest): State<Rest>, call: Call) -> Result<Response, Problem> {
    call.parameters(&[])?;
    let last = call.headers.get("last-event-id");
    let last = last.map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
    let after = match last {
        None => None,
        Some(Some(number)) => Some(number),
        Some(None) => {
            let detail = "Last-Event-ID must be the id of an event";
            return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
        }
    };
    let busy = |_| {
        let detail = format!("{READERS_MAX} are reading events already");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    };
    let room = rest.readers.0.clone().try_acquire_owned().map_err(busy)?;
    let Subscription { missed, next } = rest.control.subscribe(after).await?;
    let mut comments = tokio::time::interval(COMMENT_INTERVAL);
    comments.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let body = EventBody {
        waiting: missed.iter().map(|event| text(event)).collect(),
        next: Some(receive(next)),
        comments,
        end: Box::pin(rest.signal.clone().cancelled_owned()),
        _room: room,
    };
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::new(body)).into_response())
}

type Received = (Receiver<Arc<Event>>, Result<Arc<Event>, RecvError>);
type Receiving = Pin<Box<dyn Future<Output = Received> + Send>>;

fn receive(mut from: Receiver<Arc<Event>>) -> Receiving {
    Box::pin(async move {
        let received = from.recv().await;
        (from, received)
    })
}

/// A body of events that ends with the program, or when its reader is too slow.
struct EventBody {
    waiting: VecDeque<Bytes>,
    /// `None` after the last.
    next: Option<Receiving>,
    comments: Interval,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
    _room: OwnedSemaphorePermit,
}

impl http_body::Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = |bytes| Poll::Ready(Some(Ok(Frame::data(bytes))));
        if let Some(bytes) = self.waiting.pop_front() {
            return frame(bytes);
        }
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        let Some(next) = &mut self.next else {
            return Poll::Ready(None);
        };
        if let Poll::Ready((from, received)) = next.as_mut().poll(context) {
            self.next = received.is_ok().then(|| receive(from));
            return match received {
                Ok(event) => frame(text(&event)),
                Err(RecvError::Lagged(_)) => {
                    frame(Bytes::from_static(b"event: lagged\ndata: {}\n\n"))
                }
                Err(RecvError::Closed) => Poll::Ready(None),
            };
        }
        match self.comments.poll_tick(context) {
            Poll::Ready(_) => frame(Bytes::from_static(b":\n\n")),
            Poll::Pending => Poll::Pending,
        }
    }
}

fn text(event: &Event) -> Bytes {
    // Strings and numbers always have a JSON form, and it has no line breaks.
    let data = serde_json::to_string(event).unwrap_or_default();
    let (number, name) = (event.number, event.what.name());
    Bytes::from(format!("id: {number}\nevent: {name}\ndata: {data}\n\n"))
}
