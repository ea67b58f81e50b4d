//! The proxy of this repository, alone without a controller, with everything on that is on by default.
//!
//! One worker thread. The endpoint is said to work on [`POOL_MAX`] requests at once, so that nothing
//! waits in the proxy: the backend here has no queue of its own to protect. Idle connections are kept
//! as long as in the other proxies. Metrics, load counting and the spill's bookkeeping are on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::super::grpc;
use super::tls::{CHAIN_FILE, KEY_FILE};
use super::{POOL_MAX, Ports, Site, on_core, version};

pub fn find(given: Option<&Path>) -> Result<(PathBuf, String)> {
    let beside = || {
        let path = std::env::current_exe().ok()?.with_file_name("isobar-proxy");
        path.is_file().then_some(path)
    };
    let path = given.map(Path::to_owned).or_else(beside);
    let path = path.context("cargo build --release -p isobar-edge-proxy")?;
    let version = version(&path, "--version")?;
    Ok((path, version.replace("isobar-proxy ", "")))
}

pub fn command(path: &Path, site: &Site<'_>) -> Result<Command> {
    let file = site.dir.join("proxy.toml");
    fs::write(&file, config(site))?;
    let mut command = on_core(site, path);
    command.arg("--config").arg(&file);
    Ok(command)
}

/// It tells HTTP/2 from HTTP/1.1 by the first bytes.
pub fn ports(site: &Site<'_>) -> Ports {
    Ports {
        http1: site.http1,
        http2: Some(site.http1),
        tls: site.tls,
    }
}

fn config(site: &Site<'_>) -> String {
    let tls = site.tls.map_or_else(String::new, |tls| {
        format!(
            "
[[listeners]]
name = \"tls\"
address = \"{tls}\"
protocol = \"https\"
certificates = [{{ chain_file = \"{chain}\", key_file = \"{key}\", default = true }}]
",
            chain = site.dir.join(CHAIN_FILE).display(),
            key = site.dir.join(KEY_FILE).display(),
        )
    });
    format!(
        "node = \"bench\"
data_dir = \"{dir}\"
listen = \"{listen}\"
mesh_listen = \"{mesh}\"
admin_listen = \"{admin}\"
workers = 1

[limits]
idle_wait_ms_max = 600000

[[services]]
service = \"bench/small\"
hosts = [\"*\"]
endpoints = [{{ address = \"{backend}\", workers = {POOL_MAX} }}]

[[services]]
service = \"bench/calls\"
hosts = [\"{host}\"]
endpoints = [{{ address = \"{grpc}\", workers = {POOL_MAX} }}]
{tls}",
        dir = site.dir.display(),
        listen = site.http1,
        mesh = site.mesh,
        admin = site.admin,
        backend = site.backend,
        grpc = site.grpc,
        host = grpc::HOST,
    )
}
