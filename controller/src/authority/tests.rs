use super::certificates::{INTERMEDIATE_VALID, LEAF_VALID, new_key};
use super::rotation::Step;
use super::*;
use crate::store::StoreCounts;
use crate::store::sled::SledStore;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::pki_types::UnixTime;
use rustls::pki_types::pem::PemObject;

const TD: &str = "isobar.local";
const KEY: &str = "0123456789abcdef0123456789abcdef";

fn options() -> AuthorityOptions {
    AuthorityOptions {
        trust_domain: TD.to_owned(),
        algorithm: Algorithm::EcdsaP256,
        key_file: None,
        key_text: None,
    }
}

struct Place {
    directory: tempfile::TempDir,
    store: Arc<dyn Store>,
}

impl Place {
    async fn new() -> Place {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let store = SledStore::open(&path, StoreCounts::default()).await;
        let store = Arc::new(store.unwrap());
        Place { directory, store }
    }

    async fn open(&self, options: AuthorityOptions) -> Result<Authority, AuthorityError> {
        let now = SystemTime::now();
        Authority::open(self.store.clone(), self.directory.path(), options, now).await
    }
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn request(change: impl FnOnce(&mut CertificateParams)) -> String {
    let key = KeyPair::generate().unwrap();
    request_by(&key, change)
}

fn request_by(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    change(&mut params);
    params.serialize_request(key).unwrap().pem().unwrap()
}

/// Whether somebody who knows these roots alone believes the chain at that time.
fn believed(chain_pem: &str, roots_pem: &str, now: SystemTime) -> Result<(), webpki::Error> {
    let chain = kept::certificates(chain_pem).unwrap();
    let roots = kept::certificates(roots_pem).unwrap();
    let anchors: Vec<_> = roots
        .iter()
        .map(|root| webpki::anchor_from_trusted_cert(root).unwrap())
        .collect();
    let leaf = webpki::EndEntityCert::try_from(&chain[0]).unwrap();
    let since = now.duration_since(UNIX_EPOCH).unwrap();
    leaf.verify_for_usage(
        crypto().signature_verification_algorithms.all,
        &anchors,
        &chain[1..],
        UnixTime::since_unix_epoch(since),
        webpki::KeyUsage::client_auth(),
        None,
        None,
    )
    .map(|_| ())
}

#[tokio::test]
async fn what_is_made_is_kept_and_no_key_is_stored_unsealed() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new().await;
    let first = place.open(options()).await.unwrap();
    let second = place.open(options()).await.unwrap();
    assert_eq!(first.pin().unwrap(), second.pin().unwrap());
    let key = place.directory.path().join("authority.key");
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let stored = place.store.get(Tree::Authority, STATE).await.unwrap();
    let stored = String::from_utf8(stored.unwrap()).unwrap();
    assert!(!stored.contains("PRIVATE"), "{stored}");
    std::fs::remove_file(&key).unwrap();
    let missing = place.open(options()).await.err().unwrap();
    assert!(missing.to_string().contains("authority.key"), "{missing}");
    std::fs::write(&key, KEY).unwrap();
    let other = place.open(options()).await.err().unwrap();
    assert!(matches!(other, AuthorityError::Sealed), "{other}");
}

#[tokio::test]
async fn the_key_may_come_from_elsewhere_and_the_domain_stays() {
    let place = Place::new().await;
    let by_text = AuthorityOptions {
        key_text: Some(KEY.to_owned()),
        algorithm: Algorithm::Ed25519,
        ..options()
    };
    let authority = place.open(by_text.clone()).await.unwrap();
    assert!(!place.directory.path().join("authority.key").exists());
    let file = place.directory.path().join("elsewhere");
    std::fs::write(&file, format!("{KEY}\n")).unwrap();
    let by_file = AuthorityOptions {
        key_file: Some(file),
        ..options()
    };
    let again = place.open(by_file.clone()).await.unwrap();
    assert_eq!(authority.pin().unwrap(), again.pin().unwrap());
    let moved = AuthorityOptions {
        trust_domain: "elsewhere.example".to_owned(),
        ..by_file
    };
    let error = place.open(moved).await.err().unwrap();
    assert!(error.to_string().contains("elsewhere.example"), "{error}");
    let now = SystemTime::now();
    let issued = again.issue_node(&node("a"), &request(|_| {}), now).unwrap();
    believed(&issued.chain_pem, &issued.roots_pem, now).unwrap();
}

#[tokio::test]
async fn leaves_say_who_and_for_how_long() {
    let place = Place::new().await;
    let authority = place.open(options()).await.unwrap();
    let now = SystemTime::now();
    let issued = authority.issue_node(&node("edge-1"), &request(|_| {}), now);
    let issued = issued.unwrap();
    let leaf = CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap();
    let holder = peer_identity(&leaf, TD).unwrap();
    assert_eq!(holder.id.to_string(), "spiffe://isobar.local/node/edge-1");
    assert_eq!(
        (holder.node, holder.id.as_workload()),
        (Some(node("edge-1")), None)
    );
    assert!(matches!(
        peer_identity(&leaf, "other.example"),
        Err(PeerError::TrustDomain(_))
    ));
    let (chain, roots) = (&issued.chain_pem, &issued.roots_pem);
    let second = Duration::from_secs(1);
    believed(chain, roots, now).unwrap();
    believed(chain, roots, now - CLOCK_SKEW + second).unwrap();
    believed(chain, roots, now + LEAF_VALID - second).unwrap();
    let late = believed(chain, roots, now + LEAF_VALID + second);
    assert!(matches!(late, Err(webpki::Error::CertExpired { .. })));
    let early = believed(chain, roots, now - CLOCK_SKEW - second);
    assert!(matches!(early, Err(webpki::Error::CertNotValidYet { .. })));
}

#[tokio::test]
async fn a_workloads_leaf_says_who_it_is_and_at_which_node() {
    let place = Place::new().await;
    let authority = place.open(options()).await.unwrap();
    let now = SystemTime::now();
    let front = AccountName::new("shop/front").unwrap();
    let own_uri = "spiffe://isobar.local/ns/shop/sa/front";
    let asking = |uris: &[&str], names: &[&str]| {
        let uris = uris
            .iter()
            .map(|name| SanType::URI((*name).try_into().unwrap()));
        let names = names
            .iter()
            .map(|name| SanType::DnsName((*name).try_into().unwrap()));
        let all = uris.chain(names).collect();
        request(|params| params.subject_alt_names = all)
    };
    for csr in [
        asking(&[], &[]),
        asking(&[own_uri], &["p-1.shop.node.isobar.local"]),
    ] {
        let issued = authority.issue_workload(&node("p-1.shop"), &front, &csr, now);
        let issued = issued.unwrap();
        let leaf = CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap();
        let holder = peer_identity(&leaf, TD).unwrap();
        assert_eq!(holder.id.to_string(), own_uri);
        assert_eq!(holder.node, Some(node("p-1.shop")));
        assert_eq!(holder.account(), Some(front.clone()));
        believed(&issued.chain_pem, &issued.roots_pem, now).unwrap();
    }
    let others = [
        asking(&["spiffe://isobar.local/ns/shop/sa/admin"], &[]),
        asking(&["spiffe://isobar.local/node/p-1.shop"], &[]),
        asking(&[own_uri], &["p-2.shop.node.isobar.local"]),
        asking(&[], &["localhost"]),
    ];
    for csr in others {
        let refused = authority.issue_workload(&node("p-1.shop"), &front, &csr, now);
        assert!(matches!(refused, Err(AuthorityError::RequestAsks(_))));
    }
    // A node asks for no workload's name either.
    let csr = asking(&[], &["a.node.isobar.local"]);
    let refused = authority.issue_node(&node("a"), &csr, now);
    assert!(matches!(refused, Err(AuthorityError::RequestAsks(_))));
    // What a DNS name cannot say, and whose identity is not to be had.
    let sound = asking(&[], &[]);
    let (long, dots) = ("a".repeat(64), "a..b");
    for name in [long.as_str(), dots] {
        let refused = authority.issue_workload(&node(name), &front, &sound, now);
        assert!(
            matches!(refused, Err(AuthorityError::NodeName(_))),
            "{name}"
        );
    }
    let controller = AccountName::new("isobar/controller").unwrap();
    let refused = authority.issue_workload(&node("a"), &controller, &sound, now);
    assert!(matches!(refused, Err(AuthorityError::Reserved(_))));
    // The controller's own certificate names no node, whatever names its operator gives it.
    let names = ["a.node.isobar.local".to_owned()];
    let own = authority.issue_controller(&names, now).unwrap();
    assert_eq!(peer_identity(&own.chain[0], TD).unwrap().node, None);
}

#[tokio::test]
async fn requests_that_ask_for_more_than_a_node_has_are_refused() {
    let place = Place::new().await;
    let authority = place.open(options()).await.unwrap();
    let uri = |name: &str| SanType::URI(name.try_into().unwrap());
    let own = request(|p| p.subject_alt_names = vec![uri("spiffe://isobar.local/node/a")]);
    let issue = |csr: &str| authority.issue_node(&node("a"), csr, SystemTime::now());
    issue(&own).unwrap();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    issue(&request_by(&p384, |_| {})).unwrap();
    let other = request(|p| p.subject_alt_names = vec![uri("spiffe://isobar.local/node/b")]);
    let dns = request(|p| p.subject_alt_names = vec![SanType::DnsName("b".try_into().unwrap())]);
    let ca = request(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let signing = request(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]);
    let cases = [
        (other, "name"),
        (dns, "name"),
        (ca, "authority"),
        (signing, "usage"),
    ];
    for (csr, word) in cases {
        let error = issue(&csr).err().unwrap();
        let said = error.to_string();
        assert!(matches!(error, AuthorityError::RequestAsks(_)), "{said}");
        assert!(said.contains(word), "{said}");
    }
    let sound = request(|_| {});
    let body: String = sound.lines().filter(|l| !l.starts_with('-')).collect();
    let mut forged = sound.clone();
    let at = forged.len() - 45;
    let letter = if forged.as_bytes()[at] == b'A' {
        "B"
    } else {
        "A"
    };
    forged.replace_range(at..=at, letter);
    for csr in ["", "x", &body, &forged, WEAK_RSA] {
        let error = issue(csr).err();
        assert!(matches!(error, Some(AuthorityError::Request(_))), "{csr}");
    }
    let strong = issue(RSA_2048).err().unwrap().to_string();
    assert!(strong.contains("P-256"), "{strong}");
}

#[tokio::test]
async fn a_root_follows_another_and_everybody_believes_at_every_step() {
    let place = Place::new().await;
    let authority = place.open(options()).await.unwrap();
    let now = SystemTime::now();
    let csr = request(|_| {});
    let issue = || authority.issue_node(&node("a"), &csr, now).unwrap();
    let mut told = authority.trust();
    let step = async |step| authority.step(step, now).await;
    for early in [Step::Switch, Step::Retire] {
        let refused = step(early).await;
        assert!(matches!(refused, Err(AuthorityError::Step(_))));
    }
    let before = issue();
    step(Step::Begin).await.unwrap();
    assert!(matches!(
        step(Step::Begin).await,
        Err(AuthorityError::Step(_))
    ));
    let added = issue();
    step(Step::Switch).await.unwrap();
    let switched = issue();
    // Who was away since before, who heard of the new root, and who is new: all believe all.
    for chain in [&before, &added, &switched] {
        for roots in [&before, &added, &switched] {
            believed(&chain.chain_pem, &roots.roots_pem, now).unwrap();
        }
    }
    assert_eq!(told.borrow_and_update().version, 3);
    step(Step::Retire).await.unwrap();
    let retired = issue();
    for roots in [&added, &switched, &retired] {
        believed(&retired.chain_pem, &roots.roots_pem, now).unwrap();
    }
    let old = believed(&before.chain_pem, &retired.roots_pem, now);
    assert!(matches!(old, Err(webpki::Error::UnknownIssuer)));
    // The controller is still known by the first root, to nodes that were away all the time.
    let own = authority
        .issue_controller(&["localhost".to_owned()], now)
        .unwrap();
    let own: String = own.chain.iter().map(kept::pem).collect();
    believed(&own, &before.roots_pem, now).unwrap();
    let again = place.open(options()).await.unwrap();
    assert_eq!(again.pin().unwrap(), authority.pin().unwrap());
    assert_eq!(
        told.borrow_and_update().version,
        again.trust().borrow().version
    );
}

#[tokio::test]
async fn an_intermediate_follows_another_unnoticed() {
    let place = Place::new().await;
    let authority = place.open(options()).await.unwrap();
    let now = SystemTime::now();
    let csr = request(|_| {});
    let before = authority.issue_node(&node("a"), &csr, now).unwrap();
    authority.step(Step::Renew, now).await.unwrap();
    let after = authority.issue_node(&node("a"), &csr, now).unwrap();
    assert_eq!(before.roots_pem, after.roots_pem);
    believed(&before.chain_pem, &after.roots_pem, now).unwrap();
    believed(&after.chain_pem, &before.roots_pem, now).unwrap();
    let status = authority.status(now).unwrap();
    assert_eq!(
        status.roots[0].issuer_ends_s,
        seconds(now + INTERMEDIATE_VALID)
    );
}

#[tokio::test]
async fn a_revoked_node_is_refused_until_it_enrols_anew() {
    let place = Place::new().await;
    let authority = place.open(options()).await.unwrap();
    let now = SystemTime::now();
    let begins = |at: SystemTime| seconds(at) - CLOCK_SKEW.as_secs();
    authority.revoke(&node("a"), now).await.unwrap();
    assert!(authority.is_revoked(&node("a"), begins(now)));
    assert!(!authority.is_revoked(&node("a"), begins(now + Duration::from_secs(1))));
    assert!(!authority.is_revoked(&node("b"), begins(now)));
    let again = place.open(options()).await.unwrap();
    assert!(again.is_revoked(&node("a"), begins(now)));
    let told = again.trust().borrow().revoked.clone();
    assert_eq!((told.len(), &told[0].node), (1, &node("a")));
    let later = now + LEAF_VALID + CLOCK_SKEW + Duration::from_secs(1);
    assert!(
        again
            .read(|inner| inner.trust(later))
            .unwrap()
            .revoked
            .is_empty()
    );
}

/// An authority of somebody else: an intermediate, its root, and the key of the former.
fn foreign(path_len: u8, now: SystemTime) -> (String, String, String) {
    let authority = |is_ca, name: &str| {
        let mut params = CertificateParams::default();
        params.is_ca = is_ca;
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.not_before = (now - Duration::from_secs(60)).into();
        params.not_after = (now + Duration::from_secs(90 * 24 * 3600)).into();
        params
    };
    let root_key = KeyPair::generate().unwrap();
    let is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = authority(is_ca, "their root")
        .self_signed(&root_key)
        .unwrap();
    let issuer = Issuer::from_ca_cert_der(root.der(), root_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let is_ca = match path_len {
        9 => IsCa::ExplicitNoCa,
        len => IsCa::Ca(BasicConstraints::Constrained(len)),
    };
    let above = authority(is_ca, "their intermediate").signed_by(&key, &issuer);
    (above.unwrap().pem(), root.pem(), key.serialize_pem())
}

#[tokio::test]
async fn an_authority_that_is_brought_takes_over() {
    let place = Place::new().await;
    let authority = place.open(options()).await.unwrap();
    let now = SystemTime::now();
    let csr = request(|_| {});
    let before = authority.issue_node(&node("a"), &csr, now).unwrap();
    let (above, root, key) = foreign(0, now);
    let chain = format!("{above}{root}");
    authority.import(&chain, &key, now).await.unwrap();
    let (added, waiting) = {
        let issued = authority.issue_node(&node("a"), &csr, now).unwrap();
        (issued, authority.status(now).unwrap())
    };
    assert!(waiting.next.contains("24 h"), "{}", waiting.next);
    authority.step(Step::Switch, now).await.unwrap();
    let after = authority.issue_node(&node("a"), &csr, now).unwrap();
    believed(&before.chain_pem, &after.roots_pem, now).unwrap();
    believed(&after.chain_pem, &added.roots_pem, now).unwrap();
    believed(&after.chain_pem, &root, now).unwrap();
    authority.step(Step::Retire, now).await.unwrap();
    let renewed = authority.step(Step::Renew, now).await;
    assert!(matches!(renewed, Err(AuthorityError::Step(_))));
    // The same root again with what follows its intermediate.
    authority.import(&chain, &key, now).await.unwrap();
    assert_eq!(authority.status(now).unwrap().roots.len(), 1);
}

#[tokio::test]
async fn an_authority_that_does_not_fit_is_refused() {
    let place = Place::new().await;
    let authority = place.open(options()).await.unwrap();
    let now = SystemTime::now();
    let (above, root, key) = foreign(0, now);
    let (not_ca, its_root, its_key) = foreign(9, now);
    let other_key = new_key(Algorithm::EcdsaP256).unwrap().serialize_pem();
    let long = 24 * 3600 * 90;
    let late = now + Duration::from_secs(long);
    let cases = [
        (above.clone(), key.clone(), now, "two to six"),
        (format!("{above}{its_root}"), key.clone(), now, "believed"),
        (format!("{above}{root}"), other_key, now, "believed"),
        (format!("{above}{root}"), "x".to_owned(), now, "PKCS #8"),
        (format!("{not_ca}{its_root}"), its_key, now, "sign"),
        (format!("{above}{root}"), key, late, "ends before"),
    ];
    for (chain, key, at, word) in cases {
        let error = authority.import(&chain, &key, at).await.err().unwrap();
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    assert_eq!(authority.status(now).unwrap().roots.len(), 1);
}

/// A request with an RSA key of 1024 bits.
const WEAK_RSA: &str = "\
-----BEGIN CERTIFICATE REQUEST-----\n\
MIIBPzCBqQIBADAAMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCrww9R+W7E\n\
UdRDHACuixXGuEKE1DOPaT2RwXVrH/HEncq+N8pOVDUEmdj/YsOimBFfs5W3xTxO\n\
csZtew3D3WSDMGfh1zEKtRkcvqUUp4h5NoVKhqJJ7YIqGy1gK6F59y7b/XKa724l\n\
i++QaBaxqWu1k0vu5SRwE5f+62iCNnAcEwIDAQABoAAwDQYJKoZIhvcNAQELBQAD\n\
gYEAY6MJXAkkuwpK0IzpLkyxDerZCnVBzx9+b+pIWrPgxXS1I5KpSDHDjIukHD4Z\n\
m4rxJAXh+u/r2ZN+bQZYx3+mO/Q+pReX/ZLEbpcDI54C5pYBRBV5fC3ppc7jqL1q\n\
iguV/aehFKV2rlH6aiGguL9Kc/TyDTptUr5KjlVY9POGexM=\n\
-----END CERTIFICATE REQUEST-----\n\
";

/// A request with an RSA key of 2048 bits.
const RSA_2048: &str = "\
-----BEGIN CERTIFICATE REQUEST-----\n\
MIICRTCCAS0CAQAwADCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBALYI\n\
qVwt4bU49pH/cbw+SJ+eQ7DPzcwRbkMmv/0FSqkq1XpuRlVSANuC0FO0Qj2qXSwX\n\
g9DrmKwD8rdVIcGFvj3YqgKX44HCHYO92U1VEVdyaCXu5RQL8ts8Ji7RWfs7awVF\n\
ujS+/O2Eq7nUa1S5E5B/NtfNrP0TrQqGKLd9qYCARg2IpO/1L2jHGXtCPJUcvJt5\n\
KUmIwQZyohAhCSGuZDAhO6ItErUgKX6V0iVWXqWHQc3L7lCK6AVWK3CKFvOyY576\n\
I7iWXrQMcUkzpbjXztVwXlsDsVLSrvers4zGb0LCHU1i1Er/y7rkOvwSgamcm1oS\n\
owij/x7NrNDrE8wMsh8CAwEAAaAAMA0GCSqGSIb3DQEBCwUAA4IBAQAaK6XnuNKS\n\
a2fsx2Flh8ORYkZSSOZqrIwYMQR4xJmmkV6wHupzIFiC/3GyiGTdwz8pFXo2uRTQ\n\
gAa/euzfEQQoKUyJRrGMv5KumwPmM1BRpOICsdoHSCzRgjEoV5ptGEomF2BchxQ+\n\
fshKmP3wsbS6gC9d8dAjytlLocHeNU4l6tbnUlf31fmFfpFi3B84yEPOwCfcFJ0/\n\
Ty8V45edLhsibXt7bW+lyjvY4z0uOqJmhRlsCv+WazHhfwtfHxkJ/MX5XxLb8RFC\n\
rhRAe8vzTIiuzDKON/d2FwHIoCyRjJ0Hm/PTXoOKuKR36AxVB1krRPIqEpaHZxcc\n\
BUFCSLlP7I1G\n\
-----END CERTIFICATE REQUEST-----\n\
";
