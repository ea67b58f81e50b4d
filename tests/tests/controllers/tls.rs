//! An etcd that speaks TLS and knows who asks: certificates and passwords that are right, and what is said of those that
//! are not.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::etcd::{Etcd, Identity, Tls, directory, has};
use crate::mesh::Mesh;
use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

/// An authority of its own, and certificates by it.
struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
    ca: PathBuf,
}

impl Authority {
    fn new() -> Authority {
        let directory = directory();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = named("an authority for etcd");
        let key = KeyPair::generate().unwrap();
        let ca = directory.path().join("ca.pem");
        std::fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
        Authority {
            directory,
            issuer: Issuer::new(params, key),
            ca,
        }
    }

    /// A certificate for 127.0.0.1 and these usages, with a common name unless that is empty.
    fn identity(&self, common_name: &str, usages: &[ExtendedKeyUsagePurpose]) -> Identity {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = match common_name.is_empty() {
            true => DistinguishedName::new(),
            false => named(common_name),
        };
        params.extended_key_usages = usages.to_vec();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |end: &str| {
            let name = format!("{common_name}{usages:?}.{end}");
            self.directory.path().join(name)
        };
        let identity = Identity {
            certificate: path("pem"),
            key: path("key"),
        };
        std::fs::write(&identity.certificate, certificate.pem()).unwrap();
        std::fs::write(&identity.key, key.serialize_pem()).unwrap();
        identity
    }

    /// A file beside the certificates.
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// Turns authentication on: `isobar` with the password `secret` may do what it likes below `/isobar/`.
fn authenticate(etcd: &Etcd) {
    let admin = |path: &str, body: Value| etcd.admin(path, &body, None);
    for (name, password) in [("root", "root's"), ("isobar", "secret")] {
        let user = json!({ "name": name, "password": password });
        admin("/v3/auth/user/add", user);
        admin("/v3/auth/role/add", json!({ "name": name }));
        let grant = json!({ "user": name, "role": name });
        admin("/v3/auth/user/grant", grant);
    }
    // From `/isobar/` to before `/isobar0`, in base64.
    let below =
        json!({ "permType": "READWRITE", "key": "L2lzb2Jhci8=", "range_end": "L2lzb2JhcjA=" });
    let grant = json!({ "name": "isobar", "perm": below });
    admin("/v3/auth/role/grant", grant);
    admin("/v3/auth/enable", json!({}));
}

fn has_all() -> bool {
    has("etcd", "--version") && has("curl", "--version")
}

/// Lines of `[store]`.
fn shown(client: &Identity) -> String {
    let Identity { certificate, key } = client;
    format!("cert_file = {certificate:?}\nkey_file = {key:?}\n")
}

#[test]
fn by_certificate_and_password_controllers_elect_and_follow_over_tls() {
    if !has_all() {
        return;
    }
    let _turn = crate::TURN
        .lock()
        .unwrap_or_else(|broken| broken.into_inner());
    let authority = Authority::new();
    let client = authority.identity("", &[ClientAuth]);
    let mut etcd = Etcd::start_tls(Tls {
        ca: authority.ca.clone(),
        server: authority.identity("", &[ServerAuth, ClientAuth]),
        asks_clients: true,
        admin: client.clone(),
    });
    authenticate(&etcd);
    let (ca, password) = (&authority.ca, authority.file("password", "secret\n"));
    let store = format!(
        "ca_file = {ca:?}\n{}user = 'isobar'\npassword_file = {password:?}\n",
        shown(&client)
    );
    let mut mesh = Mesh::start_with(&etcd, 2, &store);
    mesh.start_proxies(&[&[0, 1]]);
    let first = mesh.leader();
    let epoch = mesh.until_all_have_epoch(1);
    let (status, said) = mesh.put_policy(first, "kept");
    assert_eq!(status, 201, "{said}");
    // A member that was started again knows none of its tokens any more.
    etcd.kill(0);
    etcd.start_member(0);
    etcd.until_well();
    mesh.until_written("again");
    let leader = mesh.leader();
    mesh.kill(leader);
    let (second, _) = mesh.until_another_leads(leader);
    mesh.until_all_have_epoch(epoch + 1);
    let (status, said) = mesh.get(second, "/v1/weight-policies/kept");
    assert_eq!(status, 200, "{said}");
    mesh.assert_nothing_went_wrong();
}

#[test]
fn by_password_alone_a_controller_leads_over_tls() {
    if !has_all() {
        return;
    }
    let _turn = crate::TURN
        .lock()
        .unwrap_or_else(|broken| broken.into_inner());
    let authority = Authority::new();
    let etcd = Etcd::start_tls(Tls {
        ca: authority.ca.clone(),
        server: authority.identity("", &[ServerAuth]),
        asks_clients: false,
        admin: authority.identity("", &[ClientAuth]),
    });
    authenticate(&etcd);
    let (ca, password) = (&authority.ca, authority.file("password", "secret"));
    let store = format!("ca_file = {ca:?}\nuser = 'isobar'\npassword_file = {password:?}\n");
    let mesh = Mesh::start_with(&etcd, 1, &store);
    mesh.leader();
    mesh.until_written("by-password");
}

#[test]
fn what_is_wrong_with_certificates_and_passwords_is_said() {
    if !has_all() {
        return;
    }
    let _turn = crate::TURN
        .lock()
        .unwrap_or_else(|broken| broken.into_inner());
    let (authority, stranger) = (Authority::new(), Authority::new());
    let client = authority.identity("", &[ClientAuth]);
    let tls = |server: Identity| Tls {
        ca: authority.ca.clone(),
        server,
        asks_clients: true,
        admin: client.clone(),
    };
    // Its own certificate has the name of one who may do everything: nobody is to pass as that one.
    let etcd = Etcd::start_tls(tls(authority.identity("root", &[ServerAuth, ClientAuth])));
    authenticate(&etcd);
    let half = Etcd::start_tls(tls(authority.identity("half", &[ServerAuth])));
    let user = |password: &str| {
        let file = authority.file(&format!("password-{password}"), password);
        format!("user = 'isobar'\npassword_file = {file:?}\n")
    };
    let (known, unknown) = (shown(&client), stranger.identity("", &[ClientAuth]));
    let at = |etcd: &Etcd, ca: &PathBuf, more: &str| {
        format!(
            "endpoints = {:?}\nca_file = {ca:?}\n{more}",
            etcd.endpoints()
        )
    };
    let (ca, right) = (&authority.ca, user("secret"));
    let named = shown(&authority.identity("isobar", &[ClientAuth]));
    let plain = etcd.endpoints()[0].replace("https", "http");
    let cases = [
        (
            at(&etcd, ca, &format!("{named}{right}")),
            "CommonName of client",
            "an empty CN",
        ),
        (
            at(&etcd, ca, &format!("{known}{}", user("wrong"))),
            "invalid user ID or password",
            "store.password_file",
        ),
        (
            at(&etcd, ca, &known),
            "user name is empty",
            "set store.user",
        ),
        (
            at(&etcd, &stranger.ca, &format!("{known}{right}")),
            "not believed",
            "store.ca_file",
        ),
        (at(&etcd, ca, &right), "certificate", "store.cert_file"),
        (
            at(&etcd, ca, &format!("{}{right}", shown(&unknown))),
            "certificate",
            "--trusted-ca-file",
        ),
        (
            at(&etcd, ca, &format!("{known}{right}prefix = '/other'\n")),
            "permission denied",
            "readwrite",
        ),
        (
            at(&half, ca, &known),
            "does not reach its own member",
            "clientAuth beside serverAuth",
        ),
        (
            format!("endpoints = [{plain:?}]\n"),
            "broke",
            "write https://",
        ),
    ];
    for (store, problem, advice) in cases {
        let said = Mesh::refused(&store);
        assert!(
            said.contains(problem) && said.contains(advice),
            "{store}{said}"
        );
    }
}
