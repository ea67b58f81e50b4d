//! Reading sites, load traces and joins from files that somebody else wrote.
//!
//! ```text
//! Input ─▶ Text (gunzipped) ─┬─▶ Table (header, then line by line) ─▶ sites, trace, join
//!                            └─▶ GeoJSON (feature by feature) ──────▶ sites
//! ```
//!
//! Everything streams: memory holds one line or feature and the result, each within a named limit below. Whether a file
//! is gzip is told by its first two bytes and whether it is JSON by its first character, never by its name.
//!
//! **Invariant**: a [`ReadError`] names the file, and the line and column if there is one, in the numbering of a text
//! editor; and what is returned has been checked: positions in range, loads finite and not negative, ids unique.

mod error;
mod geojson;
mod join;
mod sites;
mod table;
mod text;
mod trace;

pub use error::{Problem, ReadError};
pub use join::{Join, read_join};
pub use sites::{read_cities, read_sites};
pub use text::Input;
pub use trace::{read_joined_trace, read_trace};

/// Longest line of a CSV file, bytes without its end; beyond it the file is refused. Room for 100,000 columns.
pub const LINE_LEN_MAX: usize = 1 << 20;

/// Longest CSV text after decompression, bytes; beyond it the file is refused. Stops an archive that unpacks for ever.
pub const TEXT_LEN_MAX: u64 = 1 << 30;

/// Longest GeoJSON text after decompression, bytes; beyond it the file is refused. JSON has no lines to bound, so the
/// whole text is.
pub const GEOJSON_LEN_MAX: u64 = 64 << 20;

/// Most sites (or rows of a join) in one file; beyond it the file is refused.
pub const SITES_MAX: usize = 200_000;

/// Most rows of a load trace in long form, one value each; beyond it the file is refused.
pub const LONG_ROWS_MAX: usize = 8_000_000;

#[cfg(test)]
mod tests;
