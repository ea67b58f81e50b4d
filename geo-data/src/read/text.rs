//! From a file to decompressed bytes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::error::{Problem, ReadError};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// How far the start of a text is searched for the `{` of JSON, bytes.
const SNIFF_LEN: usize = 64;

/// Something to read, and the name its errors carry.
pub struct Input<'a> {
    name: Box<str>,
    bytes: Box<dyn Read + 'a>,
}

impl<'a> Input<'a> {
    /// Any reader, plain or gzip; `name` appears in errors.
    pub fn new(name: &str, bytes: impl Read + 'a) -> Self {
        Self {
            name: name.into(),
            bytes: Box::new(bytes),
        }
    }

    /// A file on disk, plain or gzip, by whatever name.
    ///
    /// # Errors
    /// [`Problem::Io`] when it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Ok(Self::new(&name, file)),
            Err(error) => Err(ReadError {
                file: name.into(),
                line: None,
                column: None,
                problem: Box::new(Problem::Io(error)),
            }),
        }
    }
}

/// Decompressed bytes from behind the byte order mark, if there was one.
pub(super) struct Text<'a> {
    pub file: Box<str>,
    pub bytes: Box<dyn BufRead + 'a>,
    /// Whether the first visible character is `{`.
    pub looks_json: bool,
}

impl<'a> Text<'a> {
    pub fn open(input: Input<'a>) -> Result<Self, ReadError> {
        let fail = |file: &str, error| ReadError {
            file: file.into(),
            line: None,
            column: None,
            problem: Box::new(io_problem(error)),
        };
        let (head, raw) = peek(input.bytes, GZIP_MAGIC.len()).map_err(|e| fail(&input.name, e))?;
        let unpacked: Box<dyn Read + 'a> = if head == GZIP_MAGIC {
            Box::new(MultiGzDecoder::new(BufReader::new(raw)))
        } else {
            Box::new(raw)
        };
        let (head, whole) = peek(unpacked, SNIFF_LEN).map_err(|e| fail(&input.name, e))?;
        let mut bytes = BufReader::new(whole);
        let start = head.strip_prefix(&BYTE_ORDER_MARK).unwrap_or(&head);
        io::copy(
            &mut bytes.by_ref().take((head.len() - start.len()) as u64),
            &mut io::sink(),
        )
        .map_err(|e| fail(&input.name, e))?;
        let visible = start.iter().find(|byte| !byte.is_ascii_whitespace());
        Ok(Self {
            looks_json: visible == Some(&b'{'),
            file: input.name,
            bytes: Box::new(bytes),
        })
    }
}

/// The first `len` bytes (fewer if there are fewer), and a reader that still has them.
fn peek<R: Read>(mut reader: R, len: usize) -> io::Result<(Vec<u8>, impl Read + use<R>)> {
    let mut head = Vec::with_capacity(len);
    reader.by_ref().take(len as u64).read_to_end(&mut head)?;
    Ok((head.clone(), Cursor::new(head).chain(reader)))
}

/// Only the gzip decoder ends before its end: plain files just end.
pub(super) fn io_problem(error: io::Error) -> Problem {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        Problem::TruncatedGzip
    } else {
        Problem::Io(error)
    }
}
