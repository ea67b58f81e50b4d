//! The endpoint behind every proxy: answers `GET /<n>` and `POST /<n>` with `n` bytes, on the thread
//! that it is started on. Answers are made once and sent with one write.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::grpc;
use super::wire::{self, HEAD_LEN_MAX};

/// Everything that stands behind a proxy.
#[derive(Debug, Clone)]
pub struct Backends {
    /// HTTP/1.1.
    pub http1: SocketAddr,
    /// gRPC over HTTP/2 with prior knowledge.
    pub grpc: grpc::Backend,
}

impl Backends {
    /// Starts all in the current runtime, for as long as that lives.
    ///
    /// # Errors
    /// No port to listen on.
    pub async fn start() -> Result<Backends> {
        Ok(Backends {
            http1: start().await?,
            grpc: grpc::Backend::start().await?,
        })
    }
}

/// Bytes taken by one receive of a body.
const READ_LEN: usize = 64 * 1024;

/// Starts the backend in the current runtime, for as long as that lives.
///
/// # Errors
/// No port to listen on.
pub async fn start() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let answers = Arc::new(Answers::default());
    tokio::spawn(async move {
        // An accept fails for want of files or because the client is gone; neither ends the backend.
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                let answers = answers.clone();
                // Ends with its connection: what goes wrong here is an error at the client too.
                tokio::spawn(async move { serve(stream, &answers).await });
            } else {
                tokio::task::yield_now().await;
            }
        }
    });
    Ok(address)
}

/// Whole answers by the length of their body; as many as there are scenarios.
#[derive(Default)]
struct Answers(Mutex<BTreeMap<usize, Arc<Vec<u8>>>>);

impl Answers {
    fn get(&self, len: usize) -> Arc<Vec<u8>> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.entry(len)
            .or_insert_with(|| Arc::new(wire::answer(len)))
            .clone()
    }
}

async fn serve(mut stream: TcpStream, answers: &Answers) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; HEAD_LEN_MAX];
    let mut filled = 0;
    let mut last = (usize::MAX, Arc::default());
    loop {
        let head_len = loop {
            if let Some(head_len) = wire::head_len(&buffer[..filled]) {
                break head_len;
            }
            ensure!(filled < buffer.len(), "a head beyond {HEAD_LEN_MAX} bytes");
            match stream.read(&mut buffer[filled..]).await? {
                0 => return Ok(()),
                count => filled += count,
            }
        };
        let asked = wire::asked(&buffer[..head_len])?;
        let early = (filled - head_len).min(asked.send_len);
        discard(&mut stream, asked.send_len - early).await?;
        buffer.copy_within(head_len + early..filled, 0);
        filled -= head_len + early;
        if last.0 != asked.answer_len {
            last = (asked.answer_len, answers.get(asked.answer_len));
        }
        stream.write_all(&last.1).await?;
    }
}

/// Reads `left` bytes and forgets them.
async fn discard(stream: &mut TcpStream, mut left: usize) -> Result<()> {
    if left == 0 {
        return Ok(());
    }
    let mut buffer = vec![0; READ_LEN.min(left)];
    while left > 0 {
        let wanted = buffer.len().min(left);
        let count = stream.read(&mut buffer[..wanted]).await?;
        ensure!(count > 0, "the body ended {left} bytes early");
        left -= count;
    }
    Ok(())
}
