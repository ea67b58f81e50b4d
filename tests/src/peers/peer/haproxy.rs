//! HAProxy: one process, one thread.
//!
//! Beyond what all proxies get (see [`super::super`]): `http-reuse always`, so that any client's request
//! may use any idle upstream connection, as in the others. `maxconn` is what the memory scenario needs;
//! where the limit of open files is below twice that, HAProxy only warns. TCP_NODELAY is its default.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::super::grpc;
use super::tls::BOTH_FILE;
use super::{CLIENTS_MAX, POOL_MAX, Site, on_core, on_path, version};

pub fn find() -> Result<(PathBuf, String)> {
    let path = on_path("haproxy").context("apt-get install haproxy")?;
    let version = version(&path, "-v")?;
    let number = version.split_whitespace().nth(2).unwrap_or(&version);
    Ok((path, number.to_owned()))
}

pub fn command(path: &Path, site: &Site<'_>) -> Result<Command> {
    let file = site.dir.join("haproxy.cfg");
    fs::write(&file, config(site))?;
    let mut command = on_core(site, path);
    command.args(["-db", "-q", "-f"]).arg(&file);
    Ok(command)
}

fn config(site: &Site<'_>) -> String {
    let (http1, http2, backend) = (site.http1, site.http2, site.backend);
    let tls = site.tls.map_or_else(String::new, |tls| {
        let both = site.dir.join(BOTH_FILE);
        format!(
            "  bind {tls} ssl crt {} ssl-min-ver TLSv1.3 backlog 4096\n",
            both.display()
        )
    });
    format!(
        "global
  nbthread 1
  no strict-limits
  maxconn {CLIENTS_MAX}
defaults
  mode http
  http-reuse always
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
  maxconn {CLIENTS_MAX}
frontend clients
  bind {http1} backlog 4096
  bind {http2} proto h2 backlog 4096
{tls}  use_backend calls if {{ path_beg {calls} }}
  default_backend endpoints
backend endpoints
  server one {backend} pool-max-conn {POOL_MAX} pool-purge-delay 600s
backend calls
  server one {grpc} proto h2 pool-max-conn {POOL_MAX} pool-purge-delay 600s
",
        calls = grpc::PATH,
        grpc = site.grpc,
    )
}
