//! The task that asks etcd, one request after another.

use std::collections::VecDeque;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::batch::{OPS_MAX, TXN_LEN_MAX, Unwritten, check_creatable, len};
use super::{Applying, HISTORY, Keys, RETRY, Request, told};
use crate::etcd::EtcdError;
use crate::store::{StoreCounts, StoreError, Write};

pub(super) struct Writer {
    keys: Keys,
    counts: StoreCounts,
    /// Taken from the queue and not yet done; as many as the queue holds at most.
    waiting: VecDeque<Request>,
    /// The last leadership for which a journal was looked for.
    recovered: Option<super::Leading>,
    /// A revision and when it was the newest.
    mark: Option<(i64, Instant)>,
}

impl Writer {
    pub fn new(keys: Keys, counts: StoreCounts) -> Writer {
        Writer {
            keys,
            counts,
            waiting: VecDeque::new(),
            recovered: None,
            mark: None,
        }
    }

    /// Serves until the store is dropped.
    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            if self.waiting.is_empty() {
                match requests.recv().await {
                    Some(request) => self.waiting.push_back(request),
                    None => return,
                }
            }
            self.take_waiting(&mut requests);
            match self.waiting.pop_front() {
                Some(Request::Apply(first)) => {
                    let batch = self.gather(first);
                    self.apply(batch, &mut requests).await;
                    self.forget_history().await;
                }
                Some(request) => self.answer(request).await,
                None => {}
            }
        }
    }

    fn take_waiting(&mut self, requests: &mut mpsc::Receiver<Request>) {
        while self.waiting.len() < super::QUEUE_LEN_MAX
            && let Ok(request) = requests.try_recv()
        {
            self.waiting.push_back(request);
        }
    }

    async fn answer(&self, request: Request) {
        // Whoever asked may have gone.
        match request {
            Request::Get(tree, key, reply) => {
                let found = self.keys.get(tree, &key).await;
                let _ = reply.send(found.map_err(|error| told(&error)));
            }
            Request::List(tree, reply) => {
                let found = self.keys.list(tree).await;
                let _ = reply.send(found.map_err(|error| told(&error)));
            }
            Request::Create(write, reply) => {
                let created = match check_creatable(&write) {
                    Ok(write) => self.keys.create(&write).await.map_err(|error| told(&error)),
                    Err(error) => Err(error),
                };
                let _ = reply.send(created);
            }
            Request::Apply(_) => {}
        }
    }

    /// Batches that stand side by side and fit one transaction together.
    fn gather(&mut self, first: Applying) -> Vec<Applying> {
        let size = |writes: &[Write]| writes.iter().map(len).sum::<usize>();
        let (mut ops, mut bytes) = (first.writes.len(), size(&first.writes));
        let fence = first.fence.clone();
        let mut batch = vec![first];
        while let Some(Request::Apply(next)) = self.waiting.front() {
            ops += next.writes.len();
            bytes += size(&next.writes);
            if ops > OPS_MAX || bytes > TXN_LEN_MAX || next.fence != fence {
                break;
            }
            if let Some(Request::Apply(next)) = self.waiting.pop_front() {
                batch.push(next);
            }
        }
        batch
    }

    /// Writes until it is known to be done, or that it cannot be.
    async fn apply(&mut self, mut batch: Vec<Applying>, requests: &mut mpsc::Receiver<Request>) {
        let writes: Vec<Write> = batch
            .iter_mut()
            .flat_map(|a| std::mem::take(&mut a.writes))
            .collect();
        let batches = batch.len() as u64;
        let fence = batch.first().and_then(|applying| applying.fence.clone());
        let done = loop {
            let current = self.keys.fence.current();
            let Some(fence) = fence
                .as_ref()
                .filter(|fence| current.as_ref() == Some(*fence))
            else {
                break Err(StoreError::NotLeading);
            };
            let error = match self.write(fence, &writes).await {
                Ok(()) => break Ok(()),
                Err(Unwritten::Fenced) => break Err(StoreError::NotLeading),
                Err(Unwritten::Etcd(error)) => told(&error),
            };
            tracing::warn!(%error, writes = writes.len(), "a write to etcd is tried again");
            tokio::time::sleep(RETRY).await;
            self.take_waiting(requests);
            self.tell_overdue(&mut batch, &error);
        };
        match &done {
            Ok(()) => self.counts.written.increment(batches),
            Err(error) => {
                self.counts.failed.increment(batches);
                tracing::error!(%error, batches, "changes were not stored");
            }
        }
        for reply in batch.into_iter().filter_map(|applying| applying.reply) {
            let _ = reply.send(done.clone());
        }
    }

    async fn write(&mut self, fence: &super::Leading, writes: &[Write]) -> Result<(), Unwritten> {
        if self.recovered.as_ref() != Some(fence) {
            self.keys.recover(fence).await?;
            self.recovered = Some(fence.clone());
        }
        self.keys.write(fence, writes).await
    }

    /// Nobody waits longer than was promised; what they asked for stays to be done.
    fn tell_overdue(&mut self, batch: &mut [Applying], error: &StoreError) {
        let now = Instant::now();
        let queued = self.waiting.iter_mut().filter_map(|request| match request {
            Request::Apply(applying) => Some(applying),
            _ => None,
        });
        for applying in batch.iter_mut().chain(queued) {
            if now >= applying.until
                && let Some(reply) = applying.reply.take()
            {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }

    /// What was overwritten longer ago than [`HISTORY`] takes no room.
    async fn forget_history(&mut self) {
        let now = Instant::now();
        if self.mark.is_some_and(|(_, at)| now - at < HISTORY) {
            return;
        }
        let newest = self.keys.etcd.range(&self.keys.prefix, "", 1, 0).await;
        let Ok(newest) = newest else {
            return;
        };
        if let Some((revision, _)) = self.mark.replace((newest.header.revision, now))
            && let Err(error) = self.keys.etcd.compact(revision).await
            && !matches!(&error, EtcdError::Refused { message, .. } if message.contains("compacted"))
        {
            tracing::warn!(error = %told(&error), "etcd's history was not compacted");
        }
    }
}
