//! The last snapshot, kept in a file: the plan outlives the proxy.
//!
//! One line `isobar-snapshot 1 <SHA-256 of what follows, hex>`, then the
//! snapshot as JSON. The sum tells a broken file from a sound one; it proves
//! nothing about who wrote it.

use std::fmt::Write;
use std::path::Path;

use isobar_mesh_api::names::NodeId;
use isobar_mesh_api::snapshot::{Snapshot, SnapshotError};

use crate::identity::files::replace;

/// Its name in the data directory.
pub const SNAPSHOT_FILE: &str = "snapshot.json";
/// Largest file that is read, in bytes.
pub const SNAPSHOT_FILE_LEN_MAX: u64 = 16 << 20;

const BEGIN: &str = "isobar-snapshot 1 ";

/// Why the file cannot be used. The proxy then starts with its own services alone.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFileError {
    /// It cannot be read or written.
    #[error("reading or writing the snapshot's file")]
    File(#[from] std::io::Error),
    /// Longer than [`SNAPSHOT_FILE_LEN_MAX`].
    #[error("a snapshot's file of {0} bytes")]
    TooLong(u64),
    /// It does not begin with the line that it should.
    #[error("not a snapshot's file")]
    Begin,
    /// The content is not what was written.
    #[error("the content does not match its checksum")]
    Checksum,
    /// The content is not a snapshot.
    #[error("the content is not a snapshot")]
    Json(#[from] serde_json::Error),
    /// The snapshot is not sound, or for another node.
    #[error("the snapshot cannot be used")]
    Snapshot(#[from] SnapshotError),
}

/// Writes a snapshot, replacing the one before at once.
///
/// # Errors
/// The file cannot be written; the one before is untouched then.
pub fn save(dir: &Path, snapshot: &Snapshot) -> Result<(), SnapshotFileError> {
    let json = serde_json::to_string(snapshot)?;
    let text = format!("{BEGIN}{}\n{json}\n", checksum(json.as_bytes()));
    Ok(replace(&dir.join(SNAPSHOT_FILE), text.as_bytes(), 0o600)?)
}

/// Reads the snapshot of this node; `None` when there is no file.
///
/// # Errors
/// The file is not whole, not sound, or another node's.
pub fn load(dir: &Path, node: &NodeId) -> Result<Option<Snapshot>, SnapshotFileError> {
    let path = dir.join(SNAPSHOT_FILE);
    let len = match std::fs::metadata(&path) {
        Ok(file) => file.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if len > SNAPSHOT_FILE_LEN_MAX {
        return Err(SnapshotFileError::TooLong(len));
    }
    let bytes = std::fs::read(&path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| SnapshotFileError::Begin)?;
    let (begin, json) = text.split_once('\n').ok_or(SnapshotFileError::Begin)?;
    let sum = begin.strip_prefix(BEGIN).ok_or(SnapshotFileError::Begin)?;
    let json = json.trim_end();
    if sum != checksum(json.as_bytes()) {
        return Err(SnapshotFileError::Checksum);
    }
    let snapshot: Snapshot = serde_json::from_str(json)?;
    snapshot.check()?;
    if snapshot.node != *node {
        return Err(SnapshotError::WrongNode(snapshot.node).into());
    }
    Ok(Some(snapshot))
}

fn checksum(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use isobar_mesh_api::snapshot::PlanId;

    fn snapshot(node: &str) -> Snapshot {
        Snapshot {
            plan: PlanId {
                epoch: 3,
                generation: 14,
            },
            node: NodeId::new(node).unwrap(),
            period_ms: 1000,
            neighbours: Vec::new(),
            services: Vec::new(),
            routes: Vec::new(),
        }
    }

    #[test]
    fn what_is_broken_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let node = NodeId::new("a").unwrap();
        let path = dir.path().join(SNAPSHOT_FILE);
        assert!(load(dir.path(), &node).unwrap().is_none());
        save(dir.path(), &snapshot("a")).unwrap();
        assert_eq!(load(dir.path(), &node).unwrap(), Some(snapshot("a")));

        let whole = std::fs::read_to_string(&path).unwrap();
        let half = whole[..whole.len() - 9].to_owned();
        for broken in [
            whole.replace("14", "15"),
            half,
            "{}".to_owned(),
            String::new(),
        ] {
            std::fs::write(&path, &broken).unwrap();
            assert!(load(dir.path(), &node).is_err(), "{broken}");
        }
        save(dir.path(), &snapshot("b")).unwrap();
        let other = load(dir.path(), &node);
        assert!(matches!(other, Err(SnapshotFileError::Snapshot(_))));
    }
}
