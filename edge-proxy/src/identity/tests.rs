use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};

/// A certificate authority for tests.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) roots_pem: String,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let roots_pem = params.self_signed(&key).unwrap().pem();
        Authority {
            issuer: Issuer::new(params, key),
            roots_pem,
        }
    }

    /// Key and chain for these URIs.
    pub(crate) fn issue(&self, uris: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()))
            .collect();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        (key.serialize_pem(), chain)
    }
}

#[test]
fn whose_certificate_is_taken() {
    let ours = Authority::new();
    let theirs = Authority::new();
    let a = "spiffe://isobar.local/node/a";
    let cases: [(&Authority, &[&str], bool); 7] = [
        (&ours, &[a], true),
        (&theirs, &[a], false),
        (&ours, &["spiffe://isobar.local/node/b"], false),
        (&ours, &["spiffe://other.local/node/a"], false),
        (&ours, &[a, "spiffe://isobar.local/node/b"], false),
        (&ours, &[a, "https://a"], false),
        (&ours, &[], false),
    ];
    let node = NodeId::new("a").unwrap();
    for (authority, uris, good) in cases {
        let (key, chain) = authority.issue(uris);
        let identity = Identity::new("isobar.local", &node, &key, &chain, &ours.roots_pem);
        assert_eq!(identity.is_ok(), good, "{uris:?}: {:?}", identity.err());
    }
}

#[test]
fn a_key_that_does_not_fit_is_refused() {
    let authority = Authority::new();
    let uri = ["spiffe://isobar.local/node/a"];
    let ((_, chain), (other_key, _)) = (authority.issue(&uri), authority.issue(&uri));
    let node = NodeId::new("a").unwrap();
    let roots = &authority.roots_pem;
    let identity = Identity::new("isobar.local", &node, &other_key, &chain, roots);
    assert!(matches!(identity, Err(IdentityError::Tls(_))));
}

#[test]
fn files_are_kept_and_read_back() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let node = NodeId::new("a").unwrap();
    let load = || files::load(dir.path(), "isobar.local", &node);
    assert!(load().unwrap().is_none());
    let key = files::key(dir.path()).unwrap();
    assert_eq!(files::key(dir.path()).unwrap(), key);
    let mode = std::fs::metadata(dir.path().join(files::KEY_FILE)).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    assert!(
        files::certificate_request(&key)
            .unwrap()
            .contains("REQUEST")
    );

    let authority = Authority::new();
    let (key, chain_pem) = authority.issue(&["spiffe://isobar.local/node/a"]);
    let certificate = isobar_mesh_api::message::Certificate {
        chain_pem,
        roots_pem: authority.roots_pem.clone(),
    };
    // For another key than the node's.
    let adopt = || files::adopt(dir.path(), "isobar.local", &node, &certificate);
    assert!(adopt().is_err());
    assert!(load().unwrap().is_none());
    std::fs::write(dir.path().join(files::KEY_FILE), key).unwrap();
    adopt().unwrap();
    assert_eq!(load().unwrap().unwrap().id.as_node(), Some(&node));
}
