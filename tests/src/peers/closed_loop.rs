//! Connections that each send the next request when the last answer is whole.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::wire::{self, HEAD_LEN_MAX};

/// Longest wait for one answer outside a measured window.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);
/// Bytes taken by one receive of a body.
const READ_LEN: usize = 64 * 1024;

/// One kind of request, the same on every connection.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The bytes of the request, body included.
    pub request: Arc<Vec<u8>>,
    /// Length of the answer's body.
    pub answer_len: usize,
}

impl Exchange {
    /// A request with a body of `send_len` bytes for an answer of `answer_len`.
    pub fn new(send_len: usize, answer_len: usize) -> Exchange {
        Exchange {
            request: Arc::new(wire::request(send_len, answer_len)),
            answer_len,
        }
    }
}

/// One client connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects and does one exchange, whose answer is checked thoroughly.
    ///
    /// # Errors
    /// No connection, no answer within 10 s, or a wrong one.
    pub async fn connect(address: SocketAddr, exchange: &Exchange) -> Result<Client> {
        let first = async {
            let stream = TcpStream::connect(address).await.context("connecting")?;
            stream.set_nodelay(true)?;
            let buffer = vec![
                0;
                if exchange.answer_len > HEAD_LEN_MAX {
                    READ_LEN
                } else {
                    HEAD_LEN_MAX
                }
            ];
            let mut client = Client { stream, buffer };
            client.send_and_read(exchange, wire::check_answer).await?;
            Ok(client)
        };
        let waited = tokio::time::timeout(ANSWER_WAIT_MAX, first).await;
        waited.map_err(|_| anyhow!("no answer within {ANSWER_WAIT_MAX:?}"))?
    }

    /// Sends the request and reads the whole answer.
    ///
    /// # Errors
    /// The connection ended, another status than 200, or more bytes than an answer has.
    pub async fn exchange(&mut self, exchange: &Exchange) -> Result<()> {
        self.send_and_read(exchange, |head, _| wire::check_status(head))
            .await
    }

    async fn send_and_read(
        &mut self,
        exchange: &Exchange,
        check: impl Fn(&[u8], usize) -> Result<()>,
    ) -> Result<()> {
        self.stream
            .write_all(&exchange.request)
            .await
            .context("sending")?;
        let mut filled = 0;
        let head_len = loop {
            ensure!(
                filled < self.buffer.len(),
                "a head beyond {} bytes",
                self.buffer.len()
            );
            let count = self
                .stream
                .read(&mut self.buffer[filled..])
                .await
                .context("receiving")?;
            ensure!(count > 0, "closed before an answer");
            filled += count;
            if let Some(head_len) = wire::head_len(&self.buffer[..filled]) {
                break head_len;
            }
        };
        check(&self.buffer[..head_len], exchange.answer_len)?;
        let mut left = exchange
            .answer_len
            .checked_sub(filled - head_len)
            .context("more than an answer")?;
        while left > 0 {
            let wanted = self.buffer.len().min(left);
            let count = self
                .stream
                .read(&mut self.buffer[..wanted])
                .await
                .context("receiving")?;
            ensure!(count > 0, "closed {left} bytes before the end of an answer");
            left -= count;
        }
        Ok(())
    }

    /// The bare connection, without its buffer.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

/// How long and how much to measure.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Not counted before the window.
    pub warm_up: Duration,
    /// What is counted.
    pub window: Duration,
    /// The window ends early after this many requests.
    pub requests_max: u64,
}

/// What one window saw. `gauge` was read at its start and end.
#[derive(Debug)]
pub struct Window<G> {
    /// Whole answers.
    pub requests: u64,
    /// Its length.
    pub elapsed: Duration,
    /// The gauge at the start.
    pub before: G,
    /// The gauge at the end.
    pub after: G,
}

#[derive(Debug, Default)]
struct Shared {
    done: AtomicU64,
    done_max: AtomicU64,
    ended: AtomicBool,
    wake: Notify,
    failure: Mutex<Option<anyhow::Error>>,
}

impl Shared {
    /// One more answer; whether to go on.
    fn count(&self) -> bool {
        if self.done.fetch_add(1, Relaxed) >= self.done_max.load(Relaxed) {
            self.wake.notify_one();
        }
        !self.ended.load(Relaxed)
    }

    fn fail(&self, error: anyhow::Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        self.wake.notify_one();
    }

    fn check(&self) -> Result<()> {
        let failure = self
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        failure.map_or(Ok(()), Err)
    }
}

/// Loads `address` with `connections` connections and measures one window.
///
/// # Errors
/// The first connection that fails, or a gauge that cannot be read.
pub async fn run<G>(
    address: SocketAddr,
    connections: usize,
    exchange: &Exchange,
    bounds: Bounds,
    gauge: impl Fn() -> Result<G>,
) -> Result<Window<G>> {
    let shared = Arc::new(Shared::default());
    shared.done_max.store(u64::MAX, Relaxed);
    let mut clients = Vec::with_capacity(connections);
    for _ in 0..connections {
        clients.push(Client::connect(address, exchange).await?);
    }
    let mut tasks = JoinSet::new();
    for mut client in clients {
        let (shared, exchange) = (shared.clone(), exchange.clone());
        tasks.spawn(async move {
            loop {
                match client.exchange(&exchange).await {
                    Ok(()) if shared.count() => {}
                    Ok(()) => break,
                    Err(error) => break shared.fail(error),
                }
            }
        });
    }
    wait(&shared, bounds.warm_up).await;
    let (requests, start, before) = (shared.done.load(Relaxed), Instant::now(), gauge()?);
    shared
        .done_max
        .store(requests.saturating_add(bounds.requests_max), Relaxed);
    wait(&shared, bounds.window).await;
    let requests = shared.done.load(Relaxed) - requests;
    let (elapsed, after) = (start.elapsed(), gauge()?);
    shared.ended.store(true, Relaxed);
    shared.check()?;
    // Answers still under way are waited for, so that nothing of this run is left in the next.
    let all = async { while tasks.join_next().await.is_some() {} };
    let ended = tokio::time::timeout(ANSWER_WAIT_MAX, all).await;
    ensure!(ended.is_ok(), "no answer within {ANSWER_WAIT_MAX:?}");
    ensure!(requests > 0, "no answer in {elapsed:?}");
    Ok(Window {
        requests,
        elapsed,
        before,
        after,
    })
}

/// Until the time is over, the count reached or a connection failed.
async fn wait(shared: &Shared, time: Duration) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = shared.wake.notified() => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::super::backend;
    use super::*;

    fn bounds(requests_max: u64) -> Bounds {
        Bounds {
            warm_up: Duration::ZERO,
            window: Duration::from_secs(30),
            requests_max,
        }
    }

    #[tokio::test]
    async fn requests_are_counted_and_bounded() {
        let backend = backend::start().await.unwrap();
        for (send_len, answer_len) in [(0, 128), (200_000, 10), (0, 200_000)] {
            let exchange = Exchange::new(send_len, answer_len);
            let window = run(backend, 3, &exchange, bounds(10), || Ok(()))
                .await
                .unwrap();
            // The rest of a turn of the runtime may pass before the window ends.
            assert!((10..1_000).contains(&window.requests), "{window:?}");
        }
    }

    #[tokio::test]
    async fn a_wrong_answer_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let answers: [&[u8]; 4] = [
                b"HTTP/1.1 503 No\r\nContent-Length: 1\r\n\r\nx",
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nxx",
                b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxx",
                b"",
            ];
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await.unwrap();
                stream.write_all(answer).await.unwrap();
            }
        });
        for expected in ["503", "of 2 bytes", "more than an answer", "closed"] {
            let error = Client::connect(address, &Exchange::new(0, 1))
                .await
                .unwrap_err();
            assert!(error.to_string().contains(expected), "{error:#}");
        }
    }
}
