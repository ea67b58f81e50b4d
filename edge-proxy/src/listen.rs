//! The proxy's sockets.
//!
//! Every worker has its own listening socket on the same address
//! (`SO_REUSEPORT`); the kernel spreads connections over them. With port 0 the
//! first worker's socket decides the port.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Config;
use crate::identity::files::replace;
use crate::listener::{Listener, ListenerCell, Listeners};

/// In the data directory: where the proxy listens, once it does.
pub const ADDRESSES_FILE: &str = "addresses.json";
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;

/// One worker's sockets.
#[derive(Debug, Default)]
pub struct Sockets {
    /// For clients and for applications on this node.
    pub fronts: Vec<Front>,
    /// For peers.
    pub mesh: Option<TcpListener>,
}

/// One worker's socket of a listener.
#[derive(Debug)]
pub struct Front {
    /// Whose.
    pub listener: Arc<ListenerCell>,
    /// The socket.
    pub socket: TcpListener,
}

/// Where the proxy listens: the content of [`ADDRESSES_FILE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// For clients.
    pub ingress: SocketAddr,
    /// For peers.
    pub mesh: SocketAddr,
    /// For applications on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound: Option<SocketAddr>,
    /// For the operator.
    pub admin: SocketAddr,
    /// The configuration's own listeners, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub listeners: BTreeMap<String, SocketAddr>,
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listening on {address}")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Opens the sockets of all workers and the admin listener. `own` are the configuration's listeners, in its order; all
/// are noted in `listeners`.
///
/// # Errors
/// An address that is taken or not this machine's.
pub fn open(
    config: &Config,
    own: Vec<Listener>,
    listeners: &Listeners,
    workers: usize,
) -> Result<(Vec<Sockets>, TcpListener, Addresses), ListenError> {
    let mut all: Vec<Sockets> = (0..workers).map(|_| Sockets::default()).collect();
    let mut front = |listener: Listener| {
        let (sockets, at) = open_all(listener.address, workers)?;
        let listener = listeners.add(listener);
        for (worker, socket) in all.iter_mut().zip(sockets) {
            let listener = Arc::clone(&listener);
            worker.fronts.push(Front { listener, socket });
        }
        Ok::<_, ListenError>(at)
    };
    let ingress = front(Listener::http("ingress", config.listen, config))?;
    let outbound = config.outbound_listen;
    let outbound = outbound.map(|address| front(Listener::http("outbound", address, config)));
    let outbound = outbound.transpose()?;
    let mut by_name = BTreeMap::new();
    for listener in own {
        let name = listener.name.clone();
        by_name.insert(name, front(listener)?);
    }
    let (sockets, mesh) = open_all(config.mesh_listen, workers)?;
    for (worker, socket) in all.iter_mut().zip(sockets) {
        worker.mesh = Some(socket);
    }
    let (admin, admin_at) = open_all(config.admin_listen, 1)?;
    let addresses = Addresses {
        ingress,
        mesh,
        outbound,
        admin: admin_at,
        listeners: by_name,
    };
    let admin = admin.into_iter().next().ok_or(ListenError {
        address: admin_at,
        source: io::ErrorKind::AddrNotAvailable.into(),
    })?;
    Ok((all, admin, addresses))
}

/// Tells others where the proxy listens.
///
/// # Errors
/// The file cannot be written.
pub fn publish(data_dir: &Path, addresses: &Addresses) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(addresses)?;
    replace(&data_dir.join(ADDRESSES_FILE), &text, 0o644)
}

fn open_all(
    mut address: SocketAddr,
    count: usize,
) -> Result<(Vec<TcpListener>, SocketAddr), ListenError> {
    let mut sockets = Vec::with_capacity(count);
    if count > 1 && address.port() != 0 {
        // Shared sockets would let a second proxy take half of the connections unseen: only one
        // that does not share finds out.
        let alone = open_one(address, false);
        alone.map_err(|source| ListenError { address, source })?;
    }
    for _ in 0..count {
        let failed = |source| ListenError { address, source };
        let socket = open_one(address, count > 1).map_err(failed)?;
        address = socket.local_addr().map_err(failed)?;
        sockets.push(socket);
    }
    Ok((sockets, address))
}

fn open_one(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
