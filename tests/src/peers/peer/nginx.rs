//! nginx: a master, and one worker that does everything.
//!
//! Beyond what all proxies get (see [`super::super`]): requests per connection without end (by default
//! both sides close every 1,000), request bodies streamed (by default spooled), answers never spooled.
//! `worker_connections` is as low as the memory scenario allows: nginx allots them all at the start, so
//! they are in its idle memory. TCP_NODELAY is on by default.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::super::grpc;
use super::tls::{CHAIN_FILE, KEY_FILE};
use super::{CLIENTS_MAX, POOL_MAX, Site, on_core, on_path, version};

/// Upstream connections, which nginx counts with the clients': one for each request under way.
const UPSTREAM_MAX: usize = 300;

pub fn find() -> Result<(PathBuf, String)> {
    let path = on_path("nginx").context("apt-get install nginx-light")?;
    let version = version(&path, "-v")?;
    Ok((path, version.replace("nginx version: nginx/", "")))
}

pub fn command(path: &Path, site: &Site<'_>) -> Result<Command> {
    let file = site.dir.join("nginx.conf");
    fs::write(&file, config(site))?;
    let mut command = on_core(site, path);
    command
        .arg("-p")
        .arg(site.dir)
        .arg("-c")
        .arg(&file)
        .args(["-e", "stderr"]);
    Ok(command)
}

fn config(site: &Site<'_>) -> String {
    let (http1, http2, backend) = (site.http1, site.http2, site.backend);
    let connections = CLIENTS_MAX + UPSTREAM_MAX;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("  {name}_temp_path {}/{name};\n", site.dir.display()))
        .collect();
    let tls = site.tls.map_or_else(String::new, |tls| {
        format!(
            "    listen {tls} ssl backlog=4096;
    ssl_certificate {chain};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.3;
",
            chain = site.dir.join(CHAIN_FILE).display(),
            key = site.dir.join(KEY_FILE).display(),
        )
    });
    let user = if is_root() { "user root;\n" } else { "" };
    format!(
        "daemon off;
{user}pid {dir}/nginx.pid;
worker_processes 1;
error_log stderr error;
events {{ worker_connections {connections}; }}
http {{
{temporary}  access_log off;
  keepalive_timeout 600s;
  keepalive_requests 1000000000;
  client_max_body_size 0;
  upstream backend {{
    server {backend};
    keepalive {POOL_MAX};
    keepalive_requests 1000000000;
    keepalive_time 24h;
    keepalive_timeout 600s;
  }}
  upstream calls {{
    server {grpc};
    keepalive {POOL_MAX};
    keepalive_requests 1000000000;
    keepalive_time 24h;
    keepalive_timeout 600s;
  }}
  server {{
    listen {http1} backlog=4096;
    listen {http2} http2 backlog=4096;
{tls}    location / {{
      proxy_pass http://backend;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Host $host;
      proxy_request_buffering off;
      proxy_max_temp_file_size 0;
    }}
    location {calls} {{
      grpc_pass grpc://calls;
      grpc_socket_keepalive on;
    }}
  }}
}}
",
        dir = site.dir.display(),
        grpc = site.grpc,
        calls = grpc::PATH,
    )
}

/// As root, nginx would give its worker another user, who cannot read our directory.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
