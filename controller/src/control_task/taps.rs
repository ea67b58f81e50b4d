//! Taps: who looks at which requests, and the way of each line from its proxy to its reader.
//!
//! **Invariant**: nobody waits for a reader. Its queue has a limit; lines beyond it are counted and the count is told.
//! Proxies are told again and again while the reader is there, so that a tap whose controller vanished ends by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use isobar_mesh_api::message::Down;
use isobar_mesh_api::names::NodeId;
use isobar_mesh_api::tap::{Filter, Tap, Tapped, TappedLines};
use serde::Serialize;
use tokio::sync::mpsc;

/// Most taps at once.
pub const TAPS_MAX: usize = 8;
/// Most lines that wait for one reader.
pub const LINES_WAITING_MAX: usize = 1_024;
/// How long proxies go on after they were last told.
const LIFETIME: Duration = Duration::from_secs(15);
/// How often they are told again.
const RENEW_INTERVAL: Duration = Duration::from_secs(5);

/// What an operator wants to look at.
#[derive(Debug, Clone)]
pub struct TapAsked {
    /// Which requests.
    pub filter: Filter,
    /// Those that entered at this node alone.
    pub from: Option<NodeId>,
    /// Headers to tell, in small letters.
    pub headers: Vec<String>,
    /// Requests a second that each proxy tells at most.
    pub lines_per_s_max: u32,
}

/// A tap as its reader has it; it ends when this is dropped.
#[derive(Debug)]
pub struct TapReader {
    /// Nodes that were told when it began.
    pub nodes: Vec<NodeId>,
    /// The requests.
    pub lines: mpsc::Receiver<Line>,
    /// What is not told.
    pub left_out: Arc<LeftOut>,
}

/// One request, with its home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Where it entered.
    pub home: NodeId,
    /// The rest, as the home tells it.
    #[serde(flatten)]
    pub request: Tapped,
}

/// Requests that matched and are not told.
#[derive(Debug, Default)]
pub struct LeftOut {
    /// Beyond the rate at their proxies.
    pub by_proxies: AtomicU64,
    /// Because the reader was slow.
    pub by_reader: AtomicU64,
}

/// No more taps are begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are {TAPS_MAX} taps already; end one")]
pub struct TapsFull;

struct Active {
    tap: Tap,
    from: Option<NodeId>,
    reader: mpsc::Sender<Line>,
    left_out: Arc<LeftOut>,
    told: Duration,
}

/// Messages for nodes; `None` for all that are connected.
pub(super) type Messages = Vec<(Option<NodeId>, Down)>;

/// All taps.
#[derive(Default)]
pub(super) struct Taps {
    active: Vec<Active>,
    last: u64,
}

impl Taps {
    /// Begins one; `nodes` are those that are connected.
    pub fn begin<'a>(
        &mut self,
        asked: TapAsked,
        nodes: impl Iterator<Item = &'a NodeId>,
        now: Duration,
    ) -> Result<(TapReader, Messages), TapsFull> {
        if self.active.len() >= TAPS_MAX {
            return Err(TapsFull);
        }
        self.last += 1;
        let tap = Tap {
            tap: self.last,
            lifetime_ms: LIFETIME.as_millis() as u64,
            lines_per_s_max: asked.lines_per_s_max,
            filter: asked.filter,
            headers: asked.headers,
        };
        let (reader, lines) = mpsc::channel(LINES_WAITING_MAX);
        let left_out = Arc::new(LeftOut::default());
        let concerned = |node: &&NodeId| asked.from.as_ref().is_none_or(|from| from == *node);
        let nodes = nodes.filter(concerned).cloned().collect();
        let message = (asked.from.clone(), Down::Tap(tap.clone()));
        self.active.push(Active {
            tap,
            from: asked.from,
            reader,
            left_out: left_out.clone(),
            told: now,
        });
        let reader = TapReader {
            nodes,
            lines,
            left_out,
        };
        Ok((reader, vec![message]))
    }

    /// What a node that has just connected must be told.
    pub fn for_new(&self, node: &NodeId) -> Vec<Down> {
        let concern = |a: &&Active| a.from.as_ref().is_none_or(|from| from == node);
        let concerning = self.active.iter().filter(concern);
        concerning.map(|a| Down::Tap(a.tap.clone())).collect()
    }

    /// Once a period: ends those whose reader has gone, tells of the others again.
    pub fn settle(&mut self, now: Duration) -> Messages {
        let mut messages = Vec::new();
        self.active.retain_mut(|active| {
            let from = active.from.clone();
            if active.reader.is_closed() {
                let tap = active.tap.tap;
                messages.push((from, Down::Untap { tap }));
                return false;
            }
            if now.saturating_sub(active.told) >= RENEW_INTERVAL {
                active.told = now;
                messages.push((from, Down::Tap(active.tap.clone())));
            }
            true
        });
        messages
    }

    /// Passes on what a home told.
    pub fn tapped(&mut self, home: &NodeId, lines: TappedLines) {
        let Some(active) = self.active.iter().find(|a| a.tap.tap == lines.tap) else {
            return;
        };
        let left_out = &active.left_out;
        left_out.by_proxies.fetch_add(lines.left_out, Relaxed);
        for request in lines.requests {
            let home = home.clone();
            if active.reader.try_send(Line { home, request }).is_err() {
                left_out.by_reader.fetch_add(1, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isobar_mesh_api::names::ServiceName;

    fn asked(from: Option<&NodeId>) -> TapAsked {
        TapAsked {
            filter: Filter {
                service: ServiceName::new("shop/cart").ok(),
                method: None,
                path: None,
                status: None,
                moved: false,
                to: None,
            },
            from: from.cloned(),
            headers: Vec::new(),
            lines_per_s_max: 10,
        }
    }

    fn line() -> Tapped {
        Tapped {
            at_ms: 1,
            served: None,
            moved: None,
            method: "GET".into(),
            path: "/".into(),
            status: 200,
            latency_us: 1,
            received_len: None,
            sent_len: None,
            headers: Vec::new(),
            answer_headers: Vec::new(),
        }
    }

    #[test]
    fn a_slow_reader_loses_lines_that_are_counted() {
        let mut taps = Taps::default();
        let node = NodeId::new("a").unwrap();
        let begun = taps.begin(asked(None), [&node].into_iter(), Duration::ZERO);
        let (reader, messages) = begun.unwrap();
        assert_eq!((reader.nodes.len(), messages.len()), (1, 1));
        let lines = TappedLines {
            tap: 1,
            requests: vec![line(); LINES_WAITING_MAX + 3],
            left_out: 7,
        };
        taps.tapped(&node, lines);
        assert_eq!(reader.lines.len(), LINES_WAITING_MAX);
        assert_eq!(reader.left_out.by_reader.load(Relaxed), 3);
        assert_eq!(reader.left_out.by_proxies.load(Relaxed), 7);
    }

    #[test]
    fn taps_are_renewed_while_somebody_reads_and_ended_then() {
        let mut taps = Taps::default();
        let (a, b) = (NodeId::new("a").unwrap(), NodeId::new("b").unwrap());
        let begun = taps.begin(asked(Some(&a)), [&a, &b].into_iter(), Duration::ZERO);
        let (reader, _) = begun.unwrap();
        assert_eq!(reader.nodes, std::slice::from_ref(&a));
        assert_eq!((taps.for_new(&a).len(), taps.for_new(&b).len()), (1, 0));
        assert!(taps.settle(Duration::from_secs(1)).is_empty());
        assert_eq!(taps.settle(RENEW_INTERVAL).len(), 1);
        drop(reader);
        assert_eq!(
            taps.settle(RENEW_INTERVAL),
            [(Some(a), Down::Untap { tap: 1 })]
        );
        assert!(taps.settle(RENEW_INTERVAL).is_empty());
        let readers: Vec<_> = (0..TAPS_MAX)
            .map(|_| {
                taps.begin(asked(None), [].into_iter(), Duration::ZERO)
                    .unwrap()
            })
            .collect();
        assert!(
            taps.begin(asked(None), [].into_iter(), Duration::ZERO)
                .is_err()
        );
        drop(readers);
    }
}
