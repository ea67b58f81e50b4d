//! The identity's files in the data directory.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use isobar_mesh_api::message::{Certificate, Trust};
use isobar_mesh_api::names::NodeId;

use super::{Identity, IdentityError};

/// The key, mode 0600.
pub const KEY_FILE: &str = "node-key.pem";
/// The certificate and what is between it and the root.
pub const CHAIN_FILE: &str = "node-chain.pem";
/// All roots to trust.
pub const ROOTS_FILE: &str = "roots.pem";
/// What the controller last said of whom to trust.
pub const TRUST_FILE: &str = "trust.json";
/// What gets the node its next certificate when this one has ended, mode 0600.
pub const RENEWAL_FILE: &str = "renewal-token";

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
            let trust = trust(dir)?;
            Identity::new(trust_domain, node, &key, &chain, &roots, trust.as_ref()).map(Some)
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
    let trust = trust(dir)?;
    let identity = Identity::new(trust_domain, node, &key, chain, roots, trust.as_ref())?;
    // First what outlives the certificate.
    if let Some(renewal) = &certificate.renewal {
        write(&dir.join(RENEWAL_FILE), renewal.as_bytes(), 0o600)?;
    }
    write(&dir.join(ROOTS_FILE), roots.as_bytes(), 0o644)?;
    write(&dir.join(CHAIN_FILE), chain.as_bytes(), 0o644)?;
    Ok(identity)
}

/// Checks whom to trust from now on, keeps it in the files and returns the identity that does.
///
/// # Errors
/// This node's own certificate would not be believed by it (nothing is written then), or files fail.
pub fn adopt_trust(
    dir: &Path,
    trust_domain: &str,
    node: &NodeId,
    trust: &Trust,
) -> Result<Identity, IdentityError> {
    let key = key(dir)?;
    let chain = read_if_there(&dir.join(CHAIN_FILE))?;
    let chain = chain.ok_or(IdentityError::Pem("the certificate chain"))?;
    let roots = &trust.roots_pem;
    let identity = Identity::new(trust_domain, node, &key, &chain, roots, Some(trust))?;
    write(&dir.join(ROOTS_FILE), roots.as_bytes(), 0o644)?;
    // Strings and numbers always have a JSON form.
    let text = serde_json::to_vec(trust).unwrap_or_default();
    write(&dir.join(TRUST_FILE), &text, 0o644)?;
    Ok(identity)
}

/// What the controller last said of whom to trust. One that cannot be read any more is as good as none: the controller
/// says it again.
fn trust(dir: &Path) -> Result<Option<Trust>, IdentityError> {
    let text = read_if_there(&dir.join(TRUST_FILE))?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
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
