//! From a controller that does not lead to the one that does: HTTP/2 over mutual TLS, many requests on few connections.
//!
//! ```text
//! proxy ─ stream, enrolment ─▶ stream port ─┐                         ┌▶ stream port of the leader ─▶ session, enrolment
//! operator ─ request ────────▶ REST port ───┴─ Links: mTLS, HTTP/2 ───┴▶ its REST API
//! ```
//!
//! A relayed request says in headers on whose behalf it comes ([`Behalf`]); they are believed from a certificate of
//! `spiffe://<trust domain>/controller/<name>` alone. The leader treats it as if it had come to itself; it is never relayed
//! twice.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use isobar_mesh_api::names::{AccountName, NodeId};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::authority::{Authority, AuthorityError};
use crate::election::Leader;
use crate::leadership::{Leadership, Role};

mod body;
mod tls;

pub use body::LinkBody;

/// Longest wait for a connection to the leader, its handshakes included.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(3);
/// A silent connection is asked this often whether it lives, and closed when it does not answer in the same time.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Requests that one connection carries at once; for more there is another connection.
pub const REQUESTS_PER_LINK_MAX: usize = 1_024;
/// Most connections to the leader: together they carry more streams than a controller takes.
const LINKS_MAX: usize = 32;
/// What one stream may have under way, in bytes.
const STREAM_WINDOW: u32 = 256 << 10;
/// What a connection may have under way, in bytes.
pub const LINK_WINDOW: u32 = 8 << 20;

/// The node whose certificate was shown.
const FOR_NODE: HeaderName = HeaderName::from_static("isobar-for-node");
/// The account, when that certificate is a workload's.
const FOR_ACCOUNT: HeaderName = HeaderName::from_static("isobar-for-account");
/// When that certificate begins, seconds since 1970.
const FOR_BEGINS: HeaderName = HeaderName::from_static("isobar-for-begins-s");
/// Where the request came from.
const FOR_ADDRESS: HeaderName = HeaderName::from_static("isobar-for-address");

/// Why the leader was not reached.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody is known to lead, or it is this controller.
    #[error("no other controller is known to lead")]
    NoLeader,
    /// TCP or TLS failed.
    #[error("the leader at {address} cannot be reached")]
    Connect {
        /// Where.
        address: String,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// Not in time.
    #[error("connecting to the leader at {0} took too long")]
    TooSlow(String),
    /// There are as many connections as there may be, all of them full.
    #[error("more is relayed than {LINKS_MAX} connections carry")]
    Full,
    /// This controller has no certificate to show.
    #[error("this controller has no certificate")]
    Authority(#[from] AuthorityError),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// HTTP/2 failed.
    #[error("the connection to the leader broke")]
    Http(#[from] hyper::Error),
}

/// On whose behalf a relayed request comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behalf {
    /// The node in the certificate that was shown; `None` for a stranger or an operator.
    pub node: Option<NodeId>,
    /// The account, when that certificate is one of a workload.
    pub account: Option<AccountName>,
    /// When that certificate begins, seconds since 1970.
    pub begins_s: u64,
    /// Where it came from.
    pub address: IpAddr,
}

impl Behalf {
    /// Writes the headers, over what may be there under their names.
    pub fn write(&self, headers: &mut HeaderMap) {
        let node = self.node.as_ref().map(NodeId::as_str);
        let account = self.account.as_ref().map(AccountName::as_str);
        for (name, value) in [(FOR_NODE, node), (FOR_ACCOUNT, account)] {
            headers.remove(&name);
            if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
                headers.insert(name, value);
            }
        }
        headers.insert(FOR_BEGINS, HeaderValue::from(self.begins_s));
        if let Ok(address) = HeaderValue::from_str(&self.address.to_string()) {
            headers.insert(FOR_ADDRESS, address);
        }
    }

    /// Reads the headers of a request from another controller.
    pub fn read(headers: &HeaderMap) -> Behalf {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let number = text(&FOR_BEGINS).and_then(|text| text.parse().ok());
        let address = text(&FOR_ADDRESS).and_then(|text| text.parse().ok());
        Behalf {
            node: text(&FOR_NODE).and_then(|text| NodeId::new(text).ok()),
            account: text(&FOR_ACCOUNT).and_then(|text| AccountName::new(text).ok()),
            begins_s: number.unwrap_or(0),
            address: address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
        }
    }
}

/// A place on a connection to the leader, given back when dropped.
pub struct Place {
    /// To whom.
    pub leader: Leader,
    sender: http2::SendRequest<LinkBody>,
    _taken: Arc<()>,
}

impl Place {
    /// Sends a request; answers with the response's head.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send(
        &mut self,
        request: Request<LinkBody>,
    ) -> Result<Response<Incoming>, LinkError> {
        Ok(self.sender.send_request(request).await?)
    }
}

/// One connection.
struct Link {
    /// To whom.
    leader: Leader,
    sender: http2::SendRequest<LinkBody>,
    /// Held by each request that is on it.
    taken: Arc<()>,
    driver: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The connections to the leader. Cloning is a reference count.
#[derive(Clone)]
pub struct Links {
    /// `None` where there is one controller.
    name: Option<NodeId>,
    authority: Arc<Authority>,
    leadership: Leadership,
    open: Arc<Mutex<Vec<Link>>>,
}

impl Links {
    /// None is open yet. `name` is this controller's.
    pub fn new(name: Option<NodeId>, authority: Arc<Authority>, leadership: Leadership) -> Links {
        Links {
            name,
            authority,
            leadership,
            open: Arc::default(),
        }
    }

    /// Whether what comes here is answered here: this controller leads, if only in name, or is the only one.
    pub fn answers_here(&self) -> bool {
        self.name.is_none() || matches!(*self.leadership.role().borrow(), Role::Leading(_))
    }

    /// This controller's name, where there are several.
    pub fn name(&self) -> Option<&NodeId> {
        self.name.as_ref()
    }

    /// Whether this controller leads and may act.
    pub fn acts(&self) -> bool {
        self.leadership.leads()
    }

    /// What this controller is to do, now and whenever it changes.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.leadership.role()
    }

    /// Who leads, if another does.
    pub fn leader(&self) -> Option<Leader> {
        match &*self.leadership.role().borrow() {
            Role::Following(leader) => leader.clone(),
            Role::Leading(_) => None,
        }
    }

    /// A place on a connection to who leads now.
    ///
    /// # Errors
    /// Nobody leads, it cannot be reached, or too much is relayed.
    pub async fn place(&self) -> Result<Place, LinkError> {
        let leader = self.leader().ok_or(LinkError::NoLeader)?;
        if let Some(place) = self.free(&leader) {
            return Ok(place);
        }
        if self.lock().len() >= LINKS_MAX {
            return Err(LinkError::Full);
        }
        let connected = tokio::time::timeout(CONNECT_WAIT_MAX, self.connect(leader.clone())).await;
        let link = connected.map_err(|_| LinkError::TooSlow(leader.address))??;
        let place = Place {
            leader: link.leader.clone(),
            sender: link.sender.clone(),
            _taken: link.taken.clone(),
        };
        self.lock().push(link);
        Ok(place)
    }

    /// A place on a connection that is open already. Connections to who does not lead any more are dropped with it.
    fn free(&self, leader: &Leader) -> Option<Place> {
        let mut open = self.lock();
        open.retain(|link| link.leader == *leader && !link.sender.is_closed());
        let has_room = |link: &&Link| Arc::strong_count(&link.taken) <= REQUESTS_PER_LINK_MAX;
        let link = open.iter().find(has_room)?;
        Some(Place {
            leader: link.leader.clone(),
            sender: link.sender.clone(),
            _taken: link.taken.clone(),
        })
    }

    async fn connect(&self, leader: Leader) -> Result<Link, LinkError> {
        let name = self.name.as_ref().ok_or(LinkError::NoLeader)?;
        let config = tls::client_config(&self.authority, name)?;
        let failed = |source| LinkError::Connect {
            address: leader.address.clone(),
            source,
        };
        let socket = TcpStream::connect(&leader.address).await.map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        let tls = TlsConnector::from(config);
        let tls = tls.connect(tls::anyone(), socket).await.map_err(failed)?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(LINK_WINDOW)
            .handshake(TokioIo::new(tls))
            .await?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the leader ended");
            }
        });
        tracing::info!(
            leader = leader.name,
            address = leader.address,
            "connected to the leader"
        );
        Ok(Link {
            leader,
            sender,
            taken: Arc::new(()),
            driver,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Link>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that is known whole.
pub fn whole(bytes: Bytes) -> LinkBody {
    LinkBody::Whole(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_whose_behalf_is_read_as_written_and_cannot_be_forged_by_a_client() {
        let behalf = Behalf {
            node: Some(NodeId::new("edge-1").unwrap()),
            account: Some(AccountName::new("shop/front").unwrap()),
            begins_s: 7,
            address: "10.0.0.1".parse().unwrap(),
        };
        let mut headers = HeaderMap::new();
        behalf.write(&mut headers);
        assert_eq!(Behalf::read(&headers), behalf);
        // What a client sent under these names is overwritten or gone.
        let stranger = Behalf {
            node: None,
            account: None,
            begins_s: 0,
            ..behalf
        };
        stranger.write(&mut headers);
        assert_eq!(Behalf::read(&headers), stranger);
    }
}
