//! UDP sockets of all workers on one port, such that every packet reaches the worker that has its connection.
//!
//! The kernel would choose by addresses, and a client whose address changes would reach a worker that does not know it.
//! Instead the connection's identifier decides, of which this side has chosen the first two bytes ([`Marked`]):
//!
//! ```text
//! worker = (first two bytes of the destination's connection identifier) modulo workers
//! ```
//!
//! The first identifier of a connection is the client's choice, and random: it spreads connections over the workers.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator};
use ring::rand::{SecureRandom, SystemRandom};
use socket2::{Domain, Protocol, Socket, Type};

/// Length of the identifiers that this side chooses, in bytes.
const ID_LEN: usize = 8;

/// One listener's UDP sockets until its workers take them.
#[derive(Debug, Default)]
pub struct Datagrams(Mutex<Vec<Option<UdpSocket>>>);

impl Datagrams {
    /// The socket of worker `index`; the first that asks opens those of all. `None`: it was taken already.
    ///
    /// # Errors
    /// The port is somebody else's, or the system has no socket left.
    pub fn take(
        &self,
        index: usize,
        address: SocketAddr,
        workers: usize,
    ) -> io::Result<Option<UdpSocket>> {
        let mut sockets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sockets.is_empty() {
            *sockets = open_all(address, workers)?;
        }
        Ok(sockets.get_mut(index).and_then(Option::take))
    }
}

fn open_all(address: SocketAddr, workers: usize) -> io::Result<Vec<Option<UdpSocket>>> {
    // Shared sockets would take a part of another process's packets: only one that does not share finds out.
    drop(open_one(address, false)?);
    let sockets = (0..workers).map(|_| open_one(address, true));
    let sockets = sockets.collect::<io::Result<Vec<_>>>()?;
    if let Some(first) = sockets.first() {
        steer(first, workers)?;
    }
    Ok(sockets.into_iter().map(Some).collect())
}

fn open_one(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Has the kernel choose among all sockets of this port by the connection identifier of a packet. The program returns the
/// place of a socket in the order in which they were bound; of a packet that is too short it is the first.
#[expect(
    unsafe_code,
    reason = "without it, of two workers one in two clients loses its connection when its address changes; no safe call sets this option"
)]
fn steer(socket: &UdpSocket, workers: usize) -> io::Result<()> {
    use libc::{
        BPF_ABS, BPF_ALU, BPF_B, BPF_H, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_MOD, BPF_RET,
    };
    const BPF_A: u32 = 0x10;
    let op = |code: u32, when: u8, otherwise: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt: when,
        jf: otherwise,
        k,
    };
    let workers = u32::try_from(workers).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut program = [
        op(BPF_LD | BPF_B | BPF_ABS, 0, 0, 0),
        // A long head (RFC 8999, section 5.1) has a version and a length before the identifier, a short one nothing.
        op(BPF_JMP | BPF_JSET | BPF_K, 0, 2, 0x80),
        op(BPF_LD | BPF_H | BPF_ABS, 0, 0, 6),
        op(BPF_JMP | libc::BPF_JA, 0, 0, 1),
        op(BPF_LD | BPF_H | BPF_ABS, 0, 0, 1),
        op(BPF_ALU | BPF_MOD | BPF_K, 0, 0, workers),
        op(BPF_RET | BPF_A, 0, 0, 0),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the socket is open; the option takes a `sock_fprog`, whose address and length are given, and the kernel
    // copies it and the program that it points to before the call returns.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Random connection identifiers that lead to one worker.
#[derive(Debug, Clone, Copy)]
pub struct Marked {
    /// The worker.
    pub index: usize,
    /// Of how many.
    pub workers: usize,
}

impl ConnectionIdGenerator for Marked {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; ID_LEN];
        // The system's generator does not fail once the program runs; if it did, identifiers would be found taken.
        let _ = SystemRandom::new().fill(&mut id);
        let mark = mark([id[0], id[1]], self.index, self.workers);
        id[..2].copy_from_slice(&mark);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Two bytes near random ones that are `index` modulo `workers`.
fn mark(random: [u8; 2], index: usize, workers: usize) -> [u8; 2] {
    let (random, workers) = (usize::from(u16::from_be_bytes(random)), workers.max(1));
    let marked = random - random % workers + index % workers;
    let marked = match u16::try_from(marked) {
        Ok(marked) => marked,
        Err(_) => (marked - workers) as u16,
    };
    marked.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::mark;

    #[test]
    fn marks_lead_to_their_worker() {
        for workers in [1, 2, 3, 7, 64, 255, 256] {
            for index in 0..workers {
                for random in [[0, 0], [1, 2], [255, 254], [255, 255]] {
                    let marked = u16::from_be_bytes(mark(random, index, workers));
                    assert_eq!(usize::from(marked) % workers, index);
                }
            }
        }
    }
}
