//! Enrolment tokens: what lets a proxy without a certificate have one.
//!
//! A token is good for so many enrolments until so long, and may be bound to a node's name, a site or a label of the
//! declared node. It may be for the proxy of a workload, which then has a workload's certificate. Its text ends with the root's fingerprint, by which a proxy knows the controller. The store has its hash.
//!
//! **Invariant**: a use is counted and on the disk before its certificate is given out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use isobar_mesh_api::identity::is_reserved;
use isobar_mesh_api::names::{AccountName, NodeId, SiteName};
use serde::{Deserialize, Serialize};

use crate::authority::{AuthorityError, random, seconds};
use crate::secret::{self, Claim, SecretHash, hex};
use crate::store::{Store, StoreError, Tree, Write, read_all};

/// What the text of a token begins with.
pub const KIND: &str = "enrol";
/// Most tokens; expired and used-up ones make room.
pub const TOKENS_MAX: usize = 4096;
/// Most enrolments of one token.
pub const USES_MAX: u32 = 100_000;
/// How long a token lasts that does not say, in seconds: an hour.
pub const LASTS_S: u64 = 3600;
/// Longest that a token may last, in seconds: a year.
pub const LASTS_S_MAX: u64 = 365 * 24 * 3600;

/// The token of a controller that lets every node enrol.
pub const OPEN: &str = "open";

/// Why a token is not made, or not taken.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The store.
    #[error("the token is not stored")]
    Store(#[from] StoreError),
    /// No random numbers.
    #[error("a token cannot be made")]
    Random(#[from] AuthorityError),
    /// As many as there may be.
    #[error("there are {TOKENS_MAX} tokens, which is all that are kept; revoke some")]
    Full,
    /// A field of a request.
    #[error("{field} {problem}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Unknown, revoked, or not the secret.
    #[error("the token is not one, or was revoked")]
    Wrong,
    /// Its time is over.
    #[error("the token has expired; make another with: isobar token create")]
    Expired,
    /// It was used as often as it may be.
    #[error("the token was used as often as it may be; make another with: isobar token create")]
    UsedUp,
    /// It is for another node.
    #[error("the token is for another {0}")]
    NotFor(&'static str),
}

/// One token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Token {
    /// What to call it.
    pub id: String,
    /// How often it was used.
    pub uses: u32,
    /// How often it may be; any number of times when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses_max: Option<u32>,
    /// When it was made, seconds since 1970.
    pub created_s: u64,
    /// When it ends, seconds since 1970; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_s: Option<u64>,
    /// Whom it is for.
    #[serde(flatten)]
    pub bound: Bound,
}

/// Whom a token is for: all that is said must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Bound {
    /// This node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Nodes of this site; the node may then never say that it is of another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteName>,
    /// Nodes that are declared with these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whoever enrols with it is the proxy beside this workload, `namespace/account`, and has its certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<AccountName>,
}

/// What is asked for.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokenAsked {
    /// How many enrolments; one when absent.
    pub uses_max: Option<u32>,
    /// For how long, in seconds; [`LASTS_S`] when absent.
    pub lasts_s: Option<u64>,
    /// This node alone.
    pub node: Option<NodeId>,
    /// Nodes of this site alone.
    pub site: Option<SiteName>,
    /// Nodes that are declared with these labels alone.
    pub labels: BTreeMap<String, String>,
    /// For the proxy beside this workload, `namespace/account`: its certificate is the workload's.
    pub workload: Option<AccountName>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    token: Token,
    hash: SecretHash,
}

/// All tokens.
pub struct Tokens {
    store: Arc<dyn Store>,
    kept: Mutex<BTreeMap<String, Kept>>,
}

impl Tokens {
    /// Reads what the store has.
    ///
    /// # Errors
    /// The store's.
    pub async fn open(store: Arc<dyn Store>) -> Result<Tokens, StoreError> {
        let tokens = Tokens {
            store,
            kept: Mutex::default(),
        };
        tokens.reload().await?;
        Ok(tokens)
    }

    /// Reads what the store has now: another controller may have changed it.
    ///
    /// # Errors
    /// The store's.
    pub async fn reload(&self) -> Result<(), StoreError> {
        let kept: Vec<(String, Kept)> = read_all(&*self.store, Tree::Tokens).await?;
        *self.lock() = kept.into_iter().collect();
        Ok(())
    }

    /// Makes a token. Returns it with its text, which nothing tells again; `pin` is the root's fingerprint.
    ///
    /// # Errors
    /// A field that is wrong, too many, or the store fails.
    pub async fn create(
        &self,
        asked: TokenAsked,
        pin: &str,
        now: SystemTime,
    ) -> Result<(Token, String), TokenError> {
        let token = asked.check(hex(&random::<6>()?), seconds(now))?;
        self.make(token, pin, now).await
    }

    /// Makes the token with which any node may enrol, any number of times, in place of the one that was.
    ///
    /// # Errors
    /// As [`Tokens::create`].
    pub async fn create_open(&self, pin: &str, now: SystemTime) -> Result<String, TokenError> {
        let token = Token {
            id: OPEN.to_owned(),
            uses: 0,
            uses_max: None,
            created_s: seconds(now),
            expires_s: None,
            bound: Bound::default(),
        };
        Ok(self.make(token, pin, now).await?.1)
    }

    async fn make(
        &self,
        token: Token,
        pin: &str,
        now: SystemTime,
    ) -> Result<(Token, String), TokenError> {
        let now_s = seconds(now);
        let over: Vec<String> = {
            let kept = self.lock();
            let over = kept.values().filter(|kept| kept.token.is_over(now_s));
            over.map(|kept| kept.token.id.clone()).collect()
        };
        if self.lock().len() - over.len() >= TOKENS_MAX {
            return Err(TokenError::Full);
        }
        let (text, hash) = secret::make(KIND, &token.id)?;
        let kept = Kept {
            token: token.clone(),
            hash,
        };
        let mut batch = vec![Write::put(Tree::Tokens, &token.id, &kept)?];
        batch.extend(over.iter().map(|id| Write::remove(Tree::Tokens, id)));
        self.store.apply(batch).await?;
        let mut all = self.lock();
        all.retain(|id, _| !over.contains(id));
        all.insert(token.id.clone(), kept);
        Ok((token, format!("{text}_{pin}")))
    }

    /// All of them, by id.
    pub fn list(&self) -> Vec<Token> {
        self.lock()
            .values()
            .map(|kept| kept.token.clone())
            .collect()
    }

    /// Whether there is a token of that id.
    pub fn has(&self, id: &str) -> bool {
        self.lock().contains_key(id)
    }

    /// Takes a token away. Returns whether it was there.
    ///
    /// # Errors
    /// The store's; it is refused all the same until a restart.
    pub async fn revoke(&self, id: &str) -> Result<bool, StoreError> {
        if self.lock().remove(id).is_none() {
            return Ok(false);
        }
        self.store
            .apply(vec![Write::remove(Tree::Tokens, id)])
            .await?;
        Ok(true)
    }

    /// Whom a token is for, if it may be used now.
    ///
    /// # Errors
    /// Why it may not.
    pub fn look(&self, claim: Claim<'_>, now: SystemTime) -> Result<Bound, TokenError> {
        let all = self.lock();
        let kept = all.get(claim.id).ok_or(TokenError::Wrong)?;
        if !kept.hash.fits(claim) {
            return Err(TokenError::Wrong);
        }
        kept.token.may_be_used(seconds(now))?;
        Ok(kept.token.bound.clone())
    }

    /// Uses a token once. Of two at the same time with one use left, one gets it.
    ///
    /// # Errors
    /// Why it may not be used; then it was not.
    pub async fn redeem(&self, claim: Claim<'_>, now: SystemTime) -> Result<(), TokenError> {
        let write = {
            let mut all = self.lock();
            let kept = all.get_mut(claim.id).ok_or(TokenError::Wrong)?;
            if !kept.hash.fits(claim) {
                return Err(TokenError::Wrong);
            }
            kept.token.may_be_used(seconds(now))?;
            kept.token.uses = kept.token.uses.saturating_add(1);
            // Unlimited use is not worth a write for each.
            match kept.token.uses_max {
                Some(_) => Some(Write::put(Tree::Tokens, claim.id, kept)?),
                None => None,
            }
        };
        if let Some(write) = write {
            self.store.apply(vec![write]).await?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Token {
    fn may_be_used(&self, now_s: u64) -> Result<(), TokenError> {
        if self.expires_s.is_some_and(|end| now_s >= end) {
            return Err(TokenError::Expired);
        }
        match self.uses_max.is_some_and(|max| self.uses >= max) {
            true => Err(TokenError::UsedUp),
            false => Ok(()),
        }
    }

    /// Over for so long that nobody asks any more why it is refused.
    fn is_over(&self, now_s: u64) -> bool {
        let since = self.expires_s.unwrap_or(u64::MAX);
        now_s >= since.saturating_add(24 * 3600)
    }
}

impl Bound {
    /// Whether the token is for this node, which says to be of this site and is declared with these labels.
    ///
    /// # Errors
    /// [`TokenError::NotFor`].
    pub fn check(
        &self,
        node: &NodeId,
        site: Option<&SiteName>,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), TokenError> {
        if self.node.as_ref().is_some_and(|own| own != node) {
            return Err(TokenError::NotFor("node"));
        }
        if self.site.as_ref().is_some_and(|own| Some(own) != site) {
            return Err(TokenError::NotFor("site"));
        }
        let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        match self.labels.iter().all(has) {
            true => Ok(()),
            false => Err(TokenError::NotFor(
                "label: the node must be declared with it, in a Node resource",
            )),
        }
    }
}

impl TokenAsked {
    fn check(self, id: String, now_s: u64) -> Result<Token, TokenError> {
        let wrong = |field, problem: String| Err(TokenError::Field { field, problem });
        let uses_max = self.uses_max.unwrap_or(1);
        if !(1..=USES_MAX).contains(&uses_max) {
            return wrong("uses_max", format!("must be from 1 to {USES_MAX}"));
        }
        let lasts_s = self.lasts_s.unwrap_or(LASTS_S);
        if !(1..=LASTS_S_MAX).contains(&lasts_s) {
            return wrong("lasts_s", format!("must be from 1 to {LASTS_S_MAX}"));
        }
        if self.labels.len() > isobar_mesh_api::resource::LABELS_MAX {
            return wrong("labels", "has too many entries".to_owned());
        }
        if self.workload.as_ref().is_some_and(is_reserved) {
            return wrong("workload", "is the controllers' own account".to_owned());
        }
        Ok(Token {
            id,
            uses: 0,
            uses_max: Some(uses_max),
            created_s: now_s,
            expires_s: Some(now_s + lasts_s),
            bound: Bound {
                node: self.node,
                site: self.site,
                labels: self.labels,
                workload: self.workload,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreCounts;
    use crate::store::sled::SledStore;
    use std::time::Duration;

    async fn tokens() -> (tempfile::TempDir, Arc<dyn Store>, Tokens) {
        let directory = tempfile::tempdir().unwrap();
        let store = SledStore::open(directory.path(), StoreCounts::default()).await;
        let store: Arc<dyn Store> = Arc::new(store.unwrap());
        let tokens = Tokens::open(store.clone()).await.unwrap();
        (directory, store, tokens)
    }

    #[tokio::test]
    async fn a_token_is_good_for_its_uses_and_its_time_also_over_a_restart() {
        let (_directory, store, tokens) = tokens().await;
        let now = SystemTime::now();
        let twice = TokenAsked {
            uses_max: Some(2),
            ..TokenAsked::default()
        };
        let (token, text) = tokens.create(twice, "pin", now).await.unwrap();
        assert!(text.ends_with("_pin") && !format!("{token:?}").contains(&text[20..60]));
        let claim = Claim::read(KIND, &text).unwrap();
        tokens.redeem(claim, now).await.unwrap();
        let again = Tokens::open(store).await.unwrap();
        again.redeem(claim, now).await.unwrap();
        assert!(matches!(
            again.redeem(claim, now).await,
            Err(TokenError::UsedUp)
        ));
        let later = now + Duration::from_secs(LASTS_S);
        assert!(matches!(again.look(claim, later), Err(TokenError::Expired)));
        assert!(again.revoke(&token.id).await.unwrap());
        assert!(matches!(again.look(claim, now), Err(TokenError::Wrong)));
    }

    #[tokio::test]
    async fn of_two_at_once_one_gets_the_last_use() {
        let (_directory, _store, tokens) = tokens().await;
        let now = SystemTime::now();
        let (_, text) = tokens
            .create(TokenAsked::default(), "pin", now)
            .await
            .unwrap();
        let claim = Claim::read(KIND, &text).unwrap();
        let (a, b) = tokio::join!(tokens.redeem(claim, now), tokens.redeem(claim, now));
        assert!(a.is_ok() != b.is_ok());
        let (_, other) = tokens
            .create(TokenAsked::default(), "pin", now)
            .await
            .unwrap();
        let mixed = format!("enrol_{}_{}", claim.id, other.split('_').nth(2).unwrap());
        let mixed = Claim::read(KIND, &mixed).unwrap();
        assert!(matches!(tokens.look(mixed, now), Err(TokenError::Wrong)));
    }

    #[test]
    fn what_a_token_is_bound_to_must_fit() {
        let node = NodeId::new("a").unwrap();
        let site = SiteName::new("x").unwrap();
        let labels = BTreeMap::from([("role".to_owned(), "camera".to_owned())]);
        let none = BTreeMap::new();
        let bound = Bound {
            node: Some(node.clone()),
            site: Some(site.clone()),
            labels: labels.clone(),
            workload: None,
        };
        assert!(bound.check(&node, Some(&site), &labels).is_ok());
        assert!(
            bound
                .check(&NodeId::new("b").unwrap(), Some(&site), &labels)
                .is_err()
        );
        assert!(bound.check(&node, None, &labels).is_err());
        assert!(bound.check(&node, Some(&site), &none).is_err());
        assert!(Bound::default().check(&node, None, &none).is_ok());
    }

    #[test]
    fn what_cannot_be_is_refused_by_field() {
        let cases: [(&str, &str); 5] = [
            ("workload = 'isobar/controller'", "workload"),
            ("uses_max = 0", "uses_max"),
            ("uses_max = 100001", "uses_max"),
            ("lasts_s = 0", "lasts_s"),
            ("lasts_s = 99999999", "lasts_s"),
        ];
        for (text, field) in cases {
            let asked: TokenAsked = toml::from_str(text).unwrap();
            let error = asked.check("x".to_owned(), 0).unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }
}
