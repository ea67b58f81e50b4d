//! The election by etcd: the leader's key, bound to a lease. Who makes it leads; it ends with the lease.
//!
//! The key's creation revision names the leadership: writes of the store are conditional on it
//! ([`crate::store::etcd::Fence`]).

use std::sync::Arc;
use std::time::Duration;

use crate::election::{Ballot, Leader, Timing, Tried};
use crate::etcd::{Etcd, EtcdError, KeyValue, Op, Txn};
use crate::store::etcd::Fence;

/// Shortest lease of etcd with its default election time-out of 1 s.
pub const LEASE_MIN: Duration = Duration::from_secs(2);

/// Stands for election below a prefix of etcd.
pub struct EtcdBallot {
    etcd: Arc<Etcd>,
    key: String,
    me: Leader,
    timing: Timing,
    fence: Fence,
    lease: Option<i64>,
}

impl EtcdBallot {
    /// Asks nothing yet. `fence` is raised when this controller leads.
    pub fn new(
        etcd: Arc<Etcd>,
        prefix: &str,
        me: Leader,
        timing: Timing,
        fence: Fence,
    ) -> EtcdBallot {
        EtcdBallot {
            etcd,
            key: format!("{prefix}/leader"),
            me,
            timing,
            fence,
            lease: None,
        }
    }

    async fn tried(&mut self, found: &KeyValue) -> Result<Tried, EtcdError> {
        // The answer that this controller leads got lost. The lease may be old; it counts from now on if it can be kept.
        if Some(found.lease) == self.lease && self.keep().await? {
            self.fence.raise(&self.key, found.create_revision);
            return Ok(Tried::Won);
        }
        let leader = serde_json::from_slice(&found.value);
        Ok(Tried::Lost(leader.unwrap_or_else(|_| Leader {
            name: "unknown".to_owned(),
            address: String::new(),
        })))
    }
}

impl Ballot for EtcdBallot {
    type Error = EtcdError;

    async fn lead(&mut self) -> Result<Tried, EtcdError> {
        let found = self.etcd.range(&self.key, "", 1, 0).await?;
        if let Some(found) = found.kvs.first() {
            return self.tried(found).await;
        }
        let lease = self.etcd.grant(self.timing.lease.as_secs()).await?;
        self.lease = Some(lease);
        // Two short texts always have a JSON form.
        let value = serde_json::to_vec(&self.me).unwrap_or_default();
        let txn = Txn {
            when: vec![(self.key.clone(), 0)],
            then: vec![Op::Put {
                key: self.key.clone(),
                value,
                lease,
            }],
            otherwise: vec![Op::Get(self.key.clone())],
        };
        let done = self.etcd.txn(&txn).await?;
        if done.succeeded {
            self.fence.raise(&self.key, done.header.revision);
            return Ok(Tried::Won);
        }
        match done.first() {
            Some(found) => self.tried(found).await,
            None => Err(EtcdError::Strange(self.key.clone())),
        }
    }

    async fn keep(&mut self) -> Result<bool, EtcdError> {
        let Some(lease) = self.lease else {
            return Ok(false);
        };
        let is_kept = self.etcd.keep(lease).await?;
        if !is_kept {
            self.lease = None;
            self.fence.lower();
        }
        Ok(is_kept)
    }

    async fn resign(&mut self) {
        self.fence.lower();
        if let Some(lease) = self.lease.take()
            && let Err(error) = self.etcd.revoke(lease).await
        {
            tracing::debug!(%error, "the lease was not given back; it ends by itself");
        }
    }
}
