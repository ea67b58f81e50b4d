//! The open control streams, one a node.
//!
//! **Invariant**: sending never waits. Who does not read fills its queue and is disconnected;
//! it comes back and gets a whole snapshot, which is cheaper than all the deltas it missed.

use std::collections::BTreeMap;
use std::sync::Arc;

use isobar_mesh_api::message::Down;
use isobar_mesh_api::names::NodeId;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Which stream of a node: messages of a stream that was replaced no longer count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamId(u64);

/// The controller's end of a stream.
#[derive(Debug)]
pub struct StreamEnd {
    /// What the proxy shall get; dropping it ends the stream in order. Boxed, since every stream's queue keeps a block of
    /// places, mostly empty: ten kilobytes for messages, a quarter of one for boxes.
    pub queue: mpsc::Sender<Box<Down>>,
    /// Breaks the connection at once.
    pub kill: CancellationToken,
}

struct Open {
    id: StreamId,
    end: StreamEnd,
    /// Nothing was sent since the last ping round.
    quiet: bool,
}

/// All open streams, by node.
pub(super) struct Streams {
    open: BTreeMap<NodeId, Open>,
    opened: u64,
    metrics: Arc<Metrics>,
}

impl Streams {
    pub fn new(metrics: Arc<Metrics>) -> Streams {
        Streams {
            open: BTreeMap::new(),
            opened: 0,
            metrics,
        }
    }

    /// Takes a new stream; one that the node had is broken.
    pub fn open(&mut self, node: &NodeId, end: StreamEnd) -> StreamId {
        self.opened += 1;
        let id = StreamId(self.opened);
        let open = Open {
            id,
            end,
            quiet: true,
        };
        if let Some(old) = self.open.insert(node.clone(), open) {
            self.metrics.streams_ended.replaced.increment(1);
            old.end.kill.cancel();
        }
        self.metrics.streams.set(self.open.len() as f64);
        id
    }

    pub fn is_current(&self, node: &NodeId, id: StreamId) -> bool {
        self.open.get(node).is_some_and(|open| open.id == id)
    }

    pub fn is_open(&self, node: &NodeId) -> bool {
        self.open.contains_key(node)
    }

    /// Nodes with an open stream, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.open.keys()
    }

    /// Ends a stream in order. Returns whether it was the node's current one.
    pub fn close(&mut self, node: &NodeId, id: StreamId) -> bool {
        if !self.is_current(node, id) {
            return false;
        }
        self.open.remove(node);
        self.metrics.streams.set(self.open.len() as f64);
        true
    }

    /// Queues a message. Returns `false` when that cost the node its stream; a node without one
    /// just misses the message.
    pub fn send(&mut self, node: &NodeId, down: Down) -> bool {
        let Some(open) = self.open.get_mut(node) else {
            return true;
        };
        let kind = match &down {
            Down::Snapshot(_) => &self.metrics.pushes.snapshot,
            Down::Delta(_) => &self.metrics.pushes.delta,
            Down::Certificate(_) | Down::Trust(_) => &self.metrics.pushes.certificate,
            Down::Tap(_) | Down::Untap { .. } | Down::Errand(_) => &self.metrics.pushes.asked,
            Down::Ping { .. } | Down::Unknown => &self.metrics.pushes.ping,
        };
        match open.end.queue.try_send(Box::new(down)) {
            Ok(()) => {
                kind.increment(1);
                open.quiet = false;
                true
            }
            Err(error) => {
                match error {
                    TrySendError::Full(_) => {
                        tracing::warn!(%node, "a proxy does not read its stream");
                        self.metrics.streams_ended.slow.increment(1);
                    }
                    TrySendError::Closed(_) => self.metrics.streams_ended.closed.increment(1),
                }
                if let Some(open) = self.open.remove(node) {
                    open.end.kill.cancel();
                }
                self.metrics.streams.set(self.open.len() as f64);
                false
            }
        }
    }

    /// Pings every stream that got nothing since the last round. Returns the nodes whose stream
    /// that cost.
    pub fn ping_quiet(&mut self, clock_ms: u64) -> Vec<NodeId> {
        let mut quiet = Vec::new();
        for (node, open) in &mut self.open {
            if open.quiet {
                quiet.push(node.clone());
            }
            open.quiet = true;
        }
        quiet.retain(|node| {
            let kept = self.send(node, Down::Ping { clock_ms });
            if let Some(open) = self.open.get_mut(node) {
                open.quiet = true;
            }
            !kept
        });
        quiet
    }

    /// Ends all streams in order.
    pub fn end_all(&mut self) {
        self.open.clear();
        self.metrics.streams.set(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(len: usize) -> (StreamEnd, mpsc::Receiver<Box<Down>>, CancellationToken) {
        let (queue, messages) = mpsc::channel(len);
        let kill = CancellationToken::new();
        let end = StreamEnd {
            queue,
            kill: kill.clone(),
        };
        (end, messages, kill)
    }

    #[test]
    fn who_does_not_read_is_disconnected() {
        let mut streams = Streams::new(Arc::new(Metrics::new()));
        let node = NodeId::new("a").unwrap();
        let (end, messages, kill) = end(2);
        streams.open(&node, end);
        assert!(streams.ping_quiet(1).is_empty());
        assert!(streams.ping_quiet(2).is_empty());
        assert!(!kill.is_cancelled());
        assert_eq!(streams.ping_quiet(3), std::slice::from_ref(&node));
        assert!(kill.is_cancelled());
        assert!(!streams.is_open(&node));
        drop(messages);
    }

    #[test]
    fn a_ping_is_sent_when_nothing_else_was() {
        let mut streams = Streams::new(Arc::new(Metrics::new()));
        let node = NodeId::new("a").unwrap();
        let (end, mut messages, _kill) = end(8);
        streams.open(&node, end);
        streams.send(&node, Down::Unknown);
        streams.ping_quiet(1);
        assert_eq!(*messages.try_recv().unwrap(), Down::Unknown);
        assert!(messages.try_recv().is_err());
        streams.ping_quiet(2);
        streams.ping_quiet(3);
        for clock_ms in [2, 3] {
            assert_eq!(*messages.try_recv().unwrap(), Down::Ping { clock_ms });
        }
    }

    #[test]
    fn a_second_stream_replaces_the_first() {
        let mut streams = Streams::new(Arc::new(Metrics::new()));
        let node = NodeId::new("a").unwrap();
        let (first, _messages, kill) = end(1);
        let old = streams.open(&node, first);
        let (second, _more, alive) = end(1);
        let new = streams.open(&node, second);
        assert!(kill.is_cancelled() && !alive.is_cancelled());
        assert!(!streams.close(&node, old));
        assert!(streams.is_current(&node, new) && streams.close(&node, new));
    }
}
