//! With a controller, without one, and with one that errs. The controller
//! here is a few lines over the messages.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::listeners::listener;
use crate::support::{
    Authority, HOST, TestEndpoint, TestProxy, config, full, node, send, service, snapshot,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use isobar_edge_proxy::config::listener::ListenerProtocol;
use isobar_edge_proxy::identity::verify::provider;
use isobar_edge_proxy::snapshot_file::{self, SNAPSHOT_FILE};
use isobar_mesh_api::enrol::{ENROL_PATH, EnrolRequest};
use isobar_mesh_api::errand::{Errand, Said, What};
use isobar_mesh_api::message::{
    Certificate, Down, Hello, LineBuffer, LocalService, UPGRADE, Up, decode_line, encode_line,
};
use isobar_mesh_api::report::Report;
use isobar_mesh_api::resource::Metadata;
use isobar_mesh_api::route::Route;
use isobar_mesh_api::snapshot::{Delta, Endpoint, PlanId, Snapshot};
use isobar_mesh_api::tap::{Filter, Tap};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const TOKEN: &str = "let-me-in";

/// One control stream, seen from the controller.
struct Stream {
    up: mpsc::Receiver<Up>,
    down: mpsc::Sender<Bytes>,
    /// Requests that entered and that were completed, by all reports so far.
    reported: (u64, u64),
}

impl Stream {
    async fn say(&self, message: &Down) {
        let line = encode_line(message).unwrap();
        self.down.send(Bytes::from(line)).await.unwrap();
    }

    async fn hello(&mut self) -> Hello {
        match self.up.recv().await {
            Some(Up::Hello(hello)) => hello,
            other => panic!("{other:?} instead of hello"),
        }
    }

    /// The next message that is not a report.
    async fn answer(&mut self) -> Up {
        loop {
            match self.up.recv().await.expect("the stream is open") {
                Up::Report(report) => self.count(&report),
                other => return other,
            }
        }
    }

    /// Reads reports until the proxy closes the stream.
    async fn rest(mut self) -> (u64, u64) {
        while let Some(message) = self.up.recv().await {
            match message {
                Up::Report(report) => self.count(&report),
                other => panic!("{other:?} instead of a report"),
            }
        }
        self.reported
    }

    fn count(&mut self, report: &Report) {
        assert_eq!(report.check(), Ok(()));
        for entry in &report.services {
            self.reported.0 += entry.entered;
            self.reported.1 += entry.completed;
        }
    }
}

/// A controller that signs what has the token and hands its streams to the test.
struct Controller {
    address: SocketAddr,
    authority: Arc<Authority>,
    streams: mpsc::Receiver<Stream>,
    /// One entry for each connection whose handshake failed.
    refused: mpsc::Receiver<()>,
}

impl Controller {
    async fn start(name: &str) -> Controller {
        let authority = Arc::new(Authority::new());
        let (key, chain) = authority.issue(name);
        let mut roots = rustls::RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(authority.roots_pem.as_bytes()).unwrap();
        roots.add(root).unwrap();
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            provider(),
        );
        let clients = clients.allow_unauthenticated().build().unwrap();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (opened, streams) = mpsc::channel(8);
        let (failed, refused) = mpsc::channel(8);
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let signer = Arc::clone(&authority);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, opened) = (acceptor.clone(), opened.clone());
                let (failed, signer) = (failed.clone(), Arc::clone(&signer));
                tokio::spawn(async move {
                    match acceptor.accept(stream).await {
                        Ok(tls) => serve(tls, opened, signer).await,
                        Err(_) => drop(failed.try_send(())),
                    }
                });
            }
        });
        Controller {
            address,
            authority,
            streams,
            refused,
        }
    }

    /// A proxy's configuration with what it needs to enrol.
    fn config(&self, dir: &TempDir) -> isobar_edge_proxy::config::Config {
        let (ca, token) = (dir.path().join("ca.pem"), dir.path().join("token"));
        std::fs::write(&ca, &self.authority.roots_pem).unwrap();
        std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
        let mut config = config("a", dir);
        config.controller = Some(self.address.to_string());
        config.ca_file = Some(ca);
        config.token_file = Some(token);
        config
    }

    async fn stream(&mut self) -> Stream {
        self.streams.recv().await.unwrap()
    }
}

async fn serve(
    tls: tokio_rustls::server::TlsStream<TcpStream>,
    opened: mpsc::Sender<Stream>,
    authority: Arc<Authority>,
) {
    let named = tls.get_ref().1.peer_certificates().is_some();
    let service = service_fn(move |request: Request<Incoming>| {
        let (opened, authority) = (opened.clone(), Arc::clone(&authority));
        async move {
            Ok::<_, Infallible>(match request.uri().path() {
                ENROL_PATH => enrol(request, &authority).await,
                _ if named => stream_of(request, opened).await,
                _ => status(StatusCode::FORBIDDEN),
            })
        }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(tls), service)
        .with_upgrades()
        .await;
}

async fn enrol(request: Request<Incoming>, authority: &Authority) -> Response<Full<Bytes>> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let asked: EnrolRequest = serde_json::from_slice(&body).unwrap();
    if asked.token != TOKEN {
        return status(StatusCode::FORBIDDEN);
    }
    let certificate = Certificate {
        chain_pem: authority.sign(&asked.csr_pem, &format!("node/{}", asked.node)),
        roots_pem: authority.roots_pem.clone(),
        renewal: None,
    };
    let text = serde_json::to_vec(&certificate).unwrap();
    Response::new(Full::new(Bytes::from(text)))
}

async fn stream_of(
    mut request: Request<Incoming>,
    opened: mpsc::Sender<Stream>,
) -> Response<Full<Bytes>> {
    let (up, ups) = mpsc::channel(64);
    let (down, mut downs) = mpsc::channel::<Bytes>(64);
    let upgrade = hyper::upgrade::on(&mut request);
    let hello = request.into_body().collect().await.unwrap().to_bytes();
    tokio::spawn(async move {
        let mut buffer = LineBuffer::new();
        buffer.push(&hello).unwrap();
        let connection = TokioIo::new(upgrade.await.unwrap());
        let (mut reading, mut writing) = tokio::io::split(connection);
        tokio::spawn(async move {
            while let Some(lines) = downs.recv().await {
                if writing.write_all(&lines).await.is_err() || writing.flush().await.is_err() {
                    return;
                }
            }
            let _ = writing.shutdown().await;
        });
        let mut bytes = vec![0; 4096];
        loop {
            while let Some(line) = buffer.next_line() {
                let _ = up.send(decode_line(line).unwrap()).await;
            }
            match reading.read(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(len) => buffer.push(&bytes[..len]).unwrap(),
            }
        }
    });
    let stream = Stream {
        up: ups,
        down,
        reported: (0, 0),
    };
    opened.send(stream).await.unwrap();
    let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert("connection", "upgrade".parse().unwrap());
    headers.insert("upgrade", UPGRADE.parse().unwrap());
    response
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn generation(mut snapshot: Snapshot, generation: u64) -> Snapshot {
    snapshot.plan.generation = generation;
    snapshot.period_ms = 100;
    snapshot
}

fn plan(epoch: u64, generation: u64) -> PlanId {
    PlanId { epoch, generation }
}

#[tokio::test]
async fn a_proxy_enrols_reports_and_obeys() {
    let (a, other) = (
        TestEndpoint::start("a").await,
        TestEndpoint::start("other").await,
    );
    let mut controller = Controller::start("ns/isobar/sa/controller").await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = controller.config(&dir);
    config.mesh_advertise = Some("edge-a.example:7411".to_owned());
    config.services.push(LocalService {
        service: service(),
        hosts: vec![HOST.to_owned()],
        endpoints: vec![Endpoint {
            address: a.address.to_string(),
            workers: 8,
        }],
        capacity_rps: Some(100.0),
    });
    let proxy = TestProxy::start(config, dir).await;
    let mut stream = controller.stream().await;
    let hello = stream.hello().await;
    assert_eq!((hello.node, hello.plan), (node("a"), None));
    assert_eq!(hello.mesh_address, "edge-a.example:7411");
    assert_eq!(hello.services[0].capacity_rps, Some(100.0));

    assert_eq!(proxy.get("/").await.2, "a");
    stream
        .say(&Down::Snapshot(generation(snapshot("a", &other, 8), 2)))
        .await;
    assert_eq!(stream.answer().await, Up::Ack(plan(1, 2)));
    assert_eq!(proxy.get("/").await.2, "other");

    // A delta that does not add up, one for another base, a good one, one of long ago.
    let mut delta = Delta {
        plan: plan(1, 3),
        base: plan(1, 2),
        neighbours: None,
        services: snapshot("a", &a, 8).services,
        removed: Vec::new(),
        routes: Vec::new(),
        routes_removed: Vec::new(),
    };
    delta.services[0].row.home_ppm = 5;
    stream.say(&Down::Delta(delta.clone())).await;
    let Up::Nack(nack) = stream.answer().await else {
        panic!("a row of 5 ppm was taken");
    };
    assert!(
        nack.plan == delta.plan && nack.reason.contains("5 ppm"),
        "{nack:?}"
    );
    assert_eq!(proxy.get("/").await.2, "other");
    delta.services[0].row.home_ppm = 1_000_000;
    stream
        .down
        .send(Bytes::from_static(b"nonsense\n{\"type\":\"weather\"}\n"))
        .await
        .unwrap();
    stream.say(&Down::Delta(delta)).await;
    assert_eq!(stream.answer().await, Up::Ack(plan(1, 3)));
    assert_eq!(proxy.get("/").await.2, "a");
    stream
        .say(&Down::Snapshot(generation(snapshot("a", &other, 8), 2)))
        .await;
    assert!(matches!(stream.answer().await, Up::Nack(nack) if nack.reason.contains("not newer")));
    let foreign = generation(snapshot("b", &other, 8), 4);
    stream.say(&Down::Snapshot(foreign)).await;
    assert!(matches!(stream.answer().await, Up::Nack(nack) if nack.reason.contains("for b")));

    // The last report comes before the end, the last plan is kept.
    assert_eq!(proxy.get("/").await.2, "a");
    let rest = tokio::spawn(stream.rest());
    let dir = proxy.end().await;
    assert_eq!(rest.await.unwrap(), (5, 5));
    let kept = snapshot_file::load(dir.path(), &node("a"))
        .unwrap()
        .unwrap();
    assert_eq!(kept.plan, plan(1, 3));
}

/// A route of the service that fails so many of a hundred requests.
fn failing(percent: u32) -> Arc<Route> {
    let spec = serde_json::json!({ "hostnames": [HOST], "rules": [{
        "filters": [{ "type": "Fault", "fault": { "abort": { "percent": percent } } }],
        "backendRefs": [{ "name": "cart" }]
    }] });
    let metadata = Metadata {
        name: "r".to_owned(),
        namespace: "shop".to_owned(),
        ..Metadata::default()
    };
    let spec = serde_json::from_value(spec).unwrap();
    Arc::new(Route::from_http(&metadata, &spec).unwrap())
}

#[tokio::test]
async fn a_route_changes_with_the_next_delta() {
    let a = TestEndpoint::start("a").await;
    let mut controller = Controller::start("ns/isobar/sa/controller").await;
    let dir = tempfile::tempdir().unwrap();
    let proxy = TestProxy::start(controller.config(&dir), dir).await;
    let mut stream = controller.stream().await;
    stream.hello().await;
    let first = generation(snapshot("a", &a, 8), 1);
    stream.say(&Down::Snapshot(first)).await;
    assert_eq!(stream.answer().await, Up::Ack(plan(1, 1)));
    assert_eq!(proxy.get("/").await.0, StatusCode::OK);
    let gone = failing(0).key().clone();
    let changes = [
        (vec![failing(100)], vec![], StatusCode::SERVICE_UNAVAILABLE),
        (vec![failing(0)], vec![], StatusCode::OK),
        (vec![failing(100)], vec![], StatusCode::SERVICE_UNAVAILABLE),
        (vec![], vec![gone], StatusCode::OK),
    ];
    for (base, (routes, routes_removed, status)) in (1..).zip(changes) {
        let delta = Delta {
            plan: plan(1, base + 1),
            base: plan(1, base),
            neighbours: None,
            services: Vec::new(),
            removed: Vec::new(),
            routes,
            routes_removed,
        };
        stream.say(&Down::Delta(delta)).await;
        assert_eq!(stream.answer().await, Up::Ack(plan(1, base + 1)));
        assert_eq!(proxy.get("/").await.0, status, "after delta {base}");
    }
    proxy.end().await;
}

/// A tap on everything of the service.
fn tap(number: u64, headers: &[&str]) -> Tap {
    let filter = Filter {
        service: Some(service()),
        method: None,
        path: None,
        status: None,
        moved: false,
        to: None,
    };
    Tap {
        tap: number,
        lifetime_ms: 60_000,
        lines_per_s_max: 100,
        filter,
        headers: headers.iter().map(|name| (*name).to_owned()).collect(),
    }
}

#[tokio::test]
async fn tapped_requests_are_told_until_the_tap_or_its_stream_ends() {
    let a = TestEndpoint::start("a").await;
    let mut controller = Controller::start("ns/isobar/sa/controller").await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = controller.config(&dir);
    let mut own = listener(ListenerProtocol::Tcp);
    own.service = Some(service());
    config.listeners.push(own);
    let proxy = TestProxy::start(config, dir).await;
    let mut stream = controller.stream().await;
    stream.hello().await;
    let first = generation(snapshot("a", &a, 8), 1);
    stream.say(&Down::Snapshot(first)).await;
    assert_eq!(stream.answer().await, Up::Ack(plan(1, 1)));
    // Even a controller that asks for a secret does not get it.
    stream
        .say(&Down::Tap(tap(1, &["host", "authorization"])))
        .await;
    stream.say(&Down::Tap(tap(2, &[]))).await;
    let ping = Down::Errand(Errand {
        number: 1,
        what: What::LogLevels("loud=very".into()),
    });
    stream.say(&ping).await;
    let Up::Done(done) = stream.answer().await else {
        panic!("no answer to an errand");
    };
    assert!(matches!(done.said, Said::Failed(why) if why.contains("no log level")));
    let request = Request::get("/a?q=1")
        .header("host", HOST)
        .header("authorization", "Bearer very-secret")
        .body(full(""));
    send(proxy.addresses.ingress, request.unwrap()).await;
    for expected in [1, 2] {
        let Up::Tapped(lines) = stream.answer().await else {
            panic!("nothing tapped");
        };
        assert_eq!(
            (lines.tap, lines.left_out, lines.requests.len()),
            (expected, 0, 1)
        );
        let told = &lines.requests[0];
        assert_eq!(
            (told.method.as_str(), told.path.as_str(), told.status),
            ("GET", "/a", 200)
        );
        assert_eq!((told.served.clone(), told.moved), (Some(node("a")), None));
        let headers: &[(String, String)] = &[
            ("host".into(), HOST.into()),
            ("authorization".into(), "(redacted)".into()),
        ];
        assert_eq!(told.headers, if expected == 1 { headers } else { &[] });
    }
    // A tap that has ended is silent, the other one is not.
    stream.say(&Down::Untap { tap: 1 }).await;
    stream.say(&ping).await;
    assert!(matches!(stream.answer().await, Up::Done(_)));
    proxy.get("/b").await;
    let Up::Tapped(lines) = stream.answer().await else {
        panic!("nothing tapped");
    };
    assert_eq!((lines.tap, lines.requests[0].path.as_str()), (2, "/b"));
    // A TCP connection is told of when it has ended, with its bytes.
    let mut connection = TcpStream::connect(proxy.own()).await.unwrap();
    let asked = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    connection.write_all(asked).await.unwrap();
    let mut heard = Vec::new();
    connection.read_to_end(&mut heard).await.unwrap();
    drop(connection);
    let Up::Tapped(lines) = stream.answer().await else {
        panic!("nothing tapped");
    };
    let told = &lines.requests[0];
    assert_eq!((&*told.method, &*told.path, told.status), ("TCP", "", 0));
    assert_eq!(told.served, Some(node("a")));
    let bytes = [told.received_len, told.sent_len];
    assert_eq!(
        bytes,
        [asked.len(), heard.len()].map(|len| Some(len as u64))
    );
    // What no service is for is told to who looks for that.
    let mut of_none = tap(4, &[]);
    of_none.filter.service = None;
    stream.say(&Down::Tap(of_none)).await;
    stream.say(&ping).await;
    assert!(matches!(stream.answer().await, Up::Done(_)));
    let strange = Request::get("/nobody").header("host", "strange.example");
    send(proxy.addresses.ingress, strange.body(full("")).unwrap()).await;
    let Up::Tapped(lines) = stream.answer().await else {
        panic!("nothing tapped");
    };
    let told = &lines.requests[0];
    assert_eq!((lines.tap, &*told.path, told.status), (4, "/nobody", 404));
    assert_eq!(told.served, None);
    // With its stream a tap is gone.
    drop(stream);
    let mut second = controller.stream().await;
    second.hello().await;
    proxy.get("/c").await;
    second.say(&Down::Tap(tap(3, &[]))).await;
    second.say(&ping).await;
    assert!(matches!(second.answer().await, Up::Done(_)));
    proxy.get("/d").await;
    let Up::Tapped(lines) = second.answer().await else {
        panic!("nothing tapped");
    };
    assert_eq!((lines.tap, lines.requests.len()), (3, 1));
    assert_eq!(lines.requests[0].path, "/d");
    proxy.end().await;
}

#[tokio::test]
async fn after_a_lost_stream_it_says_what_it_has() {
    let a = TestEndpoint::start("a").await;
    let mut controller = Controller::start("ns/isobar/sa/controller").await;
    let dir = tempfile::tempdir().unwrap();
    let proxy = TestProxy::start(controller.config(&dir), dir).await;
    let mut first = controller.stream().await;
    assert_eq!(first.hello().await.plan, None);
    first
        .say(&Down::Snapshot(generation(snapshot("a", &a, 8), 7)))
        .await;
    assert_eq!(first.answer().await, Up::Ack(plan(1, 7)));
    drop(first);
    let mut second = controller.stream().await;
    assert_eq!(second.hello().await.plan, Some(plan(1, 7)));
    // Another controller took over: its epoch is higher, its generations begin again.
    let mut taken_over = generation(snapshot("a", &a, 8), 1);
    taken_over.plan.epoch = 2;
    second.say(&Down::Snapshot(taken_over)).await;
    assert_eq!(second.answer().await, Up::Ack(plan(2, 1)));
    // The one before does not know yet: later generations of an older epoch are refused, whole and in part.
    let late = generation(snapshot("a", &a, 8), 9);
    second.say(&Down::Snapshot(late)).await;
    assert!(matches!(second.answer().await, Up::Nack(nack) if nack.plan == plan(1, 9)));
    let late = Delta {
        plan: plan(1, 10),
        base: plan(2, 1),
        neighbours: None,
        services: Vec::new(),
        removed: Vec::new(),
        routes: Vec::new(),
        routes_removed: Vec::new(),
    };
    second.say(&Down::Delta(late)).await;
    assert!(matches!(second.answer().await, Up::Nack(nack) if nack.plan == plan(1, 10)));
    proxy.end().await;
}

#[tokio::test]
async fn only_the_controller_is_believed() {
    let a = TestEndpoint::start("a").await;
    let mut impostor = Controller::start("node/b").await;
    let dir = tempfile::tempdir().unwrap();
    snapshot_file::save(dir.path(), &snapshot("a", &a, 8)).unwrap();
    let proxy = TestProxy::start(impostor.config(&dir), dir).await;
    // It breaks off, tries again, and serves all the same.
    for _ in 0..2 {
        impostor.refused.recv().await.unwrap();
        assert_eq!(proxy.get("/").await.2, "a");
    }
    let dir = proxy.end().await;
    assert!(impostor.streams.try_recv().is_err());
    assert!(!dir.path().join("node-chain.pem").exists());
}

#[tokio::test]
async fn the_last_plan_is_served_before_the_controller_is_met() {
    let a = TestEndpoint::start("a").await;
    let dir = tempfile::tempdir().unwrap();
    snapshot_file::save(dir.path(), &snapshot("a", &a, 8)).unwrap();
    let mut config = config("a", &dir);
    // Nobody listens there.
    config.controller = Some("127.0.0.1:1".to_owned());
    let proxy = TestProxy::start(config.clone(), dir).await;
    assert_eq!(proxy.get("/").await.2, "a");
    let dir = proxy.end().await;

    // A broken file is not believed: the proxy starts with what its configuration says.
    let path = dir.path().join(SNAPSHOT_FILE);
    let broken = std::fs::read_to_string(&path)
        .unwrap()
        .replace(HOST, "evil.example");
    std::fs::write(&path, broken).unwrap();
    let other = TestEndpoint::start("other").await;
    config.services.push(LocalService {
        service: service(),
        hosts: vec!["*".to_owned()],
        endpoints: vec![Endpoint {
            address: other.address.to_string(),
            workers: 1,
        }],
        capacity_rps: None,
    });
    let proxy = TestProxy::start(config, dir).await;
    for host in [HOST, "evil.example"] {
        let request = Request::get("/")
            .header("host", host)
            .body(full(""))
            .unwrap();
        assert_eq!(send(proxy.addresses.ingress, request).await.2, "other");
    }
    proxy.end().await;
}
