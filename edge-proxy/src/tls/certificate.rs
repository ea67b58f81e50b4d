//! One certificate's files.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::config::listener::CertificateFiles;
use crate::identity::verify::provider;

/// Largest file that is read, in bytes.
pub const FILE_LEN_MAX: u64 = 1024 * 1024;

/// Why a certificate cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file could not be read.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is larger than [`FILE_LEN_MAX`].
    #[error("{0} is longer than a certificate or key can be")]
    TooLong(String),
    /// No certificate in the chain's file.
    #[error("{0} has no certificate in PEM")]
    NoCertificate(String),
    /// No key in the key's file.
    #[error("{0} has no private key in PEM")]
    NoKey(String),
    /// The certificate names nobody, and the configuration neither.
    #[error("{0} has no DNS name; give names, or default = true")]
    NoName(String),
    /// Key and certificate do not belong together, or are of a kind that is not known.
    #[error("key and certificate cannot be used together")]
    Tls(#[from] rustls::Error),
}

/// A certificate with its key and whom it is for.
#[derive(Debug)]
pub struct Certificate {
    /// What is shown.
    pub key: Arc<CertifiedKey>,
    /// Host names in lower case; `*.domain` for all of one label before it.
    pub names: Vec<String>,
}

impl Certificate {
    /// Reads both files.
    ///
    /// # Errors
    /// They cannot be read, or do not fit together.
    pub fn read(files: &CertificateFiles) -> Result<Certificate, CertificateError> {
        let (chain_file, key_file) = (&files.chain_file, &files.key_file);
        let chain = read(chain_file)?;
        let chain: Result<Vec<CertificateDer<'static>>, _> =
            CertificateDer::pem_slice_iter(&chain).collect();
        let no_certificate = || CertificateError::NoCertificate(chain_file.display().to_string());
        let chain = chain.map_err(|_| no_certificate())?;
        let leaf = chain.first().ok_or_else(no_certificate)?;
        let mut names = files.names.clone();
        if names.is_empty() {
            let leaf = webpki::EndEntityCert::try_from(leaf).map_err(|_| no_certificate())?;
            names = leaf
                .valid_dns_names()
                .map(str::to_ascii_lowercase)
                .collect();
        }
        if names.is_empty() && !files.default {
            return Err(CertificateError::NoName(chain_file.display().to_string()));
        }
        let key = PrivateKeyDer::from_pem_slice(&read(key_file)?)
            .map_err(|_| CertificateError::NoKey(key_file.display().to_string()))?;
        let key = provider().key_provider.load_private_key(key)?;
        let key = CertifiedKey::new(chain, key);
        key.keys_match()?;
        let key = Arc::new(key);
        Ok(Certificate { key, names })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let shown = || path.display().to_string();
    let failed = |source| CertificateError::Read {
        path: shown(),
        source,
    };
    let len = std::fs::metadata(path).map_err(failed)?.len();
    if len > FILE_LEN_MAX {
        return Err(CertificateError::TooLong(shown()));
    }
    std::fs::read(path).map_err(failed)
}

/// What a file looks like from outside; another one when it was written or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(Option<(u64, i64, i64, u64)>);

impl Stamp {
    fn of(path: &Path) -> Stamp {
        let metadata = std::fs::metadata(path).ok();
        Stamp(metadata.map(|m| (m.ino(), m.mtime(), m.mtime_nsec(), m.len())))
    }

    /// Those of all files, chains and keys.
    pub fn of_all(files: &[CertificateFiles]) -> Vec<Stamp> {
        let both =
            |files: &CertificateFiles| [Stamp::of(&files.chain_file), Stamp::of(&files.key_file)];
        files.iter().flat_map(both).collect()
    }
}
