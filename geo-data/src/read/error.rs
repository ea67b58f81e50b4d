//! What can be wrong with a file, and where.

use std::fmt;
use std::io;

use crate::bin_time::BinTimeError;
use crate::position::PositionError;
use crate::trace::TraceError;

/// How much of a bad field an error repeats, characters.
const EXCERPT_LEN_MAX: usize = 40;

/// A file that cannot be read, with the place: `loads.csv, line 7, column 3 (lat): …`.
#[derive(Debug)]
pub struct ReadError {
    /// The file, as [`Input`](super::Input) was given its name.
    pub file: Box<str>,
    /// Line as a text editor counts, from 1; none when the file as a whole is meant.
    pub line: Option<u64>,
    /// Field number from 1 and the header's name for it.
    pub column: Option<(usize, Box<str>)>,
    /// What is wrong there.
    pub problem: Box<Problem>,
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The operating system or the decompressor refused.
    #[error("cannot be read")]
    Io(#[source] io::Error),
    /// A gzip stream without its end.
    #[error("the gzip data ends too early: the file is truncated")]
    TruncatedGzip,
    /// Not one byte of text.
    #[error("the file is empty")]
    Empty,
    /// A header alone.
    #[error("there is a header but no row")]
    NoRows,
    /// Bytes that are not UTF-8.
    #[error("the text is not UTF-8")]
    NotText,
    /// Longer than [`LINE_LEN_MAX`](super::LINE_LEN_MAX).
    #[error("the line is longer than {len_max} bytes")]
    LineTooLong {
        /// The limit, bytes.
        len_max: usize,
    },
    /// Longer than [`TEXT_LEN_MAX`](super::TEXT_LEN_MAX) or [`GEOJSON_LEN_MAX`](super::GEOJSON_LEN_MAX).
    #[error("the text is longer than {len_max} bytes")]
    TextTooLong {
        /// The limit, bytes.
        len_max: u64,
    },
    /// More sites, rows or bins than fit.
    #[error("more than {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// An odd number of quotes on a line.
    #[error("quotes do not pair up; a quoted field may not go on over the end of the line")]
    UnpairedQuote,
    /// A row with more or fewer fields than the header.
    #[error("{found} fields where the header has {expected}")]
    FieldCount {
        /// Fields on the line.
        found: usize,
        /// Fields in the header.
        expected: usize,
    },
    /// A column that is needed and not there.
    #[error("no {what} column ({accepted}); the columns are {found}")]
    MissingColumn {
        /// What the column would hold.
        what: &'static str,
        /// Names it may have.
        accepted: Box<str>,
        /// Names there are.
        found: Box<str>,
    },
    /// One column name twice.
    #[error("the name is already that of column {first}")]
    DuplicateColumn {
        /// Field number of the first, from 1.
        first: usize,
    },
    /// A field that must not be empty.
    #[error("the field is empty")]
    EmptyField,
    /// A field that is no number.
    #[error("`{text}` is not a number")]
    NotANumber {
        /// The field, cut short when long.
        text: Box<str>,
    },
    /// NaN or an infinity, also by overflow.
    #[error("`{text}` is not a finite number")]
    NotFinite {
        /// The field, cut short when long.
        text: Box<str>,
    },
    /// A load or capacity below 0.
    #[error("`{text}` is negative")]
    Negative {
        /// The field, cut short when long.
        text: Box<str>,
    },
    /// A field that is no time.
    #[error(transparent)]
    Time(#[from] BinTimeError),
    /// Degrees that are no position.
    #[error(transparent)]
    Position(#[from] PositionError),
    /// One id twice.
    #[error("`{id}` is already on line {first_line}")]
    Duplicate {
        /// The id.
        id: Box<str>,
        /// Line of the first, from 1.
        first_line: u64,
    },
    /// A load for a site that was not given.
    #[error("unknown site `{id}`")]
    UnknownSite {
        /// The id.
        id: Box<str>,
    },
    /// Times that do not form bins, or too many of them.
    #[error(transparent)]
    Bins(#[from] TraceError),
    /// A GeoJSON feature that is not a point.
    #[error("the geometry is {found}; sites are Points with coordinates [lon, lat]")]
    NotAPoint {
        /// What it is.
        found: Box<str>,
    },
    /// A GeoJSON feature without a name to join by.
    #[error("the feature has no id, nor a property {accepted}")]
    NoId {
        /// Names such a property may have.
        accepted: Box<str>,
    },
    /// JSON that is broken or not a FeatureCollection.
    #[error("not GeoJSON as expected")]
    GeoJson(#[source] serde_json::Error),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        if let Some((number, name)) = &self.column {
            write!(f, ", column {number}")?;
            if !name.is_empty() {
                write!(f, " ({name})")?;
            }
        }
        write!(f, ": {}", self.problem)
    }
}

/// The text of the problem is part of this error's own, so the chain goes on with the problem's source.
impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.problem.source()
    }
}

/// The start of a field, short enough for an error.
pub(super) fn excerpt(text: &str) -> Box<str> {
    match text.char_indices().nth(EXCERPT_LEN_MAX) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]).into(),
    }
}
