//! A certificate for the proxies' TLS listeners: the same kind of key for all (ECDSA, P-256).

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// The certificate, PEM.
pub const CHAIN_FILE: &str = "tls.pem";
/// Its key, PEM.
pub const KEY_FILE: &str = "tls-key.pem";
/// Both, for those that want one file.
pub const BOTH_FILE: &str = "tls-both.pem";

/// Writes a certificate into a directory; `false`: there is no openssl.
pub fn certify(dir: &Path) -> bool {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args([
            "-days",
            "2",
            "-subj",
            "/CN=bench",
            "-addext",
            "subjectAltName=DNS:bench",
        ])
        .arg("-keyout")
        .arg(dir.join(KEY_FILE))
        .arg("-out")
        .arg(dir.join(CHAIN_FILE))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let read = |file| fs::read(dir.join(file)).unwrap_or_default();
    let both = [read(CHAIN_FILE), read(KEY_FILE)].concat();
    made.is_ok_and(|status| status.success()) && fs::write(dir.join(BOTH_FILE), both).is_ok()
}
