//! The certificate authority: a root, an intermediate that signs, and how one root follows another.
//!
//! ```text
//! store (keys sealed) ─▶ Kept ─▶ Signing: the active root's intermediate ─▶ leaves, 24 h
//!                         └────▶ Trust: whom to believe, who is revoked ─▶ every control stream
//! ```
//!
//! - [`certificates`]: what certificates look like; [`request`]: what a proxy may ask for; [`peer`]: whom one that is shown names;
//! - [`seal`]: keys at rest; [`kept`]: what the store has;
//! - [`rotation`]: when a root follows another; [`change`]: the steps of it, importing and revoking;
//! - [`keeper`]: the task that takes due steps, and what metrics say of them.
//!
//! **Invariant**: of a certificate request only the public key is used, after the request's own
//! signature proved that the sender has the private one. Names and usages are decided here.
//! **Invariant**: no private key is stored or shown unsealed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isobar_mesh_api::identity::{SpiffeId, Subject, is_reserved, node_name};
use isobar_mesh_api::message::{Certificate, Revoked, Trust};
use isobar_mesh_api::names::{AccountName, NodeId};
use isobar_mesh_api::validity::Validity;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::{Semaphore, watch};

use crate::files::{FileError, Readers, write_whole};
use crate::store::{Store, StoreError, Tree, Write, read_all, read_one};

pub mod certificates;
pub mod change;
pub mod keeper;
pub mod kept;
pub mod peer;
pub mod request;
pub mod rotation;
pub mod seal;

use certificates::Algorithm;
use kept::{Kept, Signing};
pub use peer::{PeerError, peer_identity};
use seal::Seal;

/// How far back a certificate's validity begins, for edge servers whose clock is late: so far clocks may differ.
pub const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// Most revocations in force at once; they end when what they revoke has expired.
pub const REVOKED_MAX: usize = 1024;

/// The one key of the store's tree.
const STATE: &str = "state";
/// The roots in the data directory, for programs that are not proxies.
const ROOTS_FILE: &str = "ca.pem";

/// What went wrong in the authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file of the data directory.
    #[error("the authority's files are not usable")]
    File(#[from] FileError),
    /// The store.
    #[error("the authority is not stored")]
    Store(#[from] StoreError),
    /// The sealing key is not there.
    #[error(
        "{} is missing, and only that key opens the authority in the store; restore it from a backup, or name \
         the right one in authority_key_file",
        .0.display()
    )]
    KeyMissing(PathBuf),
    /// The sealing key is too easy to guess.
    #[error(
        "the authority's key must have {} random characters or more",
        seal::KEY_TEXT_LEN_MIN
    )]
    KeyShort,
    /// The sealing key is another one.
    #[error(
        "the authority's key does not open what the store has; use the key that the store was made with"
    )]
    Sealed,
    /// The store holds something else than it should.
    #[error("the stored authority has no sound {0}; restore the store from a backup")]
    Damaged(&'static str),
    /// The authority is of another trust domain.
    #[error(
        "the stored authority is of trust domain {have:?}, the configuration says {want:?}; \
         change it back, or use another data_dir"
    )]
    TrustDomain {
        /// What the root says.
        have: String,
        /// What the configuration says.
        want: String,
    },
    /// The certificate request is not one, or its signature is wrong.
    #[error("is not a certificate request signed by its own key")]
    Request(#[source] rcgen::Error),
    /// The certificate request asks for what it may not have.
    #[error("{0}")]
    RequestAsks(&'static str),
    /// A node that a workload's certificate cannot name.
    #[error(
        "cannot be named in a workload's certificate: {0:?} must be a name that DNS takes, with parts of at most 63 bytes and at \
         most 253 in all"
    )]
    NodeName(String),
    /// The account whose identity is the controllers' own.
    #[error(
        "the identity of the account {0} is the controllers' own; run the workload as another account"
    )]
    Reserved(AccountName),
    /// An authority that is brought does not fit.
    #[error("{0}")]
    Import(&'static str),
    /// A step of a rotation that is not due, or cannot be taken.
    #[error("{0}")]
    Step(&'static str),
    /// Making or signing a certificate failed.
    #[error("a certificate cannot be made")]
    Certificate(#[source] rcgen::Error),
    /// The system gave no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// What an authority is told when it is opened.
#[derive(Debug, Clone)]
pub struct AuthorityOptions {
    /// The trust domain of all certificates.
    pub trust_domain: String,
    /// What new keys of the authority are.
    pub algorithm: Algorithm,
    /// The file with the key that seals private keys; by default `authority.key` in the data directory.
    pub key_file: Option<PathBuf>,
    /// The key itself, which an environment variable may give.
    pub key_text: Option<String>,
}

/// Signs the mesh's certificates and says whom to believe.
pub struct Authority {
    store: Arc<dyn Store>,
    options: AuthorityOptions,
    seal: Seal,
    roots_path: PathBuf,
    inner: RwLock<Inner>,
    trust: watch::Sender<Arc<Trust>>,
    /// Who has an open stream, and the version of [`Trust`] they have said to go by.
    nodes: Mutex<BTreeMap<NodeId, (u64, Option<u64>)>>,
    /// Changes follow one another.
    changing: Semaphore,
}

/// What changes together.
struct Inner {
    kept: Kept,
    signing: Arc<Signing>,
    revoked: BTreeMap<NodeId, kept::KeptRevoked>,
}

/// The controller's own certificate and key.
pub struct Identity {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

impl Authority {
    /// Reads the authority from the store, or makes it there.
    ///
    /// # Errors
    /// The store or files fail, the sealing key is missing or another one, or the trust domain is another.
    pub async fn open(
        store: Arc<dyn Store>,
        directory: &Path,
        options: AuthorityOptions,
        now: SystemTime,
    ) -> Result<Authority, AuthorityError> {
        let found: Option<Kept> = read_one(&*store, Tree::Authority, STATE).await?;
        let seal = seal::open(directory, &options, found.is_some())?;
        let kept = match found {
            Some(kept) => kept,
            None => {
                let root = change::new_root(&options, &seal, None, now)?;
                let kept = Kept::first(root);
                let write = Write::put(Tree::Authority, STATE, &kept)?;
                match store.create(write).await? {
                    true => kept,
                    // Another controller was first.
                    false => read_one(&*store, Tree::Authority, STATE)
                        .await?
                        .ok_or(AuthorityError::Damaged("state"))?,
                }
            }
        };
        kept.check_trust_domain(&options.trust_domain)?;
        let inner = Inner::read(&*store, kept, &seal).await?;
        let (trust, _) = watch::channel(Arc::new(inner.trust(now)?));
        let authority = Authority {
            store,
            options,
            seal,
            roots_path: directory.join(ROOTS_FILE),
            inner: RwLock::new(inner),
            trust,
            nodes: Mutex::default(),
            changing: Semaphore::new(1),
        };
        authority.write_roots()?;
        Ok(authority)
    }

    /// Goes by what the store has now: another controller may have changed it.
    ///
    /// # Errors
    /// The store fails or has something else; what was in force stays.
    pub async fn reload(&self, now: SystemTime) -> Result<(), AuthorityError> {
        let store = &*self.store;
        let kept: Kept = read_one(store, Tree::Authority, STATE)
            .await?
            .ok_or(AuthorityError::Damaged("state"))?;
        let inner = Inner::read(store, kept, &self.seal).await?;
        let trust = inner.trust(now)?;
        *self.inner.write().unwrap_or_else(PoisonError::into_inner) = inner;
        if **self.trust.borrow() != trust {
            self.write_roots()?;
            self.trust.send_replace(trust.into());
        }
        Ok(())
    }

    /// The trust domain of all certificates.
    pub fn trust_domain(&self) -> &str {
        &self.options.trust_domain
    }

    /// Whom to believe, now and whenever it changes.
    pub fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }

    /// All roots to believe, the active one first.
    ///
    /// # Errors
    /// The store had something else.
    pub fn roots(&self) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        self.read(|inner| inner.kept.roots())
    }

    /// What new enrolment tokens tell proxies to know the controller by: the active root's id.
    ///
    /// # Errors
    /// The store had no active root.
    pub fn pin(&self) -> Result<String, AuthorityError> {
        self.read(|inner| Ok(inner.kept.active()?.id.clone()))
    }

    /// A certificate for a node's own key.
    ///
    /// # Errors
    /// [`AuthorityError::Request`], [`AuthorityError::RequestAsks`]: the request is not sound.
    pub fn issue_node(
        &self,
        node: &NodeId,
        csr_pem: &str,
        now: SystemTime,
    ) -> Result<Certificate, AuthorityError> {
        let id = SpiffeId::node(self.trust_domain(), node);
        let key = request::key(csr_pem, &id, node)?;
        Ok(self.issue(&id, &[], &key, now)?.1)
    }

    /// A certificate for a workload whose proxy is that node, for the proxy's own key.
    ///
    /// # Errors
    /// As [`Authority::issue_node`]; [`AuthorityError::NodeName`], [`AuthorityError::Reserved`].
    pub fn issue_workload(
        &self,
        node: &NodeId,
        account: &AccountName,
        csr_pem: &str,
        now: SystemTime,
    ) -> Result<Certificate, AuthorityError> {
        if is_reserved(account) {
            return Err(AuthorityError::Reserved(account.clone()));
        }
        let id = SpiffeId::workload(self.trust_domain(), account);
        let name = node_name(self.trust_domain(), node);
        let key = request::key(csr_pem, &id, node)?;
        let names = std::slice::from_ref(&name);
        let (leaf, certificate) = self.issue(&id, names, &key, now)?;
        // What nobody can read in it is worth nothing to its holder.
        let holder = peer_identity(&leaf, self.trust_domain());
        match holder.is_ok_and(|holder| holder.node.as_ref() == Some(node)) {
            true => Ok(certificate),
            false => Err(AuthorityError::NodeName(name)),
        }
    }

    fn issue(
        &self,
        id: &SpiffeId,
        names: &[String],
        key: &rcgen::PublicKey,
        now: SystemTime,
    ) -> Result<(CertificateDer<'static>, Certificate), AuthorityError> {
        let (signing, crossed, roots_pem) = self.read(|inner| {
            let crossed = match inner.kept.roots.len() {
                1 => None,
                _ => inner.kept.active()?.crossed_pem.clone(),
            };
            Ok::<_, AuthorityError>((inner.signing.clone(), crossed, inner.kept.roots_pem()))
        })?;
        let leaf = certificates::leaf(id, names, key, &signing.issuer, now)?;
        let mut chain_pem = kept::pem(&leaf);
        chain_pem.extend(signing.above.iter().map(kept::pem));
        chain_pem.extend(crossed);
        let certificate = Certificate {
            chain_pem,
            roots_pem,
            renewal: None,
        };
        Ok((leaf, certificate))
    }

    /// A new key and certificate for the controller itself, for these DNS names and IP addresses.
    ///
    /// Its chain ends with the roots, though nobody needs them to check it: a proxy that knows no more than a root's
    /// fingerprint finds the root there.
    ///
    /// # Errors
    /// A name that is neither, or no random numbers.
    pub fn issue_controller(
        &self,
        names: &[String],
        now: SystemTime,
    ) -> Result<Identity, AuthorityError> {
        self.issue_own(SpiffeId::controller(self.trust_domain()), names, now)
    }

    /// A new key and certificate for this controller towards the others.
    ///
    /// # Errors
    /// As [`Authority::issue_controller`].
    pub fn issue_peer(&self, name: &NodeId, now: SystemTime) -> Result<Identity, AuthorityError> {
        let id = SpiffeId {
            trust_domain: self.trust_domain().to_owned(),
            subject: Subject::Controller(name.clone()),
        };
        self.issue_own(id, &[], now)
    }

    fn issue_own(
        &self,
        id: SpiffeId,
        names: &[String],
        now: SystemTime,
    ) -> Result<Identity, AuthorityError> {
        let key = certificates::new_key(Algorithm::EcdsaP256)?;
        let (signing, crossed, roots) = self.read(|inner| {
            let crossed = inner.kept.active()?.crossed_pem.clone();
            Ok::<_, AuthorityError>((inner.signing.clone(), crossed, inner.kept.roots()?))
        })?;
        let mut chain = vec![certificates::leaf(&id, names, &key, &signing.issuer, now)?];
        chain.extend(signing.above.iter().cloned());
        chain.extend(kept::certificates(&crossed.unwrap_or_default())?);
        chain.extend(roots);
        Ok(Identity {
            chain,
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }

    /// A node has opened a stream. Returns what to call it when it ends.
    pub fn on_stream(&self, node: &NodeId) -> u64 {
        let mut nodes = self.lock_nodes();
        let serial = nodes.get(node).map_or(0, |(serial, _)| serial + 1);
        nodes.insert(node.clone(), (serial, None));
        serial
    }

    /// A node goes by this version of [`Trust`] now.
    pub fn on_trusted(&self, node: &NodeId, version: u64) {
        if let Some((_, said)) = self.lock_nodes().get_mut(node) {
            *said = Some(version);
        }
    }

    /// A node's stream has ended.
    pub fn on_stream_end(&self, node: &NodeId, serial: u64) {
        let mut nodes = self.lock_nodes();
        if nodes
            .get(node)
            .is_some_and(|(current, _)| *current == serial)
        {
            nodes.remove(node);
        }
    }

    /// How many nodes are connected, and how many of them do not go by the current [`Trust`] yet.
    fn nodes_behind(&self) -> (usize, usize) {
        let version = self.trust.borrow().version;
        let nodes = self.lock_nodes();
        let behind = nodes.values().filter(|(_, said)| *said != Some(version));
        (nodes.len(), behind.count())
    }

    fn write_roots(&self) -> Result<(), AuthorityError> {
        let roots_pem = self.read(|inner| inner.kept.roots_pem());
        Ok(write_whole(
            &self.roots_path,
            roots_pem.as_bytes(),
            Readers::All,
        )?)
    }

    fn read<T>(&self, look: impl FnOnce(&Inner) -> T) -> T {
        look(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock_nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, (u64, Option<u64>)>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    async fn read(store: &dyn Store, kept: Kept, seal: &Seal) -> Result<Inner, AuthorityError> {
        let revoked = read_all(store, Tree::Revocations).await?;
        let named = |(name, kept): (String, _)| Some((NodeId::new(&name).ok()?, kept));
        Ok(Inner {
            signing: Arc::new(kept.active()?.signing(seal)?),
            revoked: revoked.into_iter().filter_map(named).collect(),
            kept,
        })
    }

    /// What proxies are told.
    fn trust(&self, now: SystemTime) -> Result<Trust, AuthorityError> {
        let now_s = seconds(now);
        let in_force = self.revoked.iter().filter(|(_, r)| r.is_in_force(now_s));
        let revoked = in_force.map(|(node, revoked)| Revoked {
            node: node.clone(),
            begins_before_s: revoked.begins_before_s,
        });
        Ok(Trust {
            version: self.kept.version,
            roots_pem: self.kept.roots_pem(),
            signs: self.kept.active()?.id.clone(),
            revoked: revoked.collect(),
        })
    }
}

/// When a certificate begins, seconds since 1970; 0 when it does not say so.
pub fn begins_s(leaf: &CertificateDer<'_>) -> u64 {
    Validity::read(leaf).map_or(0, |validity| seconds(validity.not_before))
}

/// Random bytes.
///
/// # Errors
/// The system gives none.
pub fn random<const N: usize>() -> Result<[u8; N], AuthorityError> {
    let mut bytes = [0; N];
    crypto()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| AuthorityError::Random)?;
    Ok(bytes)
}

/// The cryptography of the whole program.
pub fn crypto() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

/// Seconds since 1970; 0 before.
pub fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
