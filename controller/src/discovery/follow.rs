//! Resources of one source, kept in step: what it declares is put, what it no longer declares is deleted.
//!
//! **Invariant**: a resource that somebody else declared is left alone, whatever the source says.

use std::collections::{BTreeMap, BTreeSet};

use crate::control_task::{Change, ControlError, ControlHandle};
use crate::ledger::Ledger;
use crate::resource_text::{Declared, Key};

/// Keeps the mesh in step with one source.
pub struct Follower {
    control: ControlHandle,
    source: &'static str,
    told: Ledger,
    /// What was said to be somebody else's.
    others: BTreeSet<Key>,
}

impl Follower {
    /// One that knows of nothing yet.
    pub fn new(control: ControlHandle, source: &'static str) -> Follower {
        Follower {
            told: Ledger::new(control.clone(), source),
            control,
            source,
            others: BTreeSet::new(),
        }
    }

    /// See [`Ledger::take_over`].
    ///
    /// # Errors
    /// The controller is stopping.
    pub async fn take_over(&mut self) -> Result<(), ControlError> {
        self.told.take_over().await
    }

    /// What the mesh has of the source.
    pub fn told(&self) -> BTreeSet<Key> {
        self.told.all().keys().cloned().collect()
    }

    /// Puts what differs, deletes what is neither declared nor held.
    ///
    /// # Errors
    /// The controller is stopping.
    pub async fn bring_in_step(
        &mut self,
        declared: &BTreeMap<Key, Declared>,
        held: &BTreeSet<Key>,
    ) -> Result<(), ControlError> {
        let mut changes = Vec::new();
        for (key, new) in declared {
            if self.told.all().get(key) == Some(new) {
                continue;
            }
            match self.control.get(key.clone()).await? {
                Some(shown) if shown.is_declared() && !self.told.is_ours(&shown.resource) => {
                    if self.others.insert(key.clone()) {
                        tracing::warn!(%key, source = self.source, "is declared by somebody else, who decides; delete it there, or here");
                    }
                }
                _ => {
                    self.others.remove(key);
                    changes.push(Change::Put(new.clone()));
                }
            }
        }
        let is_gone = |key: &&Key| !declared.contains_key(*key) && !held.contains(*key);
        let gone = self.told.all().keys().filter(is_gone);
        changes.extend(gone.map(|key| Change::Delete(key.clone())));
        self.told.tell(&changes).await?;
        Ok(())
    }
}
