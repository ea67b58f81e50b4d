//! What operators change, all or none, with its audit; and endpoints whose lease has ended.

use super::change::{Asked, Change, Durable, Etag, Outcome, Target};
use super::events::What;
use super::handle::ControlError;
use super::{ControlTask, clock_ms, timestamp};
use crate::resource_text::Declared;
use crate::store::{Answer, StoreError, Tree, Write};

/// A change that was made.
struct Made {
    target: Target,
    outcome: Outcome,
    /// What it said before and says since.
    tags: [Option<Etag>; 2],
    /// What puts it back.
    back: Change,
}

impl ControlTask {
    /// Makes changes; what was changed before one that fails is put back.
    pub(super) fn change(&mut self, mut asked: Asked) -> Result<Durable, ControlError> {
        // Checked before anything is changed here: what the store would refuse must not be in force.
        if !self.lease.holds() {
            return Err(ControlError::NotLeading);
        }
        self.desired.check(&asked)?;
        if asked.prune {
            let others = self.desired.others(&asked);
            asked.changes.extend(others);
        }
        let now = timestamp::rfc3339(clock_ms() / 1000);
        let (mut batch, mut made) = (Vec::new(), Vec::new());
        for change in asked.changes {
            match self.make(change, &now, &mut batch) {
                Ok(done) => made.push(done),
                Err(error) => {
                    self.put_back(made);
                    return Err(error);
                }
            }
        }
        // What would not be stored is not done either.
        if let Some(refusal) = self.store.refusal().filter(|_| !batch.is_empty()) {
            self.put_back(made);
            return Err(refusal.into());
        }
        let outcomes = made.iter().map(|done| done.outcome).collect();
        for done in made {
            let outcome = done.outcome;
            if matches!(outcome, Outcome::Missing | Outcome::Renewed) {
                continue;
            }
            let Target { kind, name } = done.target.clone();
            tracing::info!(
                kind,
                name,
                ?outcome,
                who = asked.who,
                "a resource was changed"
            );
            let entry = self
                .audit
                .add(&now, &asked.who, &done.target, outcome, done.tags);
            batch.extend(entry?);
            self.events.add(What::ResourceChanged {
                outcome,
                kind,
                name,
                who: asked.who.clone(),
            });
        }
        self.view = None;
        Ok(Durable {
            outcomes,
            on_disk: match batch.is_empty() {
                true => Answer::ready(Ok(())),
                false => self.store.apply(batch),
            },
        })
    }

    /// An entry in the audit for what changes no resource.
    pub(super) fn note(&mut self, who: &str, target: &Target) -> Result<Answer<()>, StoreError> {
        let now = timestamp::rfc3339(clock_ms() / 1000);
        let Target { kind, name } = target;
        tracing::info!(kind, name, who, "something was asked of a program");
        let entry = self
            .audit
            .add(&now, who, target, Outcome::Asked, [None, None])?;
        Ok(self.store.apply(entry))
    }

    fn make(
        &mut self,
        change: Change,
        now: &str,
        batch: &mut Vec<Write>,
    ) -> Result<Made, ControlError> {
        let change = match change {
            Change::Put(declared) => Change::Put(self.desired.dated(declared, now)),
            change => change,
        };
        let (target, back) = (change.target(), self.desired.back(&change));
        let before = self.desired.tag(&change);
        let write = write(&change)?;
        let since = self.now();
        let is_open = |node: &_| self.streams.is_open(node);
        let (desired, control_loop) = (&mut self.desired, &mut self.control_loop);
        let outcome = desired.make(change.clone(), since, is_open, control_loop)?;
        if !matches!(outcome, Outcome::Missing | Outcome::Renewed) {
            batch.push(write);
        }
        let tags = [before, self.desired.tag(&change)];
        Ok(Made {
            target,
            outcome,
            tags,
            back,
        })
    }

    fn put_back(&mut self, made: Vec<Made>) {
        for done in made.into_iter().rev() {
            let since = self.now();
            let is_open = |node: &_| self.streams.is_open(node);
            let (desired, control_loop) = (&mut self.desired, &mut self.control_loop);
            // What was there before has room.
            let _ = desired.make(done.back, since, is_open, control_loop);
        }
    }

    /// Endpoints that were not heard of in time are gone, here and in the store.
    pub(super) fn expire_endpoints(&mut self) {
        let ended = self.desired.expire(self.now());
        if ended.is_empty() {
            return;
        }
        let mut batch = Vec::new();
        for name in ended.iter().map(|registered| registered.name()) {
            tracing::info!(name, "a registered endpoint was not heard of in time");
            batch.push(Write::remove(Tree::Endpoints, &name));
            self.events.add(What::EndpointExpired { name });
        }
        // A failure is logged by the store; after a restart the lease ends again.
        drop(self.store.apply(batch));
    }
}

/// What the store must do for a change.
fn write(change: &Change) -> Result<Write, StoreError> {
    match change {
        Change::Put(Declared { key, resource, .. }) => {
            Write::put(key.kind.tree(), &key.name, &**resource)
        }
        Change::Delete(key) => Ok(Write::remove(key.kind.tree(), &key.name)),
        Change::Register(registered) => Write::put(Tree::Endpoints, &registered.name(), registered),
        Change::Deregister(place) => Ok(Write::remove(Tree::Endpoints, &place.to_string())),
    }
}
