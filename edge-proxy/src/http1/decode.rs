//! Bytes become the pieces of a body.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::fault::Fault;
use super::head::{self, BodyLength, HeadEnd};

/// Longest line with a chunk's size, in bytes, extensions included.
pub const CHUNK_LINE_LEN_MAX: usize = 1024;
/// Extensions of all chunks of one body together, in bytes. They are not passed on.
pub const EXTENSIONS_LEN_MAX: usize = 16 * 1024;
/// Longest block of trailers, in bytes.
pub const TRAILERS_LEN_MAX: usize = 16 * 1024;
/// Digits of a chunk's size: below 2^60.
const SIZE_DIGITS_MAX: usize = 15;

/// One step of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Some of it.
    Data(Bytes),
    /// The lines after the last chunk; the end follows.
    Trailers(HeaderMap),
    /// All of it has come.
    End,
}

/// Takes a body off a connection's bytes.
#[derive(Debug, Clone)]
pub enum Decoder {
    /// So many bytes are still to come.
    Exactly(u64),
    /// Chunks.
    Chunked(Chunked),
    /// Everything until the connection ends.
    UntilClose,
    /// It has ended.
    Ended,
}

impl Decoder {
    /// For a body of that length.
    pub fn new(length: BodyLength) -> Decoder {
        match length {
            BodyLength::Exactly(0) => Decoder::Ended,
            BodyLength::Exactly(len) => Decoder::Exactly(len),
            BodyLength::Chunked => Decoder::Chunked(Chunked::default()),
            BodyLength::UntilClose => Decoder::UntilClose,
        }
    }

    /// Whether all of it has come.
    pub fn is_ended(&self) -> bool {
        matches!(self, Decoder::Ended)
    }

    /// How many bytes are still to come, if that was announced.
    pub fn remaining(&self) -> Option<u64> {
        match self {
            Decoder::Exactly(left) => Some(*left),
            Decoder::Ended => Some(0),
            Decoder::Chunked(_) | Decoder::UntilClose => None,
        }
    }

    /// The connection ended and its bytes are used up.
    ///
    /// # Errors
    /// The body had not ended.
    pub fn closed(&mut self) -> Result<(), Fault> {
        match self {
            Decoder::UntilClose | Decoder::Ended => {
                *self = Decoder::Ended;
                Ok(())
            }
            Decoder::Exactly(_) | Decoder::Chunked(_) => Err(Fault::Early),
        }
    }

    /// The next piece; `None` = more bytes are needed.
    ///
    /// # Errors
    /// Malformed chunks.
    pub fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Piece>, Fault> {
        let piece = match self {
            Decoder::Ended => Some(Piece::End),
            _ if bytes.is_empty() => None,
            Decoder::UntilClose => Some(Piece::Data(bytes.split().freeze())),
            Decoder::Exactly(left) => {
                let data = take(bytes, left);
                if *left == 0 {
                    *self = Decoder::Ended;
                }
                Some(Piece::Data(data))
            }
            Decoder::Chunked(chunked) => {
                let piece = chunked.decode(bytes)?;
                if matches!(piece, Some(Piece::End | Piece::Trailers(_))) {
                    *self = Decoder::Ended;
                }
                piece
            }
        };
        Ok(piece)
    }
}

/// At most `left` bytes.
fn take(bytes: &mut BytesMut, left: &mut u64) -> Bytes {
    let len = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
    *left -= len as u64;
    bytes.split_to(len).freeze()
}

/// Where in a chunked body we are.
#[derive(Debug, Clone, Default)]
pub struct Chunked {
    at: At,
    extensions_len: usize,
}

#[derive(Debug, Clone, Copy, Default)]
enum At {
    /// Before a chunk's size.
    #[default]
    Size,
    /// Within a chunk.
    Data(u64),
    /// Behind its data.
    DataEnd,
    /// Behind the last chunk.
    Trailers(HeadEnd),
}

impl Chunked {
    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Piece>, Fault> {
        loop {
            match &mut self.at {
                At::Size => {
                    let Some(line) = line_len(bytes)? else {
                        return Ok(None);
                    };
                    let (size, extension_len) = size(&bytes[..line])?;
                    self.extensions_len += extension_len;
                    if self.extensions_len > EXTENSIONS_LEN_MAX {
                        return Err(Fault::ChunkExtension);
                    }
                    bytes.advance(line + 2);
                    self.at = match size {
                        0 => At::Trailers(HeadEnd::default()),
                        size => At::Data(size),
                    };
                }
                At::Data(_) if bytes.is_empty() => return Ok(None),
                At::Data(left) => {
                    let data = take(bytes, left);
                    if *left == 0 {
                        self.at = At::DataEnd;
                    }
                    return Ok(Some(Piece::Data(data)));
                }
                At::DataEnd => match &bytes[..bytes.len().min(2)] {
                    b"\r\n" => {
                        bytes.advance(2);
                        self.at = At::Size;
                    }
                    b"" | b"\r" => return Ok(None),
                    _ => return Err(Fault::Chunk),
                },
                At::Trailers(end) => {
                    let found = end.find(bytes, TRAILERS_LEN_MAX);
                    let Some(len) = found.map_err(|_| Fault::Trailers)? else {
                        return Ok(None);
                    };
                    let block = bytes.split_to(len).freeze();
                    return match len {
                        2 => Ok(Some(Piece::End)),
                        _ => head::trailers(&block).map(|t| Some(Piece::Trailers(t))),
                    };
                }
            }
        }
    }
}

/// Length of the line at the beginning, without its end; `None` = more bytes are needed.
fn line_len(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let within = &bytes[..bytes.len().min(CHUNK_LINE_LEN_MAX)];
    match memchr::memchr(b'\n', within) {
        Some(at) if at > 0 && within[at - 1] == b'\r' => Ok(Some(at - 1)),
        Some(_) => Err(Fault::Chunk),
        None if within.len() == CHUNK_LINE_LEN_MAX => Err(Fault::ChunkExtension),
        None => Ok(None),
    }
}

/// A chunk's size, and the length of its extension.
fn size(line: &[u8]) -> Result<(u64, usize), Fault> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let rest = &line[digits..];
    let extension = rest.trim_ascii_start();
    let ends_well = rest.is_empty() || extension.first() == Some(&b';');
    let control = |b: &u8| b.is_ascii_control() && *b != b'\t';
    if digits == 0 || digits > SIZE_DIGITS_MAX || !ends_well || rest.iter().any(control) {
        return Err(Fault::Chunk);
    }
    let size = line[..digits].iter().fold(0, |size, &digit| {
        let value = (digit as char).to_digit(16).map_or(0, u64::from);
        size * 16 + value
    });
    Ok((size, rest.len()))
}

#[cfg(test)]
mod tests;
