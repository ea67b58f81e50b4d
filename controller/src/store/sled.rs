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
//!
//! When the disk is nearly full, writes are refused before sled sees them, since after one failed write sled refuses
//! everything. Where that comes all the same (a quota), it is closed and opened again, once a second until it works; what was
//! flushed before is there then.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Answer, Store, StoreCounts, StoreError, Tree, Write};

/// Most requests waiting for the store's thread; one more is answered [`StoreError::Busy`].
const QUEUE_LEN_MAX: usize = 1024;

/// Most requests taken for one flush.
const BATCH_LEN_MAX: usize = 256;

/// Bytes that sled keeps of its pages. Its own default is 1 GiB; the controller reads at start alone.
const CACHE_BYTES: u64 = 8 << 20;

/// Free space of the disk below which nothing is written, in bytes: the log, a blob and a snapshot of its own fit in.
const FREE_BYTES_MIN: u64 = 16 << 20;

/// What is written to find out whether writes go again.
const PROBE: &str = "probe";

/// How often a store that refuses writes is looked at again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

enum Request {
    Get(String, oneshot::Sender<Result<Option<Vec<u8>>, StoreError>>),
    List(Tree, oneshot::Sender<Result<Entries, StoreError>>),
    Apply(Vec<Write>, oneshot::Sender<Result<(), StoreError>>),
    Create(Write, oneshot::Sender<Result<bool, StoreError>>),
}

type Entries = Vec<(String, Vec<u8>)>;

/// A store in a directory of this machine. Dropping it finishes what waits and frees the directory.
pub struct SledStore {
    queue: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
    refusal: Refusal,
}

/// Why writes are refused now, if they are.
type Refusal = Arc<Mutex<Option<StoreError>>>;

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
        let refusal = Refusal::default();
        let told = refusal.clone();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || run(owned, requests, opened, counts, told))
            .map_err(|error| StoreError::Failed(error.to_string()))?;
        let store = SledStore {
            queue: Some(queue),
            thread: Some(thread),
            refusal,
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

    fn create(&self, write: Write) -> Answer<bool> {
        self.ask(|sender| Request::Create(write, sender))
    }

    fn refusal(&self) -> Option<StoreError> {
        lock(&self.refusal).clone()
    }
}

fn lock(refusal: &Refusal) -> std::sync::MutexGuard<'_, Option<StoreError>> {
    refusal.lock().unwrap_or_else(PoisonError::into_inner)
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
    refusal: Refusal,
) {
    let db = match open(&path) {
        Ok(db) => db,
        Err(error) => {
            let _ = opened.send(Err(error));
            return;
        }
    };
    let mut shelf = Shelf {
        path,
        db: Some(db),
        looked: Instant::now(),
        counts,
        refusal,
    };
    if opened.send(Ok(())).is_err() {
        return;
    }
    loop {
        let first = match requests.recv_timeout(LOOK_EVERY) {
            Ok(first) => Some(first),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        shelf.look();
        let mut taken: Vec<Request> = first.into_iter().collect();
        while taken.len() < BATCH_LEN_MAX
            && let Ok(next) = requests.try_recv()
        {
            taken.push(next);
        }
        shelf.serve(taken);
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

/// The database, and what to do when it cannot be used.
struct Shelf {
    path: PathBuf,
    /// `None` after a failed write, until it opens again.
    db: Option<sled::Db>,
    /// When it was last tried whether writes go.
    looked: Instant,
    counts: StoreCounts,
    refusal: Refusal,
}

impl Shelf {
    /// Finds out anew whether writes go, at most once in [`LOOK_EVERY`].
    fn look(&mut self) {
        if self.looked.elapsed() < LOOK_EVERY {
            return;
        }
        self.looked = Instant::now();
        if self.db.is_none() {
            match std::panic::catch_unwind(|| open(&self.path)) {
                Ok(Ok(db)) => self.db = Some(db),
                Ok(Err(error)) => tracing::warn!(%error, "the store does not open yet"),
                // sled said why.
                Err(_) => {}
            }
            // Opening needs no room. A try that nobody waits for finds out.
            let mut probe = sled::Batch::default();
            probe.insert(full_key(Tree::Meta, PROBE).as_bytes(), &[0][..]);
            if self.write(probe).is_err() {
                return;
            }
        }
        if self.db.is_some() && has_room(&self.path, 0) {
            if lock(&self.refusal).take().is_some() {
                tracing::info!("the store takes writes again");
            }
        } else if self.db.is_some() {
            self.refuse(StoreError::Full);
        }
    }

    /// From now on writes are refused, until they can be made.
    fn refuse(&mut self, error: StoreError) {
        let was = lock(&self.refusal).replace(error.clone());
        // Once, not for each plan that is not kept.
        if was.is_none() {
            tracing::error!(%error, "nothing is stored until it can be; changes are refused");
        }
    }

    /// Serves requests in order; writes that stand side by side become one batch and one flush.
    fn serve(&mut self, taken: Vec<Request>) {
        let mut batch = Batch::default();
        for request in taken {
            match request {
                Request::Apply(writes, sender) => batch.add(writes, sender),
                Request::Get(key, sender) => {
                    self.commit(std::mem::take(&mut batch));
                    let found = self.read(|db| {
                        let found = db.get(key).map(|v| v.map(|v| v.to_vec()));
                        found.map_err(failed)
                    });
                    let _ = sender.send(found);
                }
                Request::List(tree, sender) => {
                    self.commit(std::mem::take(&mut batch));
                    let _ = sender.send(self.read(|db| list(db, tree)));
                }
                Request::Create(write, sender) => {
                    self.commit(std::mem::take(&mut batch));
                    let _ = sender.send(self.create(write));
                }
            }
        }
        self.commit(batch);
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&sled::Db) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &self.db {
            Some(db) => read(db),
            None => Err(lock(&self.refusal).clone().unwrap_or(StoreError::Full)),
        }
    }

    fn commit(&mut self, batch: Batch) {
        let batches = batch.writers.len() as u64;
        if batches == 0 {
            return;
        }
        let done = match has_room(&self.path, batch.len) {
            true => self.write(batch.writes),
            false => Err(StoreError::Full),
        };
        match &done {
            Ok(()) => self.counts.written.increment(batches),
            Err(error) => {
                self.counts.failed.increment(batches);
                self.refuse(error.clone());
            }
        }
        for writer in batch.writers {
            let _ = writer.send(done.clone());
        }
    }

    /// Sets a key unless it is there. Returns whether it is as asked.
    fn create(&mut self, write: Write) -> Result<bool, StoreError> {
        let key = full_key(write.tree, &write.key);
        let value = write.value.unwrap_or_default();
        let before = self.read(|db| db.get(&key).map_err(failed))?;
        if let Some(before) = before {
            return Ok(*before == *value);
        }
        let mut writes = sled::Batch::default();
        let len = (key.len() + value.len()) as u64;
        writes.insert(key.as_bytes(), value);
        let done = match has_room(&self.path, len) {
            true => self.write(writes),
            false => Err(StoreError::Full),
        };
        match done {
            Ok(()) => Ok(true),
            Err(error) => {
                self.refuse(error.clone());
                Err(error)
            }
        }
    }

    /// Writes and flushes. After a failure sled does nothing more: it is closed, to be opened again.
    fn write(&mut self, writes: sled::Batch) -> Result<(), StoreError> {
        let done = self.read(|db| {
            let write = || db.apply_batch(writes).and_then(|()| db.flush());
            // sled panics over some failed writes.
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(write)) {
                Ok(done) => done.map(|_| ()).map_err(failed),
                Err(_) => Err(StoreError::Failed("a write broke off".to_owned())),
            }
        });
        if done.is_err() {
            self.db = None;
        }
        done
    }
}

/// Writes that become one, and who waits for them.
#[derive(Default)]
struct Batch {
    writes: sled::Batch,
    /// About how much there is to write, in bytes.
    len: u64,
    writers: Vec<oneshot::Sender<Result<(), StoreError>>>,
}

impl Batch {
    fn add(&mut self, writes: Vec<Write>, sender: oneshot::Sender<Result<(), StoreError>>) {
        for write in writes {
            let key = full_key(write.tree, &write.key);
            self.len += (key.len() + write.value.as_ref().map_or(0, Vec::len)) as u64;
            match write.value {
                Some(value) => self.writes.insert(key.as_bytes(), value),
                None => self.writes.remove(key.as_bytes()),
            }
        }
        self.writers.push(sender);
    }
}

/// Whether the disk has room for so many bytes and leaves [`FREE_BYTES_MIN`] free. A file system that does not say has.
fn has_room(path: &Path, len: u64) -> bool {
    rustix::fs::statvfs(path).map_or(true, |disk| {
        disk.f_bavail.saturating_mul(disk.f_frsize) >= len.saturating_add(FREE_BYTES_MIN)
    })
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
        sled::Error::Io(io) if is_full(io.kind()) => StoreError::Full,
        error => StoreError::Failed(error.to_string()),
    }
}

fn is_full(kind: ErrorKind) -> bool {
    use ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(kind, StorageFull | QuotaExceeded | FileTooLarge)
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
