//! A proxy as the controller sees one: enrols, opens a stream, speaks lines.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use isobar_mesh_api::enrol::{ENROL_PATH, EnrolRequest};
use isobar_mesh_api::message::{
    Certificate, Down, Hello, LineBuffer, LocalService, Location, PROTOCOL_VERSION, STREAM_PATH,
    UPGRADE, Up, decode_line, encode_line,
};
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::report::{Report, ServiceReport};
use isobar_mesh_api::snapshot::{Endpoint, PlanId, Row, ServicePlan};
use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::mesh::{Door, PATIENCE};

/// A refused request: its status and its problem.
pub type Refusal = (StatusCode, Value);

/// How a stream is spoken.
#[derive(Clone, Copy)]
pub enum Wire {
    /// As proxies do.
    Upgrade,
    /// As controllers do among themselves, with room for so many bytes that were not read.
    Http2 { window: u32 },
}

pub struct Proxy {
    pub node: NodeId,
    pub key: KeyPair,
    pub certificate: Option<Certificate>,
}

impl Proxy {
    /// A proxy that has a key and nothing else.
    pub fn stranger(node: &str) -> Proxy {
        Proxy {
            node: NodeId::new(node).unwrap(),
            key: KeyPair::generate().unwrap(),
            certificate: None,
        }
    }

    /// A proxy with a certificate.
    pub async fn enrolled(door: &Door, node: &str) -> Proxy {
        let mut proxy = Proxy::stranger(node);
        let ask = proxy.ask(node, &door.token);
        proxy.certificate = Some(proxy.enrol(door, &ask).await.unwrap());
        proxy
    }

    pub fn ask(&self, node: &str, token: &str) -> EnrolRequest {
        let params = rcgen::CertificateParams::default();
        EnrolRequest {
            node: NodeId::new(node).unwrap(),
            csr_pem: params.serialize_request(&self.key).unwrap().pem().unwrap(),
            token: token.to_owned(),
            site: None,
        }
    }

    pub async fn enrol(&self, door: &Door, ask: &EnrolRequest) -> Result<Certificate, Refusal> {
        let body = serde_json::to_vec(ask).unwrap();
        let (status, value) = self.post(door, ENROL_PATH, body).await;
        match status {
            StatusCode::OK => Ok(serde_json::from_value(value).unwrap()),
            _ => Err((status, value)),
        }
    }

    /// Posts a whole body over a connection of its own.
    pub async fn post(&self, door: &Door, path: &str, body: Vec<u8>) -> Refusal {
        let request = Request::post(path).body(Full::new(Bytes::from(body)));
        refusal(self.send(door, request.unwrap()).await.unwrap()).await
    }

    /// Sends a request by HTTP/1.1 over a connection of its own.
    pub async fn send(
        &self,
        door: &Door,
        request: Request<Full<Bytes>>,
    ) -> std::io::Result<Response<Incoming>> {
        let tls = self.connect(door, b"http/1.1").await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tls))
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(connection.with_upgrades());
        let answered = sender.send_request(request).await;
        answered.map_err(std::io::Error::other)
    }

    async fn connect(&self, door: &Door, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(door.roots_pem.as_bytes()) {
            roots.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                let chain = CertificateDer::pem_slice_iter(certificate.chain_pem.as_bytes());
                let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
                let chain = chain.map(Result::unwrap).collect();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        let socket = TcpStream::connect(door.addresses.stream).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let tls = TlsConnector::from(Arc::new(config));
        tls.connect(name, socket).await
    }

    pub fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL_VERSION,
            node: self.node.clone(),
            version: "0.0.0".to_owned(),
            mesh_address: "127.0.0.1:7411".to_owned(),
            location: None,
            site: None,
            region: None,
            services: Vec::new(),
            plan: None,
        }
    }

    /// A hello with a place and an instance of the service.
    pub fn hello_at(&self, lon_deg: f64, capacity_rps: f64) -> Hello {
        Hello {
            location: Some(Location {
                lat_deg: 45.0,
                lon_deg,
            }),
            services: vec![LocalService {
                service: service(),
                hosts: vec!["*".to_owned()],
                endpoints: vec![Endpoint {
                    address: "127.0.0.1:9000".to_owned(),
                    workers: 4,
                }],
                capacity_rps: Some(capacity_rps),
            }],
            ..self.hello()
        }
    }

    pub async fn stream(&self, door: &Door, hello: Hello) -> Result<Stream, Refusal> {
        self.open(door, hello, Wire::Upgrade).await.unwrap()
    }

    /// `Err` when there is no connection at all.
    pub async fn open(
        &self,
        door: &Door,
        hello: Hello,
        wire: Wire,
    ) -> std::io::Result<Result<Stream, Refusal>> {
        match wire {
            Wire::Upgrade => self.upgraded(door, hello).await,
            Wire::Http2 { window } => self.over_http2(door, hello, window).await,
        }
    }

    async fn upgraded(
        &self,
        door: &Door,
        hello: Hello,
    ) -> std::io::Result<Result<Stream, Refusal>> {
        let hello = encode_line(&Up::Hello(hello)).unwrap();
        let request = Request::post(STREAM_PATH)
            .header("connection", "upgrade")
            .header("upgrade", UPGRADE)
            .body(Full::new(Bytes::from(hello)))
            .unwrap();
        let response = self.send(door, request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Err(refusal(response).await));
        }
        let upgraded = hyper::upgrade::on(response).await;
        let upgraded = upgraded.map_err(std::io::Error::other)?;
        let parts = upgraded.downcast::<TokioIo<TlsStream<TcpStream>>>();
        let parts = parts.unwrap();
        let (down, mut outgoing) = tokio::io::split(parts.io.into_inner());
        let (up, mut lines) = mpsc::channel::<Bytes>(64);
        tokio::spawn(async move {
            while let Some(line) = lines.recv().await {
                outgoing.write_all(&line).await?;
                outgoing.flush().await?;
            }
            outgoing.shutdown().await
        });
        let mut buffer = LineBuffer::new();
        buffer.push(&parts.read_buf).unwrap();
        let down = Side::Connection(down);
        Ok(Ok(Stream { up, down, buffer }))
    }

    async fn over_http2(
        &self,
        door: &Door,
        hello: Hello,
        window: u32,
    ) -> std::io::Result<Result<Stream, Refusal>> {
        let tls = self.connect(door, b"h2").await?;
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        let (up, lines) = mpsc::channel(64);
        up.send(encode_line(&Up::Hello(hello)).unwrap().into())
            .await
            .unwrap();
        let request = Request::post(STREAM_PATH).body(Lines(lines)).unwrap();
        let response = sender.send_request(request).await;
        let response = response.map_err(std::io::Error::other)?;
        if response.status() != StatusCode::OK {
            return Ok(Err(refusal(response).await));
        }
        Ok(Ok(Stream {
            up,
            down: Side::Body(response.into_body(), sender),
            buffer: LineBuffer::new(),
        }))
    }
}

async fn refusal(response: Response<Incoming>) -> Refusal {
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap())
}

/// A request body fed line by line.
struct Lines(mpsc::Receiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(context)
            .map(|line| Some(Ok(Frame::data(line?))))
    }
}

/// An open control stream.
pub struct Stream {
    pub up: mpsc::Sender<Bytes>,
    down: Side,
    buffer: LineBuffer,
}

/// Where the controller's lines come from.
enum Side {
    Connection(ReadHalf<TlsStream<TcpStream>>),
    /// With what keeps the connection open.
    Body(Incoming, #[expect(dead_code)] http2::SendRequest<Lines>),
}

impl Side {
    /// What came next; nothing at the end.
    async fn read(&mut self) -> std::io::Result<Bytes> {
        match self {
            Side::Connection(half) => {
                let mut bytes = bytes::BytesMut::with_capacity(4096);
                half.read_buf(&mut bytes).await?;
                Ok(bytes.freeze())
            }
            Side::Body(body, _) => loop {
                let Some(frame) = body.frame().await else {
                    return Ok(Bytes::new());
                };
                match frame.map_err(std::io::Error::other)?.into_data() {
                    Ok(bytes) if !bytes.is_empty() => return Ok(bytes),
                    _ => {}
                }
            },
        }
    }
}

impl Stream {
    pub async fn send(&self, up: &Up) {
        self.up.send(encode_line(up).unwrap().into()).await.unwrap();
    }

    /// The next message; `None` at the stream's end.
    pub async fn next(&mut self) -> Option<Down> {
        let next = tokio::time::timeout(PATIENCE, self.read()).await;
        next.expect("the controller says nothing")
    }

    async fn read(&mut self) -> Option<Down> {
        loop {
            if let Some(line) = self.buffer.next_line() {
                return Some(decode_line(line).unwrap());
            }
            let bytes = self.down.read().await.ok();
            let bytes = bytes.filter(|bytes| !bytes.is_empty())?;
            self.buffer.push(&bytes).unwrap();
        }
    }

    /// Reads to the end. Returns whether it ended in order.
    pub async fn end(&mut self) -> bool {
        let ended = async {
            loop {
                match self.down.read().await {
                    Ok(bytes) if bytes.is_empty() => return true,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        };
        let ended = tokio::time::timeout(PATIENCE, ended).await;
        ended.expect("the stream does not end")
    }

    /// Reads and acknowledges until the service's row fits, and reports each time something comes.
    pub async fn until_row(
        &mut self,
        report: &Report,
        fits: impl Fn(&Row) -> bool,
    ) -> (PlanId, Row) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            assert!(tokio::time::Instant::now() < deadline, "no such row came");
            let (plan, services) = match self.next().await.expect("the stream has ended") {
                Down::Snapshot(snapshot) => {
                    snapshot.check().unwrap();
                    (snapshot.plan, snapshot.services)
                }
                Down::Delta(delta) => (delta.plan, delta.services),
                _ => {
                    self.send(&Up::Report(report.clone())).await;
                    continue;
                }
            };
            self.send(&Up::Ack(plan)).await;
            if let Some(row) = row(services).filter(|row| fits(row)) {
                return (plan, row);
            }
        }
    }

    /// The first snapshot.
    pub async fn snapshot(&mut self) -> isobar_mesh_api::snapshot::Snapshot {
        loop {
            if let Down::Snapshot(snapshot) = self.next().await.expect("the stream has ended") {
                return snapshot;
            }
        }
    }
}

pub fn row(services: Vec<ServicePlan>) -> Option<Row> {
    let mut found = services.into_iter().filter(|s| s.service == service());
    found.next().map(|s| s.row)
}

pub fn service() -> ServiceName {
    ServiceName::new("shop/cart").unwrap()
}

/// One second in which so many requests entered.
pub fn report(entered: u64) -> Report {
    let mut entry = ServiceReport::idle(service());
    entry.entered = entered;
    Report {
        seq: 1,
        window_us: 1_000_000,
        clock_ms: 1_800_000_000_000,
        cpu_ratio: None,
        services: vec![entry],
        neighbours: Vec::new(),
    }
}
