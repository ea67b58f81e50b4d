//! Resources of one source, kept in step: what it declares is put, what it no longer declares is deleted.
//!
//! **Invariant**: a resource that somebody else declared is left alone, whatever the source says.

use std::collections::{BTreeMap, BTreeSet};

use isobar_mesh_api::resource::Resource;

use crate::control_task::{Asked, CHANGES_MAX, Change, ControlError, ControlHandle};
use crate::resource_text::{Declared, Key, Kind, SOURCE_LABEL, declare};

/// Keeps the mesh in step with one source.
pub struct Follower {
    control: ControlHandle,
    /// The value of [`SOURCE_LABEL`] on what is this source's.
    source: &'static str,
    /// What the mesh has of it.
    told: BTreeMap<Key, Declared>,
    /// What was said to be somebody else's.
    others: BTreeSet<Key>,
}

impl Follower {
    /// One that knows of nothing yet.
    pub fn new(control: ControlHandle, source: &'static str) -> Follower {
        Follower {
            control,
            source,
            told: BTreeMap::new(),
            others: BTreeSet::new(),
        }
    }

    /// What the store has of this source, of a controller before this one or of a round before.
    ///
    /// # Errors
    /// The controller is stopping.
    pub async fn take_over(&mut self) -> Result<(), ControlError> {
        for kind in Kind::ALL {
            for shown in self.control.list(kind, None, usize::MAX).await?.items {
                if self.is_ours(&shown.resource)
                    && let Ok(declared) = declare((*shown.resource).clone())
                {
                    self.told.insert(declared.key.clone(), declared);
                }
            }
        }
        Ok(())
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
            if self.told.get(key) == Some(new) {
                continue;
            }
            match self.control.get(key.clone()).await? {
                Some(shown) if shown.is_declared() && !self.is_ours(&shown.resource) => {
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
        let gone = self.told.keys().filter(is_gone);
        changes.extend(gone.map(|key| Change::Delete(key.clone())));
        for batch in changes.chunks(CHANGES_MAX) {
            // One that does not fit must not keep out the others.
            if self.change(batch).await? {
                continue;
            }
            for one in batch.chunks(1) {
                self.change(one).await?;
            }
        }
        Ok(())
    }

    /// Returns whether the mesh took them.
    async fn change(&mut self, changes: &[Change]) -> Result<bool, ControlError> {
        let asked = Asked {
            changes: changes.to_vec(),
            who: self.source.to_owned(),
            ..Asked::default()
        };
        match self.control.change(asked).await {
            Ok(_) => {}
            Err(ControlError::Stopping) => return Err(ControlError::Stopping),
            Err(error) => {
                if let [one] = changes {
                    let about = one.target();
                    tracing::warn!(%about, %error, source = self.source, "the mesh does not take a resource");
                }
                return Ok(false);
            }
        }
        for change in changes {
            match change {
                Change::Put(new) => drop(self.told.insert(new.key.clone(), new.clone())),
                Change::Delete(key) => drop(self.told.remove(key)),
                Change::Register(_) | Change::Deregister(_) => {}
            }
        }
        Ok(true)
    }

    /// What the mesh has of the source.
    pub fn told(&self) -> BTreeSet<Key> {
        self.told.keys().cloned().collect()
    }

    fn is_ours(&self, resource: &Resource) -> bool {
        let by = resource.metadata().labels.get(SOURCE_LABEL);
        by.is_some_and(|by| by == self.source)
    }
}
