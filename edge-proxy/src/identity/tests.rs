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
        self.issue_as(uris, |_| {})
    }

    /// The same with something of its own.
    fn issue_as(
        &self,
        uris: &[&str],
        own: impl FnOnce(&mut CertificateParams),
    ) -> (String, String) {
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
        own(&mut params);
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
        let identity = Identity::new("isobar.local", &node, &key, &chain, &ours.roots_pem, None);
        assert_eq!(identity.is_ok(), good, "{uris:?}: {:?}", identity.err());
    }
}

#[test]
fn whose_workload_certificate_is_taken() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let front = "spiffe://isobar.local/ns/shop/sa/front";
    let at_a = "a.node.isobar.local";
    let cases: [(&Authority, &str, &[&str], bool); 12] = [
        (&ours, front, &[at_a], true),
        (&theirs, front, &[at_a], false),
        (&ours, front, &[], false),
        (&ours, front, &["b.node.isobar.local"], false),
        (&ours, front, &["a.node.other.local"], false),
        (&ours, front, &["a"], false),
        (&ours, front, &["A.node.isobar.local"], false),
        (&ours, front, &["*.node.isobar.local"], false),
        (&ours, front, &[at_a, "b.node.isobar.local"], false),
        (
            &ours,
            "spiffe://other.local/ns/shop/sa/front",
            &[at_a],
            false,
        ),
        (
            &ours,
            "spiffe://isobar.local/ns/isobar/sa/controller",
            &[at_a],
            false,
        ),
        (&ours, "spiffe://isobar.local/node/b", &[at_a], false),
    ];
    let node = NodeId::new("a").unwrap();
    let roots = &ours.roots_pem;
    for (authority, uri, names, good) in cases {
        let (key, chain) = authority.issue_as(&[uri], |params| with_names(params, names));
        let identity = Identity::new("isobar.local", &node, &key, &chain, roots, None);
        assert_eq!(
            identity.is_ok(),
            good,
            "{uri} {names:?}: {:?}",
            identity.err()
        );
        if let Ok(identity) = identity {
            assert_eq!(identity.workload().unwrap().to_string(), uri);
        }
    }
}

fn with_names(params: &mut CertificateParams, names: &[&str]) {
    let names = names.iter().map(|name| (*name).try_into().unwrap());
    params.subject_alt_names.extend(names.map(SanType::DnsName));
}

#[test]
fn a_key_that_does_not_fit_is_refused() {
    let authority = Authority::new();
    let uri = ["spiffe://isobar.local/node/a"];
    let ((_, chain), (other_key, _)) = (authority.issue(&uri), authority.issue(&uri));
    let node = NodeId::new("a").unwrap();
    let roots = &authority.roots_pem;
    let identity = Identity::new("isobar.local", &node, &other_key, &chain, roots, None);
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
        renewal: None,
    };
    // For another key than the node's.
    let adopt = || files::adopt(dir.path(), "isobar.local", &node, &certificate);
    assert!(adopt().is_err());
    assert!(load().unwrap().is_none());
    std::fs::write(dir.path().join(files::KEY_FILE), key).unwrap();
    adopt().unwrap();
    assert_eq!(load().unwrap().unwrap().id.as_node(), Some(&node));
}

#[test]
fn hostile_certificates_are_refused_by_name() {
    use rustls::{CertificateError as E, Error};
    let authority = Authority::new();
    let node = NodeId::new("a").unwrap();
    let uri = ["spiffe://isobar.local/node/a"];
    let year = |year| rcgen::date_time_ymd(year, 1, 1);
    let good = authority.issue(&uri);
    let front = ["spiffe://isobar.local/ns/shop/sa/front"];
    let workload = authority.issue_as(&front, |p| with_names(p, &["a.node.isobar.local"]));
    let expired = authority.issue_as(&uri, |p| p.not_after = year(2020));
    let early = authority.issue_as(&uri, |p| p.not_before = year(2400));
    let is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = authority.issue_as(&uri, |p| p.is_ca = is_ca);
    let usage = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let server = authority.issue_as(&uri, |p| p.extended_key_usages = usage.clone());
    let mut long = good.clone();
    for _ in 0..verify::CHAIN_LEN_MAX {
        long.1.push_str(&authority.roots_pem);
    }
    let revoked = Trust {
        version: 2,
        roots_pem: authority.roots_pem.clone(),
        signs: String::new(),
        revoked: vec![isobar_mesh_api::message::Revoked {
            node: node.clone(),
            begins_before_s: u64::MAX,
        }],
    };
    let cases = [
        (&expired, None, E::Expired),
        (&early, None, E::NotValidYet),
        (&ca, None, E::BadEncoding),
        (&server, None, E::BadEncoding),
        (&long, None, E::BadEncoding),
        (&good, Some(&revoked), E::Revoked),
        (&workload, Some(&revoked), E::Revoked),
    ];
    let read = |(key, chain): &(String, String), trust: Option<&Trust>| {
        Identity::new(
            "isobar.local",
            &node,
            key,
            chain,
            &authority.roots_pem,
            trust,
        )
    };
    for (certificate, trust, expected) in cases {
        match read(certificate, trust).err() {
            Some(IdentityError::Tls(Error::InvalidCertificate(error))) => {
                assert_eq!(error, expected);
            }
            other => panic!("{expected:?}: {other:?}"),
        }
    }
    let identity = read(&good, None).unwrap();
    assert!(!identity.is_superseded);
}

#[test]
fn a_certificate_below_another_root_than_the_one_that_signs_is_superseded() {
    let (old, new) = (Authority::new(), Authority::new());
    let node = NodeId::new("a").unwrap();
    let (key, chain) = old.issue(&["spiffe://isobar.local/node/a"]);
    let both = format!("{}{}", old.roots_pem, new.roots_pem);
    let print = |pem: &str| {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        verify::fingerprint(&certificate)
    };
    for (signs, is_superseded) in [(&old, false), (&new, true)] {
        let trust = Trust {
            version: 2,
            roots_pem: both.clone(),
            signs: print(&signs.roots_pem),
            revoked: Vec::new(),
        };
        let read = Identity::new("isobar.local", &node, &key, &chain, &both, Some(&trust));
        assert_eq!(read.unwrap().is_superseded, is_superseded);
    }
}

#[test]
fn a_pin_is_the_root_and_nothing_else() {
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{ServerName, UnixTime};
    let (ours, theirs) = (Authority::new(), Authority::new());
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let controller = "spiffe://isobar.local/ns/isobar/sa/controller";
    let pin = verify::fingerprint(&der(&ours.roots_pem));
    let believes = |uri: &str, signer: &Authority, shown: &[&str]| {
        let leaf = der(&signer.issue(&[uri]).1);
        let above: Vec<_> = shown.iter().map(|pem| der(pem)).collect();
        let verifier = PinVerifier::new(&pin, SpiffeId::controller("isobar.local"));
        let name = ServerName::try_from("localhost").unwrap();
        let now = UnixTime::now();
        verifier
            .verify_server_cert(&leaf, &above, &name, &[], now)
            .is_ok()
    };
    let (root, other) = (ours.roots_pem.as_str(), theirs.roots_pem.as_str());
    assert!(believes(controller, &ours, &[root]));
    assert!(believes(controller, &ours, &[other, root]));
    assert!(!believes(controller, &ours, &[]));
    assert!(!believes(controller, &theirs, &[other]));
    // Somebody else's certificate beside the root that the pin names.
    assert!(!believes(controller, &theirs, &[root]));
    assert!(!believes("spiffe://isobar.local/node/a", &ours, &[root]));
}
