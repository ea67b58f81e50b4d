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

use crate::handover::Inherited;
use crate::identity::files::replace;
use crate::listener::{Listener, ListenerCell};
use crate::proxy::Proxy;

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
    pub mesh: Vec<TcpListener>,
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

/// Opens the sockets of all workers and the admin listener, or takes those of the process before. `own` are the
/// configuration's listeners; all are noted in the proxy.
///
/// # Errors
/// An address that is taken or not this machine's.
pub fn open(
    proxy: &Proxy,
    own: Vec<Listener>,
    workers: usize,
    inherited: Option<&mut Inherited>,
) -> Result<(Vec<Sockets>, TcpListener, Addresses), ListenError> {
    let config = &proxy.config;
    let mut opening = Opening { proxy, inherited };
    let mut all: Vec<Sockets> = (0..workers).map(|_| Sockets::default()).collect();
    let mut front = |opening: &mut Opening<'_>, listener: Listener| {
        let (name, address) = (listener.name.clone(), listener.address);
        let (sockets, at) = opening.all(&name, address, workers, listener.is_transparent())?;
        let listener = proxy.listeners.add(listener);
        for (index, socket) in sockets.into_iter().enumerate() {
            let listener = Arc::clone(&listener);
            all[index % workers].fronts.push(Front { listener, socket });
        }
        Ok::<_, ListenError>((name, at))
    };
    let ingress = Listener::http("ingress", config.listen, config);
    let (_, ingress) = front(&mut opening, ingress)?;
    let outbound = config.outbound_listen;
    let outbound = outbound.map(|address| Listener::http("outbound", address, config));
    let outbound = outbound.map(|listener| front(&mut opening, listener));
    let outbound = outbound.transpose()?.map(|(_, at)| at);
    let mut listeners = BTreeMap::new();
    for listener in own {
        listeners.extend([front(&mut opening, listener)?]);
    }
    let (sockets, mesh) = opening.all("mesh", config.mesh_listen, workers, false)?;
    for (index, socket) in sockets.into_iter().enumerate() {
        all[index % workers].mesh.push(socket);
    }
    let (mut sockets, admin) = opening.all("admin", config.admin_listen, 1, false)?;
    let addresses = Addresses {
        ingress,
        mesh,
        outbound,
        admin,
        listeners,
    };
    let socket = sockets.pop().ok_or(ListenError {
        address: admin,
        source: io::ErrorKind::AddrNotAvailable.into(),
    })?;
    Ok((all, socket, addresses))
}

/// Where sockets come from.
struct Opening<'a> {
    proxy: &'a Proxy,
    inherited: Option<&'a mut Inherited>,
}

impl Opening<'_> {
    /// At least `count` sockets of one address.
    fn all(
        &mut self,
        name: &str,
        address: SocketAddr,
        count: usize,
        transparent: bool,
    ) -> Result<(Vec<TcpListener>, SocketAddr), ListenError> {
        let failed = |source| ListenError { address, source };
        let inherited = self.inherited.as_mut();
        let mut sockets = inherited.map_or_else(Vec::new, |old| old.sockets(name, address));
        let at = match sockets.first() {
            Some(first) => first.local_addr().map_err(failed)?,
            None => {
                let (opened, at) = open_all(address, count, transparent)?;
                sockets = opened;
                at
            }
        };
        // More workers than before: several accept from one queue. With fewer, one accepts from several: no queue may
        // be left alone.
        for index in sockets.len()..count {
            let copy = sockets[index % sockets.len()].try_clone();
            sockets.push(copy.map_err(failed)?);
        }
        for socket in &sockets {
            self.proxy.kept.keep(name, socket).map_err(failed)?;
        }
        Ok((sockets, at))
    }
}

/// Tells others where the proxy listens.
///
/// # Errors
/// The file cannot be written.
pub fn publish(data_dir: &Path, addresses: &Addresses) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(addresses)?;
    replace(&data_dir.join(ADDRESSES_FILE), &text, 0o644)
}

/// Opens `count` sockets that share one address; `transparent`: they take connections to any address (`TPROXY`).
pub(crate) fn open_all(
    mut address: SocketAddr,
    count: usize,
    transparent: bool,
) -> Result<(Vec<TcpListener>, SocketAddr), ListenError> {
    let mut sockets = Vec::with_capacity(count);
    if count > 1 && address.port() != 0 {
        // Shared sockets would let a second proxy take half of the connections unseen: only one
        // that does not share finds out.
        let alone = open_one(address, false, transparent);
        alone.map_err(|source| ListenError { address, source })?;
    }
    for _ in 0..count {
        let failed = |source| ListenError { address, source };
        let socket = open_one(address, count > 1, transparent).map_err(failed)?;
        address = socket.local_addr().map_err(failed)?;
        sockets.push(socket);
    }
    Ok((sockets, address))
}

fn open_one(address: SocketAddr, shared: bool, transparent: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    if transparent {
        match address.is_ipv4() {
            true => socket.set_ip_transparent_v4(true)?,
            false => socket.set_ip_transparent_v6(true)?,
        }
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
