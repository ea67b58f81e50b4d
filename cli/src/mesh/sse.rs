//! Server-Sent Events (HTML standard, section 9.2) as the controller sends them: a name and JSON.

use anyhow::anyhow;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

use crate::Failure;

/// Longest line, in bytes.
const LINE_LEN_MAX: usize = 1 << 20;

/// Events as they come.
pub struct Events {
    body: Incoming,
    buffer: Vec<u8>,
    name: String,
}

impl Events {
    /// Those of an answer's body.
    pub fn new(body: Incoming) -> Events {
        Events {
            body,
            buffer: Vec::new(),
            name: String::new(),
        }
    }

    /// The next event: its name and its data.
    ///
    /// # Errors
    /// The controller ended them, or a line has no end.
    pub async fn next(&mut self) -> Result<(String, Value), Failure> {
        loop {
            while let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if let Some(name) = line.strip_prefix(b"event: ") {
                    self.name = String::from_utf8_lossy(name).trim_end().to_owned();
                }
                let data = line.strip_prefix(b"data: ");
                let data = data.and_then(|data| serde_json::from_slice::<Value>(data).ok());
                if let Some(data) = data {
                    return Ok((std::mem::take(&mut self.name), data));
                }
            }
            if self.buffer.len() > LINE_LEN_MAX {
                return Err(Failure::Run(anyhow!("an event has no end")));
            }
            let Some(Ok(frame)) = self.body.frame().await else {
                return Err(Failure::Run(anyhow!("the controller ended the events")));
            };
            let data = frame.into_data().unwrap_or_default();
            self.buffer.extend_from_slice(&data);
        }
    }
}
