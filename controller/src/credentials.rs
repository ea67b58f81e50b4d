//! The operators' credentials: who they are to the REST API, and what they may do there.
//!
//! A credential is proven by a bearer token, of which the store keeps the hash alone. The first one, `admin`, is
//! made at the first start and its token written to the file `admin-token` (mode 0600); no token is shown a second time.
//!
//! **Invariant**: there always is an admin whose credential does not expire, so nobody can lock everybody out.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use isobar_mesh_api::names::NodeId;
use serde::{Deserialize, Serialize};

use crate::access::{Caller, Role};
use crate::authority::{AuthorityError, seconds};
use crate::files::{FileError, Readers, write_whole};
use crate::secret::{self, Claim, SecretHash};
use crate::store::{Store, StoreError, Tree, Write, read_all};

/// The first admin's token in the data directory.
pub const ADMIN_TOKEN_FILE: &str = "admin-token";
/// What the text of a credential's token begins with.
pub const KIND: &str = "credential";
/// Most credentials; one more is refused.
pub const CREDENTIALS_MAX: usize = 1024;
/// Most namespaces that one credential may be limited to.
pub const NAMESPACES_MAX: usize = 64;

/// The first credential's name.
const FIRST: &str = "admin";

/// Why credentials do not open or change.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The store.
    #[error("the credentials are not stored")]
    Store(#[from] StoreError),
    /// The first token's file.
    #[error("the first credential cannot be handed over")]
    File(#[from] FileError),
    /// No random numbers.
    #[error("a credential cannot be made")]
    Random(#[from] AuthorityError),
    /// Somebody has that name.
    #[error("there is a credential {0}; revoke it first")]
    Exists(String),
    /// As many as there may be.
    #[error("there are {CREDENTIALS_MAX} credentials, which is all that are kept; revoke some")]
    Full,
    /// Taking it away would leave nobody who can give it back.
    #[error("{0} is the last admin whose credential does not expire; make another one first")]
    LastAdmin(String),
    /// A field of a request.
    #[error("{field} {problem}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// One credential, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Credential {
    /// Its name, in the audit log too.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Where an operator may write; everywhere when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// When it was made, seconds since 1970.
    pub created_s: u64,
    /// When it ends, seconds since 1970; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_s: Option<u64>,
}

/// What is asked for.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialAsked {
    /// See [`Credential::name`].
    pub name: String,
    /// See [`Credential::role`].
    pub role: Role,
    /// See [`Credential::namespaces`].
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// How long it lasts, in seconds; for ever when absent.
    #[serde(default)]
    pub lasts_s: Option<u64>,
}

/// What the store keeps.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    credential: Credential,
    token: SecretHash,
}

/// Whom a token belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// To this one.
    Known(Caller),
    /// To a credential that ended then, seconds since 1970.
    Expired(u64),
    /// To nobody: it is wrong, or was revoked.
    Nobody,
}

/// All credentials.
pub struct Credentials {
    store: Arc<dyn Store>,
    kept: Mutex<BTreeMap<String, Kept>>,
}

impl Credentials {
    /// Reads what the store has.
    ///
    /// # Errors
    /// The store's.
    pub async fn open(store: Arc<dyn Store>) -> Result<Credentials, StoreError> {
        let credentials = Credentials {
            store,
            kept: Mutex::default(),
        };
        credentials.reload().await?;
        Ok(credentials)
    }

    /// Reads what the store has now: another controller may have changed it.
    ///
    /// # Errors
    /// The store's.
    pub async fn reload(&self) -> Result<(), StoreError> {
        let kept = read_all(&*self.store, Tree::Credentials).await?;
        *self.lock() = kept.into_iter().collect();
        Ok(())
    }

    /// Makes the first admin when there is none; its token goes to a file.
    ///
    /// # Errors
    /// The store, the file or the random numbers fail.
    pub async fn make_first(
        &self,
        directory: &Path,
        now: SystemTime,
    ) -> Result<(), CredentialError> {
        let has_admin = self.lock().values().any(is_lasting_admin);
        if !has_admin {
            let first = Credential {
                name: FIRST.to_owned(),
                role: Role::Admin,
                namespaces: Vec::new(),
                created_s: seconds(now),
                expires_s: None,
            };
            let (token, hash) = secret::make(KIND, FIRST)?;
            let path = directory.join(ADMIN_TOKEN_FILE);
            write_whole(&path, format!("{token}\n").as_bytes(), Readers::Owner)?;
            self.keep(first, hash).await?;
            tracing::info!(file = %path.display(), "the first admin's token is in a file");
        }
        Ok(())
    }

    /// Makes a credential. Returns it with its token, which nothing tells again.
    ///
    /// # Errors
    /// A field that is wrong, a name that is taken, too many, or the store fails.
    pub async fn create(
        &self,
        asked: CredentialAsked,
        now: SystemTime,
    ) -> Result<(Credential, String), CredentialError> {
        let credential = asked.check(now)?;
        {
            let kept = self.lock();
            if kept.contains_key(&credential.name) {
                return Err(CredentialError::Exists(credential.name));
            }
            if kept.len() >= CREDENTIALS_MAX {
                return Err(CredentialError::Full);
            }
        }
        let (token, hash) = secret::make(KIND, &credential.name)?;
        self.keep(credential.clone(), hash).await?;
        Ok((credential, token))
    }

    /// Takes a credential away; from then on it is refused. Returns whether it was there.
    ///
    /// # Errors
    /// It is the last lasting admin's, or the store fails; it is refused all the same until a restart.
    pub async fn revoke(&self, name: &str) -> Result<bool, CredentialError> {
        {
            let mut kept = self.lock();
            let Some(found) = kept.get(name) else {
                return Ok(false);
            };
            let lasting = kept.values().filter(|kept| is_lasting_admin(kept)).count();
            if is_lasting_admin(found) && lasting == 1 {
                return Err(CredentialError::LastAdmin(name.to_owned()));
            }
            kept.remove(name);
        }
        let remove = Write::remove(Tree::Credentials, name);
        self.store.apply(vec![remove]).await?;
        Ok(true)
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<Credential> {
        self.lock()
            .values()
            .map(|kept| kept.credential.clone())
            .collect()
    }

    /// Whether there is a credential of that name.
    pub fn has(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }

    /// Who has the token.
    pub fn who(&self, claim: Claim<'_>, now: SystemTime) -> Who {
        let kept = self.lock();
        let found = kept.get(claim.id).filter(|kept| kept.token.fits(claim));
        let Some(Kept { credential, .. }) = found else {
            return Who::Nobody;
        };
        match credential.expires_s {
            Some(end) if seconds(now) >= end => Who::Expired(end),
            _ => Who::Known(Caller {
                name: credential.name.clone(),
                role: credential.role,
                namespaces: credential.namespaces.clone(),
            }),
        }
    }

    async fn keep(&self, credential: Credential, token: SecretHash) -> Result<(), CredentialError> {
        let name = credential.name.clone();
        let kept = Kept { credential, token };
        let write = Write::put(Tree::Credentials, &name, &kept)?;
        self.store.apply(vec![write]).await?;
        self.lock().insert(name, kept);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CredentialAsked {
    fn check(self, now: SystemTime) -> Result<Credential, CredentialError> {
        let wrong = |field, problem: String| Err(CredentialError::Field { field, problem });
        if let Err(error) = NodeId::new(&self.name) {
            return wrong("name", format!("is no name: {error}"));
        }
        if self.namespaces.len() > NAMESPACES_MAX {
            return wrong(
                "namespaces",
                format!("has more than {NAMESPACES_MAX} entries"),
            );
        }
        if let Some(name) = self.namespaces.iter().find(|n| NodeId::new(n).is_err()) {
            return wrong("namespaces", format!("has {name:?}, which is no name"));
        }
        if !self.namespaces.is_empty() && self.role != Role::Operator {
            return wrong("namespaces", "limit operators alone".to_owned());
        }
        if self.lasts_s == Some(0) {
            return wrong("lasts_s", "must be 1 or more".to_owned());
        }
        let created_s = seconds(now);
        Ok(Credential {
            name: self.name,
            role: self.role,
            namespaces: self.namespaces,
            created_s,
            expires_s: self.lasts_s.map(|lasts| created_s.saturating_add(lasts)),
        })
    }
}

fn is_lasting_admin(kept: &Kept) -> bool {
    kept.credential.role == Role::Admin && kept.credential.expires_s.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreCounts;
    use crate::store::sled::SledStore;
    use std::time::Duration;

    async fn open(directory: &Path) -> Credentials {
        let path = directory.join("store");
        let store = SledStore::open(&path, StoreCounts::default());
        let store = Arc::new(store.await.unwrap());
        let credentials = Credentials::open(store).await.unwrap();
        let made = credentials.make_first(directory, SystemTime::now()).await;
        made.unwrap();
        credentials
    }

    fn asked(name: &str, role: Role) -> CredentialAsked {
        CredentialAsked {
            name: name.to_owned(),
            role,
            namespaces: Vec::new(),
            lasts_s: None,
        }
    }

    #[tokio::test]
    async fn the_first_admin_is_made_once_and_only_its_hash_is_stored() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(ADMIN_TOKEN_FILE);
        drop(open(directory.path()).await);
        let text = std::fs::read_to_string(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_file(&path).unwrap();
        let again = open(directory.path()).await;
        assert!(!path.exists(), "a second first admin was made");
        let claim = Claim::read(KIND, text.trim()).unwrap();
        let Who::Known(caller) = again.who(claim, SystemTime::now()) else {
            panic!("the first admin is nobody");
        };
        assert_eq!((caller.name.as_str(), caller.role), ("admin", Role::Admin));
        let stored = again.store.list(Tree::Credentials).await.unwrap();
        let secret = text.trim().rsplit('_').next().unwrap();
        let stored = String::from_utf8_lossy(&stored[0].1).into_owned();
        assert!(!stored.contains(secret), "{stored}");
    }

    #[tokio::test]
    async fn credentials_end_by_time_and_by_revocation_and_the_last_admin_stays() {
        let directory = tempfile::tempdir().unwrap();
        let all = open(directory.path()).await;
        let now = SystemTime::now();
        let short = CredentialAsked {
            lasts_s: Some(60),
            ..asked("short", Role::Admin)
        };
        let (_, token) = all.create(short, now).await.unwrap();
        let claim = Claim::read(KIND, &token).unwrap();
        assert!(matches!(all.who(claim, now), Who::Known(_)));
        let later = all.who(claim, now + Duration::from_secs(61));
        assert_eq!(later, Who::Expired(seconds(now) + 60));
        let refused = all.revoke("admin").await.unwrap_err();
        assert!(
            matches!(refused, CredentialError::LastAdmin(_)),
            "{refused}"
        );
        all.create(asked("second", Role::Admin), now).await.unwrap();
        assert!(all.revoke("admin").await.unwrap());
        assert!(all.revoke("short").await.unwrap());
        assert_eq!(all.who(claim, now), Who::Nobody);
        assert!(!all.revoke("short").await.unwrap());
        let names: Vec<String> = all.list().into_iter().map(|c| c.name).collect();
        assert_eq!(names, ["second"]);
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused_by_field() {
        let directory = tempfile::tempdir().unwrap();
        let all = open(directory.path()).await;
        let now = SystemTime::now();
        let limited = |role, namespaces: &[&str]| CredentialAsked {
            namespaces: namespaces.iter().map(|&n| n.to_owned()).collect(),
            ..asked("x", role)
        };
        let cases = [
            (asked("A b", Role::Viewer), "name"),
            (asked("admin", Role::Viewer), "revoke it first"),
            (limited(Role::Viewer, &["shop"]), "operators alone"),
            (limited(Role::Operator, &["A"]), "namespaces"),
            (
                CredentialAsked {
                    lasts_s: Some(0),
                    ..asked("x", Role::Viewer)
                },
                "lasts_s",
            ),
        ];
        for (ask, word) in cases {
            let error = all.create(ask, now).await.unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        all.create(limited(Role::Operator, &["shop"]), now)
            .await
            .unwrap();
    }
}
