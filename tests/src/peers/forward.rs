//! The floor: copies bytes both ways between a client and a backend connection of its own. What is
//! read of HTTP here is nothing.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};

/// Bytes of each copy. Two such buffers a connection.
const COPY_LEN: usize = 16 * 1024;
/// Pause after an accept that failed, for want of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Prints the address it listens on, then forwards to `backend` until the process is ended.
///
/// # Errors
/// No port, or nobody reads the address.
pub fn main(backend: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let mut out = std::io::stdout();
        writeln!(out, "{}", listener.local_addr()?).context("telling the address")?;
        out.flush()?;
        forward(listener, backend).await
    })
}

async fn forward(listener: TcpListener, backend: SocketAddr) -> Result<()> {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Ends with either connection; the client sees what went wrong.
        tokio::spawn(async move { pair(client, backend).await });
    }
}

async fn pair(mut client: TcpStream, backend: SocketAddr) -> std::io::Result<()> {
    let mut upstream = TcpStream::connect(backend).await?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut upstream, COPY_LEN, COPY_LEN).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::backend;
    use super::super::closed_loop::{Client, Exchange};
    use super::*;

    #[tokio::test]
    async fn bytes_pass_both_ways() {
        let backend = backend::start().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(forward(listener, backend));
        let exchange = Exchange::new(300_000, 300_000);
        let mut client = Client::connect(address, &exchange).await.unwrap();
        client.exchange(&exchange).await.unwrap();
    }
}
