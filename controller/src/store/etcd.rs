//! The distributed store: etcd, written by one leader at a time.
//!
//! ```text
//! get, list, apply, create ─▶ bounded queue ─▶ one task, in order: what stands side by side in one transaction
//! ```
//!
//! Every write is conditional on the leader's key being the one that this program made ([`Fence`]): who leads no more
//! writes nothing, however late the request arrives. One task writes, in order, and a transaction whose answer did not come
//! is asked again until it is known to have been done or to be impossible: memory and store cannot drift apart. Who waits is
//! answered [`StoreError::Unavailable`] after [`ANSWER_WAIT_MAX`]; what they asked may still be done.
//!
//! What etcd does not take as one request is cut in `batch.rs`: a value longer than a part is written as parts first and
//! becomes visible by its head; a batch longer than a transaction is written as a journal first, which the next leader
//! finishes.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Answer, Store, StoreCounts, StoreError, Tree, Write};
use crate::etcd::{Etcd, EtcdError, Op, Txn};

mod batch;
mod task;

/// Most requests waiting for the store's task; one more is answered [`StoreError::Busy`].
const QUEUE_LEN_MAX: usize = 1024;
/// Longest that anybody waits for an answer while etcd gives none.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);
/// Pause before a write is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Most keys read at once.
const PAGE_LEN: u64 = 1_000;
/// How much history etcd keeps of what is written here; older revisions are compacted this often.
pub const HISTORY: Duration = Duration::from_secs(300);

type Entries = Vec<(String, Vec<u8>)>;
type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What a write is conditional on: the leader's key, as this program made it. Without one nothing is written.
#[derive(Debug, Clone, Default)]
pub struct Fence(Arc<RwLock<Option<Leading>>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Leading {
    key: String,
    made: i64,
}

impl Fence {
    /// From now on writes hold while that key is the one made at that revision.
    pub fn raise(&self, key: &str, made: i64) {
        let key = key.to_owned();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Leading { key, made });
    }

    /// From now on nothing is written.
    pub fn lower(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn current(&self) -> Option<Leading> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }
}

enum Request {
    Get(Tree, String, Reply<Option<Vec<u8>>>),
    List(Tree, Reply<Entries>),
    Apply(Applying),
    Create(Write, Reply<bool>),
}

struct Applying {
    writes: Vec<Write>,
    /// As it was when it was asked for.
    fence: Option<Leading>,
    /// `None` when who asked was told that there is no answer.
    reply: Option<Reply<()>>,
    until: Instant,
}

/// A store in etcd, below a prefix.
pub struct EtcdStore {
    queue: mpsc::Sender<Request>,
    fence: Fence,
    task: JoinHandle<()>,
}

impl EtcdStore {
    /// Begins; asks etcd nothing yet.
    pub fn new(etcd: Arc<Etcd>, prefix: &str, fence: Fence, counts: StoreCounts) -> EtcdStore {
        let (queue, requests) = mpsc::channel(QUEUE_LEN_MAX);
        let writer = task::Writer::new(Keys::new(etcd, prefix, fence.clone()), counts);
        EtcdStore {
            queue,
            fence,
            task: tokio::spawn(writer.run(requests)),
        }
    }

    fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Answer<T> {
        let (sender, answer) = Answer::pending();
        match self.queue.try_send(request(sender)) {
            Ok(()) => answer,
            Err(mpsc::error::TrySendError::Full(_)) => Answer::ready(Err(StoreError::Busy)),
            Err(mpsc::error::TrySendError::Closed(_)) => Answer::ready(Err(StoreError::Closed)),
        }
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Store for EtcdStore {
    fn get(&self, tree: Tree, key: &str) -> Answer<Option<Vec<u8>>> {
        self.ask(|reply| Request::Get(tree, key.to_owned(), reply))
    }

    fn list(&self, tree: Tree) -> Answer<Entries> {
        self.ask(|reply| Request::List(tree, reply))
    }

    fn apply(&self, batch: Vec<Write>) -> Answer<()> {
        let fence = self.fence.current();
        if fence.is_none() {
            return Answer::ready(Err(StoreError::NotLeading));
        }
        self.ask(|reply| {
            Request::Apply(Applying {
                writes: batch,
                fence,
                reply: Some(reply),
                until: Instant::now() + ANSWER_WAIT_MAX,
            })
        })
    }

    fn create(&self, write: Write) -> Answer<bool> {
        self.ask(|reply| Request::Create(write, reply))
    }
}

/// Keys of etcd as the store names them.
struct Keys {
    etcd: Arc<Etcd>,
    prefix: String,
    fence: Fence,
}

impl Keys {
    fn new(etcd: Arc<Etcd>, prefix: &str, fence: Fence) -> Keys {
        Keys {
            etcd,
            prefix: prefix.to_owned(),
            fence,
        }
    }

    /// Where a tree's keys begin.
    fn tree(&self, tree: Tree) -> String {
        format!("{}/store/{}/", self.prefix, tree.as_str())
    }

    fn key(&self, tree: Tree, key: &str) -> String {
        format!("{}{key}", self.tree(tree))
    }

    async fn get(&self, tree: Tree, key: &str) -> Result<Option<Vec<u8>>, EtcdError> {
        let key = self.key(tree, key);
        let found = self.etcd.range(&key, "", 1, 0).await?;
        match found.kvs.into_iter().next() {
            Some(found) => self.whole(&key, found.value).await,
            None => Ok(None),
        }
    }

    /// All of a tree, as it was at one revision.
    async fn list(&self, tree: Tree) -> Result<Entries, EtcdError> {
        let prefix = self.tree(tree);
        let (mut from, end) = (prefix.clone(), end_of(&prefix));
        let (mut entries, mut revision) = (Vec::new(), 0);
        loop {
            let page = self.etcd.range(&from, &end, PAGE_LEN, revision).await?;
            revision = page.header.revision;
            for found in page.kvs {
                from = format!("{}\0", found.key);
                let name = found.key[prefix.len()..].to_owned();
                if let Some(value) = self.whole(&found.key, found.value).await? {
                    entries.push((name, value));
                }
            }
            if !page.more {
                return Ok(entries);
            }
        }
    }

    async fn create(&self, write: &Write) -> Result<bool, EtcdError> {
        let key = self.key(write.tree, &write.key);
        let value = write.value.clone().unwrap_or_default();
        let txn = Txn {
            when: vec![(key.clone(), 0)],
            then: vec![Op::Put {
                key: key.clone(),
                value: value.clone(),
                lease: 0,
            }],
            otherwise: vec![Op::Get(key)],
        };
        let done = self.etcd.txn(&txn).await?;
        // An answer that got lost: what is there is what was to be there.
        let is_ours = done.first().is_some_and(|found| found.value == value);
        Ok(done.succeeded || is_ours)
    }
}

/// The first key after all that begin with a prefix, which ends with `/`.
fn end_of(prefix: &str) -> String {
    // The character after `/`.
    format!("{}0", prefix.trim_end_matches('/'))
}

/// What the program is told of an error of etcd.
fn told(error: &EtcdError) -> StoreError {
    match error {
        EtcdError::Refused { message, .. } if message.contains("database space exceeded") => {
            StoreError::Full
        }
        error => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(error);
            while let Some(next) = cause {
                text = format!("{text}: {next}");
                cause = next.source();
            }
            match error.is_passing() {
                true => StoreError::Unavailable(text),
                false => StoreError::Unusable(text),
            }
        }
    }
}
