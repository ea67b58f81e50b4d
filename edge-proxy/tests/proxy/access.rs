//! Access policies at a real proxy: who gets in, what they are told, what is counted.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use isobar_edge_proxy::config::sources::Sources;
use isobar_edge_proxy::config::{Config, Workload};
use isobar_edge_proxy::snapshot_file;
use isobar_mesh_api::resource::access_policy::{AccessPolicy, AccessPolicySpec};
use isobar_mesh_api::snapshot::Snapshot;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::{
    Authority, HOST, TestEndpoint, TestProxy, config, full, send, snapshot, takes_from,
};

const LATE: u64 = 4_102_444_800;
pub const ISSUER: &str = "https://issuer.example";

/// The snapshot's service guarded by these policies.
pub fn guarded(mut snapshot: Snapshot, policies: &[Value]) -> Snapshot {
    let policy = |(n, spec): (usize, &Value)| {
        let spec: AccessPolicySpec = serde_json::from_value(spec.clone()).unwrap();
        spec.check().unwrap();
        let name = format!("policy-{n}");
        Arc::new(AccessPolicy { name, spec })
    };
    snapshot.services[0].access = policies.iter().enumerate().map(policy).collect();
    snapshot.plan.generation += 1;
    snapshot
}

/// A proxy of this configuration with this snapshot in its file.
pub async fn start(config: Config, dir: TempDir, snapshot: &Snapshot) -> TestProxy {
    snapshot_file::save(dir.path(), snapshot).unwrap();
    TestProxy::start(config, dir).await
}

async fn ask(
    proxy: &TestProxy,
    path: &str,
    headers: &[(&str, &str)],
) -> (StatusCode, HeaderMap, String) {
    let mut request = Request::get(path).header("host", HOST);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(proxy.addresses.ingress, request.body(full("")).unwrap()).await
}

async fn status(proxy: &TestProxy, path: &str, headers: &[(&str, &str)]) -> u16 {
    ask(proxy, path, headers).await.0.as_u16()
}

async fn assert_metric(proxy: &TestProxy, line: &str) {
    let (_, text) = proxy.admin("GET", "/metrics").await;
    assert!(text.lines().any(|have| have == line), "{line}\n{text}");
}

/// Signs tokens by ES256.
pub struct Issuer {
    key: EcdsaKeyPair,
    kid: &'static str,
}

impl Issuer {
    pub fn new(kid: &'static str) -> Issuer {
        let (random, scheme) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(scheme, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(scheme, pkcs8.as_ref(), &random).unwrap();
        Issuer { key, kid }
    }

    fn jwk(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "x": part(&point[1..33]), "y": part(&point[33..])})
    }

    pub fn bearer(&self, claims: Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({"alg": "ES256", "kid": self.kid});
        let message = format!("{}.{}", part(&header), part(&claims));
        let signed = self
            .key
            .sign(&SystemRandom::new(), message.as_bytes())
            .unwrap();
        format!("Bearer {message}.{}", URL_SAFE_NO_PAD.encode(signed))
    }
}

pub fn claims(sub: &str) -> Value {
    json!({"iss": ISSUER, "aud": "shop", "sub": sub, "exp": LATE, "role": ["reader"]})
}

pub fn jwks(issuers: &[&Issuer]) -> String {
    let keys: Vec<Value> = issuers.iter().map(|issuer| issuer.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

#[tokio::test]
async fn policies_refuse_and_let_in_and_watch() {
    let endpoint = TestEndpoint::start("home").await;
    let authority = Authority::new();
    let plain = snapshot("a", &endpoint, 4);
    let policies = [
        json!({"deny": [{"to": [{"paths": ["/admin*"]}]}]}),
        json!({"allow": [{"from": [{"addresses": ["127.0.0.0/8"]}]}]}),
    ];
    let first = guarded(plain.clone(), &policies);
    let proxy = TestProxy::with_snapshot(&first, &authority).await;
    let (code, headers, body) = ask(&proxy, "/admin/users", &[]).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert!(
        !body.contains("policy-0") && !headers.contains_key("www-authenticate"),
        "{body}"
    );
    // Other spellings of the same path, and one that could be either.
    for path in ["/%61dmin", "/x/../admin", "/./admin"] {
        assert_eq!(status(&proxy, path, &[]).await, 403, "{path}");
    }
    assert_eq!(status(&proxy, "/x/..%2fadmin", &[]).await, 400);
    assert_eq!(status(&proxy, "/shop", &[]).await, 200);
    assert_metric(
        &proxy,
        "isobar_proxy_access_refused_total{cause=\"policy\"} 4",
    )
    .await;
    assert_eq!(endpoint.served(), 1, "a refused request was served");
    proxy.end().await;
    let watching = guarded(plain, &[json!({"default": "deny", "audit": true})]);
    let proxy = TestProxy::with_snapshot(&watching, &authority).await;
    assert_eq!(status(&proxy, "/shop", &[]).await, 200);
    assert_metric(&proxy, "isobar_proxy_access_would_refuse_total 1").await;
    proxy.end().await;
}

#[tokio::test]
async fn tokens_decide_and_their_claims_reach_the_endpoint() {
    let echo = Echo::start().await;
    let (ours, theirs) = (Issuer::new("a"), Issuer::new("a"));
    let authority = Authority::new();
    let endpoint = TestEndpoint::start("unused").await;
    let mut plain = snapshot("a", &endpoint, 4);
    plain.services[0].endpoints[0].address = echo.address.clone();
    let policy = json!({
        "tokens": [{"issuer": ISSUER, "audiences": ["shop"], "jwks": jwks(&[&ours]),
            "claims_to_headers": {"sub": "x-user"}}],
        "allow": [
            {"from": [{"token": {"claims": {"role": ["reader"]}}}]},
            {"to": [{"paths": ["/open"]}]},
        ],
    });
    let proxy = TestProxy::with_snapshot(&guarded(plain, &[policy]), &authority).await;
    let good = ours.bearer(claims("ann"));
    // The keys are there a moment after the policy.
    while status(&proxy, "/", &[("authorization", &good)]).await == 401 {
        tokio::task::yield_now().await;
    }
    let (_, _, seen) = ask(&proxy, "/", &[("authorization", &good), ("x-user", "root")]).await;
    assert_eq!(seen, "ann");
    let (_, _, seen) = ask(&proxy, "/open", &[("x-user", "root")]).await;
    assert_eq!(seen, "", "a client forged a claim");
    let (code, headers, _) = ask(&proxy, "/", &[]).await;
    assert_eq!(code, StatusCode::UNAUTHORIZED);
    assert_eq!(headers["www-authenticate"], "Bearer");
    let mut stranger = claims("ann");
    stranger["role"] = json!(["writer"]);
    let mut elsewhere = claims("ann");
    elsewhere["aud"] = json!("mail");
    let cases = [
        (theirs.bearer(claims("ann")), 401),
        (ours.bearer(elsewhere), 401),
        (ours.bearer(stranger), 403),
        ("Bearer x".to_owned(), 401),
        ("Basic YTpi".to_owned(), 401),
    ];
    for (authorization, expected) in cases {
        let said = status(&proxy, "/", &[("authorization", &authorization)]).await;
        assert_eq!(said, expected, "{authorization}");
    }
    // A wrong token is refused where none is needed, too.
    let forged = theirs.bearer(claims("ann"));
    assert_eq!(
        status(&proxy, "/open", &[("authorization", &forged)]).await,
        401
    );
    proxy.end().await;
}

#[tokio::test]
async fn keys_come_by_url_and_follow_a_rotation() {
    let (first, second) = (Issuer::new("a"), Issuer::new("b"));
    let keys = KeyServer::start(vec![jwks(&[&first]), jwks(&[&first, &second])]).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("jwks.json");
    std::fs::write(&file, jwks(&[&second])).unwrap();
    let endpoint = TestEndpoint::start("home").await;
    let other = "https://file.example";
    let policy = json!({"default": "allow", "tokens": [
        {"issuer": ISSUER, "audiences": ["shop"], "jwks_url": keys.url, "required": true},
        {"issuer": other, "audiences": ["shop"], "jwks_file": file},
    ]});
    let plain = guarded(snapshot("a", &endpoint, 4), &[policy]);
    let proxy = TestProxy::with_snapshot(&plain, &Authority::new()).await;
    let until_in = async |token: &str| {
        while status(&proxy, "/", &[("authorization", token)]).await != 200 {
            tokio::task::yield_now().await;
        }
    };
    until_in(&first.bearer(claims("ann"))).await;
    let mut by_file = claims("ann");
    by_file["iss"] = json!(other);
    until_in(&second.bearer(by_file.clone())).await;
    assert_eq!(keys.fetched.load(Ordering::SeqCst), 1);
    std::fs::write(&file, jwks(&[&first, &second])).unwrap();
    until_in(&first.bearer(by_file)).await;
    assert_eq!(status(&proxy, "/", &[]).await, 401);
    // An unknown key has the list fetched again, and not for each request.
    assert_eq!(
        status(
            &proxy,
            "/",
            &[("authorization", &second.bearer(claims("ann")))]
        )
        .await,
        401
    );
    assert!(keys.fetched.load(Ordering::SeqCst) <= 2);
    proxy.end().await;
}

/// TLS of a server called localhost, and the file of roots that vouch for it.
pub(crate) fn shown_as_localhost(directory: &TempDir) -> (TlsAcceptor, PathBuf) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let roots = directory.path().join("roots.pem");
    std::fs::write(&roots, certificate.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let secret = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], secret)
        .unwrap();
    (TlsAcceptor::from(Arc::new(server)), roots)
}

#[tokio::test]
async fn keys_come_over_https_from_whom_the_roots_vouch_for() {
    let ours = Issuer::new("a");
    let directory = tempfile::tempdir().unwrap();
    let (acceptor, roots) = shown_as_localhost(&directory);
    let other = directory.path().join("other.pem");
    std::fs::write(&other, Authority::new().roots_pem).unwrap();
    let keys = KeyServer::start_with(vec![jwks(&[&ours])], Some(acceptor)).await;
    let endpoint = TestEndpoint::start("home").await;
    let strange = "https://strange.example";
    let policy = json!({"default": "allow", "tokens": [
        {"issuer": ISSUER, "audiences": ["shop"], "jwks_url": keys.url, "jwks_ca_file": roots},
        {"issuer": strange, "audiences": ["shop"], "jwks_url": keys.url, "jwks_ca_file": other},
    ]});
    let plain = guarded(snapshot("a", &endpoint, 4), &[policy]);
    let proxy = TestProxy::with_snapshot(&plain, &Authority::new()).await;
    let token = ours.bearer(claims("ann"));
    while status(&proxy, "/", &[("authorization", &token)]).await != 200 {
        tokio::task::yield_now().await;
    }
    // The other place was asked in the same round, and not believed.
    let mut by_stranger = claims("ann");
    by_stranger["iss"] = json!(strange);
    let token = ours.bearer(by_stranger);
    assert_eq!(status(&proxy, "/", &[("authorization", &token)]).await, 401);
    assert_eq!(keys.fetched.load(Ordering::SeqCst), 1);
    proxy.end().await;
}

#[tokio::test]
async fn a_workload_is_known_by_the_address_that_the_system_sees() {
    let endpoint = TestEndpoint::start("home").await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = config("a", &dir);
    config.workloads = vec![Workload {
        identity: "spiffe://isobar.local/ns/web/sa/front".to_owned(),
        addresses: Sources::new(vec!["127.0.0.1".parse().unwrap()]),
    }];
    let policy = json!({"allow": [{"from": [{"namespaces": ["web"]}]}]});
    let plan = guarded(snapshot("a", &endpoint, 4), std::slice::from_ref(&policy));
    let proxy = start(config, dir, &plan).await;
    assert_eq!(status(&proxy, "/", &[]).await, 200);
    proxy.end().await;
    // Somebody else, who says to be it.
    let dir = tempfile::tempdir().unwrap();
    let mut config = crate::support::config("a", &dir);
    config.trusted_sources = Sources::new(vec!["127.0.0.1".parse().unwrap()]);
    config.workloads = vec![Workload {
        identity: "spiffe://isobar.local/ns/web/sa/front".to_owned(),
        addresses: Sources::new(vec!["10.1.2.3".parse().unwrap()]),
    }];
    let plan = guarded(snapshot("a", &endpoint, 4), &[policy]);
    let proxy = start(config, dir, &plan).await;
    let said = status(&proxy, "/", &[("x-forwarded-for", "10.1.2.3")]).await;
    assert_eq!(said, 403);
    proxy.end().await;
}

#[tokio::test]
async fn what_is_refused_to_a_node_is_refused_where_it_is_served_too() {
    let endpoint = TestEndpoint::start("b").await;
    let authority = Authority::new();
    let deny = json!({"deny": [{"from": [{"nodes": ["a"]}]}]});
    let of_b = guarded(takes_from(snapshot("b", &endpoint, 4), "a"), &[deny]);
    let b = TestProxy::with_snapshot(&of_b, &authority).await;
    let at = b.addresses.mesh;
    let of_a = crate::support::moves_to(snapshot("a", &endpoint, 4), "b", at, 1_000_000);
    let a = TestProxy::with_snapshot(&of_a, &authority).await;
    assert_eq!(status(&a, "/", &[]).await, 403);
    assert_metric(&b, "isobar_proxy_access_refused_total{cause=\"policy\"} 1").await;
    a.end().await;
    b.end().await;
}

/// Answers with the request's `x-user`.
struct Echo {
    address: String,
    task: tokio::task::JoinHandle<()>,
}

impl Echo {
    async fn start() -> Echo {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = service_fn(async |request: Request<hyper::body::Incoming>| {
                    let user = request.headers().get("x-user").cloned();
                    let user = user.map(|value| value.as_bytes().to_vec());
                    let body = Full::new(Bytes::from(user.unwrap_or_default()));
                    Ok::<_, std::convert::Infallible>(Response::new(body))
                });
                tokio::spawn(async move {
                    let builder = hyper::server::conn::http1::Builder::new();
                    let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Echo { address, task }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers with one list after another, the last again and again.
struct KeyServer {
    url: String,
    fetched: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl KeyServer {
    async fn start(lists: Vec<String>) -> KeyServer {
        KeyServer::start_with(lists, None).await
    }

    /// With TLS, when there is an acceptor.
    async fn start_with(lists: Vec<String>, tls: Option<TlsAcceptor>) -> KeyServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = match tls {
            None => format!("http://127.0.0.1:{port}/jwks.json"),
            Some(_) => format!("https://localhost:{port}/jwks.json"),
        };
        let fetched = Arc::new(AtomicUsize::new(0));
        let (count, lists) = (Arc::clone(&fetched), Arc::new(lists));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (count, lists) = (Arc::clone(&count), Arc::clone(&lists));
                let answer = service_fn(move |_: Request<hyper::body::Incoming>| {
                    let at = count.fetch_add(1, Ordering::SeqCst).min(lists.len() - 1);
                    let body = Full::new(Bytes::from(lists[at].clone()));
                    async move { Ok::<_, std::convert::Infallible>(Response::new(body)) }
                });
                let tls = tls.clone();
                tokio::spawn(async move {
                    let builder = hyper::server::conn::http1::Builder::new();
                    let Some(tls) = tls else {
                        let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
                        return;
                    };
                    // Who does not believe this one hangs up.
                    if let Ok(stream) = tls.accept(stream).await {
                        let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
                    }
                });
            }
        });
        KeyServer { url, fetched, task }
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
