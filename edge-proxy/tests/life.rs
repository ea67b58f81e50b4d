//! The proxy as a process: binary upgrade and reload under load, and its end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use isobar_edge_proxy::listen::{ADDRESSES_FILE, Addresses};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

#[path = "life/intercept.rs"]
mod intercept;

/// A process that is killed when the test ends, whatever happens.
struct Proxy(Child);

impl Proxy {
    fn start(dir: &Path) -> Proxy {
        let child = Command::new(env!("CARGO_BIN_EXE_isobar-proxy"))
            .args(["--log", "warn", "--config"])
            .arg(dir.join("proxy.toml"))
            .stdout(Stdio::null())
            .spawn();
        Proxy(child.unwrap())
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until it has ended by itself.
    async fn ended(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Answers `endpoint` to HTTP, until its keep-alive ends.
async fn endpoint() -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let service = hyper::service::service_fn(|_| async {
                    let body = http_body_util::Full::new(Bytes::from_static(b"endpoint"));
                    Ok::<_, std::convert::Infallible>(http::Response::new(body))
                });
                let builder = hyper::server::conn::http1::Builder::new();
                let _ = builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    (address, task)
}

/// Sends back what it hears.
async fn echo() -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    (address, task)
}

fn write_config(dir: &Path, http: SocketAddr, tcp: SocketAddr, more: &str) {
    let any = "127.0.0.1:0";
    let text = format!(
        "node = \"a\"\ndata_dir = \"{data}\"\nlisten = \"{any}\"\nmesh_listen = \"{any}\"\nadmin_listen = \"{any}\"\n\
         workers = 2\n\
         [[services]]\nservice = \"shop/cart\"\nhosts = [\"*\"]\nendpoints = [{{ address = \"{http}\", workers = 64 }}]\n\
         [[services]]\nservice = \"shop/db\"\nendpoints = [{{ address = \"{tcp}\", workers = 64 }}]\n\
         [[listeners]]\nname = \"db\"\naddress = \"{any}\"\nprotocol = \"tcp\"\nservice = \"shop/db\"\n{more}",
        data = dir.join("data").display(),
    );
    std::fs::write(dir.join("proxy.toml"), text).unwrap();
}

/// Where the proxy in this directory listens, once `told` says that it is the right one.
async fn addresses(dir: &Path, told: impl Fn(&Addresses) -> bool) -> Addresses {
    let file = dir.join("data").join(ADDRESSES_FILE);
    for _ in 0..10_000 {
        let read = std::fs::read(&file).ok();
        let read = read.and_then(|bytes| serde_json::from_slice::<Addresses>(&bytes).ok());
        if let Some(addresses) = read.filter(&told) {
            return addresses;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the proxy does not say where it listens");
}

/// Clients that never stop; every error is counted with what it was.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    clients: JoinSet<Result<(), String>>,
}

impl Load {
    fn start(addresses: &Addresses) -> Load {
        let mut load = Load {
            stop: Arc::default(),
            done: Arc::default(),
            clients: JoinSet::new(),
        };
        let (ingress, db) = (addresses.ingress, addresses.listeners["db"]);
        for _ in 0..4 {
            load.client(move || one_connection_each(ingress));
            load.client(move || tcp_connection(db));
        }
        for _ in 0..4 {
            let (stop, done) = (Arc::clone(&load.stop), Arc::clone(&load.done));
            load.clients
                .spawn(async move { keep_alive(ingress, &stop, &done).await });
            let (stop, done) = (Arc::clone(&load.stop), Arc::clone(&load.done));
            load.clients
                .spawn(async move { multiplexed(ingress, &stop, &done).await });
        }
        load
    }

    fn client<F, T>(&mut self, mut once: F)
    where
        F: FnMut() -> T + Send + 'static,
        T: Future<Output = Result<(), String>> + Send + 'static,
    {
        let (stop, done) = (Arc::clone(&self.stop), Arc::clone(&self.done));
        self.clients.spawn(async move {
            while !stop.load(SeqCst) {
                once().await?;
                done.fetch_add(1, SeqCst);
            }
            Ok(())
        });
    }

    /// Waits until `count` more were served.
    async fn more(&self, count: usize) {
        let until = self.done.load(SeqCst) + count;
        while self.done.load(SeqCst) < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn end(mut self) {
        self.stop.store(true, SeqCst);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap().unwrap();
        }
    }
}

fn request() -> Request<Empty<Bytes>> {
    let request = Request::get("http://shop.example/").header("host", "shop.example");
    request.body(Empty::new()).unwrap()
}

fn text(doing: &'static str) -> impl Fn(&dyn std::error::Error) -> String {
    move |error| {
        format!(
            "{doing}: {error}: {:?}",
            error.source().map(ToString::to_string)
        )
    }
}

async fn served(response: http::Response<hyper::body::Incoming>) -> Result<(), String> {
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(|e| text("body")(&e))?
        .to_bytes();
    match status == StatusCode::OK && &body[..] == b"endpoint" {
        true => Ok(()),
        false => Err(format!("{status} {body:?}")),
    }
}

async fn one_connection_each(address: SocketAddr) -> Result<(), String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|e| text("connecting")(&e))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| text("http1")(&e))?;
    tokio::spawn(connection);
    served(
        sender
            .send_request(request())
            .await
            .map_err(|e| text("one request")(&e))?,
    )
    .await
}

async fn tcp_connection(address: SocketAddr) -> Result<(), String> {
    let mut stream = TcpStream::connect(address)
        .await
        .map_err(|e| text("connecting tcp")(&e))?;
    let mut heard = Vec::new();
    stream
        .write_all(b"ping")
        .await
        .map_err(|e| text("tcp write")(&e))?;
    stream.shutdown().await.map_err(|e| text("tcp end")(&e))?;
    stream
        .read_to_end(&mut heard)
        .await
        .map_err(|e| text("tcp read")(&e))?;
    match heard == b"ping" {
        true => Ok(()),
        false => Err(format!("heard {heard:?}")),
    }
}

/// Uses a connection until the proxy says that it will close it.
async fn keep_alive(
    address: SocketAddr,
    stop: &AtomicBool,
    done: &AtomicUsize,
) -> Result<(), String> {
    while !stop.load(SeqCst) {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|e| text("connecting")(&e))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| text("http1")(&e))?;
        tokio::spawn(connection);
        while !stop.load(SeqCst) {
            let response = sender
                .send_request(request())
                .await
                .map_err(|e| text("a next request")(&e))?;
            let last = response
                .headers()
                .get("connection")
                .is_some_and(|value| value == "close");
            served(response).await?;
            done.fetch_add(1, SeqCst);
            if last {
                break;
            }
            sender.ready().await.map_err(|e| text("ready")(&e))?;
        }
    }
    Ok(())
}

/// Uses an HTTP/2 connection until the proxy takes no more requests on it.
async fn multiplexed(
    address: SocketAddr,
    stop: &AtomicBool,
    done: &AtomicUsize,
) -> Result<(), String> {
    while !stop.load(SeqCst) {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|e| text("connecting")(&e))?;
        let io = TokioIo::new(stream);
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io)
            .await
            .map_err(|e| text("http2")(&e))?;
        tokio::spawn(connection);
        while !stop.load(SeqCst) && sender.ready().await.is_ok() {
            match sender.try_send_request(request()).await {
                Ok(response) => served(response).await?,
                Err(mut failure) => {
                    // Given back unsent: not an error but the end of the connection.
                    let unsent = failure.take_message().is_some();
                    if unsent || was_not_processed(failure.error()) {
                        break;
                    }
                    return Err(text("an http2 request")(failure.error()));
                }
            }
            done.fetch_add(1, SeqCst);
        }
    }
    Ok(())
}

/// Whether the proxy said that it did nothing with the request (RFC 9113, section 8.7).
fn was_not_processed(error: &hyper::Error) -> bool {
    let cause =
        std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| {
        cause.is_go_away() || cause.reason() == Some(h2::Reason::REFUSED_STREAM)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_takes_over_under_load_and_nothing_breaks() {
    let dir = TempDir::new().unwrap();
    let ((http, _http), (tcp, _tcp)) = (endpoint().await, echo().await);
    write_config(dir.path(), http, tcp, "");
    let mut running = Proxy::start(dir.path());
    let first = addresses(dir.path(), |_| true).await;
    let load = Load::start(&first);
    load.more(200).await;
    for _ in 0..3 {
        let new = Proxy::start(dir.path());
        assert!(running.ended().await.success());
        running = new;
        load.more(200).await;
        assert_eq!(
            addresses(dir.path(), |_| true).await,
            first,
            "the same sockets"
        );
    }
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_fails_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let ((http, _http), (tcp, _tcp)) = (endpoint().await, echo().await);
    // In the new one's way: an address that is taken.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    write_config(dir.path(), http, tcp, "");
    let mut running = Proxy::start(dir.path());
    let first = addresses(dir.path(), |_| true).await;
    let load = Load::start(&first);
    let more = format!(
        "[[listeners]]\nname = \"more\"\naddress = \"{}\"\nprotocol = \"http\"\n",
        taken.local_addr().unwrap()
    );
    write_config(dir.path(), http, tcp, &more);
    assert!(!Proxy::start(dir.path()).ended().await.success());
    load.more(100).await;
    assert!(running.0.try_wait().unwrap().is_none());
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_comes_into_force_under_load_and_nothing_breaks() {
    let dir = TempDir::new().unwrap();
    let ((http, _http), (tcp, _tcp)) = (endpoint().await, echo().await);
    write_config(dir.path(), http, tcp, "");
    let running = Proxy::start(dir.path());
    let first = addresses(dir.path(), |_| true).await;
    let load = Load::start(&first);
    let more = "[[listeners]]\nname = \"more\"\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\n";
    write_config(dir.path(), http, tcp, more);
    running.signal(rustix::process::Signal::HUP);
    let with_more = addresses(dir.path(), |now| now.listeners.contains_key("more")).await;
    assert_eq!(with_more.listeners["db"], first.listeners["db"]);
    one_connection_each(with_more.listeners["more"])
        .await
        .unwrap();
    load.more(100).await;

    // A fault changes nothing.
    write_config(dir.path(), http, tcp, "[[listeners]]\nname = \"broken\"\n");
    running.signal(rustix::process::Signal::HUP);
    metric(
        &with_more,
        "isobar_proxy_config_reloads_total{outcome=\"failed\"} 1",
    )
    .await;
    one_connection_each(with_more.listeners["more"])
        .await
        .unwrap();

    // A listener that is gone listens no more; the others do not notice.
    write_config(dir.path(), http, tcp, "");
    running.signal(rustix::process::Signal::HUP);
    let without = addresses(dir.path(), |now| !now.listeners.contains_key("more")).await;
    while one_connection_each(with_more.listeners["more"])
        .await
        .is_ok()
    {}
    assert_eq!(without.listeners, first.listeners);
    load.more(100).await;
    load.end().await;
}

/// What the admin port answers, head and all.
async fn ask_admin(at: &Addresses, what: &str) -> String {
    let mut stream = TcpStream::connect(at.admin).await.unwrap();
    let request = format!("{what} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = String::new();
    stream.read_to_string(&mut seen).await.unwrap();
    seen
}

/// Waits until a line of `/metrics` is there.
async fn metric(at: &Addresses, line: &str) {
    for _ in 0..10_000 {
        let seen = ask_admin(at, "GET /metrics").await;
        if seen.lines().any(|seen| seen == line) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{line} is not there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_end_it_lets_requests_end() {
    let dir = TempDir::new().unwrap();
    let ((http, _http), (tcp, _tcp)) = (endpoint().await, echo().await);
    write_config(dir.path(), http, tcp, "");
    let mut running = Proxy::start(dir.path());
    let first = addresses(dir.path(), |_| true).await;
    let mut stream = TcpStream::connect(first.listeners["db"]).await.unwrap();
    stream.write_all(b"be").await.unwrap();
    stream.read_exact(&mut [0; 2]).await.unwrap();
    running.signal(rustix::process::Signal::TERM);
    while TcpStream::connect(first.ingress).await.is_ok() {}
    stream.write_all(b"gun").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "gun");
    assert!(running.ended().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_own_log_changes_its_level_and_its_lines_are_json() {
    let dir = TempDir::new().unwrap();
    let ((http, _http), (tcp, _tcp)) = (endpoint().await, echo().await);
    write_config(dir.path(), http, tcp, "");
    let log = dir.path().join("log");
    let child = Command::new(env!("CARGO_BIN_EXE_isobar-proxy"))
        .args(["--log", "error", "--log-json", "--config"])
        .arg(dir.path().join("proxy.toml"))
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn();
    let _running = Proxy(child.unwrap());
    let at = addresses(dir.path(), |_| true).await;
    let shown = ask_admin(&at, "GET /logs").await;
    assert!(shown.ends_with("\r\n\r\nerror\n"), "{shown}");
    let wrong = ask_admin(&at, "PUT /logs?level=loud").await;
    assert!(
        wrong.starts_with("HTTP/1.1 400 ") && wrong.contains("say error, warn,"),
        "{wrong}"
    );
    let method = ask_admin(&at, "POST /logs?level=info").await;
    assert!(
        method.starts_with("HTTP/1.1 405 ") && method.contains("allow: GET, PUT"),
        "{method}"
    );
    let changed = ask_admin(
        &at,
        "PUT /logs?level=warn%2Cisobar_edge_proxy%3A%3Areload=info",
    )
    .await;
    assert!(changed.starts_with("HTTP/1.1 200 "), "{changed}");
    assert!(
        changed.contains("isobar_edge_proxy::reload=info"),
        "{changed}"
    );
    // What is said at `info` of that module alone is in the log now.
    ask_admin(&at, "POST /reload").await;
    let wanted = "the configuration file is in force";
    for _ in 0..10_000 {
        let text = std::fs::read_to_string(&log).unwrap();
        if text.contains(wanted) {
            assert!(!text.contains("\"listening\""), "{text}");
            for line in text.lines() {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                assert!(
                    line["level"].is_string() && line["timestamp"].is_string(),
                    "{line}"
                );
            }
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{}", std::fs::read_to_string(&log).unwrap());
}
