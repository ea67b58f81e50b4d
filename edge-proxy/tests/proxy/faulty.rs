//! An endpoint that misbehaves as it is told, on a raw socket.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// What it does with one request.
#[derive(Debug, Clone)]
pub enum Act {
    /// Answers with this status line and these header lines, and its name as body.
    Answer(&'static str),
    /// Never answers.
    Hang,
    /// Closes the connection without a word.
    Close,
    /// Sends half of the answer's body, then nothing.
    HalfThenHang,
    /// Sends half of the answer's body, then closes.
    HalfThenClose,
}

/// A well-behaved answer.
pub const GOOD: Act = Act::Answer("200 OK\r\n");

#[derive(Debug)]
struct Script {
    next: VecDeque<Act>,
    always: Act,
    heads: Vec<String>,
}

pub struct FaultyEndpoint {
    pub address: SocketAddr,
    script: Arc<Mutex<Script>>,
    arrived: Arc<Semaphore>,
    closed: Arc<Semaphore>,
    task: JoinHandle<()>,
}

impl FaultyEndpoint {
    pub async fn start(always: Act) -> FaultyEndpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(Script {
            next: VecDeque::new(),
            always,
            heads: Vec::new(),
        }));
        let arrived = Arc::new(Semaphore::new(0));
        let closed = Arc::new(Semaphore::new(0));
        let (script_, arrived_, closed_) = (script.clone(), arrived.clone(), closed.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (script, arrived, closed) =
                    (script_.clone(), arrived_.clone(), closed_.clone());
                tokio::spawn(async move {
                    let _ = connection(stream, &script, &arrived).await;
                    closed.add_permits(1);
                });
            }
        });
        FaultyEndpoint {
            address,
            script,
            arrived,
            closed,
            task,
        }
    }

    /// What it does with the next requests, one after another, before it does as always.
    pub fn then(&self, acts: &[Act]) {
        self.script
            .lock()
            .unwrap()
            .next
            .extend(acts.iter().cloned());
    }

    pub fn always(&self, act: Act) {
        self.script.lock().unwrap().always = act;
    }

    /// The heads of the requests it got.
    pub fn heads(&self) -> Vec<String> {
        self.script.lock().unwrap().heads.clone()
    }

    pub fn requests(&self) -> usize {
        self.heads().len()
    }

    /// Waits for one more request to arrive.
    pub async fn arrival(&self) {
        self.arrived.acquire().await.unwrap().forget();
    }

    /// Waits for one more connection to end.
    pub async fn closing(&self) {
        self.closed.acquire().await.unwrap().forget();
    }
}

impl Drop for FaultyEndpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(
    mut stream: TcpStream,
    script: &Mutex<Script>,
    arrived: &Semaphore,
) -> std::io::Result<()> {
    let mut seen = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = find(&seen, b"\r\n\r\n") {
                let rest = seen.split_off(end + 4);
                break std::mem::replace(&mut seen, rest);
            }
            if stream.read_buf(&mut seen).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&head).into_owned();
        let act = {
            let mut script = script.lock().unwrap();
            script.heads.push(head);
            script.next.pop_front().unwrap_or(script.always.clone())
        };
        arrived.add_permits(1);
        let half = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf";
        match act {
            Act::Answer(lines) => {
                let body = "answered";
                let text = format!(
                    "HTTP/1.1 {lines}content-length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(text.as_bytes()).await?;
                // The bodies of these tests' requests come in one piece with the next head or not at all.
                seen.clear();
                continue;
            }
            Act::Close => return Ok(()),
            Act::HalfThenClose => return stream.write_all(half.as_bytes()).await,
            Act::HalfThenHang => stream.write_all(half.as_bytes()).await?,
            Act::Hang => {}
        }
        // Until the other end closes.
        while stream.read_buf(&mut seen).await? > 0 {
            seen.clear();
        }
        return Ok(());
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
