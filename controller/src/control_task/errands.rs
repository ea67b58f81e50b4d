//! Errands that proxies have been sent on, until they answer or their stream ends.

use std::collections::BTreeMap;

use isobar_mesh_api::errand::{Errand, ErrandDone, Said, What};
use isobar_mesh_api::names::NodeId;
use tokio::sync::oneshot;

/// Most errands under way.
pub const ERRANDS_MAX: usize = 64;

/// Why nobody was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ErrandError {
    /// No stream to the node is open.
    #[error("{0} is not connected to this controller")]
    NotConnected(NodeId),
    /// As many as there may be.
    #[error("{ERRANDS_MAX} errands are under way already")]
    Full,
}

struct UnderWay {
    node: NodeId,
    reply: oneshot::Sender<Said>,
}

/// All errands under way, by number.
#[derive(Default)]
pub(super) struct Errands {
    under_way: BTreeMap<u64, UnderWay>,
    last: u64,
}

impl Errands {
    /// Notes one; what the node must be told, and where its answer comes.
    pub fn begin(
        &mut self,
        node: &NodeId,
        what: What,
    ) -> Result<(Errand, oneshot::Receiver<Said>), ErrandError> {
        // Who asked may have given up.
        self.under_way.retain(|_, errand| !errand.reply.is_closed());
        if self.under_way.len() >= ERRANDS_MAX {
            return Err(ErrandError::Full);
        }
        self.last += 1;
        let (reply, said) = oneshot::channel();
        let node = node.clone();
        self.under_way.insert(self.last, UnderWay { node, reply });
        let number = self.last;
        Ok((Errand { number, what }, said))
    }

    /// Takes an answer; one from another node than was sent counts as none. Returns whether it was waited for.
    pub fn done(&mut self, node: &NodeId, done: ErrandDone) -> bool {
        let is_own = |errand: &UnderWay| errand.node == *node;
        if !self.under_way.get(&done.number).is_some_and(is_own) {
            return false;
        }
        let errand = self.under_way.remove(&done.number);
        errand.is_some_and(|errand| errand.reply.send(done.said).is_ok())
    }

    /// A node's stream has ended: it will not answer.
    pub fn lost(&mut self, node: &NodeId) {
        self.under_way.retain(|_, errand| errand.node != *node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_was_sent_answers() {
        let mut errands = Errands::default();
        let (a, b) = (NodeId::new("a").unwrap(), NodeId::new("b").unwrap());
        let what = || What::LogLevels("debug".into());
        let (errand, mut said) = errands.begin(&a, what()).unwrap();
        let done = ErrandDone {
            number: errand.number,
            said: Said::Failed("no".into()),
        };
        assert!(!errands.done(&b, done.clone()));
        assert!(errands.done(&a, done.clone()));
        assert_eq!(said.try_recv(), Ok(Said::Failed("no".into())));
        assert!(!errands.done(&a, done));
        let (_, mut said) = errands.begin(&a, what()).unwrap();
        errands.lost(&a);
        assert!(said.try_recv().is_err());
        let waiting: Vec<_> = (0..ERRANDS_MAX)
            .map(|_| errands.begin(&a, what()))
            .collect();
        assert_eq!(errands.begin(&a, what()).err(), Some(ErrandError::Full));
        drop(waiting);
        assert!(errands.begin(&a, what()).is_ok());
    }
}
