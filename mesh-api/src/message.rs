//! The two directions of the control stream.
//!
//! A stream begins with `POST /v1/stream`, an HTTP/1.1 request with `hello` for its body that upgrades the connection
//! to [`UPGRADE`]; from then on both directions are newline-delimited JSON: one message a line, at most [`LINE_LEN_MAX`]
//! bytes. Over HTTP/2, as controllers relay them to each other, the two bodies of the request are these directions.
//! Fields are added, never reused; unknown fields are ignored, and a message of
//! an unknown type reads as `Unknown`, which receivers count and skip.

use serde::{Deserialize, Serialize};

use crate::errand::{Errand, ErrandDone};
use crate::names::{NodeId, RegionName, ServiceName, SiteName};
use crate::report::Report;
use crate::snapshot::{Delta, Endpoint, PlanId, Snapshot};
use crate::tap::{Tap, TappedLines};

/// Longest line of the control stream, in bytes; a longer one ends the stream.
pub const LINE_LEN_MAX: usize = 1 << 20;

/// The request path of the control stream.
pub const STREAM_PATH: &str = "/v1/stream";

/// What an HTTP/1.1 connection becomes that carries a control stream: the protocol's name in `Upgrade`.
pub const UPGRADE: &str = "isobar-stream";

/// The protocol's version, in [`Hello`].
pub const PROTOCOL_VERSION: u32 = 1;

/// From a proxy to the controller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Up {
    /// The first message of every stream.
    Hello(Hello),
    /// Counters of one window.
    Report(Report),
    /// A plan was applied.
    Ack(PlanId),
    /// A plan was refused; the controller sends a snapshot.
    Nack(Nack),
    /// This proxy goes by that version of [`Trust`].
    Trusted {
        /// [`Trust::version`].
        version: u64,
    },
    /// Requests that a tap is for.
    Tapped(TappedLines),
    /// What came of an errand.
    Done(ErrandDone),
    /// A message of a later version.
    #[serde(other)]
    Unknown,
}

/// From the controller to a proxy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Down {
    /// Everything, replacing what the proxy has.
    Snapshot(Snapshot),
    /// A change of the last snapshot.
    Delta(Delta),
    /// A renewed certificate.
    Certificate(Certificate),
    /// Whom to believe; the first message of a stream, and whenever it changes.
    Trust(Trust),
    /// Says that the controller is there; sent once a period when nothing else is.
    Ping {
        /// The controller's clock, milliseconds since 1970.
        clock_ms: u64,
    },
    /// Begins a tap, or its lifetime anew.
    Tap(Tap),
    /// Ends a tap.
    Untap {
        /// [`Tap::tap`].
        tap: u64,
    },
    /// Something to do once; answered with [`Up::Done`].
    Errand(Errand),
    /// A message of a later version.
    #[serde(other)]
    Unknown,
}

/// Who a proxy is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub protocol: u32,
    /// Must be the node in the stream's client certificate.
    pub node: NodeId,
    /// The proxy's program version.
    pub version: String,
    /// Where others reach this node's mesh port, `host:port`.
    pub mesh_address: String,
    /// Where the node is, as its configuration says; the proxy passes it on and does not use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// The node's site; by default its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteName>,
    /// The node's region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionName>,
    /// Services with endpoints on this node that its configuration declares.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<LocalService>,
    /// The plan the proxy has, so that nothing is sent twice after a reconnect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanId>,
}

/// A position as it stands in a file or message, in degrees (WGS 84); the controller checks it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Location {
    /// Latitude, −90 to 90.
    pub lat_deg: f64,
    /// Longitude, −180 to 180.
    pub lon_deg: f64,
}

/// A service that a node's own configuration declares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LocalService {
    /// Which service.
    pub service: ServiceName,
    /// Host names that mean it; `*` for any.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Its instances on this node.
    pub endpoints: Vec<Endpoint>,
    /// What these serve within the latency target, requests/s; learned when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_rps: Option<f64>,
}

/// A refused plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Nack {
    /// What was refused.
    pub plan: PlanId,
    /// Why, for the controller's log.
    pub reason: String,
}

/// A certificate chain for the proxy's own key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Leaf first, PEM.
    pub chain_pem: String,
    /// All roots to trust, PEM.
    pub roots_pem: String,
    /// What gets this node its next certificate when this one has ended. Kept secret, never logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal: Option<String>,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate")
            .field("chain_pem", &self.chain_pem)
            .field("roots_pem", &self.roots_pem)
            .finish_non_exhaustive()
    }
}

/// Whom a proxy believes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Rises with each change.
    pub version: u64,
    /// All roots to trust, PEM.
    pub roots_pem: String,
    /// The root that signs now, by the SHA-256 of its certificate in hexadecimal: a proxy whose own certificate is by
    /// another root renews it.
    pub signs: String,
    /// Nodes whose certificates up to a moment are refused, at most [`REVOKED_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<Revoked>,
}

/// Most revocations in one [`Trust`].
pub const REVOKED_MAX: usize = 1024;

/// A node whose certificates up to a moment are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Whose.
    pub node: NodeId,
    /// Those that begin before this, seconds since 1970.
    pub begins_before_s: u64,
}

/// Why a line is not a message.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Longer than [`LINE_LEN_MAX`].
    #[error("a line of {0} bytes; at most {LINE_LEN_MAX} are read")]
    TooLong(usize),
    /// Not JSON of the expected shape.
    #[error("not a message")]
    Json(#[from] serde_json::Error),
}

/// Writes a message as one line, with its newline.
///
/// # Errors
/// The line would be longer than [`LINE_LEN_MAX`].
pub fn encode_line<M: Serialize>(message: &M) -> Result<Vec<u8>, LineError> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    if line.len() > LINE_LEN_MAX {
        return Err(LineError::TooLong(line.len()));
    }
    Ok(line)
}

/// Reads one line, with or without its newline.
///
/// # Errors
/// Too long, or not a message; the receiver counts it and goes on with the next line.
pub fn decode_line<M: for<'de> Deserialize<'de>>(line: &[u8]) -> Result<M, LineError> {
    if line.len() > LINE_LEN_MAX {
        return Err(LineError::TooLong(line.len()));
    }
    Ok(serde_json::from_slice(line)?)
}

/// Reads one line from a proxy, as [`decode_line`] does, and reports in a third of the time: they are nearly all there is,
/// begin with their type when [`encode_line`] wrote them, and need not be held as a tree until it is known.
///
/// # Errors
/// As [`decode_line`].
pub fn decode_up(line: &[u8]) -> Result<Up, LineError> {
    match line.starts_with(br#"{"type":"report","#) && line.len() <= LINE_LEN_MAX {
        true => Ok(Up::Report(serde_json::from_slice(line)?)),
        false => decode_line(line),
    }
}

/// Cuts a byte stream into lines. Holds at most one line.
#[derive(Debug, Default)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    searched: usize,
    taken: usize,
}

impl LineBuffer {
    /// An empty buffer.
    pub fn new() -> LineBuffer {
        LineBuffer::default()
    }

    /// Adds what came from the stream.
    ///
    /// # Errors
    /// The unfinished line is longer than [`LINE_LEN_MAX`]; the stream must end.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), LineError> {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.searched = self.searched.saturating_sub(self.taken);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(bytes);
        let open = match self.bytes.iter().rposition(|&b| b == b'\n') {
            Some(newline) => self.bytes.len() - newline - 1,
            None => self.bytes.len(),
        };
        if open > LINE_LEN_MAX {
            return Err(LineError::TooLong(open));
        }
        Ok(())
    }

    /// The next whole line, without its newline; `None` until more is pushed.
    pub fn next_line(&mut self) -> Option<&[u8]> {
        let start = self.taken;
        let from = self.searched.max(start);
        match self.bytes[from..].iter().position(|&b| b == b'\n') {
            Some(offset) => {
                let end = from + offset;
                self.taken = end + 1;
                self.searched = end + 1;
                Some(&self.bytes[start..end])
            }
            None => {
                self.searched = self.bytes.len();
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn unknown_messages_and_fields_are_skipped() {
        let later: Up = decode_line(br#"{"type":"weather","sun":true}"#).unwrap();
        assert_eq!(later, Up::Unknown);
        let ack: Up =
            decode_line(br#"{"type":"ack","epoch":1,"generation":2,"mood":"good"}"#).unwrap();
        assert_eq!(
            ack,
            Up::Ack(PlanId {
                epoch: 1,
                generation: 2
            })
        );
    }

    #[test]
    fn the_short_way_reads_what_the_long_one_does() {
        let report = r#""seq":7,"window_us":1000000,"clock_ms":1,"services":[{"service":"a/b","entered":3}],"mood":1"#;
        let lines = [
            format!(r#"{{"type":"report",{report}}}"#),
            format!(r#"{{{report},"type":"report"}}"#),
            format!(r#"{{ "type":"report",{report}}}"#),
            r#"{"type":"report","seq":7}"#.to_owned(),
            r#"{"type":"report","#.to_owned(),
            r#"{"type":"trusted","version":3}"#.to_owned(),
            "{}".to_owned(),
        ];
        for line in lines {
            let (short, long) = (
                decode_up(line.as_bytes()),
                decode_line::<Up>(line.as_bytes()),
            );
            assert_eq!(short.ok(), long.ok(), "{line}");
        }
        let endless = format!(r#"{{"type":"report",{}"#, " ".repeat(LINE_LEN_MAX));
        assert!(matches!(
            decode_up(endless.as_bytes()),
            Err(LineError::TooLong(_))
        ));
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut buffer = LineBuffer::new();
        buffer.push(b"{}\n").unwrap();
        assert_eq!(buffer.next_line(), Some(&b"{}"[..]));
        let half = vec![b'x'; LINE_LEN_MAX / 2 + 1];
        buffer.push(&half).unwrap();
        assert!(matches!(buffer.push(&half), Err(LineError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn lines_come_out_as_they_went_in(
            lines in prop::collection::vec("[a-z]{0,12}", 0..20),
            cut in 1_usize..9,
        ) {
            let all: Vec<u8> = lines.iter().flat_map(|l| [l.as_bytes(), b"\n"].concat()).collect();
            let mut buffer = LineBuffer::new();
            let mut seen = Vec::new();
            for piece in all.chunks(cut) {
                buffer.push(piece).unwrap();
                while let Some(line) = buffer.next_line() {
                    seen.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            prop_assert_eq!(seen, lines);
        }
    }
}
