//! What survives a restart: an ordered map of keys to versioned JSON values.
//!
//! **Invariant**: a batch is applied whole or not at all, batches in the order they were given,
//! and [`Answer`] resolves after the batch is on the disk. What an operator was told is kept.
//!
//! The trait has an embedded implementation, [`sled::SledStore`], and a distributed one, [`etcd::EtcdStore`]; the rest of
//! the controller knows the trait alone.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

pub mod etcd;
pub mod format;
pub mod sled;

/// First byte of every value: how the rest is written.
const VALUE_VERSION: u8 = 1;

/// Largest value, in bytes; a larger one is refused. A plan of 10 000 nodes is about 4 MB.
pub const VALUE_LEN_MAX: usize = 256 << 20;

/// What a key is of. Its text is the beginning of every key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tree {
    /// Declared nodes, by name.
    Nodes,
    /// Declared services, by `namespace/name`.
    Services,
    /// Declared weight policies, by name.
    Policies,
    /// Declared traffic policies, by name.
    TrafficPolicies,
    /// Declared access policies, by name.
    AccessPolicies,
    /// Declared HTTP routes, by `namespace/name`.
    HttpRoutes,
    /// Declared gRPC routes, by `namespace/name`.
    GrpcRoutes,
    /// Declared TCP routes, by `namespace/name`.
    TcpRoutes,
    /// The certificate authority, under one key.
    Authority,
    /// Revoked nodes, by name.
    Revocations,
    /// Nodes that have enrolled, by name.
    Enrolled,
    /// Enrolment tokens, by id.
    Tokens,
    /// Operators' credentials, by name.
    Credentials,
    /// The last plan with the nodes it was made from, under one key.
    Plan,
    /// The last epoch used, under one key.
    Epoch,
    /// Who changed what, by number.
    Audit,
    /// Who was refused, by number.
    Refusals,
    /// Registered endpoints, by `namespace/name/node/address`.
    Endpoints,
    /// What the store says of itself.
    Meta,
}

impl Tree {
    /// The tree's name in keys, errors and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Tree::Nodes => "nodes",
            Tree::Services => "services",
            Tree::Policies => "policies",
            Tree::TrafficPolicies => "traffic-policies",
            Tree::AccessPolicies => "access-policies",
            Tree::HttpRoutes => "http-routes",
            Tree::GrpcRoutes => "grpc-routes",
            Tree::TcpRoutes => "tcp-routes",
            Tree::Authority => "authority",
            Tree::Revocations => "revocations",
            Tree::Enrolled => "enrolled",
            Tree::Tokens => "tokens",
            Tree::Credentials => "credentials",
            Tree::Plan => "plan",
            Tree::Epoch => "epoch",
            Tree::Audit => "audit",
            Tree::Refusals => "refusals",
            Tree::Endpoints => "endpoints",
            Tree::Meta => "meta",
        }
    }
}

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Of what.
    pub tree: Tree,
    /// Which.
    pub key: String,
    /// What it becomes, from [`encode`]; `None` removes it.
    pub value: Option<Vec<u8>>,
}

impl Write {
    /// Sets a key.
    ///
    /// # Errors
    /// The value has no JSON form or is larger than [`VALUE_LEN_MAX`].
    pub fn put<T: Serialize>(tree: Tree, key: &str, value: &T) -> Result<Write, StoreError> {
        Ok(Write {
            tree,
            key: key.to_owned(),
            value: Some(encode(tree, key, value)?),
        })
    }

    /// Removes a key; one that is not there is no error.
    pub fn remove(tree: Tree, key: &str) -> Write {
        Write {
            tree,
            key: key.to_owned(),
            value: None,
        }
    }
}

/// Why the store did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Another process has the directory.
    #[error(
        "the store in {} is in use by another process; stop the other controller, or give this one its own data_dir",
        .0.display()
    )]
    Locked(PathBuf),
    /// The directory holds something that does not open.
    #[error(
        "the store in {} does not open: {problem}; restore the directory from a backup, or move it \
         away to start with an empty store; every proxy must then enrol anew",
        .path.display()
    )]
    Open {
        /// Which directory.
        path: PathBuf,
        /// What the store said.
        problem: String,
    },
    /// A value that is not what the controller writes.
    #[error(
        "the store has an unreadable value at {tree}/{key}: {problem}; remove it by restoring the store from a backup"
    )]
    Value {
        /// Of what.
        tree: &'static str,
        /// Which.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A value that cannot be written.
    #[error("{tree}/{key} cannot be stored: {problem}")]
    Encode {
        /// Of what.
        tree: &'static str,
        /// Which.
        key: String,
        /// Why.
        problem: String,
    },
    /// A later program wrote it.
    #[error(
        "the store has format {found}, and this program knows {known}; run the program that wrote it, or export \
         from that one and import into an empty store here"
    )]
    Later {
        /// The store's.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// There is no room.
    #[error("the disk is full; make room, and changes are taken again")]
    Full,
    /// The disk refused, or what is on it is damaged.
    #[error("the store failed: {0}")]
    Failed(String),
    /// More requests wait than the store's queue holds; ask again later.
    #[error("the store is busy")]
    Busy,
    /// The distributed store does not answer. What was asked may be done later.
    #[error(
        "the store does not answer ({0}); what was asked may still be done: read it again before repeating it"
    )]
    Unavailable(String),
    /// The distributed store takes no requests of this controller, for a reason that time does not change. Nothing was
    /// done.
    #[error("the store cannot be used: {0}")]
    Unusable(String),
    /// Another controller leads, or nobody does: this one may not write.
    #[error("this controller does not lead; ask again, the one that does will answer")]
    NotLeading,
    /// The store has ended.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether asking again later may help: the store is away or busy, another controller leads, or an operator mends it.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            StoreError::Unavailable(_)
                | StoreError::Unusable(_)
                | StoreError::NotLeading
                | StoreError::Busy
        )
    }
}

/// An answer of the store that is still under way.
#[derive(Debug)]
pub struct Answer<T>(oneshot::Receiver<Result<T, StoreError>>);

impl<T> Answer<T> {
    /// An answer and where to put it.
    pub fn pending() -> (oneshot::Sender<Result<T, StoreError>>, Answer<T>) {
        let (sender, receiver) = oneshot::channel();
        (sender, Answer(receiver))
    }

    /// An answer that is already known.
    pub fn ready(result: Result<T, StoreError>) -> Answer<T> {
        let (sender, answer) = Answer::pending();
        // The receiver is held by `answer`, so this cannot fail.
        let _ = sender.send(result);
        answer
    }
}

impl<T> Future for Answer<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|received| received.unwrap_or(Err(StoreError::Closed)))
    }
}

/// Where a store counts its batches.
#[derive(Debug, Clone)]
pub struct StoreCounts {
    /// Batches on the disk.
    pub written: metrics::Counter,
    /// Batches that could not be written.
    pub failed: metrics::Counter,
}

impl Default for StoreCounts {
    /// Counts nothing.
    fn default() -> StoreCounts {
        StoreCounts {
            written: metrics::Counter::noop(),
            failed: metrics::Counter::noop(),
        }
    }
}

/// A store. Requests are taken at once and answered later, in order.
pub trait Store: Send + Sync {
    /// One value.
    fn get(&self, tree: Tree, key: &str) -> Answer<Option<Vec<u8>>>;

    /// All keys and values of a tree, by key.
    fn list(&self, tree: Tree) -> Answer<Vec<(String, Vec<u8>)>>;

    /// Applies all writes or none; resolves when they are on the disk.
    fn apply(&self, batch: Vec<Write>) -> Answer<()>;

    /// Why writes would be refused now, as far as is known without waiting; `None` when nothing speaks against them.
    fn refusal(&self) -> Option<StoreError> {
        None
    }

    /// Sets a key unless it is there. Returns whether it is as asked. Of several at the same time one sets it, also where
    /// several controllers share the store and none leads yet.
    fn create(&self, write: Write) -> Answer<bool>;
}

/// Writes a value as the store keeps it: a version byte, then JSON.
///
/// # Errors
/// No JSON form, or larger than [`VALUE_LEN_MAX`].
pub fn encode<T: Serialize>(tree: Tree, key: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    let wrong = |problem: String| StoreError::Encode {
        tree: tree.as_str(),
        key: key.to_owned(),
        problem,
    };
    let mut bytes = vec![VALUE_VERSION];
    serde_json::to_writer(&mut bytes, value).map_err(|error| wrong(error.to_string()))?;
    if bytes.len() > VALUE_LEN_MAX {
        return Err(wrong(format!(
            "{} bytes, at most {VALUE_LEN_MAX}",
            bytes.len()
        )));
    }
    Ok(bytes)
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`StoreError::Value`]: empty, of a later version, or not the expected shape.
pub fn decode<T: DeserializeOwned>(tree: Tree, key: &str, bytes: &[u8]) -> Result<T, StoreError> {
    let wrong = |problem: String| StoreError::Value {
        tree: tree.as_str(),
        key: key.to_owned(),
        problem,
    };
    match bytes.split_first() {
        None => Err(wrong("it is empty".to_owned())),
        Some((&VALUE_VERSION, json)) => {
            serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))
        }
        Some((version, _)) => Err(wrong(format!(
            "version {version}, this program reads {VALUE_VERSION}"
        ))),
    }
}

/// Reads one value.
///
/// # Errors
/// The store's own, or [`StoreError::Value`].
pub async fn read_one<T: DeserializeOwned>(
    store: &dyn Store,
    tree: Tree,
    key: &str,
) -> Result<Option<T>, StoreError> {
    let found = store.get(tree, key).await?;
    found.map(|bytes| decode(tree, key, &bytes)).transpose()
}

/// Reads all values of a tree, by key.
///
/// # Errors
/// The store's own, or [`StoreError::Value`] for the first unreadable one.
pub async fn read_all<T: DeserializeOwned>(
    store: &dyn Store,
    tree: Tree,
) -> Result<Vec<(String, T)>, StoreError> {
    let entries = store.list(tree).await?;
    let read = |(key, bytes): (String, Vec<u8>)| {
        let value = decode(tree, &key, &bytes)?;
        Ok((key, value))
    };
    entries.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_back_and_strange_ones_are_named() {
        let bytes = encode(Tree::Epoch, "last", &7_u64).unwrap();
        assert_eq!(decode::<u64>(Tree::Epoch, "last", &bytes).unwrap(), 7);
        for strange in [&b""[..], &[9, b'7'], &[VALUE_VERSION, b'x']] {
            let error = decode::<u64>(Tree::Epoch, "last", strange).unwrap_err();
            assert!(error.to_string().contains("epoch/last"), "{error}");
        }
    }
}
