//! The process that stands for the places: all endpoints, and the distance between all nodes.
//!
//! ```text
//! proxy 1 ──▶ endpoint 1        proxy 1 ──▶ relay 1→2 ──▶ proxy 2's mesh port
//! proxy 2 ──▶ endpoint 2        proxy 2 ──▶ relay 2→1 ──▶ proxy 1's mesh port
//! ```
//!
//! One thread is enough: nothing here computes, everything waits.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::addresses;
use super::endpoint::{self, Endpoint};
use super::error::ClusterError;
use super::link::Link;

/// What the process is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the addresses go.
    pub data_dir: PathBuf,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Round trips in microseconds, `nodes × nodes`, row by row.
    pub rtt_us: Vec<u64>,
    /// Seed of the service times.
    pub seed: u64,
}

/// One node's endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Requests it works on at once.
    pub workers: u32,
    /// Mean service time, in microseconds.
    pub service_us: u64,
    /// The data directory of its proxy, where relays look up its mesh port.
    pub proxy_data_dir: PathBuf,
}

/// Where everything listens; the process's `addresses.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Addresses {
    /// By node.
    pub endpoints: Vec<SocketAddr>,
    /// `nodes × nodes`, row by row; none on the diagonal.
    pub relays: Vec<Option<SocketAddr>>,
}

/// Reads a configuration file.
///
/// # Errors
/// It cannot be read or is not one.
pub fn read_config(path: &Path) -> Result<Config, ClusterError> {
    read_json(path)
}

/// Reads what a process of this kind wrote once it listened.
///
/// # Errors
/// It cannot be read or is not one.
pub fn read_addresses(data_dir: &Path) -> Result<Addresses, ClusterError> {
    read_json(&data_dir.join(addresses::FILE_NAME))
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, ClusterError> {
    let failed = |source| ClusterError::File {
        verb: "read",
        path: path.to_owned(),
        source,
    };
    let bytes = std::fs::read(path).map_err(failed)?;
    serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))
}

/// Serves until the token is cancelled.
///
/// # Errors
/// No port, or the addresses cannot be written.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ClusterError> {
    let addresses = serve(&config).await.map_err(ClusterError::Listen)?;
    let path = config.data_dir.join(addresses::FILE_NAME);
    let written = serde_json::to_vec(&addresses)
        .map_err(std::io::Error::from)
        .and_then(|json| {
            let part = path.with_extension("part");
            std::fs::write(&part, json)?;
            std::fs::rename(&part, &path)
        });
    written.map_err(|source| ClusterError::File {
        verb: "write",
        path,
        source,
    })?;
    shutdown.cancelled().await;
    Ok(())
}

async fn serve(config: &Config) -> std::io::Result<Addresses> {
    let mut addresses = Addresses {
        endpoints: Vec::new(),
        relays: Vec::new(),
    };
    for (index, node) in config.nodes.iter().enumerate() {
        let (listener, address) = endpoint::listen().await?;
        addresses.endpoints.push(address);
        let endpoint = Endpoint {
            node: HeaderValue::from_str(&node.name).map_err(std::io::Error::other)?,
            workers: node.workers as usize,
            service: Duration::from_micros(node.service_us),
            seed: config
                .seed
                .wrapping_mul(1_000_003)
                .wrapping_add(index as u64),
        };
        tokio::spawn(endpoint.serve(listener));
    }
    let count = config.nodes.len();
    for (pair, &rtt_us) in config.rtt_us.iter().enumerate().take(count * count) {
        let (from, to) = (pair / count, pair % count);
        if from == to {
            addresses.relays.push(None);
            continue;
        }
        let (listener, address) = endpoint::listen().await?;
        addresses.relays.push(Some(address));
        let link = Link {
            to: config.nodes[to].proxy_data_dir.join(addresses::FILE_NAME),
            rtt: Duration::from_micros(rtt_us),
        };
        tokio::spawn(link.serve(listener));
    }
    Ok(addresses)
}
