//! Load traces from CSV in the three shapes people write them.

use super::LONG_ROWS_MAX;
use super::error::{Problem, ReadError, excerpt};
use super::join::Join;
use super::table::{Row, Table};
use super::text::{Input, Text};
use crate::bin_time::BinTime;
use crate::site::Site;
use crate::trace::{BINS_MAX, Bins, Filling, LoadTrace, VALUES_MAX};

const ID_NAMES: [&str; 10] = [
    "site",
    "site_id",
    "sensor_id",
    "id",
    "square_id",
    "geoname_id",
    "node",
    "source_id",
    "source",
    "row_id",
];
const TIME_NAMES: [&str; 7] = [
    "time",
    "ts",
    "ts_local",
    "ts_utc",
    "timestamp",
    "bin",
    "start",
];
const LOAD_NAMES: [&str; 7] = [
    "load",
    "value",
    "count",
    "rps",
    "demand_rps",
    "load_rps",
    "requests",
];

/// Marks a field without a load while rows are kept; no load is negative.
const NO_LOAD: f64 = -1.0;

/// Reads a trace whose rows or columns are the `sites` themselves; see [`read_joined_trace`].
///
/// # Errors
/// Those of [`read_joined_trace`].
pub fn read_trace(input: Input<'_>, sites: &[Site]) -> Result<LoadTrace, ReadError> {
    read_joined_trace(input, sites, &Join::identity(sites))
}

/// Reads a trace from CSV, plain or gzip, whose ids are those of `join`; loads that go to one site are summed. Every one
/// of `sites` has its column in the trace, in that order, whether the file has loads for it or not.
///
/// The header tells the shape:
///
/// | columns | one row is |
/// |---|---|
/// | id, time and load | one load (rows in any order) |
/// | id and otherwise times | all bins of one id |
/// | time and otherwise ids | one bin of all ids (rows by increasing time) |
///
/// The id column is `site`, `site_id`, `sensor_id`, `id`, `square_id`, `geoname_id`, `node`, `source_id`, `source` or
/// `row_id`; the time column `time`, `ts`, `ts_local`, `ts_utc`, `timestamp`, `bin` or `start`; the load column `load`,
/// `value`, `count`, `rps`, `demand_rps`, `load_rps` or `requests`. A column of an id may also be called `s<id>` (`s7`).
///
/// Times are as [`BinTime::parse`] reads them, evenly spaced; where some are absent there are bins without values, as
/// for an empty field.
///
/// # Errors
/// A [`ReadError`] with file, line and column: what cannot be read, a missing column or field, loads that are no finite
/// number of at least 0, an unknown site, an id twice (naming both lines), times that are none, not in order or unevenly
/// spaced, fewer than two bins, more than a [limit](super).
pub fn read_joined_trace(
    input: Input<'_>,
    sites: &[Site],
    join: &Join,
) -> Result<LoadTrace, ReadError> {
    let table = Table::open(Text::open(input)?)?;
    let ids = sites.iter().map(|site| site.id.clone()).collect();
    match (table.find(&ID_NAMES)?, table.find(&TIME_NAMES)?) {
        (Some(id), Some(time)) => {
            let load = table.need("load", &LOAD_NAMES)?;
            read_long(table, Columns { id, time, load }, ids, join)
        }
        (Some(id), None) => read_site_rows(table, id, ids, join),
        (None, Some(time)) => read_time_rows(table, time, ids, join),
        (None, None) => {
            Err(table.missing("site id or time", &[&ID_NAMES[..], &TIME_NAMES].concat()))
        }
    }
}

/// Rows of ids, columns of bins.
fn read_site_rows(
    mut table: Table<'_>,
    id_column: usize,
    ids: Vec<String>,
    join: &Join,
) -> Result<LoadTrace, ReadError> {
    let names = table.header().iter().enumerate();
    let named: Vec<_> = names
        .filter(|(column, _)| *column != id_column)
        .map(|(column, name)| (column, BinTime::parse(name)))
        .collect();
    if named.iter().all(|(_, time)| time.is_err()) {
        return Err(table.missing("time", &TIME_NAMES));
    }
    let mut columns = Vec::with_capacity(named.len());
    let mut times = Vec::with_capacity(named.len());
    for (column, time) in named {
        columns.push(column);
        times.push(time.map_err(|error| table.at_header(column, error.into()))?);
    }
    let bins = Bins::of_times(&times, ids.len())
        .map_err(|(at, error)| table.at_header(columns[at], error.into()))?;

    let mut filling = Filling::new(bins, ids.len());
    let mut lines: Vec<Option<u64>> = vec![None; join.len()];
    let mut any = false;
    while let Some(row) = table.next_row()? {
        let source = source_of(row, id_column, join)?;
        if let Some(first_line) = lines[source].replace(row.line()) {
            let id = excerpt(row.text(id_column));
            return Err(row.error(id_column, Problem::Duplicate { id, first_line }));
        }
        for (&column, &time) in columns.iter().zip(&times) {
            if let Some(load) = row.amount(column)? {
                filling.add(bins.index_of(time), join.site(source), load);
            }
        }
        any = true;
    }
    if !any {
        return Err(table.whole(Problem::NoRows));
    }
    Ok(filling.into_trace(bins, ids))
}

/// Rows of bins, columns of ids.
fn read_time_rows(
    mut table: Table<'_>,
    time_column: usize,
    ids: Vec<String>,
    join: &Join,
) -> Result<LoadTrace, ReadError> {
    let columns = id_columns(&table, time_column, join)?;
    let mut times = Vec::new();
    let mut lines = Vec::new();
    // Row-major, one value for each of `columns`.
    let mut loads = Vec::new();
    while let Some(row) = table.next_row()? {
        if times.len() == BINS_MAX || loads.len() + columns.len() > VALUES_MAX {
            let max = times.len();
            return Err(row.error(time_column, Problem::TooMany { what: "rows", max }));
        }
        times.push(time_of(row, time_column)?);
        lines.push(row.line());
        for &(column, _) in &columns {
            loads.push(row.amount(column)?.unwrap_or(NO_LOAD));
        }
    }
    if times.is_empty() {
        return Err(table.whole(Problem::NoRows));
    }
    let bins = Bins::of_times(&times, ids.len())
        .map_err(|(at, error)| table.at(lines[at], time_column, error.into()))?;

    let mut filling = Filling::new(bins, ids.len());
    for (&time, row) in times.iter().zip(loads.chunks_exact(columns.len())) {
        for (&(_, source), &load) in columns.iter().zip(row) {
            if load >= 0.0 {
                filling.add(bins.index_of(time), join.site(source), load);
            }
        }
    }
    Ok(filling.into_trace(bins, ids))
}

/// Every column but the time's, with the source it is named after: the id itself, or `s` and the id.
fn id_columns(
    table: &Table<'_>,
    time_column: usize,
    join: &Join,
) -> Result<Vec<(usize, usize)>, ReadError> {
    let mut column_of: Vec<Option<usize>> = vec![None; join.len()];
    let mut columns = Vec::new();
    for (column, name) in table.header().iter().enumerate() {
        if column == time_column {
            continue;
        }
        let numbered = || join.source(name.strip_prefix('s')?);
        let Some(source) = join.source(name).or_else(numbered) else {
            return Err(table.at_header(column, Problem::UnknownSite { id: excerpt(name) }));
        };
        if let Some(first) = column_of[source].replace(column) {
            return Err(table.at_header(column, Problem::DuplicateColumn { first: first + 1 }));
        }
        columns.push((column, source));
    }
    if columns.is_empty() {
        return Err(table.missing("site", &["a site id", "s<id>"]));
    }
    Ok(columns)
}

/// Where a table in long form has what.
struct Columns {
    id: usize,
    time: usize,
    load: usize,
}

/// One row of the long form.
struct Entry {
    time: BinTime,
    source: usize,
    line: u64,
    load: f64,
}

/// Rows of single loads.
fn read_long(
    mut table: Table<'_>,
    columns: Columns,
    ids: Vec<String>,
    join: &Join,
) -> Result<LoadTrace, ReadError> {
    let mut entries = Vec::new();
    while let Some(row) = table.next_row()? {
        if entries.len() == LONG_ROWS_MAX {
            let too_many = Problem::TooMany {
                what: "rows",
                max: LONG_ROWS_MAX,
            };
            return Err(row.error(columns.id, too_many));
        }
        entries.push(Entry {
            time: time_of(row, columns.time)?,
            source: source_of(row, columns.id, join)?,
            line: row.line(),
            load: row.amount(columns.load)?.unwrap_or(NO_LOAD),
        });
    }
    if entries.is_empty() {
        return Err(table.whole(Problem::NoRows));
    }
    entries.sort_unstable_by_key(|entry| (entry.time, entry.source, entry.line));
    for pair in entries.windows(2) {
        let [first, second] = pair else { continue };
        if (first.time, first.source) == (second.time, second.source) {
            let id = format!("{} at {}", join.id(first.source), first.time).into();
            let duplicate = Problem::Duplicate {
                id,
                first_line: first.line,
            };
            return Err(table.at(second.line, columns.id, duplicate));
        }
    }
    let mut times: Vec<BinTime> = entries.iter().map(|entry| entry.time).collect();
    times.dedup();
    let bins = Bins::of_times(&times, ids.len()).map_err(|(at, error)| {
        let first = entries.partition_point(|entry| entry.time < times[at]);
        table.at(entries[first].line, columns.time, error.into())
    })?;

    let mut filling = Filling::new(bins, ids.len());
    for entry in entries.iter().filter(|entry| entry.load >= 0.0) {
        filling.add(
            bins.index_of(entry.time),
            join.site(entry.source),
            entry.load,
        );
    }
    Ok(filling.into_trace(bins, ids))
}

fn source_of(row: Row<'_>, column: usize, join: &Join) -> Result<usize, ReadError> {
    let id = row.needed(column)?;
    join.source(id)
        .ok_or_else(|| row.error(column, Problem::UnknownSite { id: excerpt(id) }))
}

fn time_of(row: Row<'_>, column: usize) -> Result<BinTime, ReadError> {
    BinTime::parse(row.needed(column)?).map_err(|error| row.error(column, error.into()))
}
