//! The life of a TCP connection that is not HTTP's.
//!
//! ```text
//! accepted ─ whose? ─ pick ─┬─ home: queue, endpoint ───────────── bytes both ways
//!                           ├─ a neighbour: a tunnel over its mesh port ─ refused? ─ home, or one other
//!                           └─ the upstream of last resort
//! ```
//!
//! To everything that decides a connection is one request that lasts long: it enters, is picked for by the same weights
//! and the same spill, holds one of its endpoint's workers, and is counted when it ends.
//!
//! - [`copy`]: bytes both ways, half-closed both ways, without a buffer while nothing comes;
//! - [`tunnel`]: a moved connection, at both ends;
//! - `connect`: one that an HTTP client asked for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use isobar_mesh_api::identity::SpiffeId;
use isobar_mesh_api::names::ServiceName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::audience;
use crate::authorise;
use crate::config::listener::ListenerProtocol;
use crate::connection::counts::Refusal;
use crate::connection::{Stream, direction};
use crate::endpoint::{EndpointError, EndpointLive};
use crate::gate::Class;
use crate::golden::Outcome;
use crate::listener::Listener;
use crate::live::ServiceLive;
use crate::observe::Observation;
use crate::pick::Choice;
use crate::proxy::Worker;
use crate::proxy_protocol::Ends;
use crate::request::{Exchange, NEIGHBOURS_TRIED_MAX};
use crate::routes::ServiceRoute;
use crate::story::Story;

pub(crate) mod connect;
pub mod copy;
pub mod tunnel;

use copy::both_ways;
use tunnel::Asked;

/// Longest wait for a connection to an address outside the mesh.
const OUTSIDE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Whom a connection is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A service of the mesh.
    Service(ServiceName),
    /// An address outside the mesh that an intercepted connection was going to.
    Outside(SocketAddr),
}

impl Target {
    /// By where the connection was going.
    pub(crate) fn by_destination(
        listener: &Listener,
        destination: SocketAddr,
    ) -> Result<Target, Refusal> {
        match listener.by_destination(destination) {
            Some(service) => Ok(Target::Service(service.clone())),
            None => Target::outside(listener, destination),
        }
    }

    /// By the name that a TLS client asks for.
    pub(crate) fn by_server_name(
        listener: &Listener,
        name: Option<&str>,
        destination: SocketAddr,
    ) -> Result<Target, Refusal> {
        match listener.by_server_name(name) {
            Some(service) => Ok(Target::Service(service.clone())),
            None => Target::by_destination(listener, destination),
        }
    }

    fn outside(listener: &Listener, destination: SocketAddr) -> Result<Target, Refusal> {
        match listener.intercepts(destination) {
            true => Ok(Target::Outside(destination)),
            false => Err(Refusal::NoService),
        }
    }
}

/// Why nobody gets a connection, and what that comes to.
type Refused = (Refusal, Outcome);

/// Serves a connection that entered the mesh here.
///
/// # Errors
/// Nobody takes it; it is closed then.
pub(crate) async fn entered(
    worker: &Arc<Worker>,
    listener: &Listener,
    ends: Ends,
    identity: Option<Arc<SpiffeId>>,
    target: Target,
    stream: Stream,
) -> Result<(), Refusal> {
    let (from, client) = (direction(listener), ends.source.ip());
    let story = audience::story_of_connection(worker, from, client, Some(ends));
    let served = match target {
        Target::Service(service) => match find(worker, listener, &service) {
            Some(route) => {
                let exchange = exchange(worker, &route, ends, story.as_ref());
                serve(exchange, ends, identity.as_deref(), stream).await
            }
            None => Err((Refusal::NoService, Outcome::Refused)),
        },
        Target::Outside(address) => outside(worker, address, story.as_deref(), stream).await,
    };
    served.map_err(|(refusal, outcome)| {
        listener.counts.refuse(refusal);
        if let Some(story) = &story {
            story.refused(refusal, outcome);
        }
        refusal
    })
}

/// Tells of a connection that no service is for.
pub(crate) fn not_served(worker: &Worker, listener: &Listener, peer: SocketAddr) {
    let from = direction(listener);
    if let Some(story) = audience::story_of_connection(worker, from, peer.ip(), None) {
        story.refused(Refusal::NoService, Outcome::Refused);
    }
}

fn find(worker: &Worker, listener: &Listener, service: &ServiceName) -> Option<Arc<ServiceRoute>> {
    let routes = worker.proxy.table.load();
    let by_route = match listener.protocol {
        ListenerProtocol::Tcp => routes.tcp(&listener.name, worker.index),
        _ => None,
    };
    // A route that names the listener goes before the listener's own word, and that before one that names its service.
    by_route
        .unwrap_or_else(|| routes.tcp_of(service, worker.index))
        .cloned()
}

/// A connection, to everything that decides.
fn exchange<'a>(
    worker: &'a Worker,
    route: &'a Arc<ServiceRoute>,
    ends: Ends,
    story: Option<&'a Arc<Story>>,
) -> Exchange<'a> {
    let mut exchange = Exchange::new(worker, route, route.traffic.waits, None);
    let rule = route.balancer.key.as_ref();
    exchange.key = rule.and_then(|rule| rule.of_connection(ends.source.ip()));
    exchange.keeps_node = route.balancer.keeps_node;
    exchange.ends = Some(ends);
    exchange.remember(story, None);
    exchange
}

async fn serve(
    exchange: Exchange<'_>,
    ends: Ends,
    identity: Option<&SpiffeId>,
    stream: Stream,
) -> Result<(), Refused> {
    let (worker, route) = (exchange.worker, exchange.route);
    let Placed {
        upstream,
        observation,
    } = admit(&exchange, ends, identity).await.map_err(|why| {
        copy::reset(stream.tcp());
        match why {
            NotPlaced::Denied => (Refusal::Denied, Outcome::Refused),
            NotPlaced::Shed => (Refusal::NoRoom, Outcome::Shed),
            NotPlaced::Failed => (Refusal::NoRoom, Outcome::Failed),
        }
    })?;
    let live = &route.live;
    match upstream {
        Upstream::Tcp(upstream) => run(worker, live, observation, stream, upstream).await,
        Upstream::Tunnel(upstream) => run(worker, live, observation, stream, *upstream).await,
    }
    Ok(())
}

/// Why a connection has no place.
enum NotPlaced {
    /// Its source may not.
    Denied,
    /// Nobody has room.
    Shed,
    /// Nobody could be reached.
    Failed,
}

/// Finds out whether a connection may, and who serves it; counts what comes of it.
async fn admit(
    exchange: &Exchange<'_>,
    ends: Ends,
    identity: Option<&SpiffeId>,
) -> Result<Placed, NotPlaced> {
    let (source, port) = (ends.source.ip(), ends.destination.port());
    if !authorise::tcp(
        &exchange.worker.proxy,
        exchange.route,
        source,
        port,
        identity,
    ) {
        return Err(NotPlaced::Denied);
    }
    let counters = exchange.counters();
    counters.entered.fetch_add(1, Relaxed);
    place(exchange, ends).await.map_err(|shed| {
        let (count, why) = match shed {
            true => (&counters.shed, NotPlaced::Shed),
            false => (&counters.failed, NotPlaced::Failed),
        };
        count.fetch_add(1, Relaxed);
        why
    })
}

/// A connection and who serves it.
struct Placed {
    upstream: Upstream,
    observation: Observation,
}

enum Upstream {
    Tcp(TcpStream),
    Tunnel(Box<tunnel::Tunnel>),
}

/// Follows choices until somebody serves the connection. Else: whether nobody had room.
async fn place(exchange: &Exchange<'_>, ends: Ends) -> Result<Placed, bool> {
    let mut choice = exchange.choose(None);
    for _ in 0..NEIGHBOURS_TRIED_MAX {
        let (neighbour, cause) = match choice {
            Choice::Home => break,
            Choice::Cloud => match at_cloud(exchange).await {
                Some(placed) => return Ok(placed),
                None => break,
            },
            Choice::Move { neighbour, cause } => (neighbour, cause),
        };
        match tunnel::ask(exchange, neighbour, cause, ends).await {
            Asked::Opened(tunnel, observation) => {
                let upstream = Upstream::Tunnel(tunnel);
                return Ok(Placed {
                    upstream,
                    observation: *observation,
                });
            }
            Asked::Refused => choice = exchange.choose(Some(neighbour)),
            Asked::Lost => return Err(false),
        }
    }
    let (upstream, observation) = at_home(exchange, Class::Own).await?;
    let upstream = Upstream::Tcp(upstream);
    Ok(Placed {
        upstream,
        observation,
    })
}

/// A connection to an endpoint of this node, in its turn. Else: whether nobody had room.
async fn at_home(exchange: &Exchange<'_>, class: Class) -> Result<(TcpStream, Observation), bool> {
    let route = exchange.route;
    let mut avoid = None;
    // When one endpoint cannot be reached, one other is tried.
    for attempt in 0..route.endpoints.len().min(2) {
        let (slot, _) = exchange
            .slot(class, avoid.as_ref())
            .await
            .map_err(|_| true)?;
        if class == Class::Own && attempt == 0 {
            exchange.counters().served_home.fetch_add(1, Relaxed);
        }
        let endpoint = Arc::clone(slot.endpoint());
        let mut observation =
            Observation::at_home(exchange, class, slot, exchange.worker.proxy.clock.now_us());
        match connect(exchange, &endpoint).await {
            Ok(stream) => {
                observation.connected();
                return Ok((stream, observation));
            }
            Err(error) => {
                tracing::debug!(error = %crate::chain(&error), "an endpoint is down");
                observation.unanswered();
                avoid = Some(endpoint);
            }
        }
    }
    Err(route.endpoints.is_empty())
}

async fn at_cloud(exchange: &Exchange<'_>) -> Option<Placed> {
    let cloud = exchange.route.cloud.as_ref()?;
    exchange.counters().cloud.fetch_add(1, Relaxed);
    let now_us = exchange.worker.proxy.clock.now_us();
    let observation = Observation::at_cloud(exchange, cloud, now_us);
    let upstream = Upstream::Tcp(connect(exchange, cloud).await.ok()?);
    Some(Placed {
        upstream,
        observation,
    })
}

async fn connect(
    exchange: &Exchange<'_>,
    endpoint: &EndpointLive,
) -> Result<TcpStream, EndpointError> {
    let wait_max = Duration::from_micros(exchange.route.traffic.waits.connect_us);
    let greeting = exchange.greeting();
    endpoint
        .open_tcp(exchange.worker.proxy.clock, wait_max, &greeting)
        .await
}

/// Passes an intercepted connection on to where it was going.
async fn outside(
    worker: &Worker,
    address: SocketAddr,
    story: Option<&Story>,
    mut stream: Stream,
) -> Result<(), Refused> {
    let connect = tokio::time::timeout(OUTSIDE_WAIT_MAX, TcpStream::connect(address));
    let Ok(Ok(mut upstream)) = connect.await else {
        copy::reset(stream.tcp());
        return Err((Refusal::NoRoom, Outcome::Failed));
    };
    let idle_max = worker.proxy.config.limits.tcp_idle_max();
    let counts = copy::Bytes::default();
    let own = story.map(Story::bytes);
    let ended = both_ways(&mut stream, &mut upstream, &counts, own, idle_max).await;
    if ended.is_err() {
        copy::reset(stream.tcp());
        copy::reset(&upstream);
    }
    Ok(())
}

/// Copies bytes until both sides have ended, and notes how it went.
pub(crate) async fn run<D, U>(
    worker: &Worker,
    live: &ServiceLive,
    observation: Observation,
    mut downstream: D,
    mut upstream: U,
) where
    D: AsyncRead + AsyncWrite + Unpin + copy::Abort,
    U: AsyncRead + AsyncWrite + Unpin + copy::Abort,
{
    let idle_max = worker.proxy.config.limits.tcp_idle_max();
    live.tcp.open.fetch_add(1, Relaxed);
    let (count, story) = (&live.tcp.bytes, observation.story().cloned());
    let own = story.as_deref().map(Story::bytes);
    let ended = both_ways(&mut downstream, &mut upstream, count, own, idle_max).await;
    live.tcp.open.fetch_sub(1, Relaxed);
    match ended {
        Ok(()) => drop(observation.completed(None)),
        Err(error) => {
            tracing::debug!(%error, service = %live.service, "a TCP connection broke off");
            downstream.abort();
            upstream.abort();
            observation.cut();
        }
    }
}
