//! A client of etcd, by the JSON form of its API (`/v3/…`, etcd 3.4 and later).
//!
//! ```text
//! range, txn, grant, … ─▶ one POST ─▶ a kept connection to one member, else to the next one
//! ```
//!
//! Every request has a time limit, for each member and as a whole; a member that is gone or does not answer is passed over
//! until the others fail too. What is asked twice because an answer got lost must say the same both times: that is the
//! caller's part. JSON instead of gRPC: see `docs/decisions/0012-etcd-by-json.md`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;

mod connection;
mod error;
mod wire;

use connection::{Connection, Way};
pub use error::EtcdError;
use wire::{Granted, Kept, Message, Token};
pub use wire::{KeyValue, Op, Range, Txn, TxnDone};

/// Longest wait for one member, connecting included; then the next is asked.
const MEMBER_WAIT_MAX: Duration = Duration::from_secs(1);
/// Longest wait for an answer over all members.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(3);
/// Connections that are kept for the next requests.
const IDLE_MAX: usize = 4;
/// Most members that a configuration names.
pub const ENDPOINTS_MAX: usize = 16;

/// Where etcd is and who asks.
#[derive(Debug, Clone, Default)]
pub struct EtcdOptions {
    /// `http://host:port` or `https://host:port` of each member.
    pub endpoints: Vec<String>,
    /// Roots to believe the members by, PEM; needed for `https`.
    pub ca_file: Option<PathBuf>,
    /// This client's certificate and key, PEM.
    pub client: Option<(PathBuf, PathBuf)>,
    /// This client's name and the file with its password.
    pub user: Option<(String, PathBuf)>,
}

/// A client. Requests may be under way side by side.
pub struct Etcd {
    ways: Vec<Way>,
    user: Option<(String, PathBuf)>,
    /// The member that answered last.
    at: AtomicUsize,
    idle: Mutex<Vec<(usize, Connection)>>,
    token: Mutex<Option<String>>,
}

impl Etcd {
    /// Reads the files that `options` names; asks nothing yet.
    ///
    /// # Errors
    /// A file that is missing or wrong, or an endpoint that is none.
    pub fn new(options: &EtcdOptions) -> Result<Etcd, EtcdError> {
        let tls = connection::tls(options)?;
        let ways = options.endpoints.iter().map(|text| Way::new(text, &tls));
        Ok(Etcd {
            ways: ways.collect::<Result<_, _>>()?,
            user: options.user.clone(),
            at: AtomicUsize::new(0),
            idle: Mutex::default(),
            token: Mutex::default(),
        })
    }

    /// Keys from `key` up to before `end`, or `key` alone when `end` is empty; at most `limit`, 0 for all. `revision` 0
    /// means the newest.
    ///
    /// # Errors
    /// No member answered, or all refused.
    pub async fn range(
        &self,
        key: &str,
        end: &str,
        limit: u64,
        revision: i64,
    ) -> Result<Range, EtcdError> {
        self.ask("/v3/kv/range", &wire::range(key, end, limit, revision))
            .await
    }

    /// One transaction.
    ///
    /// # Errors
    /// As [`Etcd::range`]. It may have been done all the same when the answer got lost.
    pub async fn txn(&self, txn: &Txn) -> Result<TxnDone, EtcdError> {
        self.ask("/v3/kv/txn", &txn.to_json()).await
    }

    /// Forgets what was before a revision.
    ///
    /// # Errors
    /// As [`Etcd::range`].
    pub async fn compact(&self, revision: i64) -> Result<(), EtcdError> {
        let body = json!({ "revision": revision.to_string() });
        let _: Message = self.ask("/v3/kv/compaction", &body).await?;
        Ok(())
    }

    /// A new lease that ends so many seconds after it was last kept.
    ///
    /// # Errors
    /// As [`Etcd::range`].
    pub async fn grant(&self, ttl_s: u64) -> Result<i64, EtcdError> {
        let body = json!({ "TTL": ttl_s.to_string() });
        let granted: Granted = self.ask("/v3/lease/grant", &body).await?;
        Ok(granted.id)
    }

    /// Keeps a lease; `false` when there is none any more.
    ///
    /// # Errors
    /// As [`Etcd::range`].
    pub async fn keep(&self, lease: i64) -> Result<bool, EtcdError> {
        let body = json!({ "ID": lease.to_string() });
        let kept: Kept = self.ask("/v3/lease/keepalive", &body).await?;
        Ok(kept.result.ttl > 0)
    }

    /// Ends a lease and all keys of it.
    ///
    /// # Errors
    /// As [`Etcd::range`].
    pub async fn revoke(&self, lease: i64) -> Result<(), EtcdError> {
        let body = json!({ "ID": lease.to_string() });
        let _: Message = self.ask("/v3/lease/revoke", &body).await?;
        Ok(())
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        path: &'static str,
        body: &impl Serialize,
    ) -> Result<T, EtcdError> {
        // Numbers and base64 always have a JSON form.
        let body = serde_json::to_vec(body).unwrap_or_default();
        let answered = self.ask_members(path, &body).await;
        match answered {
            Err(error) if self.user.is_some() && error.is_about_the_token() => {
                self.log_in().await?;
                self.ask_members(path, &body).await
            }
            answered => answered,
        }
    }

    async fn log_in(&self) -> Result<(), EtcdError> {
        let Some((name, path)) = &self.user else {
            return Ok(());
        };
        let password = connection::read(path)?;
        let body = json!({ "name": name, "password": password.trim_end() });
        let body = serde_json::to_vec(&body).unwrap_or_default();
        *self.lock_token() = None;
        let token: Token = self.ask_members("/v3/auth/authenticate", &body).await?;
        *self.lock_token() = Some(token.token);
        Ok(())
    }

    /// Asks the member that answered last, then each other one.
    async fn ask_members<T: DeserializeOwned>(
        &self,
        path: &'static str,
        body: &[u8],
    ) -> Result<T, EtcdError> {
        let until = Instant::now() + ANSWER_WAIT_MAX;
        let first = self.at.load(Ordering::Relaxed);
        let mut failed = None;
        for turn in 0..self.ways.len() {
            let member = (first + turn) % self.ways.len();
            let endpoint = &self.ways[member].endpoint;
            let member_until = until.min(Instant::now() + MEMBER_WAIT_MAX);
            let asked =
                tokio::time::timeout_at(member_until, self.ask_member(member, path, body)).await;
            match asked.unwrap_or_else(|_| Err(EtcdError::TooSlow(endpoint.clone()))) {
                Ok(answer) => {
                    self.at.store(member, Ordering::Relaxed);
                    return serde_json::from_slice(&answer)
                        .map_err(|_| EtcdError::Strange(endpoint.clone()));
                }
                Err(error) if error.is_passing() => failed = Some(error),
                Err(error) => return Err(error),
            }
            if Instant::now() >= until {
                break;
            }
        }
        Err(failed.unwrap_or(EtcdError::TooLong))
    }

    async fn ask_member(
        &self,
        member: usize,
        path: &'static str,
        body: &[u8],
    ) -> Result<Vec<u8>, EtcdError> {
        let way = &self.ways[member];
        let token = self.lock_token().clone();
        let kept = self.take_idle(member);
        let is_kept = kept.is_some();
        let mut connection = match kept {
            Some(connection) => connection,
            None => way.connect().await?,
        };
        let mut sent = connection.post(way, path, body, token.as_deref()).await;
        if is_kept && matches!(sent, Err(EtcdError::Broken { .. })) {
            // The member had closed it meanwhile.
            connection = way.connect().await?;
            sent = connection.post(way, path, body, token.as_deref()).await;
        }
        let (status, answer) = sent?;
        self.put_idle(member, connection);
        match status.is_success() {
            true => Ok(answer),
            false => {
                let message = wire::words(&answer);
                Err(EtcdError::Refused { status, message })
            }
        }
    }

    fn take_idle(&self, member: usize) -> Option<Connection> {
        let mut idle = self.lock_idle();
        let at = idle.iter().position(|(of, _)| *of == member)?;
        Some(idle.swap_remove(at).1)
    }

    fn put_idle(&self, member: usize, connection: Connection) {
        let mut idle = self.lock_idle();
        if idle.len() == IDLE_MAX {
            idle.remove(0);
        }
        idle.push((member, connection));
    }

    fn lock_idle(&self) -> std::sync::MutexGuard<'_, Vec<(usize, Connection)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_token(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
