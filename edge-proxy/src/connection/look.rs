//! Looking at a connection's first bytes without taking them.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

/// First buffer, in bytes; it doubles while more is needed.
const LEN_MIN: usize = 256;
/// Pauses between two looks at bytes that did not suffice: the shortest, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(16);

/// What came of looking.
#[derive(Debug)]
pub(super) enum Seen<T> {
    /// They were understood.
    Told(T),
    /// What was there at the end of the wait, or of the connection, or at the limit, and did not suffice.
    TooFew(Vec<u8>),
}

/// Asks `tell` about the first bytes, at most `len_max`, until it knows or `wait_max` is over.
///
/// # Errors
/// The connection failed.
pub(super) async fn look<T>(
    stream: &TcpStream,
    len_max: usize,
    wait_max: Duration,
    mut tell: impl FnMut(&[u8]) -> Option<T>,
) -> io::Result<Seen<T>> {
    let until = Instant::now() + wait_max;
    let mut bytes = vec![0; LEN_MIN.min(len_max)];
    let mut seen_len = 0;
    let mut pause = PAUSE_MIN;
    loop {
        let Ok(peeked) = tokio::time::timeout_at(until, stream.peek(&mut bytes)).await else {
            bytes.truncate(seen_len);
            return Ok(Seen::TooFew(bytes));
        };
        let len = peeked?;
        if let Some(told) = tell(&bytes[..len]) {
            return Ok(Seen::Told(told));
        }
        if len == 0 || len == len_max {
            bytes.truncate(len);
            return Ok(Seen::TooFew(bytes));
        }
        if len == bytes.len() {
            bytes.resize((len * 2).min(len_max), 0);
            continue;
        }
        // The socket is readable as long as nothing is taken: asking again at once would only spin.
        pause = if len > seen_len {
            PAUSE_MIN
        } else {
            (pause * 2).min(PAUSE_MAX)
        };
        seen_len = len;
        if Instant::now() + pause >= until {
            bytes.truncate(len);
            return Ok(Seen::TooFew(bytes));
        }
        tokio::time::sleep(pause).await;
    }
}

/// Takes `len` bytes that were looked at off the stream.
///
/// # Errors
/// The connection failed.
pub(super) async fn skip(stream: &mut TcpStream, len: usize) -> io::Result<()> {
    let mut bytes = vec![0; len];
    tokio::io::AsyncReadExt::read_exact(stream, &mut bytes).await?;
    Ok(())
}
