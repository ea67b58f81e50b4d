//! Two connections become one: whatever comes on either goes out on the other.
//!
//! For what is no longer HTTP: an upgraded connection. Each direction ends by
//! itself; when both have, or one fails, it is over.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::io::Link;

/// Passes bytes both ways until both ends have said that they send no more.
///
/// # Errors
/// One of the connections failed.
pub async fn relay(one: &Arc<Link>, other: &Arc<Link>) -> io::Result<()> {
    let (mut there, mut back) = (Direction::new(one, other), Direction::new(other, one));
    std::future::poll_fn(|cx| {
        let there = there.poll(cx)?;
        let back = back.poll(cx)?;
        match there.is_ready() && back.is_ready() {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    })
    .await
}

struct Direction<'a> {
    from: &'a Link,
    to: &'a Link,
    /// Nothing more comes.
    ended: bool,
    /// And the other end knows.
    told: bool,
}

impl<'a> Direction<'a> {
    fn new(from: &'a Link, to: &'a Link) -> Direction<'a> {
        Direction {
            from,
            to,
            ended: false,
            told: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.told {
            {
                let mut to = self.to.lock();
                ready!(to.poll_flush(cx))?;
                if self.ended {
                    ready!(to.poll_shutdown(cx))?;
                    self.told = true;
                    break;
                }
            }
            let data = {
                let mut from = self.from.lock();
                if from.input.is_empty() && ready!(from.poll_fill(cx))? == 0 {
                    from.release();
                    self.ended = true;
                    continue;
                }
                from.input.split().freeze()
            };
            self.to.lock().output.append(data, b"");
        }
        Poll::Ready(Ok(()))
    }
}
