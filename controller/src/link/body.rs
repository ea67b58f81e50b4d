//! Bodies of relayed requests.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::mpsc;

/// A request's body on its way to the leader.
pub enum LinkBody {
    /// Known whole.
    Whole(Option<Bytes>),
    /// Lines of a control stream; ends when the sender is dropped.
    Lines(mpsc::Receiver<Bytes>),
    /// As it comes from the caller.
    Passed(axum::body::Body),
}

impl Body for LinkBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.get_mut() {
            LinkBody::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            LinkBody::Lines(lines) => lines
                .poll_recv(context)
                .map(|line| line.map(|line| Ok(Frame::data(line)))),
            LinkBody::Passed(body) => Pin::new(body).poll_frame(context),
        }
    }
}
