//! What one source of resources has told the mesh, and how it tells more.
//!
//! A source, a cluster or a directory of files, computes the whole of what it declares; what differs from what was told becomes
//! changes. What is told is marked by [`SOURCE_LABEL`], so that the controller after this one takes it over.

use std::collections::BTreeMap;

use isobar_mesh_api::resource::Resource;

use crate::control_task::{Asked, CHANGES_MAX, Change, ControlError, ControlHandle};
use crate::resource_text::{Declared, Key, Kind, SOURCE_LABEL, declare};

/// The resources of one source that the mesh has.
pub struct Ledger {
    control: ControlHandle,
    /// The value of [`SOURCE_LABEL`] on what is this source's, and who the audit says it was.
    source: &'static str,
    told: BTreeMap<Key, Declared>,
}

impl Ledger {
    /// Of a source that has told nothing yet.
    pub fn new(control: ControlHandle, source: &'static str) -> Ledger {
        Ledger {
            control,
            source,
            told: BTreeMap::new(),
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

    /// What the mesh has of the source.
    pub fn all(&self) -> &BTreeMap<Key, Declared> {
        &self.told
    }

    /// Whether a resource is of this source.
    pub fn is_ours(&self, resource: &Resource) -> bool {
        let by = resource.metadata().labels.get(SOURCE_LABEL);
        by.is_some_and(|by| by == self.source)
    }

    /// Makes changes, as many at a time as go. Returns whether the mesh took all; the log names those that it did not. Their way to the
    /// disk is the store's: a failure there is logged and counted there.
    ///
    /// # Errors
    /// The controller is stopping.
    pub async fn tell(&mut self, changes: &[Change]) -> Result<bool, ControlError> {
        let mut all_taken = true;
        for batch in changes.chunks(CHANGES_MAX) {
            if self.ask(batch).await?.is_ok() {
                continue;
            }
            // One that does not fit keeps out the others of its batch.
            for one in batch {
                if let Err(error) = self.ask(std::slice::from_ref(one)).await? {
                    all_taken = false;
                    let (about, source) = (one.target(), self.source);
                    tracing::warn!(source, %about, %error, "the mesh does not take a resource");
                }
            }
        }
        Ok(all_taken)
    }

    /// The inner result is the mesh's.
    async fn ask(&mut self, changes: &[Change]) -> Result<Result<(), ControlError>, ControlError> {
        let asked = Asked {
            changes: changes.to_vec(),
            who: self.source.to_owned(),
            ..Asked::default()
        };
        match self.control.change(asked).await {
            Ok(_) => {}
            Err(ControlError::Stopping) => return Err(ControlError::Stopping),
            Err(error) => return Ok(Err(error)),
        }
        for change in changes {
            match change {
                Change::Put(new) => drop(self.told.insert(new.key.clone(), new.clone())),
                Change::Delete(key) => drop(self.told.remove(key)),
                // Endpoints that register themselves are no source's resources.
                Change::Register(_) | Change::Deregister(_) => {}
            }
        }
        Ok(Ok(()))
    }
}
