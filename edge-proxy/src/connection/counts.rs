//! What happened to the connections of one listener.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::detect::Protocol;

/// Why a connection was closed before anything was served on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A header of the PROXY protocol from someone whose word does not count, or a connection of such a one where a
    /// header is needed.
    #[error("a source that is not trusted")]
    UntrustedSource,
    /// The header is broken, or not there where it is needed.
    #[error("no right header of the PROXY protocol")]
    ProxyHeader,
    /// The TLS handshake failed.
    #[error("the TLS handshake failed")]
    Handshake,
    /// The TLS handshake took too long, or too many others were under way.
    #[error("the TLS handshake took too long")]
    HandshakeWait,
    /// Not TLS, or a broken first message, where TLS is passed through.
    #[error("no right first message of TLS")]
    ClientHello,
    /// No service for the name or the address that it was for.
    #[error("no service for it")]
    NoService,
    /// Nobody had room, or no endpoint could be reached.
    #[error("nobody has room")]
    NoRoom,
    /// An access policy.
    #[error("not allowed")]
    Denied,
}

impl Refusal {
    /// All of them, as they stand in a metric's label.
    pub const ALL: [(Refusal, &str); 8] = [
        (Refusal::UntrustedSource, "untrusted_source"),
        (Refusal::ProxyHeader, "proxy_header"),
        (Refusal::Handshake, "handshake"),
        (Refusal::HandshakeWait, "handshake_wait"),
        (Refusal::ClientHello, "client_hello"),
        (Refusal::NoService, "no_service"),
        (Refusal::NoRoom, "no_room"),
        (Refusal::Denied, "denied"),
    ];
}

/// What a connection's protocol was found to be, where first bytes decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    /// By its first bytes.
    As(Protocol),
    /// Too few bytes came in time: TCP.
    TimedOut,
}

impl Detected {
    /// All of them, as they stand in a metric's label.
    pub const ALL: [(Detected, &str); 5] = [
        (Detected::As(Protocol::Http1), "http1"),
        (Detected::As(Protocol::Http2), "http2"),
        (Detected::As(Protocol::Tls), "tls"),
        (Detected::As(Protocol::Tcp), "tcp"),
        (Detected::TimedOut, "timeout"),
    ];
}

/// Counts since the start. Connections are rare beside requests: one set for all workers.
#[derive(Debug, Default)]
pub struct ListenerCounts {
    /// Accepted.
    pub accepted: AtomicU64,
    /// TLS handshakes that succeeded.
    pub handshakes: AtomicU64,
    /// Certificate files read again, and in force.
    pub reloaded: AtomicU64,
    /// Certificate files read again that could not be used.
    pub reload_failed: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
    detected: [AtomicU64; Detected::ALL.len()],
}

impl ListenerCounts {
    /// Counts one connection that was closed at once.
    pub fn refuse(&self, why: Refusal) {
        if let Some(at) = Refusal::ALL.iter().position(|(refusal, _)| *refusal == why) {
            self.refused[at].fetch_add(1, Relaxed);
        }
    }

    /// Counts one connection whose protocol was found out.
    pub fn detect(&self, what: Detected) {
        if let Some(at) = Detected::ALL
            .iter()
            .position(|(detected, _)| *detected == what)
        {
            self.detected[at].fetch_add(1, Relaxed);
        }
    }

    /// Closed at once, by why.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.refused.iter().map(|count| count.load(Relaxed));
        Refusal::ALL.iter().map(|(_, name)| *name).zip(counts)
    }

    /// Found out, by what.
    pub fn detected(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.detected.iter().map(|count| count.load(Relaxed));
        Detected::ALL.iter().map(|(_, name)| *name).zip(counts)
    }
}
