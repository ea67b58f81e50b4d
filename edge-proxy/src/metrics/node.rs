//! What is measured of the node as a whole.

use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use metrics::Label;

use super::*;
use crate::config::listener::ListenerProtocol;
use crate::http1::fault::{Fault, Side};
use crate::listener::Listener;
use crate::routing::RoutingCounts;

/// Puts it on the page.
pub(super) fn update(page: &Page, proxy: &Proxy) {
    let about = vec![
        Label::new("node", proxy.config.node.to_string()),
        Label::new("version", env!("CARGO_PKG_VERSION")),
    ];
    page.gauge(INFO, about, 1.0);
    let reload = &proxy.reload;
    let by = |outcome: &'static str| vec![Label::new("outcome", outcome)];
    for (outcome, count) in [("ok", &reload.ok), ("failed", &reload.failed)] {
        page.counter(CONFIG_RELOADS, by(outcome), count.load(Relaxed));
    }
    for listened in proxy.listeners.all() {
        listener(page, &listened);
    }
    let routes = proxy.table.load();
    for neighbour in routes.neighbours.iter() {
        if neighbour.rtt_us() > 0 {
            let labels = vec![Label::new("neighbour", neighbour.node.to_string())];
            page.gauge(RTT, labels, f64::from(neighbour.rtt_us()) / 1e6);
        }
    }
    routing(page, &proxy.routing);
    for (outcome, count) in proxy.mirrors.counts() {
        page.counter(MIRRORED, by(outcome), count);
    }
    let plan = routes.snapshot.plan;
    page.gauge(PLAN_EPOCH, Vec::new(), plan.epoch as f64);
    page.gauge(PLAN_GENERATION, Vec::new(), plan.generation as f64);
    page.gauge(SHARE_LEFT, Vec::new(), routes.share_left);
    page.gauge(CONNECTIONS, Vec::new(), proxy.drain.open() as f64);
    faults(page, proxy);
    access(page, proxy);
    page.gauge(CLOCK_SKEW, Vec::new(), proxy.skew.ahead_s());
    if let Some(identity) = proxy.identity.get() {
        let since_1970_s = |at: SystemTime| {
            let since = at.duration_since(SystemTime::UNIX_EPOCH);
            since.map_or(0.0, |since| since.as_secs_f64())
        };
        let ends_s = since_1970_s(identity.validity.not_after);
        page.gauge(CERTIFICATE, Vec::new(), ends_s);
        let left_s = ends_s - since_1970_s(SystemTime::now());
        page.gauge(CERTIFICATE_LEFT, Vec::new(), left_s);
    }
    control(page, proxy);
    let audience = &proxy.audience;
    for (name, counts) in [(LOG_LINES, &audience.lines), (SPANS, &audience.spans)] {
        for (outcome, count) in counts.outcomes() {
            page.counter(name, by(outcome), count);
        }
    }
}

/// The control stream, where there is a controller.
fn control(page: &Page, proxy: &Proxy) {
    if proxy.config.all_controllers().is_empty() {
        return;
    }
    let (now_us, live) = (proxy.clock.now_us(), &proxy.control);
    let up = f64::from(u8::from(live.is_open.load(Relaxed)));
    page.gauge(CONTROL_UP, Vec::new(), up);
    page.counter(CONTROL_STREAMS, Vec::new(), live.opened.load(Relaxed));
    // Before the first of them, since the start.
    let age_s = |at_us: u64| now_us.saturating_sub(at_us) as f64 / 1e6;
    page.gauge(
        CONTROL_SILENCE,
        Vec::new(),
        age_s(live.heard_us.load(Relaxed)),
    );
    page.gauge(
        SNAPSHOT_AGE,
        Vec::new(),
        age_s(live.applied_us.load(Relaxed)),
    );
}

fn listener(page: &Page, listener: &Listener) {
    let counts = &listener.counts;
    let labels = |more: &[(&'static str, &'static str)]| {
        let own = Label::new("listener", listener.name.clone());
        let more = more.iter().map(|(name, value)| Label::new(*name, *value));
        [own].into_iter().chain(more).collect::<Vec<_>>()
    };
    page.counter(
        LISTENER_CONNECTIONS,
        labels(&[]),
        counts.accepted.load(Relaxed),
    );
    for (cause, count) in counts.refused() {
        page.counter(LISTENER_REFUSED, labels(&[("cause", cause)]), count);
    }
    if listener.protocol == ListenerProtocol::Detect {
        for (protocol, count) in counts.detected() {
            page.counter(LISTENER_DETECTED, labels(&[("protocol", protocol)]), count);
        }
    }
    if listener.termination.is_some() {
        page.counter(
            LISTENER_HANDSHAKES,
            labels(&[]),
            counts.handshakes.load(Relaxed),
        );
        let reloads = [("ok", &counts.reloaded), ("failed", &counts.reload_failed)];
        for (outcome, count) in reloads {
            let labels = labels(&[("outcome", outcome)]);
            page.counter(LISTENER_RELOADS, labels, count.load(Relaxed));
        }
    }
}

fn faults(page: &Page, proxy: &Proxy) {
    for (side, fault) in Side::ALL.iter().flat_map(|s| Fault::ALL.map(|f| (*s, f))) {
        let count = proxy.faults.get(side, fault);
        // A series for each fault that was met, not for each that could be.
        if count > 0 {
            let reason = Label::new("reason", fault.label());
            let labels = vec![Label::new("side", side.label()), reason];
            page.counter(REFUSED_MESSAGES, labels, count);
        }
    }
}

fn access(page: &Page, proxy: &Proxy) {
    let counts = &proxy.access;
    let by = |cause: &'static str| vec![Label::new("cause", cause)];
    let (denied, untold) = (&counts.denied, &counts.unauthenticated);
    page.counter(ACCESS_REFUSED, by("policy"), denied.load(Relaxed));
    page.counter(ACCESS_REFUSED, by("token"), untold.load(Relaxed));
    page.counter(ACCESS_WATCHED, Vec::new(), counts.watched.load(Relaxed));
}

fn routing(page: &Page, counts: &RoutingCounts) {
    for (name, count) in [
        (LOST, &counts.lost),
        (REDIRECTED, &counts.redirected),
        (NO_BACKEND, &counts.no_backend),
        (DELAYED, &counts.delayed),
        (NOT_DELAYED, &counts.not_delayed),
        (ABORTED, &counts.aborted),
    ] {
        let value = count.load(Relaxed);
        page.counter(name, Vec::new(), value);
    }
}
