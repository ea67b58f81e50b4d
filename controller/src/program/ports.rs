//! Where the controller listens, and the file that says so.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::ProgramError;
use crate::config::Config;
use crate::files::{Readers, write_whole};

/// The file in the data directory that says where the controller listens.
pub const ADDRESSES_FILE: &str = "addresses.json";

/// Where the controller listens: the content of [`ADDRESSES_FILE`].
///
/// Written in one step when both ports answer, removed at the end; with port 0 in the
/// configuration this is how to find the real ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// REST API.
    pub rest: SocketAddr,
    /// Control stream and enrolment.
    pub stream: SocketAddr,
    /// What the API server of a cluster calls, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<SocketAddr>,
}

impl Addresses {
    /// Says where it listens, in the file at this path and in the log.
    pub(super) fn publish(self, path: &Path) -> Result<(), ProgramError> {
        // Socket addresses always have a JSON form.
        let text = serde_json::to_vec(&self).unwrap_or_default();
        write_whole(path, &text, Readers::All)?;
        let Addresses { rest, stream, .. } = self;
        tracing::info!(%rest, %stream, "listening");
        Ok(())
    }
}

/// Where addresses will be written; what a run left there that crashed is gone.
pub(super) fn forget_addresses(config: &Config) -> PathBuf {
    let path = config.data_dir.join(ADDRESSES_FILE);
    // There may be none.
    let _ = std::fs::remove_file(&path);
    path
}

/// Both ports: for REST and for control streams.
pub(super) async fn open_ports(
    config: &Config,
    cluster: Option<SocketAddr>,
) -> Result<(TcpListener, TcpListener, Addresses), ProgramError> {
    let rest = listen("rest_listen", config.rest_listen).await?;
    let stream = listen("stream_listen", config.stream_listen).await?;
    let addresses = Addresses {
        rest: local_address("rest_listen", &rest, config.rest_listen)?,
        stream: local_address("stream_listen", &stream, config.stream_listen)?,
        cluster,
    };
    Ok((rest, stream, addresses))
}

pub(super) async fn listen(
    field: &'static str,
    address: SocketAddr,
) -> Result<TcpListener, ProgramError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| ProgramError::Listen {
        field,
        address,
        source,
    })
}

pub(super) fn local_address(
    field: &'static str,
    listener: &TcpListener,
    address: SocketAddr,
) -> Result<SocketAddr, ProgramError> {
    listener
        .local_addr()
        .map_err(|source| ProgramError::Listen {
            field,
            address,
            source,
        })
}
