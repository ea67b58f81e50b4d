//! Operators over HTTPS: which certificate they are shown, which of theirs count, and who is refused.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use isobar_controller::access::Role;
use isobar_controller::operator_tls::RestClient;
use isobar_controller::secret::sha256;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::mesh::{Mesh, PATIENCE, config};
use crate::proxy::Proxy;

/// A certificate with its key, as a client shows it.
type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Makes certificates that are not the mesh's.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn new() -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Ca { issuer, pem }
    }

    fn sign(
        &self,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        change(&mut params);
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        (signed.der().clone(), key)
    }

    fn client(&self, change: impl FnOnce(&mut CertificateParams)) -> Shown {
        let (certificate, key) = self.sign(change);
        (
            vec![certificate],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
    }

    fn named(&self, name: &str) -> Shown {
        self.client(|params| params.distinguished_name.push(DnType::CommonName, name))
    }

    fn with_uri(&self, uri: &str) -> Shown {
        let uri = SanType::URI(uri.try_into().unwrap());
        self.client(|params| params.subject_alt_names = vec![uri])
    }
}

fn of_proxy(proxy: &Proxy) -> Shown {
    let pem = &proxy.certificate.as_ref().unwrap().chain_pem;
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes());
    let key = PrivateKeyDer::try_from(proxy.key.serialize_der()).unwrap();
    (chain.map(Result::unwrap).collect(), key)
}

/// A connection and the certificate that it was shown.
async fn connect(
    mesh: &Mesh,
    roots_pem: &str,
    shown: Option<Shown>,
) -> std::io::Result<(SendRequest<Full<Bytes>>, CertificateDer<'static>)> {
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots_pem.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match shown {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
    };
    let socket = TcpStream::connect(mesh.addresses().rest).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let tls = TlsConnector::from(Arc::new(config));
    let tls = tls.connect(name, socket).await?;
    let leaf = tls.get_ref().1.peer_certificates().unwrap()[0].clone();
    let io = TokioIo::new(tls);
    let hands = hyper::client::conn::http1::handshake(io).await;
    let (sender, connection) = hands.map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    Ok((sender, leaf.into_owned()))
}

async fn ask(
    sender: &mut SendRequest<Full<Bytes>>,
    token: Option<&str>,
    method: Method,
    path: &str,
) -> std::io::Result<(StatusCode, Value)> {
    let body = match path
        .strip_prefix("/v1/services/")
        .filter(|_| method == Method::PUT)
    {
        Some(name) => {
            let (namespace, name) = name.split_once('/').unwrap();
            json!({"kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": {}})
        }
        None => Value::Null,
    };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "controller.example")
        .header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let body = Full::new(Bytes::from(body.to_string()));
    let sent = sender.send_request(request.body(body).unwrap()).await;
    let (head, body) = sent.map_err(std::io::Error::other)?.into_parts();
    let bytes = body
        .collect()
        .await
        .map_err(std::io::Error::other)?
        .to_bytes();
    let value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Ok((head.status, value))
}

async fn start(
    change: impl FnOnce(&mut isobar_controller::config::Config, &Path),
) -> (Mesh, String) {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.rest_open = false;
    change(&mut config, directory.path());
    let mesh = Mesh::start_with(directory, config).await;
    let admin = mesh.file("admin-token").trim().to_owned();
    (mesh, admin)
}

fn client(
    identity: Option<&str>,
    subject: Option<&str>,
    role: Role,
    namespaces: &[&str],
) -> RestClient {
    RestClient {
        identity: identity.map(str::to_owned),
        subject: subject.map(str::to_owned),
        role,
        namespaces: namespaces.iter().map(|&n| n.to_owned()).collect(),
    }
}

#[tokio::test]
async fn the_api_speaks_https_and_says_so_to_who_does_not() {
    let (mesh, admin) = start(|_, _| {}).await;
    let roots = mesh.file("ca.pem");
    let (mut sender, _) = connect(&mesh, &roots, None).await.unwrap();
    let status = ask(&mut sender, Some(&admin), Method::GET, "/v1/status").await;
    assert_eq!(status.unwrap().0, StatusCode::OK);
    let (status, said) = mesh.rest(Method::GET, "/v1/status", "").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        said["detail"].as_str().unwrap().contains("https://"),
        "{said}"
    );
    let other = Ca::new();
    assert!(connect(&mesh, &other.pem, None).await.is_err());
    mesh.stop().await;
}

#[tokio::test]
async fn a_client_certificate_is_a_credential_where_it_has_a_role() {
    let ours = Ca::new();
    let pem = ours.pem.clone();
    let (mesh, admin) = start(|config, directory| {
        let path = directory.join("operators.pem");
        std::fs::write(&path, pem).unwrap();
        config.rest_client_ca_file = Some(path);
        config.rest_clients = vec![
            client(
                Some("spiffe://isobar.local/node/a"),
                None,
                Role::Viewer,
                &[],
            ),
            client(None, Some("alice"), Role::Operator, &["shop"]),
            client(Some("spiffe://corp.example/bob"), None, Role::Admin, &[]),
        ];
    })
    .await;
    let roots = mesh.file("ca.pem");
    let door = mesh.door();
    let (a, b) = (
        Proxy::enrolled(&door, "a").await,
        Proxy::enrolled(&door, "b").await,
    );
    let mesh_domain = ours.with_uri("spiffe://isobar.local/node/a");
    let mesh_capitals = ours.with_uri("SPIFFE://ISOBAR.LOCAL/node/a");
    let (read, write) = ("/v1/status", "/v1/services/shop/cart");
    let other = "/v1/services/mail/cart";
    let cases = [
        ("a node with a role", of_proxy(&a), [200, 403, 403]),
        ("a node without", of_proxy(&b), [401, 401, 401]),
        ("a subject", ours.named("alice"), [200, 201, 403]),
        ("another subject", ours.named("alicia"), [401, 401, 401]),
        (
            "an identity of elsewhere",
            ours.with_uri("spiffe://corp.example/bob"),
            [200, 200, 201],
        ),
        (
            "a node that another authority names",
            mesh_domain,
            [401, 401, 401],
        ),
        ("the same in capitals", mesh_capitals, [401, 401, 401]),
    ];
    for (what, shown, expected) in cases {
        let (mut sender, _) = connect(&mesh, &roots, Some(shown)).await.unwrap();
        let asked = [
            (Method::GET, read),
            (Method::PUT, write),
            (Method::PUT, other),
        ];
        for ((method, path), expected) in asked.into_iter().zip(expected) {
            let (status, said) = ask(&mut sender, None, method, path).await.unwrap();
            assert_eq!(status.as_u16(), expected, "{what} {path} {said}");
        }
        // Who sends a token is who the token says.
        let (status, _) = ask(&mut sender, Some(&admin), Method::GET, "/v1/credentials")
            .await
            .unwrap();
        assert_eq!(status, StatusCode::OK, "{what}");
        let (status, _) = ask(&mut sender, Some("credential_x_y"), Method::GET, read)
            .await
            .unwrap();
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{what}");
    }
    // Who is revoked is refused on a connection that stands.
    let (mut sender, _) = connect(&mesh, &roots, Some(of_proxy(&a))).await.unwrap();
    assert_eq!(
        ask(&mut sender, None, Method::GET, read).await.unwrap().0,
        StatusCode::OK
    );
    let revoked = ask(&mut sender, Some(&admin), Method::PUT, "/v1/revocations/a")
        .await
        .unwrap();
    assert_eq!(revoked.0, StatusCode::NO_CONTENT, "{}", revoked.1);
    let (status, said) = ask(&mut sender, None, Method::GET, read).await.unwrap();
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(
        said["detail"].as_str().unwrap().contains("revoked"),
        "{said}"
    );
    mesh.stop().await;
}

#[tokio::test]
async fn certificates_that_prove_nothing_do_not_get_as_far_as_a_request() {
    let (ours, other) = (Ca::new(), Ca::new());
    let pem = ours.pem.clone();
    let (mesh, admin) = start(|config, directory| {
        let path = directory.join("operators.pem");
        std::fs::write(&path, pem).unwrap();
        config.rest_client_ca_file = Some(path);
        config.rest_clients = vec![client(None, Some("alice"), Role::Admin, &[])];
    })
    .await;
    let roots = mesh.file("ca.pem");
    let alice = |params: &mut CertificateParams| {
        params.distinguished_name.push(DnType::CommonName, "alice");
    };
    let ended = ours.client(|params| {
        alice(params);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    let early = ours.client(|params| {
        alice(params);
        params.not_before = rcgen::date_time_ymd(2090, 1, 1);
        params.not_after = rcgen::date_time_ymd(2091, 1, 1);
    });
    let authority = ours.client(|params| {
        alice(params);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let mut long = ours.named("alice");
    let leaf = long.0[0].clone();
    long.0.extend(std::iter::repeat_n(leaf, 12));
    let cases = [
        ("of another root", other.named("alice")),
        ("expired", ended),
        ("not yet valid", early),
        ("an authority as a leaf", authority),
        ("a huge chain", long),
    ];
    for (what, shown) in cases {
        // In TLS 1.3 the client hears of it when it reads.
        let heard = async {
            let (mut sender, _) = connect(&mesh, &roots, Some(shown)).await?;
            ask(&mut sender, Some(&admin), Method::GET, "/v1/status").await
        };
        assert!(heard.await.is_err(), "{what}");
        let (mut sender, _) = connect(&mesh, &roots, None).await.unwrap();
        let others = ask(&mut sender, Some(&admin), Method::GET, "/v1/status").await;
        assert_eq!(others.unwrap().0, StatusCode::OK, "{what} harms others");
    }
    mesh.stop().await;
}

#[tokio::test]
async fn a_certificate_that_is_brought_is_shown_and_replaced_without_a_restart() {
    let ours = Ca::new();
    let write = |directory: &Path| {
        let (certificate, key) = ours.sign(|params| {
            params.subject_alt_names = vec![SanType::DnsName("localhost".try_into().unwrap())];
        });
        let pem = pem::encode(&pem::Pem::new("CERTIFICATE", certificate.to_vec()));
        std::fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(directory.join("chain.pem"), pem).unwrap();
        certificate
    };
    let mut first = None;
    let (mesh, admin) = start(|config, directory| {
        first = Some(write(directory));
        config.rest_certificate_file = Some(directory.join("chain.pem"));
        config.rest_key_file = Some(directory.join("key.pem"));
    })
    .await;
    let (mut standing, shown) = connect(&mesh, &ours.pem, None).await.unwrap();
    assert_eq!(sha256(&shown), sha256(&first.unwrap()));
    // What cannot be used changes nothing.
    std::fs::write(mesh.directory.path().join("key.pem"), "nonsense").unwrap();
    assert!(connect(&mesh, &ours.pem, None).await.is_ok());
    let second = write(mesh.directory.path());
    let replaced = async {
        while connect(&mesh, &ours.pem, None).await.unwrap().1 != second {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, replaced).await.unwrap();
    let status = ask(&mut standing, Some(&admin), Method::GET, "/v1/status").await;
    assert_eq!(
        status.unwrap().0,
        StatusCode::OK,
        "the standing connection broke"
    );
    mesh.stop().await;
}

#[tokio::test]
async fn who_was_refused_is_kept_together_and_over_a_restart() {
    let (mesh, admin) = start(|_, _| {}).await;
    let roots = mesh.file("ca.pem");
    let asked = json!({ "name": "brief", "role": "viewer", "lasts_s": 1 });
    let (mut sender, _) = connect(&mesh, &roots, None).await.unwrap();
    let request = Request::post("/v1/credentials")
        .header("host", "x")
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {admin}"))
        .body(Full::new(Bytes::from(asked.to_string())))
        .unwrap();
    let made = sender.send_request(request).await.unwrap();
    let made = made.into_body().collect().await.unwrap().to_bytes();
    let made: Value = serde_json::from_slice(&made).unwrap();
    let brief = made["token"].as_str().unwrap();
    for _ in 0..20 {
        let (status, _) = ask(&mut sender, None, Method::GET, "/v1/nodes")
            .await
            .unwrap();
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
    let expired = async {
        loop {
            let (status, said) = ask(&mut sender, Some(brief), Method::GET, "/v1/nodes")
                .await
                .unwrap();
            if status == StatusCode::UNAUTHORIZED {
                return said;
            }
            tokio::task::yield_now().await;
        }
    };
    let said = tokio::time::timeout(PATIENCE, expired).await.unwrap();
    assert!(
        said["detail"].as_str().unwrap().contains("token expired"),
        "{said}"
    );
    let door = mesh.door();
    let stranger = Proxy::stranger("a");
    let ask_wrong = stranger.ask("a", "enrol_x_y");
    assert_eq!(
        stranger.enrol(&door, &ask_wrong).await.unwrap_err().0,
        StatusCode::FORBIDDEN
    );

    drop(sender);
    let Mesh {
        directory,
        program,
        shutdown,
    } = mesh;
    shutdown.cancel();
    program.wait().await.unwrap();
    let mut again = config(directory.path());
    again.rest_open = false;
    let mesh = Mesh::start_with(directory, again).await;
    let (mut sender, _) = connect(&mesh, &roots, None).await.unwrap();
    let page = ask(
        &mut sender,
        Some(&admin),
        Method::GET,
        "/v1/audit/refused?limit=2",
    )
    .await;
    let (status, page) = page.unwrap();
    assert_eq!(status, StatusCode::OK);
    let newest = &page["items"][0];
    assert_eq!(
        (&newest["door"], &newest["what"]),
        (&json!("enrolment"), &json!("a certificate for a"))
    );
    assert_eq!(
        (&page["items"][1]["who"], &page["items"][1]["count"]),
        (&json!("brief"), &json!(1))
    );
    let path = format!(
        "/v1/audit/refused?after={}",
        page["after"].as_str().unwrap()
    );
    let (_, page) = ask(&mut sender, Some(&admin), Method::GET, &path)
        .await
        .unwrap();
    let oldest = &page["items"][0];
    assert_eq!(
        (&oldest["count"], &oldest["what"]),
        (&json!(20), &json!("GET /v1/nodes")),
        "{page}"
    );
    mesh.stop().await;
}
