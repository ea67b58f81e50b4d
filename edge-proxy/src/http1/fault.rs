//! What can be wrong with a message, by the name under which it is counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a message is refused. The connection it came on is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}", self.title())]
pub enum Fault {
    /// The first line is none of HTTP.
    FirstLine,
    /// Neither HTTP/1.1 nor HTTP/1.0.
    Version,
    /// The target is none of the forms that its method allows.
    Target,
    /// A header line is malformed: its name, a space before the colon, a folded line, a control
    /// character.
    HeaderLine,
    /// A line ends without a carriage return.
    BareLineFeed,
    /// More than [`super::HEAD_LEN_MAX`] bytes.
    HeadTooLong,
    /// More than [`super::HEADERS_MAX`] header lines.
    TooManyHeaders,
    /// No host, more than one, or none that could be one.
    Host,
    /// A length that is no number, or several.
    Length,
    /// Both a length and a coding.
    LengthAndCoding,
    /// A coding that does not end with exactly one `chunked`, or where there must be none.
    Coding,
    /// A coding before `chunked`.
    CodingUnknown,
    /// A chunk's size or its end.
    Chunk,
    /// Extensions of chunks that are too long.
    ChunkExtension,
    /// The lines after the last chunk.
    Trailers,
    /// The connection ended within a message.
    Early,
    /// More came than was announced, or without being asked for.
    Surplus,
    /// The head did not come in time.
    HeadTimeout,
    /// The body did not go on in time.
    BodyTimeout,
    /// The receiver took nothing for too long.
    Stalled,
    /// A change of protocol that nobody asked for.
    Upgrade,
    /// What HTTP/2 does not allow.
    Http2,
    /// What HTTP/3 does not allow.
    Http3,
    /// Frames or requests of an HTTP/2 connection that only cost.
    Flood,
}

impl Fault {
    /// All, in the order of their declaration.
    pub const ALL: [Fault; 24] = [
        Fault::FirstLine,
        Fault::Version,
        Fault::Target,
        Fault::HeaderLine,
        Fault::BareLineFeed,
        Fault::HeadTooLong,
        Fault::TooManyHeaders,
        Fault::Host,
        Fault::Length,
        Fault::LengthAndCoding,
        Fault::Coding,
        Fault::CodingUnknown,
        Fault::Chunk,
        Fault::ChunkExtension,
        Fault::Trailers,
        Fault::Early,
        Fault::Surplus,
        Fault::HeadTimeout,
        Fault::BodyTimeout,
        Fault::Stalled,
        Fault::Upgrade,
        Fault::Http2,
        Fault::Http3,
        Fault::Flood,
    ];

    /// What a client is told.
    pub fn title(self) -> &'static str {
        match self {
            Fault::FirstLine => "the first line is malformed",
            Fault::Version => "the version is neither HTTP/1.1 nor HTTP/1.0",
            Fault::Target => "the request's target is malformed",
            Fault::HeaderLine => "a header line is malformed",
            Fault::BareLineFeed => "a line ends in a bare line feed",
            Fault::HeadTooLong => "the head is too long",
            Fault::TooManyHeaders => "there are too many header lines",
            Fault::Host => "there is not exactly one valid Host",
            Fault::Length => "the Content-Length is malformed",
            Fault::LengthAndCoding => "there are both Content-Length and Transfer-Encoding",
            Fault::Coding => "the Transfer-Encoding does not say where the body ends",
            Fault::CodingUnknown => "a Transfer-Encoding other than chunked is not known",
            Fault::Chunk => "a chunk is malformed",
            Fault::ChunkExtension => "chunk extensions are too long",
            Fault::Trailers => "the trailers are malformed",
            Fault::Early => "the connection ended within a message",
            Fault::Surplus => "more came than was announced",
            Fault::HeadTimeout => "the head did not come in time",
            Fault::BodyTimeout => "the body did not go on in time",
            Fault::Stalled => "the answer was not taken in time",
            Fault::Upgrade => "the protocol changed unasked",
            Fault::Http2 => "the connection broke the rules of HTTP/2",
            Fault::Http3 => "the connection broke the rules of HTTP/3",
            Fault::Flood => "the connection asked for work and gave it up",
        }
    }

    /// The name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Fault::FirstLine => "first_line",
            Fault::Version => "version",
            Fault::Target => "target",
            Fault::HeaderLine => "header_line",
            Fault::BareLineFeed => "bare_line_feed",
            Fault::HeadTooLong => "head_too_long",
            Fault::TooManyHeaders => "too_many_headers",
            Fault::Host => "host",
            Fault::Length => "length",
            Fault::LengthAndCoding => "length_and_coding",
            Fault::Coding => "coding",
            Fault::CodingUnknown => "coding_unknown",
            Fault::Chunk => "chunk",
            Fault::ChunkExtension => "chunk_extension",
            Fault::Trailers => "trailers",
            Fault::Early => "early_end",
            Fault::Surplus => "surplus",
            Fault::HeadTimeout => "head_timeout",
            Fault::BodyTimeout => "body_timeout",
            Fault::Stalled => "stalled",
            Fault::Upgrade => "upgrade",
            Fault::Http2 => "http2",
            Fault::Http3 => "http3",
            Fault::Flood => "flood",
        }
    }
}

/// Whose message it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A client's request.
    Downstream,
    /// An endpoint's answer.
    Upstream,
}

impl Side {
    /// Both.
    pub const ALL: [Side; 2] = [Side::Downstream, Side::Upstream];

    /// The name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Side::Downstream => "downstream",
            Side::Upstream => "upstream",
        }
    }
}

/// How often each fault was met since the start.
#[derive(Debug, Default)]
pub struct FaultCounts([[AtomicU64; Fault::ALL.len()]; 2]);

impl FaultCounts {
    /// One more.
    pub fn note(&self, side: Side, fault: Fault) {
        self.0[side as usize][fault as usize].fetch_add(1, Relaxed);
    }

    /// How many.
    pub fn get(&self, side: Side, fault: Fault) -> u64 {
        self.0[side as usize][fault as usize].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_its_place_and_name() {
        let mut names = std::collections::BTreeSet::new();
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, index);
            assert!(names.insert(fault.label()), "{fault:?}");
        }
    }
}
