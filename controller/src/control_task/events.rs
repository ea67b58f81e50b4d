//! What happens, for people who watch.
//!
//! The newest [`EVENTS_KEPT`] events are kept, so that who was away for a moment goes on where it was. Readers get
//! events through a ring of the same length: nobody waits for them, and one that falls behind by a whole ring is told
//! so and dropped.

use std::collections::VecDeque;
use std::sync::Arc;

use isobar_mesh_api::names::NodeId;
use isobar_mesh_api::snapshot::PlanId;
use serde::Serialize;
use tokio::sync::broadcast;

use super::change::Outcome;
use super::{clock_ms, timestamp};

/// Events kept, and how far a reader may fall behind.
pub const EVENTS_KEPT: usize = 1_024;
/// Longest text that a proxy's word takes in an event, in characters.
const REASON_LEN_MAX: usize = 500;

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// Counts up from 1 since the controller's start.
    pub number: u64,
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// A proxy opened its stream.
    NodeConnected {
        /// Which.
        node: NodeId,
        /// Its program's version.
        version: String,
    },
    /// A proxy's stream has ended.
    NodeDisconnected {
        /// Which.
        node: NodeId,
    },
    /// A node is heard of, so load may be moved to it.
    NodePresent {
        /// Which.
        node: NodeId,
    },
    /// A node was silent for so long that nobody moves load to it any more.
    NodeSilent {
        /// Which.
        node: NodeId,
    },
    /// A proxy refused a plan.
    PlanRefused {
        /// Which.
        node: NodeId,
        /// What it refused.
        plan: PlanId,
        /// Why, in its words.
        reason: String,
    },
    /// Proxies were told something new.
    PlanTold {
        /// The plan in force since.
        plan: PlanId,
        /// How many of them.
        nodes: usize,
    },
    /// A resource was changed.
    ResourceChanged {
        /// What became of it.
        outcome: Outcome,
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Who asked.
        who: String,
    },
    /// A registered endpoint was not heard of in time.
    EndpointExpired {
        /// `namespace/name/node/address`.
        name: String,
    },
}

impl What {
    /// Its name, as in its `event` field.
    pub fn name(&self) -> &'static str {
        match self {
            What::NodeConnected { .. } => "node_connected",
            What::NodeDisconnected { .. } => "node_disconnected",
            What::NodePresent { .. } => "node_present",
            What::NodeSilent { .. } => "node_silent",
            What::PlanRefused { .. } => "plan_refused",
            What::PlanTold { .. } => "plan_told",
            What::ResourceChanged { .. } => "resource_changed",
            What::EndpointExpired { .. } => "endpoint_expired",
        }
    }

    /// A refusal, its reason cut to what an event carries.
    pub fn refused(node: &NodeId, plan: PlanId, reason: &str) -> What {
        What::PlanRefused {
            node: node.clone(),
            plan,
            reason: reason.chars().take(REASON_LEN_MAX).collect(),
        }
    }
}

/// What a new reader gets: events that it missed, and where the next come from.
#[derive(Debug)]
pub struct Subscription {
    /// Kept events after the one that it says it had last.
    pub missed: Vec<Arc<Event>>,
    /// Those that follow.
    pub next: broadcast::Receiver<Arc<Event>>,
}

/// Keeps and spreads events.
pub(super) struct Events {
    kept: VecDeque<Arc<Event>>,
    last: u64,
    readers: broadcast::Sender<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Events {
        Events {
            kept: VecDeque::new(),
            last: 0,
            readers: broadcast::channel(EVENTS_KEPT).0,
        }
    }
}

impl Events {
    /// Something happened.
    pub fn add(&mut self, what: What) {
        self.last += 1;
        let event = Arc::new(Event {
            number: self.last,
            at: timestamp::rfc3339(clock_ms() / 1000),
            what,
        });
        if self.kept.len() == EVENTS_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(event.clone());
        // Nobody may be watching.
        let _ = self.readers.send(event);
    }

    /// A reader that had event number `after` last; `None` for one that wants only what comes.
    pub fn subscribe(&self, after: Option<u64>) -> Subscription {
        let later = |event: &&Arc<Event>| after.is_some_and(|after| event.number > after);
        Subscription {
            missed: self.kept.iter().filter(later).cloned().collect(),
            next: self.readers.subscribe(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_gets_what_it_missed_and_memory_is_bounded() {
        let mut events = Events::default();
        let mut slow = events.subscribe(None).next;
        for number in 1..=EVENTS_KEPT + 3 {
            let node = NodeId::new(&number.to_string()).unwrap();
            events.add(What::NodeSilent { node });
        }
        let missed = events.subscribe(Some(EVENTS_KEPT as u64)).missed;
        let numbers: Vec<u64> = missed.iter().map(|e| e.number).collect();
        assert_eq!(numbers, [1025, 1026, 1027]);
        assert_eq!(events.subscribe(Some(0)).missed.len(), EVENTS_KEPT);
        assert!(events.subscribe(None).missed.is_empty());
        let lagged = slow.try_recv();
        assert!(matches!(
            lagged,
            Err(broadcast::error::TryRecvError::Lagged(3))
        ));
    }
}
