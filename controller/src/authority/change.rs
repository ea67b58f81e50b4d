//! What changes the authority: steps of a rotation, one that the user brings, revocations.
//!
//! Each change is worked out on a copy, stored, and only then in force and told; one follows another.

use std::time::SystemTime;

use isobar_mesh_api::names::NodeId;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, anchor_from_trusted_cert};

use super::certificates::{self, LEAF_VALID};
use super::kept::{self, Kept, KeptRevoked, KeptRoot, chain_purpose, root_id, root_purpose};
use super::rotation::{Stage, Step};
use super::seal::Seal;
use super::{
    Authority, AuthorityError, AuthorityOptions, CLOCK_SKEW, Inner, REVOKED_MAX, STATE, crypto,
    seconds,
};
use crate::store::{Tree, Write};

/// Most certificates of a chain that is brought, root included.
const IMPORT_LEN_MAX: usize = 6;

impl Authority {
    /// Takes a step, whether or not it is due by itself.
    ///
    /// # Errors
    /// [`AuthorityError::Step`]: there is nothing to take it with, or another change is under way.
    pub async fn step(&self, step: Step, now: SystemTime) -> Result<(), AuthorityError> {
        self.change(now, |kept| match step {
            Step::Begin => {
                let active = kept.active()?;
                if kept.roots.len() > 1 {
                    return Err(AuthorityError::Step(
                        "a rotation is under way; take its next steps first",
                    ));
                }
                let root = new_root(&self.options, &self.seal, Some(active), now)?;
                kept.roots.push(root);
                Ok(())
            }
            Step::Switch => kept.switch(now),
            Step::Retire => kept.retire(),
            Step::Renew => {
                let active = kept.active()?;
                let issuer = active.issuer(&self.seal)?.ok_or(AuthorityError::Step(
                    "the root's key is not here; bring a new chain with import",
                ))?;
                let id = active.id.clone();
                let key = certificates::new_key(self.options.algorithm)?;
                let chain = certificates::intermediate(&key, &issuer, now)?;
                let sealed = self.seal.close(&chain_purpose(&id), key.serialized_der())?;
                for root in kept.roots.iter_mut().filter(|root| root.id == id) {
                    root.chain_pem = kept::pem(&chain);
                    root.chain_key = sealed.clone();
                }
                Ok(())
            }
        })
        .await
    }

    /// Adds an authority that the user brings: certificates from the one that signs leaves up to the root, and the
    /// key of the first. It takes over as a new root would; its own root when that is the active one already.
    ///
    /// # Errors
    /// [`AuthorityError::Import`] says what does not fit.
    pub async fn import(
        &self,
        chain_pem: &str,
        key_pem: &str,
        now: SystemTime,
    ) -> Result<(), AuthorityError> {
        let brought = Brought::read(chain_pem, key_pem, now)?;
        self.change(now, |kept| {
            let sealed = |id: &str| {
                let key = brought.key.serialized_der();
                self.seal.close(&chain_purpose(id), key)
            };
            let id = root_id(&brought.root);
            if let Some(known) = kept.roots.iter_mut().find(|root| root.id == id) {
                known.chain_pem = brought.above.iter().map(kept::pem).collect();
                known.chain_key = sealed(&id)?;
                return Ok(());
            }
            if kept.roots.len() > 1 {
                return Err(AuthorityError::Step(
                    "a rotation is under way; take its next steps first",
                ));
            }
            kept.roots.push(KeptRoot {
                certificate_pem: kept::pem(&brought.root),
                key: None,
                // Its key would be needed; nodes that are away hold up the switch instead.
                crossed_pem: None,
                chain_pem: brought.above.iter().map(kept::pem).collect(),
                chain_key: sealed(&id)?,
                stage: Stage::Added,
                since_s: seconds(now),
                id,
            });
            Ok(())
        })
        .await
    }

    /// Refuses everything that was issued to a node up to now; everybody is told. It may enrol again.
    ///
    /// # Errors
    /// There are as many revocations as are kept, or the store fails.
    pub async fn revoke(&self, node: &NodeId, now: SystemTime) -> Result<(), AuthorityError> {
        let now_s = seconds(now);
        let revoked = KeptRevoked::until(now_s);
        let over: Vec<NodeId> = self.read(|inner| {
            let over = inner.revoked.iter().filter(|(_, r)| !r.is_in_force(now_s));
            over.map(|(node, _)| node.clone()).collect()
        });
        if self.read(|inner| inner.revoked.len() - over.len()) >= REVOKED_MAX {
            return Err(AuthorityError::Step(
                "there are as many revocations as are kept at once; rotate the root instead",
            ));
        }
        let mut batch = vec![Write::put(Tree::Revocations, node.as_str(), &revoked)?];
        let removed = over
            .iter()
            .map(|n| Write::remove(Tree::Revocations, n.as_str()));
        batch.extend(removed);
        self.store.apply(batch).await?;
        {
            let mut inner = self.inner.write().unwrap_or_else(|e| e.into_inner());
            inner.revoked.retain(|_, r| r.is_in_force(now_s));
            inner.revoked.insert(node.clone(), revoked);
        }
        // Proxies hear of a change by its version.
        self.change(now, |_| Ok(())).await
    }

    /// Whether a certificate of a node that begins at that second counts no more.
    pub fn is_revoked(&self, node: &NodeId, begins_s: u64) -> bool {
        let revoked = self.read(|inner| inner.revoked.get(node).cloned());
        revoked.is_some_and(|revoked| begins_s < revoked.begins_before_s)
    }

    /// Works a change out on a copy, stores it, and puts it into force.
    async fn change(
        &self,
        now: SystemTime,
        work: impl FnOnce(&mut Kept) -> Result<(), AuthorityError>,
    ) -> Result<(), AuthorityError> {
        // Never closed.
        let _turn = self.changing.acquire().await.ok();
        let mut kept = self.read(|inner| inner.kept.clone());
        work(&mut kept)?;
        kept.version += 1;
        let signing = kept.active()?.signing(&self.seal)?;
        let write = Write::put(Tree::Authority, STATE, &kept)?;
        self.store.apply(vec![write]).await?;
        let trust = {
            let mut inner = self.inner.write().unwrap_or_else(|e| e.into_inner());
            let revoked = std::mem::take(&mut inner.revoked);
            *inner = Inner {
                kept,
                signing: signing.into(),
                revoked,
            };
            inner.trust(now)?
        };
        self.write_roots()?;
        self.trust.send_replace(trust.into());
        Ok(())
    }
}

impl Kept {
    /// An authority with its first root.
    pub fn first(root: KeptRoot) -> Kept {
        let stage = Stage::Active;
        Kept {
            version: 1,
            roots: vec![KeptRoot { stage, ..root }],
        }
    }

    fn switch(&mut self, now: SystemTime) -> Result<(), AuthorityError> {
        if self.at(Stage::Added).is_none() {
            return Err(AuthorityError::Step("no root is added; begin a rotation"));
        }
        let since_s = seconds(now);
        for root in &mut self.roots {
            root.stage = match root.stage {
                Stage::Added => Stage::Active,
                Stage::Active | Stage::Retiring => Stage::Retiring,
            };
            root.since_s = since_s;
        }
        Ok(())
    }

    fn retire(&mut self) -> Result<(), AuthorityError> {
        if self.at(Stage::Retiring).is_none() {
            return Err(AuthorityError::Step("no root is retiring"));
        }
        self.roots.retain(|root| root.stage != Stage::Retiring);
        Ok(())
    }

    /// Whether the roots made here are of this trust domain.
    ///
    /// # Errors
    /// [`AuthorityError::TrustDomain`].
    pub fn check_trust_domain(&self, want: &str) -> Result<(), AuthorityError> {
        for root in self.roots.iter().filter(|root| root.key.is_some()) {
            let certificate = root.certificate()?;
            let damaged = || AuthorityError::Damaged("a root certificate");
            let parsed = EndEntityCert::try_from(&certificate).map_err(|_| damaged())?;
            let uri = parsed.valid_uri_names().next().ok_or_else(damaged)?;
            let have = uri.strip_prefix("spiffe://").ok_or_else(damaged)?;
            if have != want {
                return Err(AuthorityError::TrustDomain {
                    have: have.to_owned(),
                    want: want.to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// A new root with its intermediate, crossed by the one before it.
///
/// # Errors
/// No random numbers, or another sealing key.
pub fn new_root(
    options: &AuthorityOptions,
    seal: &Seal,
    before: Option<&KeptRoot>,
    now: SystemTime,
) -> Result<KeptRoot, AuthorityError> {
    let key = certificates::new_key(options.algorithm)?;
    let params = certificates::root(&options.trust_domain, now)?;
    let signed = params.self_signed(&key);
    let certificate: CertificateDer<'static> = signed.map_err(AuthorityError::Certificate)?.into();
    let crossed_pem = match before.map(|root| root.issuer(seal)).transpose()?.flatten() {
        Some(old) => Some(crossed(params, &key, &old)?),
        None => None,
    };
    let id = root_id(&certificate);
    let sealed = seal.close(&root_purpose(&id), key.serialized_der())?;
    let issuer =
        Issuer::from_ca_cert_der(&certificate, key).map_err(AuthorityError::Certificate)?;
    let chain_key = certificates::new_key(options.algorithm)?;
    let chain = certificates::intermediate(&chain_key, &issuer, now)?;
    Ok(KeptRoot {
        certificate_pem: kept::pem(&certificate),
        key: Some(sealed),
        crossed_pem,
        chain_pem: kept::pem(&chain),
        chain_key: seal.close(&chain_purpose(&id), chain_key.serialized_der())?,
        stage: Stage::Added,
        since_s: seconds(now),
        id,
    })
}

/// The same root, by the one before it: an intermediate to who believes that one.
fn crossed(
    mut params: CertificateParams,
    key: &impl rcgen::PublicKeyData,
    before: &Issuer<'_, KeyPair>,
) -> Result<String, AuthorityError> {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.use_authority_key_identifier_extension = true;
    let signed = params.signed_by(key, before);
    let signed: CertificateDer<'static> = signed.map_err(AuthorityError::Certificate)?.into();
    Ok(kept::pem(&signed))
}

/// An authority that the user brings.
struct Brought {
    key: KeyPair,
    /// From the one that signs leaves up to below the root.
    above: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
}

impl Brought {
    fn read(chain_pem: &str, key_pem: &str, now: SystemTime) -> Result<Brought, AuthorityError> {
        let no = |detail| Err(AuthorityError::Import(detail));
        let Ok(mut chain) = kept::certificates(chain_pem) else {
            return no("chain_pem has something that is not a PEM certificate");
        };
        if !(2..=IMPORT_LEN_MAX).contains(&chain.len()) {
            return no(
                "chain_pem must have two to six certificates: the one that signs leaves first, its root last",
            );
        }
        let Ok(key) = KeyPair::from_pem(key_pem) else {
            return no("key_pem is not a private key in PKCS #8 (BEGIN PRIVATE KEY)");
        };
        let root = chain
            .pop()
            .unwrap_or_else(|| CertificateDer::from(Vec::new()));
        let brought = Brought {
            key,
            above: chain,
            root,
        };
        brought.check(now)?;
        Ok(brought)
    }

    /// Signs a leaf on trial and lets a verifier that knows the root alone look at it.
    fn check(&self, now: SystemTime) -> Result<(), AuthorityError> {
        let no = AuthorityError::Import;
        let lowest = self.above.first().ok_or(no("chain_pem is empty"))?;
        let key = KeyPair::try_from(self.key.serialized_der());
        let issuer = key.and_then(|key| Issuer::from_ca_cert_der(lowest, key));
        let issuer =
            issuer.map_err(|_| no("the first certificate is not one that signs others"))?;
        let trial = certificates::new_key(Default::default())?;
        let id = isobar_mesh_api::identity::SpiffeId {
            trust_domain: "trial.isobar".to_owned(),
            subject: isobar_mesh_api::identity::Subject::Workload {
                namespace: "isobar".to_owned(),
                account: "trial".to_owned(),
            },
        };
        let leaf = certificates::leaf(&id, &[], &trial, &issuer, now)?;
        let anchor = anchor_from_trusted_cert(&self.root)
            .map_err(|_| no("the last certificate is no root"))?;
        let anchors = [anchor];
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let verified = EndEntityCert::try_from(&leaf).and_then(|leaf| {
            let usage = webpki::KeyUsage::client_auth();
            let algorithms = crypto().signature_verification_algorithms.all;
            let now = UnixTime::since_unix_epoch(since);
            leaf.verify_for_usage(algorithms, &anchors, &self.above, now, usage, None, None)
                .map(|_| ())
        });
        verified.map_err(|_| {
            no(
                "what this authority signs would not be believed: the key must be the first certificate's, each \
                 certificate signed by the next, allowed to sign, and valid now",
            )
        })?;
        let ends_s = kept::ends(lowest)?;
        match ends_s < seconds(now) + LEAF_VALID.as_secs() + CLOCK_SKEW.as_secs() {
            true => Err(no("the first certificate ends before a leaf by it would")),
            false => Ok(()),
        }
    }
}
