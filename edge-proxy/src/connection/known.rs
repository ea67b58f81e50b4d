//! Who is at the other end: a client, as far as anybody knows, and a peer, by its certificate.
//!
//! **Invariant**: nobody is somebody for what a request, a header or the PROXY protocol says. It is the certificate of the
//! handshake, or where the system says that the connection comes from.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use isobar_mesh_api::identity::SpiffeId;
use isobar_mesh_api::names::NodeId;
use isobar_mesh_api::validity::Validity;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;

use crate::identity::Identity;
use crate::identity::verify::holder;
use crate::listener::Listener;
use crate::proxy::Proxy;
use crate::skew::seconds;

/// Who a client is.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its identity.
    pub id: Arc<SpiffeId>,
    /// The certificate that it showed; `None` for a workload that is known by where it comes from.
    pub certificate: Option<Shown>,
}

/// What of a certificate may make it count no more.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The node that may be revoked: the holder, or where the holder's proxy is.
    pub node: Option<NodeId>,
    /// When the certificate begins, seconds since 1970.
    pub begins_s: u64,
    /// When it ends, seconds since 1970.
    pub ends_s: u64,
}

impl Shown {
    fn of(leaf: &CertificateDer<'_>, node: Option<NodeId>) -> Option<Shown> {
        let validity = Validity::read(leaf)?;
        Some(Shown {
            node,
            begins_s: seconds(validity.not_before),
            ends_s: seconds(validity.not_after),
        })
    }

    fn is_revoked(&self, own: &Identity) -> bool {
        let node = self.node.as_ref();
        node.is_some_and(|node| own.revoked.contain(node, self.begins_s))
    }

    fn has_ended(&self) -> bool {
        seconds(SystemTime::now()) > self.ends_s
    }
}

impl Known {
    /// By the certificate that it showed and the verifier of the handshake has seen, else by the address that it comes from, as the
    /// system saw it: nobody writes that.
    pub(crate) fn of(
        proxy: &Proxy,
        shown: Option<&CertificateDer<'_>>,
        ip: IpAddr,
    ) -> Option<Known> {
        // A certificate says more than an address.
        shown.and_then(Known::by_certificate).or_else(|| {
            Some(Known {
                id: proxy.in_force.load().workload(ip)?,
                certificate: None,
            })
        })
    }

    /// The workload beside this proxy, where the proxy's certificate is one of a workload: who connects on loopback, where nobody
    /// comes from elsewhere. Not who is trusted to speak for others there.
    pub(crate) fn beside(
        proxy: &Proxy,
        listener: &Listener,
        stream: &TcpStream,
        from: IpAddr,
    ) -> Option<Known> {
        let own = proxy.identity.get()?;
        let id = Arc::clone(own.workload()?);
        // Also of an intercepted connection: the kernel leads what begins on this machine to loopback, and nothing else.
        let is_here = stream.local_addr().ok()?.ip().to_canonical().is_loopback();
        let speaks_for_others = listener.trusted_sources.contain(from);
        (is_here && !speaks_for_others).then_some(Known {
            id,
            certificate: None,
        })
    }

    fn by_certificate(leaf: &CertificateDer<'_>) -> Option<Known> {
        let holder = holder(leaf)?;
        Some(Known {
            id: Arc::new(holder.id),
            certificate: Some(Shown::of(leaf, holder.node)?),
        })
    }

    /// Whether it still is who it was.
    pub(super) fn holds(&self, proxy: &Proxy) -> bool {
        let Some(shown) = &self.certificate else {
            return true;
        };
        let own = proxy.identity.get();
        !shown.has_ended() && !own.is_some_and(|own| shown.is_revoked(&own))
    }
}

/// A peer, as its certificate says.
#[derive(Debug)]
pub struct Peer {
    /// Its node: the home of what it sends.
    pub home: NodeId,
    /// The workload beside it, when the certificate is one of a workload. What such a peer sends is judged here, by this.
    pub workload: Option<PeerWorkload>,
    shown: Shown,
}

/// A workload whose proxy is a peer.
#[derive(Debug)]
pub struct PeerWorkload {
    /// Who it is.
    pub id: SpiffeId,
    /// Where its connection comes from, as the system saw it.
    pub address: IpAddr,
}

impl Peer {
    /// By a certificate that the verifier has seen; `None` when it names no node.
    pub(super) fn of(leaf: &CertificateDer<'_>, address: IpAddr) -> Option<Peer> {
        let holder = holder(leaf)?;
        let home = holder.node?;
        let id = holder.id;
        Some(Peer {
            shown: Shown::of(leaf, Some(home.clone()))?,
            workload: (id.as_workload().is_some()).then_some(PeerWorkload { id, address }),
            home,
        })
    }

    /// Whether it still is who it was: not revoked, and a workload's certificate has not ended.
    pub(crate) fn holds(&self, proxy: &Proxy) -> bool {
        let has_ended = self.workload.is_some() && self.shown.has_ended();
        let own = proxy.identity.get();
        !has_ended && own.is_some_and(|own| !self.shown.is_revoked(&own))
    }
}
