//! The identity's files in the data directory.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use isobar_mesh_api::message::Certificate;
use isobar_mesh_api::names::NodeId;

use super::{Identity, IdentityError};

/// The key, mode 0600.
pub const KEY_FILE: &str = "node-key.pem";
/// The certificate and what is between it and the root.
pub const CHAIN_FILE: &str = "node-chain.pem";
/// All roots to trust.
pub const ROOTS_FILE: &str = "roots.pem";

/// The identity in a data directory; `None` when there is no certificate yet.
///
/// # Errors
/// Files that cannot be read or do not fit together.
pub fn load(
    dir: &Path,
    trust_domain: &str,
    node: &NodeId,
) -> Result<Option<Identity>, IdentityError> {
    let read = |name: &str| read_if_there(&dir.join(name));
    match (read(KEY_FILE)?, read(CHAIN_FILE)?, read(ROOTS_FILE)?) {
        (Some(key), Some(chain), Some(roots)) => {
            Identity::new(trust_domain, node, &key, &chain, &roots).map(Some)
        }
        _ => Ok(None),
    }
}

/// The node's key, PEM; made at the first call.
///
/// # Errors
/// The file cannot be read or written.
pub fn key(dir: &Path) -> Result<String, IdentityError> {
    let path = dir.join(KEY_FILE);
    if let Some(key) = read_if_there(&path)? {
        return Ok(key);
    }
    let key = rcgen::KeyPair::generate()?.serialize_pem();
    write(&path, key.as_bytes(), 0o600)?;
    Ok(key)
}

/// A certificate request for the key, PEM. It names nobody: whoever signs decides who it is.
///
/// # Errors
/// The key is not one that this program makes.
pub fn certificate_request(key_pem: &str) -> Result<String, IdentityError> {
    let key = rcgen::KeyPair::from_pem(key_pem)?;
    let params = rcgen::CertificateParams::new(Vec::new())?;
    Ok(params.serialize_request(&key)?.pem()?)
}

/// Checks a new certificate, keeps it in the files and returns the identity.
///
/// # Errors
/// A certificate that cannot be used (nothing is written then), or files that cannot be written.
pub fn adopt(
    dir: &Path,
    trust_domain: &str,
    node: &NodeId,
    certificate: &Certificate,
) -> Result<Identity, IdentityError> {
    let key = key(dir)?;
    let (chain, roots) = (&certificate.chain_pem, &certificate.roots_pem);
    let identity = Identity::new(trust_domain, node, &key, chain, roots)?;
    write(&dir.join(ROOTS_FILE), roots.as_bytes(), 0o644)?;
    write(&dir.join(CHAIN_FILE), chain.as_bytes(), 0o644)?;
    Ok(identity)
}

/// Reads a text file; `None` when there is none.
///
/// # Errors
/// It is there and cannot be read.
pub fn read_if_there(path: &Path) -> Result<Option<String>, IdentityError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(IdentityError::File {
            doing: "reading",
            path: path.display().to_string(),
            source,
        }),
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
    replace(path, bytes, mode).map_err(|source| IdentityError::File {
        doing: "writing",
        path: path.display().to_string(),
        source,
    })
}

/// Replaces a file at once: readers see the old one or the new one, also after a power failure.
///
/// # Errors
/// What the system says; the old file is untouched then.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}
