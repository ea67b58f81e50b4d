//! Endpoints, proxies, an authority and clients for the tests.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use isobar_edge_proxy::config::Config;
use isobar_edge_proxy::identity::files;
use isobar_edge_proxy::listen::Addresses;
use isobar_edge_proxy::program::{self, ProgramError};
use isobar_edge_proxy::snapshot_file;
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::snapshot::{
    Credit, Endpoint, Move, Neighbour, PlanId, QueueLimits, Row, ServicePlan, Snapshot,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, SanType,
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub type Body = BoxBody<Bytes, hyper::Error>;
pub const HOST: &str = "cart.example";

pub fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub fn service() -> ServiceName {
    ServiceName::new("shop/cart").unwrap()
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

/// An endpoint. `/echo` sends the body back, `/headers` the request's headers, `/hold` answers
/// when it is let go; everything else answers with the endpoint's name. `x-seen` is the request's
/// target as it arrived.
pub struct TestEndpoint {
    pub address: SocketAddr,
    served: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    arrived: Arc<Semaphore>,
    held: Arc<Semaphore>,
    task: JoinHandle<()>,
}

impl TestEndpoint {
    pub async fn start(name: &'static str) -> TestEndpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = Arc::new(AtomicUsize::new(0));
        let connections = Arc::new(AtomicUsize::new(0));
        let accepted = connections.clone();
        let (arrived, held) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let state = (served.clone(), arrived.clone(), held.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                accepted.fetch_add(1, Ordering::SeqCst);
                let state = state.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| {
                        let (served, arrived, held) = state.clone();
                        async move {
                            served.fetch_add(1, Ordering::SeqCst);
                            arrived.add_permits(1);
                            Ok::<_, Infallible>(answer(name, request, &held).await)
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        TestEndpoint {
            address,
            served,
            connections,
            arrived,
            held,
            task,
        }
    }

    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits for one more request to arrive.
    pub async fn arrival(&self) {
        self.arrived.acquire().await.unwrap().forget();
    }

    /// Lets one held request go.
    pub fn let_go(&self) {
        self.held.add_permits(1);
    }
}

impl Drop for TestEndpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(name: &str, request: Request<Incoming>, held: &Semaphore) -> Response<Body> {
    let seen = request.uri().to_string();
    let mut response = answer_by_path(name, request, held).await;
    let seen = seen.parse().unwrap();
    response.headers_mut().insert("x-seen", seen);
    response
}

async fn answer_by_path(
    name: &str,
    request: Request<Incoming>,
    held: &Semaphore,
) -> Response<Body> {
    match request.uri().path() {
        "/echo" => Response::new(request.into_body().boxed()),
        "/headers" => {
            let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                format!("{name}: {}\n", value.to_str().unwrap())
            };
            let text: String = request.headers().iter().map(line).collect();
            Response::new(full(text))
        }
        "/hold" => {
            held.acquire().await.unwrap().forget();
            Response::new(full("held"))
        }
        "/forge" => Response::builder()
            .header("isobar-load", "0/9;1")
            .header("isobar-refused", "full")
            .header("connection", "x-mine")
            .header("x-mine", "1")
            .body(full("forged"))
            .unwrap(),
        _ => Response::new(full(name.to_owned())),
    }
}

/// A proxy in this process, on free ports of loopback.
pub struct TestProxy {
    pub addresses: Addresses,
    pub dir: TempDir,
    shutdown: CancellationToken,
    ended: JoinHandle<Result<(), ProgramError>>,
}

/// A configuration for tests: one worker, free ports, no services.
pub fn config(name: &str, dir: &TempDir) -> Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::new(node(name), dir.path().to_owned());
    config.listen = any;
    config.mesh_listen = any;
    config.outbound_listen = Some(any);
    config.admin_listen = any;
    config.workers = Some(1);
    config.limits.drain_idle_ms_max = 20;
    config
}

impl TestProxy {
    pub async fn start(config: Config, dir: TempDir) -> TestProxy {
        let shutdown = CancellationToken::new();
        let (tell, listening) = oneshot::channel();
        let told = |addresses: &Addresses| drop(tell.send(addresses.clone()));
        let ended = tokio::spawn(program::run_telling(config, shutdown.clone(), told));
        TestProxy {
            addresses: listening.await.expect("the proxy starts"),
            dir,
            shutdown,
            ended,
        }
    }

    /// A proxy that has this snapshot in its file, and this identity.
    pub async fn with_snapshot(snapshot: &Snapshot, authority: &Authority) -> TestProxy {
        let dir = tempfile::tempdir().unwrap();
        authority.enrol(&dir, &format!("node/{}", snapshot.node));
        snapshot_file::save(dir.path(), snapshot).unwrap();
        TestProxy::start(config(snapshot.node.as_str(), &dir), dir).await
    }

    pub async fn get(&self, path: &str) -> (StatusCode, HeaderMap, String) {
        let request = Request::get(path).header("host", HOST);
        send(self.addresses.ingress, request.body(full("")).unwrap()).await
    }

    pub async fn admin(&self, method: &str, path: &str) -> (StatusCode, String) {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("host", "admin").body(full("")).unwrap();
        let (status, _, body) = send(self.addresses.admin, request).await;
        (status, body)
    }

    /// Tells the proxy to end and waits until it has.
    pub async fn end(self) -> TempDir {
        self.shutdown.cancel();
        self.ended.await.unwrap().unwrap();
        self.dir
    }

    /// Waits until the proxy has ended by itself.
    pub async fn ended(self) {
        self.ended.await.unwrap().unwrap();
    }
}

/// Where nobody listens, for as long as the tests run: bound by a socket that does not listen.
pub fn nobody() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket);
    address
}

/// A connection to somebody who may reset it at once: it is there before whoever accepts has a turn.
pub fn connected(address: SocketAddr) -> TcpStream {
    let stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_nonblocking(true).unwrap();
    TcpStream::from_std(stream).unwrap()
}

pub async fn connect(address: SocketAddr) -> http1::SendRequest<Body> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub async fn connect_http2(address: SocketAddr) -> http2::SendRequest<Body> {
    let stream = TcpStream::connect(address).await.unwrap();
    let io = TokioIo::new(stream);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Sends one HTTP/1.1 request on a connection of its own.
pub async fn send(address: SocketAddr, request: Request<Body>) -> (StatusCode, HeaderMap, String) {
    let response = connect(address).await.send_request(request).await.unwrap();
    read(response).await
}

pub async fn read(response: Response<Incoming>) -> (StatusCode, HeaderMap, String) {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    (head.status, head.headers, text)
}

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub roots_pem: String,
}

impl Authority {
    pub fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let roots_pem = params.self_signed(&key).unwrap().pem();
        Authority {
            issuer: Issuer::new(params, key),
            roots_pem,
        }
    }

    fn params(path: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let uri = format!("spiffe://isobar.local/{path}");
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params
    }

    /// Key and chain, PEM, for `spiffe://isobar.local/<path>`.
    pub fn issue(&self, path: &str) -> (String, String) {
        self.issue_at(path, &[])
    }

    /// The same with these DNS names: a workload's says at which node its proxy is.
    pub fn issue_at(&self, path: &str, names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = Authority::params(path);
        let names = names.iter().map(|name| (*name).try_into().unwrap());
        params.subject_alt_names.extend(names.map(SanType::DnsName));
        let chain = params.signed_by(&key, &self.issuer);
        (key.serialize_pem(), chain.unwrap().pem())
    }

    /// A chain for the key of a certificate request.
    pub fn sign(&self, csr_pem: &str, path: &str) -> String {
        let mut csr = CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
        csr.params = Authority::params(path);
        csr.signed_by(&self.issuer).unwrap().pem()
    }

    /// Writes an identity into a proxy's data directory.
    pub fn enrol(&self, dir: &TempDir, path: &str) {
        self.keep(dir.path(), self.issue(path));
    }

    /// The same for the proxy of a workload, `namespace/account`, at a node.
    pub fn enrol_beside(&self, dir: &Path, account: &str, node: &str) {
        let path = format!("ns/{}", account.replace('/', "/sa/"));
        let name = format!("{node}.node.isobar.local");
        self.keep(dir, self.issue_at(&path, &[&name]));
    }

    fn keep(&self, dir: &Path, (key, chain): (String, String)) {
        let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        write(files::KEY_FILE, &key);
        write(files::CHAIN_FILE, &chain);
        write(files::ROOTS_FILE, &self.roots_pem);
    }
}

/// A snapshot with one service: an endpoint here, everything at home.
pub fn snapshot(name: &str, endpoint: &TestEndpoint, workers: u32) -> Snapshot {
    Snapshot {
        plan: PlanId {
            epoch: 1,
            generation: 1,
        },
        node: node(name),
        period_ms: 1000,
        neighbours: Vec::new(),
        services: vec![ServicePlan {
            service: service(),
            hosts: vec![HOST.to_owned()],
            endpoints: vec![Endpoint {
                address: endpoint.address.to_string(),
                workers,
            }],
            row: Row::home(),
            credits: Vec::new(),
            spill: Vec::new(),
            cloud_address: None,
            queue: QueueLimits::default(),
            access: Vec::new(),
            traffic: None,
            protocol: None,
            rate_shares: Vec::new(),
        }],
        routes: Vec::new(),
    }
}

/// Lets a snapshot's service send `weight_ppm` to a neighbour.
pub fn moves_to(mut snapshot: Snapshot, to: &str, at: SocketAddr, weight_ppm: u32) -> Snapshot {
    snapshot.neighbours.push(Neighbour {
        node: node(to),
        mesh_address: at.to_string(),
        rtt_us: 500,
    });
    let row = &mut snapshot.services[0].row;
    row.home_ppm -= weight_ppm;
    row.moves.push(Move {
        to: node(to),
        weight_ppm,
    });
    snapshot
}

/// Lets a snapshot's service take requests of a home.
pub fn takes_from(mut snapshot: Snapshot, home: &str) -> Snapshot {
    snapshot.services[0].credits.push(Credit {
        home: node(home),
        credit_rps: 1e6,
    });
    snapshot
}
