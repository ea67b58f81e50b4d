//! `CONNECT` (RFC 9110, section 9.3.6): a client asks for a service's bytes by its name.
//!
//! Only on listeners that allow it, and only to services of the mesh: it is looked up like a host, never resolved, so
//! that nobody is passed on to an address. From then on it is a TCP connection like any other of that service.

use std::sync::Arc;

use http::StatusCode;
use http::request::Parts;
use isobar_mesh_api::names::ServiceName;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{NotPlaced, Placed, Upstream, admit, copy, exchange, run};
use crate::answer::Answer;
use crate::connection::Downstream;
use crate::proxy::Worker;
use crate::route::Found;
use crate::routes::{Routes, ServiceRoute};
use crate::story::Story;

/// A connection to a service that was asked for; nothing has gone over it.
pub(crate) struct Opened {
    route: Arc<ServiceRoute>,
    placed: Placed,
}

/// Opens a connection to the service that a `CONNECT` names.
///
/// # Errors
/// What to answer: it is not allowed here, there is no such service, or nobody has room.
pub(crate) async fn open(
    downstream: &Downstream,
    head: &Parts,
    story: Option<&Arc<Story>>,
) -> Result<Opened, Answer> {
    if !downstream.may_connect {
        return Err(Answer::Method);
    }
    let worker = &*downstream.worker;
    let route = service(&worker.proxy.table.load(), head).ok_or(Answer::UnknownHost)?;
    let exchange = exchange(worker, &route, downstream.ends, story);
    let admitted = admit(&exchange, downstream.ends, downstream.caller()).await;
    let placed = admitted.map_err(|why| match why {
        NotPlaced::Denied => Answer::Denied,
        NotPlaced::Shed => Answer::Shed { wait_us: 0 },
        NotPlaced::Failed => Answer::Upstream,
    })?;
    if let Some(story) = story {
        story.answered(StatusCode::OK, None);
    }
    Ok(Opened {
        route: Arc::clone(&route),
        placed,
    })
}

/// As `name.namespace`, or by one of a service's own hosts.
fn service(routes: &Routes, head: &Parts) -> Option<Arc<ServiceRoute>> {
    let host = head.uri.authority()?.host();
    let by_name = || {
        let (name, namespace) = host.split_once('.')?;
        routes.by_name(&ServiceName::new(&format!("{namespace}/{name}")).ok()?)
    };
    let by_host = || match routes.find(Some(host), head) {
        Ok(Found::Service(place)) => routes.services.get(place),
        _ => None,
    };
    by_name().or_else(by_host).cloned()
}

impl Opened {
    /// Copies bytes until both sides have ended.
    pub(crate) async fn run<D>(self, worker: &Worker, downstream: D)
    where
        D: AsyncRead + AsyncWrite + Unpin + copy::Abort,
    {
        let Placed {
            upstream,
            observation,
        } = self.placed;
        let live = &self.route.live;
        match upstream {
            Upstream::Tcp(upstream) => run(worker, live, observation, downstream, upstream).await,
            Upstream::Tunnel(upstream) => {
                run(worker, live, observation, downstream, *upstream).await;
            }
        }
    }
}
