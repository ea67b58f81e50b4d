//! Nodes that have enrolled: with what each may come back after its certificate has ended, and to what it is bound.
//!
//! With every certificate goes a re-enrolment credential. A node that was away for longer than its certificate lives shows
//! it instead, within a grace period. Each is good until the one after it was used, so that an answer that got lost on its
//! way locks nobody out, and one that was stolen earlier is worth nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use isobar_mesh_api::identity::SpiffeId;
use isobar_mesh_api::names::{AccountName, NodeId, SiteName};
use serde::{Deserialize, Serialize};

use crate::authority::certificates::LEAF_VALID;
use crate::authority::{AuthorityError, seconds};
use crate::secret::{self, Claim, SecretHash};
use crate::store::{Store, StoreError, Tree, Write, read_all};

/// What the text of a re-enrolment credential begins with.
pub const KIND: &str = "renewal";
/// Most nodes that are remembered; those that have not enrolled for longest make room.
pub const ENROLLED_MAX: usize = 20_000;

/// Why a re-enrolment credential is not taken.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// The store.
    #[error("the enrolment is not stored")]
    Store(#[from] StoreError),
    /// No random numbers.
    #[error("a credential cannot be made")]
    Random(#[from] AuthorityError),
    /// Unknown, replaced, revoked, or another node's.
    #[error("the re-enrolment credential is not this node's last one; enrol with a token")]
    Wrong,
    /// Its certificate ended too long ago.
    #[error("the certificate ended longer ago than the grace period; enrol with a token")]
    TooLate,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    current: SecretHash,
    previous: Option<SecretHash>,
    issued_s: u64,
    site: Option<SiteName>,
    /// The workload that the node is the proxy of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account: Option<AccountName>,
}

/// What a node is given a certificate as.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// The site that it is bound to from now on, if it was not yet.
    pub site: Option<SiteName>,
    /// The account, when the certificate is one of a workload.
    pub account: Option<AccountName>,
}

/// All nodes that have enrolled.
pub struct Enrolled {
    store: Arc<dyn Store>,
    grace: Duration,
    kept: Mutex<BTreeMap<NodeId, Kept>>,
}

impl Enrolled {
    /// Reads what the store has. A credential is good for `grace` longer than its certificate.
    ///
    /// # Errors
    /// The store's.
    pub async fn open(store: Arc<dyn Store>, grace: Duration) -> Result<Enrolled, StoreError> {
        let enrolled = Enrolled {
            store,
            grace,
            kept: Mutex::default(),
        };
        enrolled.reload().await?;
        Ok(enrolled)
    }

    /// Reads what the store has now: another controller may have changed it.
    ///
    /// # Errors
    /// The store's.
    pub async fn reload(&self) -> Result<(), StoreError> {
        let kept: Vec<(String, Kept)> = read_all(&*self.store, Tree::Enrolled).await?;
        let named = |(name, kept): (String, Kept)| Some((NodeId::new(&name).ok()?, kept));
        *self.lock() = kept.into_iter().filter_map(named).collect();
        Ok(())
    }

    /// Whether this is the node's credential, and in time.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn check(
        &self,
        claim: Claim<'_>,
        node: &NodeId,
        now: SystemTime,
    ) -> Result<(), RenewalError> {
        let all = self.lock();
        let kept = all.get(node).ok_or(RenewalError::Wrong)?;
        let fits = claim.id == node.as_str()
            && (kept.current.fits(claim) || kept.previous.as_ref().is_some_and(|p| p.fits(claim)));
        if !fits {
            return Err(RenewalError::Wrong);
        }
        let end_s = kept.issued_s + LEAF_VALID.as_secs() + self.grace.as_secs();
        match seconds(now) >= end_s {
            true => Err(RenewalError::TooLate),
            false => Ok(()),
        }
    }

    /// A node gets a certificate. Returns the credential to go with it; `shown` is the credential that it came with, which stays good beside the new one until that is used.
    ///
    /// # Errors
    /// The store fails.
    pub async fn issue(
        &self,
        node: &NodeId,
        given: Given,
        shown: Option<Claim<'_>>,
        now: SystemTime,
    ) -> Result<String, RenewalError> {
        let (text, hash) = secret::make(KIND, node.as_str())?;
        let before = self.lock().get(node).cloned();
        let previous = before.as_ref().map(|kept| match (&kept.previous, shown) {
            (Some(previous), Some(claim)) if previous.fits(claim) => previous.clone(),
            _ => kept.current.clone(),
        });
        let kept = Kept {
            current: hash,
            previous,
            issued_s: seconds(now),
            site: given.site.or_else(|| before.and_then(|kept| kept.site)),
            account: given.account,
        };
        let mut batch = vec![Write::put(Tree::Enrolled, node.as_str(), &kept)?];
        let oldest = self.oldest_if_full(node);
        batch.extend(
            oldest
                .iter()
                .map(|n| Write::remove(Tree::Enrolled, n.as_str())),
        );
        self.store.apply(batch).await?;
        let mut all = self.lock();
        if let Some(oldest) = oldest {
            all.remove(&oldest);
        }
        all.insert(node.clone(), kept);
        Ok(text)
    }

    /// Forgets a node: it enrols anew or not at all.
    ///
    /// # Errors
    /// The store's; it is forgotten all the same until a restart.
    pub async fn forget(&self, node: &NodeId) -> Result<(), StoreError> {
        if self.lock().remove(node).is_none() {
            return Ok(());
        }
        let remove = Write::remove(Tree::Enrolled, node.as_str());
        self.store.apply(vec![remove]).await
    }

    /// The site that a node's token bound it to.
    pub fn site(&self, node: &NodeId) -> Option<SiteName> {
        self.lock().get(node).and_then(|kept| kept.site.clone())
    }

    /// The account of the workload that a node is the proxy of, as it last enrolled.
    pub fn account(&self, node: &NodeId) -> Option<AccountName> {
        self.lock().get(node).and_then(|kept| kept.account.clone())
    }

    /// Whom a node's certificate names, as it last enrolled; `None` for one that has not.
    pub fn identity(&self, node: &NodeId, trust_domain: &str) -> Option<SpiffeId> {
        let all = self.lock();
        Some(match &all.get(node)?.account {
            Some(account) => SpiffeId::workload(trust_domain, account),
            None => SpiffeId::node(trust_domain, node),
        })
    }

    fn oldest_if_full(&self, node: &NodeId) -> Option<NodeId> {
        let all = self.lock();
        if all.len() < ENROLLED_MAX || all.contains_key(node) {
            return None;
        }
        let oldest = all.iter().min_by_key(|(_, kept)| kept.issued_s);
        oldest.map(|(node, _)| node.clone())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreCounts;
    use crate::store::sled::SledStore;

    #[tokio::test]
    async fn a_credential_is_good_until_the_one_after_it_is_used() {
        let directory = tempfile::tempdir().unwrap();
        let store = SledStore::open(directory.path(), StoreCounts::default()).await;
        let store: Arc<dyn Store> = Arc::new(store.unwrap());
        let grace = Duration::from_secs(3600);
        let all = Enrolled::open(store.clone(), grace).await.unwrap();
        let (a, b) = (NodeId::new("a").unwrap(), NodeId::new("b").unwrap());
        let now = SystemTime::now();
        let given = Given {
            site: Some(SiteName::new("x").unwrap()),
            account: Some(AccountName::new("shop/front").unwrap()),
        };
        let (account, nothing) = (given.account.clone(), Given::default);
        let first = all.issue(&a, given, None, now).await.unwrap();
        let claim = |text| Claim::read(KIND, text).unwrap();
        assert_eq!(all.account(&a), account);
        let identity = |all: &Enrolled| all.identity(&a, "isobar.local").map(|id| id.to_string());
        let workload = "spiffe://isobar.local/ns/shop/sa/front".to_owned();
        assert_eq!(identity(&all), Some(workload));
        let lost = all
            .issue(&a, nothing(), Some(claim(&first)), now)
            .await
            .unwrap();
        // The answer with `lost` never arrived; the node asks again with what it has.
        assert!(all.check(claim(&first), &a, now).is_ok());
        let third = all
            .issue(&a, nothing(), Some(claim(&first)), now)
            .await
            .unwrap();
        assert!(all.check(claim(&first), &a, now).is_ok());
        assert!(all.check(claim(&lost), &a, now).is_err());
        let fourth = all
            .issue(&a, nothing(), Some(claim(&third)), now)
            .await
            .unwrap();
        assert!(all.check(claim(&first), &a, now).is_err());
        let all = Enrolled::open(store, grace).await.unwrap();
        assert!(all.check(claim(&fourth), &a, now).is_ok());
        assert!(all.check(claim(&fourth), &b, now).is_err());
        assert_eq!(all.site(&a), Some(SiteName::new("x").unwrap()));
        // The site stays; whose proxy it is says each certificate anew.
        assert_eq!(all.account(&a), None);
        let own = "spiffe://isobar.local/node/a".to_owned();
        assert_eq!(identity(&all), Some(own));
        assert_eq!(all.identity(&b, "isobar.local"), None);
        let in_time = now + LEAF_VALID + grace - Duration::from_secs(2);
        assert!(all.check(claim(&fourth), &a, in_time).is_ok());
        let late = all.check(claim(&fourth), &a, now + LEAF_VALID + grace);
        assert!(matches!(late, Err(RenewalError::TooLate)));
        all.forget(&a).await.unwrap();
        assert!(matches!(
            all.check(claim(&fourth), &a, now),
            Err(RenewalError::Wrong)
        ));
    }
}
