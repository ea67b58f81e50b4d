//! Binary upgrade: a new process takes over the listening sockets of the one that runs.
//!
//! ```text
//! new: connect to handover.sock ────────► old
//!      ◄──── each socket, with its name ── old     both could accept; only the old one does
//! new: starts its workers
//!      ready ────────────────────────────► old     ends its control stream
//!      ◄───────────────────────────── over ─ old   accepts no more, lets its requests end, ends itself
//! new: begins its control stream
//! ```
//!
//! The sockets are the same in both processes, so the kernel's queues of connections outlive the change: none is refused
//! and none is lost. A new process that ends before it is ready changes nothing.
//!
//! Only processes of the same user (or root) are answered.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::net::UnixListener;

/// In the data directory: where a new process asks.
pub const SOCKET_FILE: &str = "handover.sock";
/// Most sockets that are handed over.
pub const SOCKETS_MAX: usize = 8192;
/// A process that takes longer with an answer is given up: the old one goes on, the new one starts with sockets of its
/// own.
pub const WAIT_MAX: Duration = Duration::from_secs(10);
/// A new process has this long to start once it has the sockets.
pub const START_WAIT_MAX: Duration = Duration::from_secs(60);

/// A socket's name, filled up with zeros; all zeros: the last.
const NAME_LEN: usize = 64;
const READY: &[u8; 6] = b"ready\n";
const OVER: &[u8; 5] = b"over\n";

/// The listening sockets of this process, by the name of their listener.
#[derive(Debug, Default)]
pub struct Kept(Mutex<Vec<(String, TcpListener)>>);

impl Kept {
    /// Keeps one more handle of a socket.
    ///
    /// # Errors
    /// The system has no file left.
    pub fn keep(&self, name: &str, socket: &TcpListener) -> io::Result<()> {
        let socket = socket.try_clone()?;
        self.lock().push((name.to_owned(), socket));
        Ok(())
    }

    /// Lets go of the sockets of one listener.
    pub fn forget(&self, name: &str) {
        self.lock().retain(|(kept, _)| kept != name);
    }

    /// Lets go of all: once the workers have too, nobody listens any more.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn copies(&self) -> io::Result<Vec<(String, TcpListener)>> {
        let kept = self.lock();
        let copy = |(name, socket): &(String, TcpListener)| Ok((name.clone(), socket.try_clone()?));
        kept.iter().map(copy).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(String, TcpListener)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a new process got from the one before it.
#[derive(Debug)]
pub struct Inherited {
    sockets: BTreeMap<String, VecDeque<TcpListener>>,
    old: UnixStream,
}

/// Asks the process that runs in this data directory; `None` when there is none. Blocks, at most [`WAIT_MAX`] per
/// message.
///
/// # Errors
/// It runs, and what it says is not understood.
pub fn take(data_dir: &Path) -> io::Result<Option<Inherited>> {
    let old = match UnixStream::connect(data_dir.join(SOCKET_FILE)) {
        Ok(old) => old,
        // A file that nobody listens on is left by a process that was killed.
        Err(_) => return Ok(None),
    };
    old.set_read_timeout(Some(WAIT_MAX))?;
    old.set_write_timeout(Some(WAIT_MAX))?;
    let mut sockets: BTreeMap<String, VecDeque<TcpListener>> = BTreeMap::new();
    for _ in 0..SOCKETS_MAX {
        match receive(&old)? {
            Some((name, socket)) => sockets.entry(name).or_default().push_back(socket),
            None => return Ok(Some(Inherited { sockets, old })),
        }
    }
    Err(io::Error::other("more sockets than a proxy has"))
}

impl Inherited {
    /// The sockets of a listener, when they listen on `address` (port 0: on any port of it).
    pub fn sockets(&mut self, name: &str, address: SocketAddr) -> Vec<TcpListener> {
        let fits = |socket: &TcpListener| {
            socket.local_addr().is_ok_and(|at| {
                at.ip() == address.ip() && (address.port() == 0 || at.port() == address.port())
            })
        };
        let sockets = self.sockets.remove(name).unwrap_or_default();
        sockets.into_iter().filter(fits).collect()
    }

    /// Tells the old process to end and waits until it has left the control stream. Blocks, at most [`WAIT_MAX`].
    ///
    /// # Errors
    /// It has ended already, or does not answer.
    pub fn ready(mut self) -> io::Result<()> {
        self.old.write_all(READY)?;
        let mut over = [0; OVER.len()];
        self.old.read_exact(&mut over)
    }
}

/// The file of a process that answers new ones.
///
/// # Errors
/// The file cannot be made.
pub fn listen(data_dir: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let (path, new) = (data_dir.join(SOCKET_FILE), data_dir.join("handover.new"));
    // Under another name until it is nobody else's, and in place at once.
    let _ = std::fs::remove_file(&new);
    let listener = UnixListener::bind(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&new, &path)?;
    Ok(listener)
}

/// Answers new processes until one is ready; the connection to it is returned. Drop it, or [`over`] it, when the
/// control stream has ended.
pub async fn serve(listener: UnixListener, kept: &Kept) -> UnixStream {
    loop {
        let asked = match listener.accept().await {
            Ok((new, _)) => new,
            Err(error) => {
                tracing::warn!(%error, "a new process cannot ask");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let own = rustix::process::geteuid().as_raw();
        let is_own = asked
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0);
        let copies = kept.copies();
        let (Ok(new), Ok(copies), true) = (asked.into_std(), copies, is_own) else {
            tracing::warn!("a process that asked for the sockets did not get them");
            continue;
        };
        let handed = tokio::task::spawn_blocking(move || hand(new, &copies)).await;
        match handed {
            Ok(Ok(new)) => return new,
            Ok(Err(error)) => {
                tracing::warn!(%error, "a new process did not start; this one goes on")
            }
            Err(_) => {}
        }
    }
}

/// Tells the new process that this one is out of its way.
pub fn over(mut new: UnixStream) {
    if let Err(error) = new.write_all(OVER) {
        tracing::debug!(%error, "the new process does not listen");
    }
}

/// Hands over all sockets and waits until the new process is ready.
fn hand(mut new: UnixStream, sockets: &[(String, TcpListener)]) -> io::Result<UnixStream> {
    new.set_nonblocking(false)?;
    new.set_read_timeout(Some(START_WAIT_MAX))?;
    new.set_write_timeout(Some(WAIT_MAX))?;
    for (name, socket) in sockets {
        send(&new, name, socket)?;
    }
    new.write_all(&[0; NAME_LEN])?;
    let mut ready = [0; READY.len()];
    new.read_exact(&mut ready)?;
    match ready == *READY {
        true => Ok(new),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn send(to: &UnixStream, name: &str, socket: &TcpListener) -> io::Result<()> {
    let mut named = [0; NAME_LEN];
    let name = name.as_bytes();
    named
        .get_mut(..name.len())
        .filter(|_| name.len() < NAME_LEN)
        .ok_or(io::ErrorKind::InvalidInput)?
        .copy_from_slice(name);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [socket.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = rustix::net::sendmsg(
        to,
        &[IoSlice::new(&named)],
        &mut control,
        SendFlags::empty(),
    )?;
    match sent == NAME_LEN {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}

fn receive(from: &UnixStream) -> io::Result<Option<(String, TcpListener)>> {
    let mut named = [0; NAME_LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(
        from,
        &mut [IoSliceMut::new(&mut named)],
        &mut control,
        flags,
    )?;
    if received.bytes != NAME_LEN {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fd: Option<OwnedFd> = fds.flatten().next();
    let name = named.split(|&b| b == 0).next().unwrap_or_default();
    match (name, fd) {
        (b"", None) => Ok(None),
        (name, Some(fd)) => {
            let name = std::str::from_utf8(name).map_err(|_| io::ErrorKind::InvalidData)?;
            Ok(Some((name.to_owned(), TcpListener::from(fd))))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_change_hands() {
        let dir = tempfile::tempdir().unwrap();
        assert!(take(dir.path()).unwrap().is_none());
        let kept = Kept::default();
        let sockets = ["ingress", "ingress", "mesh"]
            .map(|name| (name, TcpListener::bind("127.0.0.1:0").unwrap()));
        for (name, socket) in &sockets {
            kept.keep(name, socket).unwrap();
        }
        let listener = listen(dir.path()).unwrap();
        let path = dir.path().to_owned();
        let new = tokio::task::spawn_blocking(move || {
            // One that gives up changes nothing.
            drop(take(&path).unwrap().unwrap());
            let mut inherited = take(&path).unwrap().unwrap();
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let ingress = inherited.sockets("ingress", any);
            let elsewhere = inherited.sockets("mesh", SocketAddr::from(([127, 0, 0, 1], 1)));
            inherited.ready().unwrap();
            (ingress, elsewhere)
        });
        over(serve(listener, &kept).await);
        let (ingress, elsewhere) = new.await.unwrap();
        let at = |socket: &TcpListener| socket.local_addr().unwrap();
        let ports: Vec<_> = ingress.iter().map(at).collect();
        assert_eq!(ports, [at(&sockets[0].1), at(&sockets[1].1)]);
        assert!(elsewhere.is_empty());
    }
}
