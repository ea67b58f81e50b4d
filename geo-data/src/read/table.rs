//! CSV with a header, one bounded line at a time.
//!
//! A record is one line: quoted fields may hold commas and quotes, not line ends. That is what bounds memory, and keeps
//! line numbers those of a text editor whatever the line ends (csv's own reader lags by one after CRLF and counts from
//! the blank line before a record). Blank lines are skipped; fields are trimmed.

use std::io::{BufRead, Read};

use csv_core::ReadRecordResult;

use super::error::{Problem, ReadError, excerpt};
use super::text::{Text, io_problem};
use super::{LINE_LEN_MAX, TEXT_LEN_MAX};

/// How many of the columns found an error lists.
const COLUMNS_LISTED_MAX: usize = 12;

/// A CSV text with its header read; [`Table::next_row`] goes through the rest.
pub(super) struct Table<'a> {
    file: Box<str>,
    bytes: Box<dyn BufRead + 'a>,
    text_len: u64,
    splitter: csv_core::Reader,
    line_bytes: Vec<u8>,
    line: u64,
    header: Vec<Box<str>>,
    fields: Fields,
}

/// The fields of one line: their text without quotes and separators, and where each ends.
#[derive(Default)]
struct Fields {
    text: String,
    ends: Vec<usize>,
    len: usize,
}

impl Fields {
    fn get(&self, at: usize) -> &str {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.text[start..self.ends[at]].trim()
    }
}

impl<'a> Table<'a> {
    pub fn open(text: Text<'a>) -> Result<Self, ReadError> {
        let mut table = Self {
            file: text.file,
            bytes: text.bytes,
            text_len: 0,
            splitter: csv_core::Reader::new(),
            line_bytes: Vec::new(),
            line: 0,
            header: Vec::new(),
            fields: Fields::default(),
        };
        if !table.read_fields()? {
            return Err(table.whole(Problem::Empty));
        }
        let names = 0..table.fields.len;
        table.header = names.map(|at| table.fields.get(at).into()).collect();
        Ok(table)
    }

    /// The column names, as written.
    pub fn header(&self) -> &[Box<str>] {
        &self.header
    }

    /// The column that has one of `names` (lower case; the header's case does not matter), the first of them that there
    /// is.
    pub fn find(&self, names: &[&str]) -> Result<Option<usize>, ReadError> {
        for name in names {
            let mut found =
                (0..self.header.len()).filter(|at| self.header[*at].eq_ignore_ascii_case(name));
            if let Some(first) = found.next() {
                return match found.next() {
                    None => Ok(Some(first)),
                    Some(second) => {
                        Err(self.at_header(second, Problem::DuplicateColumn { first: first + 1 }))
                    }
                };
            }
        }
        Ok(None)
    }

    /// [`Table::find`] for a column that must be there and holds `what`.
    pub fn need(&self, what: &'static str, names: &[&str]) -> Result<usize, ReadError> {
        self.find(names)?.ok_or_else(|| self.missing(what, names))
    }

    pub fn missing(&self, what: &'static str, names: &[&str]) -> ReadError {
        let listed = self.header.iter().take(COLUMNS_LISTED_MAX);
        let mut found = listed
            .map(|name| excerpt(name))
            .collect::<Vec<_>>()
            .join(", ");
        if self.header.len() > COLUMNS_LISTED_MAX {
            found += &format!(" and {} more", self.header.len() - COLUMNS_LISTED_MAX);
        }
        let problem = Problem::MissingColumn {
            what,
            accepted: names.join(", ").into(),
            found: found.into(),
        };
        self.error(Some(1), None, problem)
    }

    /// The next row, or nothing at the end.
    pub fn next_row(&mut self) -> Result<Option<Row<'_>>, ReadError> {
        if !self.read_fields()? {
            return Ok(None);
        }
        let (found, expected) = (self.fields.len, self.header.len());
        if found != expected {
            return Err(self.error(
                Some(self.line),
                None,
                Problem::FieldCount { found, expected },
            ));
        }
        Ok(Some(Row { table: self }))
    }

    /// An error about a column's name.
    pub fn at_header(&self, column: usize, problem: Problem) -> ReadError {
        self.error(Some(1), Some(column), problem)
    }

    /// An error about a line that has passed.
    pub fn at_line(&self, line: u64, problem: Problem) -> ReadError {
        self.error(Some(line), None, problem)
    }

    /// An error about a field of a line that has passed.
    pub fn at(&self, line: u64, column: usize, problem: Problem) -> ReadError {
        self.error(Some(line), Some(column), problem)
    }

    /// An error about the file as a whole.
    pub fn whole(&self, problem: Problem) -> ReadError {
        self.error(None, None, problem)
    }

    fn error(&self, line: Option<u64>, column: Option<usize>, problem: Problem) -> ReadError {
        ReadError {
            file: self.file.clone(),
            line,
            column: column.map(|at| (at + 1, excerpt(&self.header[at]))),
            problem: Box::new(problem),
        }
    }

    /// Reads and splits the next line that is not blank; false at the end of the text.
    fn read_fields(&mut self) -> Result<bool, ReadError> {
        loop {
            match self.read_line() {
                Ok(true) if self.line_bytes.is_empty() => {}
                Ok(true) => break,
                Ok(false) => return Ok(false),
                Err(problem) => return Err(self.at_line(self.line, problem)),
            }
        }
        self.split_line()
            .map_err(|problem| self.at_line(self.line, problem))?;
        Ok(true)
    }

    /// Takes one line, without its end, into `line_bytes`; false at the end of the text.
    fn read_line(&mut self) -> Result<bool, Problem> {
        self.line += 1;
        self.line_bytes.clear();
        // Two more bytes for the line's end, CRLF or LF.
        let mut bounded = self.bytes.by_ref().take(LINE_LEN_MAX as u64 + 2);
        let len = bounded
            .read_until(b'\n', &mut self.line_bytes)
            .map_err(io_problem)?;
        self.text_len += len as u64;
        if self.text_len > TEXT_LEN_MAX {
            return Err(Problem::TextTooLong {
                len_max: TEXT_LEN_MAX,
            });
        }
        for end in [b'\n', b'\r'] {
            if self.line_bytes.last() == Some(&end) {
                self.line_bytes.pop();
            }
        }
        if self.line_bytes.len() > LINE_LEN_MAX {
            return Err(Problem::LineTooLong {
                len_max: LINE_LEN_MAX,
            });
        }
        Ok(len > 0)
    }

    fn split_line(&mut self) -> Result<(), Problem> {
        // The whole line and not the fields' bytes together: a character must not be made of two fields.
        std::str::from_utf8(&self.line_bytes).map_err(|_| Problem::NotText)?;
        let quotes = self.line_bytes.iter().filter(|byte| **byte == b'"').count();
        if quotes % 2 == 1 {
            return Err(Problem::UnpairedQuote);
        }
        let mut text = std::mem::take(&mut self.fields.text).into_bytes();
        // Fields are never longer than the line they came from; the spare byte keeps the splitter from asking for more.
        text.resize(self.line_bytes.len() + 1, 0);
        self.splitter.reset();
        let (mut read, mut written, mut len) = (0, 0, 0);
        loop {
            if len == self.fields.ends.len() {
                self.fields.ends.resize(len + 64, 0);
            }
            // With nothing left to read, the splitter learns that the line is over and ends the record.
            let (result, took, gave, ended) = self.splitter.read_record(
                &self.line_bytes[read..],
                &mut text[written..],
                &mut self.fields.ends[len..],
            );
            (read, written, len) = (read + took, written + gave, len + ended);
            if matches!(result, ReadRecordResult::Record | ReadRecordResult::End) {
                break;
            }
        }
        text.truncate(written);
        self.fields.len = len;
        self.fields.text = String::from_utf8(text).map_err(|_| Problem::NotText)?;
        Ok(())
    }
}

/// The current line of a [`Table`]; columns are those of the header.
#[derive(Clone, Copy)]
pub(super) struct Row<'t> {
    table: &'t Table<'t>,
}

impl<'t> Row<'t> {
    pub fn line(&self) -> u64 {
        self.table.line
    }

    pub fn text(&self, column: usize) -> &'t str {
        self.table.fields.get(column)
    }

    /// A field that must hold something.
    pub fn needed(&self, column: usize) -> Result<&'t str, ReadError> {
        match self.text(column) {
            "" => Err(self.error(column, Problem::EmptyField)),
            text => Ok(text),
        }
    }

    /// A finite number; nothing when the field is empty.
    pub fn number(&self, column: usize) -> Result<Option<f64>, ReadError> {
        let text = self.text(column);
        if text.is_empty() {
            return Ok(None);
        }
        match text.parse::<f64>() {
            Err(_) => Err(self.error(
                column,
                Problem::NotANumber {
                    text: excerpt(text),
                },
            )),
            Ok(value) if !value.is_finite() => Err(self.error(
                column,
                Problem::NotFinite {
                    text: excerpt(text),
                },
            )),
            Ok(value) => Ok(Some(value)),
        }
    }

    /// A finite number that is not negative: a load, a capacity; nothing when the field is empty.
    pub fn amount(&self, column: usize) -> Result<Option<f64>, ReadError> {
        match self.number(column)? {
            Some(value) if value < 0.0 => {
                let text = excerpt(self.text(column));
                Err(self.error(column, Problem::Negative { text }))
            }
            // Turns -0 into 0.
            value => Ok(value.map(|value| value + 0.0)),
        }
    }

    pub fn error(&self, column: usize, problem: Problem) -> ReadError {
        self.table.error(Some(self.line()), Some(column), problem)
    }
}
