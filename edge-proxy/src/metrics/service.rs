//! What is measured of each service.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use isobar_mesh_api::report::PlainCalls;
use metrics::Label;

use super::*;
use crate::circuit::State;
use crate::endpoint::EndpointLive;
use crate::limit::Limit;
use crate::live::ServiceLive;
use crate::routes::ServiceRoute;

/// Puts it on the page.
pub(super) fn update(page: &mut Page, proxy: &Proxy) {
    let services = proxy.table.services();
    page.begin_histogram(SERVER_DURATION);
    let mut unrouted = BTreeMap::new();
    proxy
        .unrouted
        .iter()
        .for_each(|cells| cells.read(&mut unrouted));
    page.golden(None, &unrouted);
    for service in &services {
        page.golden(Some(&service.service), &service.golden());
    }
    page.begin_histogram(MOVED_DURATION);
    for service in &services {
        for (to, counts) in service.moved_out_all() {
            let mut reading = Reading::default();
            reading.add(&counts.duration);
            let labels = format!("service=\"{}\",to=\"{to}\"", service.service);
            page.histogram(MOVED_DURATION, &labels, &reading);
        }
    }
    for service in &services {
        live(page, service, proxy);
    }
    let routes = proxy.table.load();
    for route in &routes.services {
        in_force(page, route, proxy);
    }
    for rule in routes.rules() {
        for (class, count) in ["1xx", "2xx", "3xx", "4xx", "5xx"]
            .into_iter()
            .zip(rule.turns.answers())
        {
            let labels = vec![
                Label::new("kind", rule.route.kind.as_str()),
                Label::new("route", rule.route.name.to_string()),
                Label::new("rule", rule.place.to_string()),
                Label::new("http_response_status_class", class),
            ];
            // A series for each class that was met, not for each that could be.
            if count > 0 {
                page.counter(ROUTE_REQUESTS, labels, count);
            }
        }
    }
}

/// A service as the snapshot in force has it.
fn in_force(page: &Page, route: &ServiceRoute, proxy: &Proxy) {
    let label = service_label(&route.live.service);
    let row = &route.row;
    let moves = row.moves.iter().map(|m| (m.to.as_str(), m.weight_ppm));
    let own = [("home", row.home_ppm), ("cloud", row.cloud_ppm)];
    for (to, weight_ppm) in own.into_iter().chain(moves) {
        let labels = vec![label.clone(), Label::new("to", to.to_owned())];
        page.gauge(WEIGHT, labels, f64::from(weight_ppm) / 1e6);
    }
    page.gauge(CONCURRENCY, vec![label.clone()], f64::from(route.places()));
    let left = route
        .live
        .retries_left(&route.traffic.retries, proxy.clock.now_us());
    page.gauge(RETRY_BUDGET, vec![label.clone()], left);
    if let Some(classes) = &route.traffic.priority {
        let shed = route.live.shed_by_rank();
        for (class, count) in classes.names().iter().zip(shed) {
            let labels = vec![label.clone(), Label::new("class", class.clone())];
            page.counter(SHED_BY_CLASS, labels, count);
        }
    }
    for one in route.endpoints.iter() {
        endpoint(page, &label, one, proxy);
    }
}

fn endpoint(page: &Page, service: &Label, endpoint: &EndpointLive, proxy: &Proxy) {
    let view = endpoint.circuit.view(proxy.clock.now_us());
    let address = Label::new("endpoint", endpoint.address().to_owned());
    let labels = || vec![service.clone(), address.clone()];
    let open = match view.state {
        State::Closed => 0.0,
        State::HalfOpen => 0.5,
        State::Open => 1.0,
    };
    page.gauge(CIRCUIT, labels(), open);
    page.gauge(IDLE, labels(), endpoint.idle_connections() as f64);
    page.gauge(ACTIVE, labels(), f64::from(endpoint.active()));
    page.counter(CIRCUIT_OPENINGS, labels(), view.openings);
    page.counter(EJECTIONS, labels(), view.ejections);
    page.gauge(HEALTHY, labels(), f64::from(u8::from(view.is_healthy)));
    let checks = &endpoint.checks;
    for (outcome, count) in [("good", &checks.good), ("bad", &checks.bad)] {
        let mut labels = labels();
        labels.push(Label::new("outcome", outcome));
        page.counter(HEALTH_CHECKS, labels, count.load(Relaxed));
    }
}

fn live(page: &Page, live: &ServiceLive, proxy: &Proxy) {
    let service = || vec![service_label(&live.service)];
    let with = |name: &'static str, value: String| {
        let mut labels = service();
        labels.push(Label::new(name, value));
        labels
    };
    let totals = live.totals(proxy.clock.now_us());
    page.counter(ENTERED, service(), totals.entered);
    page.counter(SERVED_HOME, service(), totals.served_home);
    page.counter(SHED, service(), totals.shed);
    page.counter(FAILED, service(), totals.failed);
    page.counter(CLOUD, service(), totals.cloud);
    page.counter(COMPLETED, service(), totals.completed);
    let (limited, retries) = live.limited();
    for (limit, count) in Limit::ALL.into_iter().zip(limited) {
        page.counter(LIMITED, with("limit", limit.as_str().to_owned()), count);
    }
    for (outcome, count) in ["made", "denied"].into_iter().zip(retries) {
        page.counter(RETRIES, with("outcome", outcome.to_owned()), count);
    }
    rates(page, live);
    let spared = live.outliers_spared.load(Relaxed);
    page.counter(SPARED, service(), spared);
    page.gauge(IN_FLIGHT, service(), f64::from(live.gate.active()));
    page.gauge(WAITING, service(), f64::from(live.gate.waiting()));
    let read = |count: &AtomicU64| count.load(Relaxed);
    page.gauge(TCP_OPEN, service(), f64::from(live.tcp.open.load(Relaxed)));
    let bytes = &live.tcp.bytes;
    for (direction, count) in [("received", &bytes.received), ("sent", &bytes.sent)] {
        let labels = with("direction", direction.to_owned());
        page.counter(TCP_BYTES, labels, read(count));
    }
    for (to, counts) in live.moved_out_all() {
        for (cause, count) in [("plan", &counts.plan), ("spill", &counts.spill)] {
            let mut labels = with("to", to.to_string());
            labels.push(Label::new("cause", cause));
            page.counter(MOVED_OUT, labels, read(count));
        }
        let labels = with("to", to.to_string());
        page.counter(MOVED_OUT_REFUSED, labels, read(&counts.refused));
    }
    for (home, counts) in live.moved_in_all() {
        let labels = || with("home", home.to_string());
        page.counter(MOVED_IN, labels(), read(&counts.accepted));
        page.counter(MOVED_IN_REFUSED, labels(), read(&counts.refused));
    }
    for PlainCalls { caller, calls } in live.plain.all() {
        page.counter(PLAIN_CALLS, with("caller", caller), calls);
    }
}

fn rates(page: &Page, live: &ServiceLive) {
    for (name, rate) in live.rates() {
        let service = service_label(&live.service);
        let labels = vec![service, Label::new("limit", name)];
        for (outcome, count) in [("passed", &rate.passed), ("refused", &rate.refused)] {
            let mut labels = labels.clone();
            labels.push(Label::new("outcome", outcome));
            page.counter(RATE, labels, count.load(Relaxed));
        }
        let share_ppm = rate.share_ppm.load(Relaxed);
        if share_ppm > 0 {
            page.gauge(RATE_SHARE, labels, share_ppm as f64 / 1e6);
        }
    }
}
