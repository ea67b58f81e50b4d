//! How answers are written: tables for people, JSON and YAML for programs.

use std::fmt;
use std::io::{ErrorKind, Write};

use anyhow::Context as _;
use clap::ValueEnum;
use serde_json::Value;

use crate::{Failure, Outcome};

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people; columns may change
    Table,
    /// As the REST API says it
    Json,
    /// The same in YAML
    Yaml,
}

impl Format {
    /// Writes a value, or what a person gets instead.
    ///
    /// # Errors
    /// The value has no YAML form.
    pub fn print(self, value: &Value, table: impl FnOnce() -> String) -> Outcome {
        match self {
            Format::Table => say(&table()),
            Format::Json => say(&format!("{value:#}\n")),
            Format::Yaml => {
                let text = serde_saphyr::to_string(value).context("the answer has no YAML form");
                say(&text.map_err(Failure::Run)?)
            }
        }
    }
}

/// Writes to standard output.
///
/// # Errors
/// It cannot be written; silently when who read it has gone.
pub fn say(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::Verdict),
        Err(error) => Err(Failure::Run(
            anyhow::Error::from(error).context("cannot write the answer"),
        )),
    }
}

/// Rows under headings. Columns are as wide as their widest cell; cells that begin like numbers stand to the right.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with headings alone.
    pub fn new<const N: usize>(headings: [&str; N]) -> Table {
        let headings = headings.map(str::to_owned).to_vec();
        Table {
            rows: vec![headings],
        }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    /// Whether it has headings alone.
    pub fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.first().map_or(0, Vec::len);
        let cells = |column: usize| self.rows.iter().filter_map(move |row| row.get(column));
        let width = |column| cells(column).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
        let number = |cell: &String| cell.is_empty() || cell == "-" || is_number(cell);
        let right: Vec<bool> = (0..columns)
            .map(|column| self.rows.len() > 1 && cells(column).skip(1).all(number))
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                line.push_str(&match right[column] {
                    true => format!("{cell:>width$}  "),
                    false => format!("{cell:<width$}  "),
                });
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

fn is_number(cell: &str) -> bool {
    cell.starts_with(|first: char| first.is_ascii_digit())
        && cell
            .chars()
            .all(|c| c.is_ascii_digit() || " .%smhdk".contains(c))
}

/// A field's text; `-` when there is none.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => plain(text),
        other => other.to_string(),
    }
}

/// Without characters that would move a terminal's cursor: names come from others.
pub fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
}

/// Requests/s.
pub fn rps(value: &Value) -> String {
    value
        .as_f64()
        .map_or("-".to_owned(), |rps| format!("{rps:.1}"))
}

/// A share of 1 in percent.
pub fn percent(value: &Value) -> String {
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    value.as_f64().map_or("-".to_owned(), percent)
}

/// Parts per million in percent.
pub fn ppm(value: &Value) -> String {
    let percent = |ppm: f64| format!("{:.1} %", ppm / 10_000.0);
    value.as_f64().map_or("-".to_owned(), percent)
}

/// Milliseconds as an age.
pub fn age(value: &Value) -> String {
    let Some(ms) = value.as_u64() else {
        return "-".to_owned();
    };
    match ms {
        0..10_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        10_000..600_000 => format!("{} s", ms / 1000),
        600_000..36_000_000 => format!("{} m", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_line_up() {
        let mut table = Table::new(["NODE", "LOAD"]);
        table.row(["a".to_owned(), "9.5".to_owned()]);
        table.row(["bé".to_owned(), "100.0".to_owned()]);
        assert_eq!(table.to_string(), "NODE   LOAD\na       9.5\nbé    100.0\n");
        assert!(Table::new(["A"]).is_empty());
    }

    #[test]
    fn values_as_people_read_them() {
        assert_eq!(age(&json!(1_234)), "1.2 s");
        assert_eq!(age(&json!(61_000)), "61 s");
        assert_eq!(age(&json!(7_200_000)), "120 m");
        assert_eq!(age(&Value::Null), "-");
        assert_eq!(ppm(&json!(333_333)), "33.3 %");
        assert_eq!(text(&json!("a\u{1b}[2J")), "a\u{fffd}[2J");
    }
}
