//! Asks neighbours how they are.
//!
//! While a service has more requests here than its endpoints work on, the
//! neighbours that it may spill to are asked every [`PROBE_EVERY`]; a neighbour
//! whose last word is younger is not asked, answers to moved requests count
//! too. Every [`RTT_EVERY`] each neighbour is asked once for the round trip.
//! The prober sleeps when nothing presses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request};
use isobar_mesh_api::hop::PROBE_PATH;
use tokio::task::JoinSet;

use crate::body::RequestBody;
use crate::headers;
use crate::moved::hint;
use crate::neighbour::{NeighbourError, NeighbourLive};
use crate::neighbour_load::NeighbourLoad;
use crate::proxy::Proxy;
use crate::routes::{Routes, ServiceRoute};

/// A neighbour is asked again for load after this time.
pub const PROBE_EVERY: Duration = Duration::from_millis(25);
/// A neighbour is asked for its round trip this often.
pub const RTT_EVERY: Duration = Duration::from_secs(1);
/// A service that was not pressed for this long is not asked about.
pub const PRESSED_US: u64 = 250_000;
/// An answer later than this is not waited for.
pub const PROBE_WAIT_MAX: Duration = Duration::from_millis(500);
/// Questions under way at once; no more are asked until some are answered.
pub const PROBES_MAX: usize = 256;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("no connection")]
    Neighbour(#[from] NeighbourError),
    #[error("no answer")]
    Http(#[from] hyper::Error),
    #[error("no answer in time")]
    TooSlow(#[from] tokio::time::error::Elapsed),
}

/// Asks until it is dropped.
pub async fn run(proxy: Arc<Proxy>) {
    let mut probes = JoinSet::new();
    let mut rtt_due = tokio::time::interval(RTT_EVERY);
    rtt_due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut next_round = tokio::time::interval(PROBE_EVERY);
    next_round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let routes = Arc::clone(&proxy.table.load());
        let mut pressed = pressed_now(&routes, &proxy);
        if pressed.is_empty() {
            proxy.press.doze();
            pressed = pressed_now(&routes, &proxy);
        }
        let again = async {
            match pressed.is_empty() {
                true => proxy.press.sleep().await,
                false => drop(next_round.tick().await),
            }
        };
        tokio::select! {
            () = again => {}
            _ = rtt_due.tick() => ask_all(&proxy, &routes, &mut probes),
            Some(_) = probes.join_next(), if !probes.is_empty() => continue,
        }
        for route in pressed {
            ask_about(&proxy, &route, &mut probes);
        }
    }
}

/// Services whose requests found all workers busy just now.
fn pressed_now(routes: &Routes, proxy: &Proxy) -> Vec<Arc<ServiceRoute>> {
    let now_us = proxy.clock.now_us();
    let is_pressed = |route: &&Arc<ServiceRoute>| {
        let age_us = route.live.pressed_age_us(now_us);
        age_us.is_some_and(|age_us| age_us <= PRESSED_US)
    };
    routes.services.iter().filter(is_pressed).cloned().collect()
}

/// One question to each neighbour that has not said lately how loaded it is with the service.
fn ask_about(proxy: &Arc<Proxy>, route: &Arc<ServiceRoute>, probes: &mut JoinSet<()>) {
    let now_us = proxy.clock.now_us();
    for index in route.pick.spill() {
        let old = route.load.age_us(index, now_us);
        let is_old = old.is_none_or(|age_us| u128::from(age_us) >= PROBE_EVERY.as_micros());
        if is_old && probes.len() < PROBES_MAX {
            spawn(proxy, route, index, probes);
        }
    }
}

/// One question to each neighbour, for the round trip. Asks about a service that may spill there,
/// else about any.
fn ask_all(proxy: &Arc<Proxy>, routes: &Routes, probes: &mut JoinSet<()>) {
    for index in 0..routes.neighbours.len() {
        let spills = |route: &&Arc<ServiceRoute>| route.pick.spill().any(|i| i == index);
        let route = routes.services.iter().find(spills);
        if let Some(route) = route.or(routes.services.first())
            && probes.len() < PROBES_MAX
        {
            spawn(proxy, route, index, probes);
        }
    }
}

fn spawn(proxy: &Arc<Proxy>, route: &Arc<ServiceRoute>, index: usize, probes: &mut JoinSet<()>) {
    let Some(neighbour) = route.neighbours.get(index).cloned() else {
        return;
    };
    let (proxy, service) = (Arc::clone(proxy), route.name.clone());
    let load = Arc::clone(&route.load);
    probes.spawn(async move {
        if let Err(error) = ask(&proxy, &neighbour, service, &load, index).await {
            tracing::debug!(node = %neighbour.node, error = %crate::chain(&error), "probing");
        }
    });
}

async fn ask(
    proxy: &Proxy,
    neighbour: &NeighbourLive,
    service: http::HeaderValue,
    load: &NeighbourLoad,
    index: usize,
) -> Result<(), ProbeError> {
    // The link after the workers' is the prober's.
    let link = proxy.config.worker_count();
    let mut sender = neighbour.sender(link, &proxy.identity, proxy.clock).await?;
    let mut request = Request::new(RequestBody::empty());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = http::Uri::from_static(PROBE_PATH);
    request.headers_mut().insert(headers::SERVICE, service);
    let asked = Instant::now();
    let answer = tokio::time::timeout(PROBE_WAIT_MAX, sender.send_request(request)).await??;
    let rtt = asked.elapsed();
    neighbour.note_rtt(u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX));
    if let Some(hint) = hint(answer.headers()) {
        load.heard(index, hint, proxy.clock.now_us());
    }
    Ok(())
}
