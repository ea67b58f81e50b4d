//! Just enough HTTP/1.1 to tell requests and answers apart. Both ends are ours; what stands between
//! them may add headers and change their case, never the framing.

use anyhow::{Context, Result, bail, ensure};

/// Longest head that either end reads, bytes. Longer ones end the measurement.
pub const HEAD_LEN_MAX: usize = 16 * 1024;
/// Longest body that the backend makes or takes, bytes.
pub const BODY_LEN_MAX: usize = 64 * 1024 * 1024;

/// A request for an answer of `answer_len` bytes, with a body of `send_len`.
pub fn request(send_len: usize, answer_len: usize) -> Vec<u8> {
    let mut request = if send_len == 0 {
        format!("GET /{answer_len} HTTP/1.1\r\nHost: bench.test\r\n\r\n")
    } else {
        format!(
            "POST /{answer_len} HTTP/1.1\r\nHost: bench.test\r\nContent-Length: {send_len}\r\n\r\n"
        )
    }
    .into_bytes();
    request.resize(request.len() + send_len, b'u');
    request
}

/// The answer with a body of `len` bytes.
pub fn answer(len: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {len}\r\n\r\n"
    );
    let mut answer = head.into_bytes();
    answer.resize(answer.len() + len, b'd');
    answer
}

/// Length of the head with its empty line, if all of it is there.
pub fn head_len(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .map(|at| at + 4)
}

/// What the backend needs of a request's head.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// Bytes of body that follow.
    pub send_len: usize,
    /// Bytes of body to answer with.
    pub answer_len: usize,
}

/// Reads a request's head.
///
/// # Errors
/// Another method or path than [`request`] makes, or a body without a length.
pub fn asked(head: &[u8]) -> Result<Asked> {
    let (path, body) = if let Some(path) = head.strip_prefix(b"GET /") {
        (path, false)
    } else if let Some(path) = head.strip_prefix(b"POST /") {
        (path, true)
    } else {
        bail!("neither GET nor POST");
    };
    let answer_len = digits(path)?;
    let send_len = if body {
        content_length(head).context("a POST without a length")?
    } else {
        0
    };
    Ok(Asked {
        send_len,
        answer_len,
    })
}

/// Checks an answer's head thoroughly; done once a connection.
///
/// # Errors
/// Another status than 200, or another length.
pub fn check_answer(head: &[u8], answer_len: usize) -> Result<()> {
    check_status(head)?;
    let len = content_length(head).context("an answer without a length")?;
    ensure!(
        len == answer_len,
        "an answer of {len} bytes, not {answer_len}"
    );
    Ok(())
}

/// Checks an answer's status; done every time.
///
/// # Errors
/// Another status than 200.
pub fn check_status(head: &[u8]) -> Result<()> {
    let line = &head[..head.len().min(12)];
    ensure!(line == b"HTTP/1.1 200", "answered {}", line.escape_ascii());
    Ok(())
}

fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let lines = head.split(|&b| b == b'\n');
    let value = lines
        .filter(|line| line.len() > NAME.len())
        .find(|line| line[..NAME.len()].eq_ignore_ascii_case(NAME))
        .map(|line| line[NAME.len()..].trim_ascii())?;
    digits(value).ok()
}

/// The number that `bytes` begin with.
fn digits(bytes: &[u8]) -> Result<usize> {
    let count = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    ensure!((1..=9).contains(&count), "no number");
    let number = bytes[..count]
        .iter()
        .fold(0, |n, b| n * 10 + usize::from(b - b'0'));
    ensure!(number <= BODY_LEN_MAX, "more than {BODY_LEN_MAX} bytes");
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (send_len, answer_len) in [(0, 128), (65_536, 0), (3, 10 << 20)] {
            let request = request(send_len, answer_len);
            let head = head_len(&request).unwrap();
            assert_eq!(request.len() - head, send_len);
            let expected = Asked {
                send_len,
                answer_len,
            };
            assert_eq!(asked(&request[..head]).unwrap(), expected);
            let answer = answer(answer_len);
            check_answer(&answer[..head_len(&answer).unwrap()], answer_len).unwrap();
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        for wrong in [
            "",
            "PUT /1 HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET /99999999 HTTP/1.1\r\n\r\n",
            "GET /99999999999999999999 HTTP/1.1\r\n\r\n",
            "POST /1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(asked(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let names_in_lower_case = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n";
        check_answer(names_in_lower_case, 7).unwrap();
        assert!(check_answer(names_in_lower_case, 8).is_err());
        assert!(check_status(b"HTTP/1.1 503 No\r\n\r\n").is_err());
        assert!(check_status(b"HT").is_err());
    }

    #[test]
    fn a_head_is_whole_or_not() {
        assert_eq!(head_len(b"a\r\n\r\nb"), Some(5));
        assert_eq!(head_len(b"a\r\n\r"), None);
    }
}
