//! The embedded store: sled in one directory, touched by one thread.
//!
//! ```text
//! get, list, apply ──▶ bounded queue ──▶ the store's thread: take all that wait ─▶ one batch ─▶ flush ─▶ answers
//! ```
//!
//! One thread because concurrent flushes of sled 0.34 wait for each other for ever (sled#1308);
//! batching, because a flush costs the same for one write or a thousand. Nothing is answered before
//! the flush behind it. Opening runs on that thread too, so that sled's panics over damaged
//! files become errors.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::{Answer, Store, StoreCounts, StoreError, Tree, Write};

/// Most requests waiting for the store's thread; one more is answered [`StoreError::Busy`].
const QUEUE_LEN_MAX: usize = 1024;

/// Most requests taken for one flush.
const BATCH_LEN_MAX: usize = 256;

/// Bytes that sled keeps of its pages. Its own default is 1 GiB; the controller reads at start alone.
const CACHE_BYTES: u64 = 8 << 20;

enum Request {
    Get(String, oneshot::Sender<Result<Option<Vec<u8>>, StoreError>>),
    List(Tree, oneshot::Sender<Result<Entries, StoreError>>),
    Apply(Vec<Write>, oneshot::Sender<Result<(), StoreError>>),
}

type Entries = Vec<(String, Vec<u8>)>;

/// A store in a directory of this machine. Dropping it finishes what waits and frees the directory.
pub struct SledStore {
    queue: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl SledStore {
    /// Opens the directory, or makes it. `counts` counts and failed writes are logged here, so
    /// that who does not wait for an [`Answer`] loses nothing.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it, [`StoreError::Open`] when it does not open.
    pub async fn open(path: &Path, counts: StoreCounts) -> Result<SledStore, StoreError> {
        let (queue, requests) = sync_channel(QUEUE_LEN_MAX);
        let (opened, answer) = Answer::pending();
        let owned = path.to_owned();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || run(owned, requests, opened, counts))
            .map_err(|error| StoreError::Failed(error.to_string()))?;
        let store = SledStore {
            queue: Some(queue),
            thread: Some(thread),
        };
        match answer.await {
            Ok(()) => Ok(store),
            // The thread ended without an answer: sled panicked.
            Err(StoreError::Closed) => Err(StoreError::Open {
                path: path.to_owned(),
                problem: "its files are damaged".to_owned(),
            }),
            Err(error) => Err(error),
        }
    }

    fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Answer<T> {
        let (sender, answer) = Answer::pending();
        let Some(queue) = &self.queue else {
            return Answer::ready(Err(StoreError::Closed));
        };
        match queue.try_send(request(sender)) {
            Ok(()) => answer,
            Err(TrySendError::Full(_)) => Answer::ready(Err(StoreError::Busy)),
            Err(TrySendError::Disconnected(_)) => Answer::ready(Err(StoreError::Closed)),
        }
    }
}

impl Store for SledStore {
    fn get(&self, tree: Tree, key: &str) -> Answer<Option<Vec<u8>>> {
        self.ask(|sender| Request::Get(full_key(tree, key), sender))
    }

    fn list(&self, tree: Tree) -> Answer<Entries> {
        self.ask(|sender| Request::List(tree, sender))
    }

    fn apply(&self, batch: Vec<Write>) -> Answer<()> {
        self.ask(|sender| Request::Apply(batch, sender))
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was already answered with `Closed`.
            let _ = thread.join();
        }
    }
}

fn full_key(tree: Tree, key: &str) -> String {
    format!("{}/{key}", tree.as_str())
}

fn run(
    path: PathBuf,
    requests: Receiver<Request>,
    opened: oneshot::Sender<Result<(), StoreError>>,
    counts: StoreCounts,
) {
    let db = match open(&path) {
        Ok(db) => db,
        Err(error) => {
            let _ = opened.send(Err(error));
            return;
        }
    };
    if opened.send(Ok(())).is_err() {
        return;
    }
    while let Ok(first) = requests.recv() {
        let mut taken = vec![first];
        while taken.len() < BATCH_LEN_MAX
            && let Ok(next) = requests.try_recv()
        {
            taken.push(next);
        }
        serve(&db, taken, &counts);
    }
}

fn open(path: &Path) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    config.open().map_err(|error| {
        // sled has no kind of its own for this.
        if error.to_string().contains("could not acquire lock") {
            StoreError::Locked(path.to_owned())
        } else {
            StoreError::Open {
                path: path.to_owned(),
                problem: error.to_string(),
            }
        }
    })
}

/// Serves requests in order; writes that stand side by side become one batch and one flush.
fn serve(db: &sled::Db, taken: Vec<Request>, counts: &StoreCounts) {
    let commit = |batch, writers| commit(db, batch, writers, counts);
    let mut batch = sled::Batch::default();
    let mut writers = Vec::new();
    for request in taken {
        match request {
            Request::Apply(writes, sender) => {
                for write in writes {
                    let key = full_key(write.tree, &write.key);
                    match write.value {
                        Some(value) => batch.insert(key.as_bytes(), value),
                        None => batch.remove(key.as_bytes()),
                    }
                }
                writers.push(sender);
            }
            Request::Get(key, sender) => {
                commit(std::mem::take(&mut batch), std::mem::take(&mut writers));
                let found = db.get(key).map(|v| v.map(|v| v.to_vec()));
                let _ = sender.send(found.map_err(failed));
            }
            Request::List(tree, sender) => {
                commit(std::mem::take(&mut batch), std::mem::take(&mut writers));
                let _ = sender.send(list(db, tree));
            }
        }
    }
    commit(batch, writers);
}

fn commit(
    db: &sled::Db,
    batch: sled::Batch,
    writers: Vec<oneshot::Sender<Result<(), StoreError>>>,
    counts: &StoreCounts,
) {
    if writers.is_empty() {
        return;
    }
    let done = db.apply_batch(batch).and_then(|()| db.flush());
    let done = done.map(|_| ()).map_err(failed);
    let batches = writers.len() as u64;
    match &done {
        Ok(()) => counts.written.increment(batches),
        Err(error) => {
            counts.failed.increment(batches);
            tracing::error!(%error, batches, "changes were not stored");
        }
    }
    for writer in writers {
        let _ = writer.send(done.clone());
    }
}

fn list(db: &sled::Db, tree: Tree) -> Result<Entries, StoreError> {
    let prefix = full_key(tree, "");
    let read = |entry: sled::Result<(sled::IVec, sled::IVec)>| {
        let (key, value) = entry.map_err(failed)?;
        let key = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
        Ok((key, value.to_vec()))
    };
    db.scan_prefix(&prefix).map(read).collect()
}

fn failed(error: sled::Error) -> StoreError {
    match &error {
        sled::Error::Io(io) if io.kind() == ErrorKind::StorageFull => StoreError::Full,
        error => StoreError::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(tree: Tree, key: &str, value: Option<&str>) -> Write {
        Write {
            tree,
            key: key.to_owned(),
            value: value.map(|v| v.as_bytes().to_vec()),
        }
    }

    #[tokio::test]
    async fn trees_are_apart_and_survive_a_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let store = SledStore::open(directory.path(), StoreCounts::default())
            .await
            .unwrap();
        let batch = vec![
            write(Tree::Nodes, "b", Some("2")),
            write(Tree::Nodes, "a", Some("1")),
            write(Tree::Services, "shop/cart", Some("3")),
            write(Tree::Nodes, "gone", Some("4")),
            write(Tree::Nodes, "gone", None),
        ];
        store.apply(batch).await.unwrap();
        drop(store);
        let store = SledStore::open(directory.path(), StoreCounts::default())
            .await
            .unwrap();
        let nodes = store.list(Tree::Nodes).await.unwrap();
        let expected = [("a", "1"), ("b", "2")].map(|(k, v)| (k.to_owned(), v.as_bytes().to_vec()));
        assert_eq!(nodes, expected);
        let cart = store.get(Tree::Services, "shop/cart").await.unwrap();
        assert_eq!(cart.as_deref(), Some(&b"3"[..]));
        assert_eq!(store.get(Tree::Services, "a").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_read_sees_the_writes_asked_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = SledStore::open(directory.path(), StoreCounts::default())
            .await
            .unwrap();
        let mut answers = Vec::new();
        for round in 0..50 {
            let applied = store.apply(vec![write(Tree::Epoch, "last", Some(&round.to_string()))]);
            answers.push((round, applied, store.get(Tree::Epoch, "last")));
        }
        for (round, applied, read) in answers {
            applied.await.unwrap();
            let read = String::from_utf8(read.await.unwrap().unwrap()).unwrap();
            assert_eq!(read, round.to_string());
        }
    }

    #[tokio::test]
    async fn a_directory_in_use_or_damaged_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let store = SledStore::open(directory.path(), StoreCounts::default())
            .await
            .unwrap();
        let locked = SledStore::open(directory.path(), StoreCounts::default())
            .await
            .err()
            .unwrap();
        assert!(matches!(locked, StoreError::Locked(_)), "{locked}");
        store
            .apply(vec![write(Tree::Plan, "p", Some("x"))])
            .await
            .unwrap();
        drop(store);
        std::fs::write(directory.path().join("conf"), "not a store").unwrap();
        let damaged = SledStore::open(directory.path(), StoreCounts::default())
            .await
            .err()
            .unwrap();
        assert!(damaged.to_string().contains("backup"), "{damaged}");
    }
}
