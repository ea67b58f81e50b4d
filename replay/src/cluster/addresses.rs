//! The file in which a program says where it listens.
//!
//! With port 0 nobody knows an address before the program does; each writes
//! `addresses.json` into its data directory, whole or not at all, once it listens.

use std::net::SocketAddr;
use std::path::Path;

/// The file's name in a data directory.
pub const FILE_NAME: &str = "addresses.json";

/// Reads one address.
///
/// # Errors
/// No file, not JSON, or no such address in it, as a sentence.
pub fn read(file: &Path, name: &str) -> Result<SocketAddr, String> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| format!("{shown}: {error}"))?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| format!("{shown}: {error}"))?;
    let address = json.get(name).and_then(|address| address.as_str());
    let parsed = address.and_then(|address| address.parse().ok());
    parsed.ok_or_else(|| format!("{shown} has no address {name:?}"))
}
